"""What ranks agree on, without processes: equal work at evaluation, a failure told to all."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from unimodal.errors import ConfigError, UnimodalError
from unimodal.model.decoder import Decoder, LossOutput
from unimodal.stream import Batch, PackingConfig
from unimodal.training import held_out, ranks
from unimodal.training.build import build_streams, build_vocabulary, task_configs
from unimodal.training.config import ExperimentConfig
from unimodal.training.held_out import HeldOut
from unimodal.training.metrics import TaskLosses
from unimodal.training.ranks import first_rank_alone, joined_ranks
from unimodal.training.trainee import Precision

Make = Callable[..., ExperimentConfig]
CPU = torch.device("cpu")


class Counting:
    """A trainee that counts the batches it is given."""

    def __init__(self, decoder: Decoder):
        self.decoder, self.given = decoder.eval(), 0

    def loss(self, batch: Batch) -> LossOutput:
        """The decoder's."""
        self.given += 1
        return self.decoder.loss(batch)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The decoder's."""
        return self.decoder.named_parameters()

    def train(self, mode: bool = True) -> None:
        """Stay as it is."""


def test_every_rank_evaluates_as_many_batches_and_each_counts_once(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank with a batch less would leave the others of a sharded model waiting."""
    config = experiment()
    vocabulary = build_vocabulary(config)
    decoder = Decoder(config.model, vocabulary)
    streams = build_streams(task_configs(config), vocabulary, "validation")
    packing = PackingConfig(row_length=96, look_ahead=4)
    add = TaskLosses.add
    counted: dict[int, list[int]] = {}
    for world in (1, 2, 3, 4):
        counted[world], given = [], []

        def spy(self: TaskLosses, batch: Batch, losses: Sequence[Tensor], n: int = world) -> None:
            counted[n].append(sum(len(document) for document in batch.documents))
            add(self, batch, losses)

        for number in range(world):
            with monkeypatch.context() as patch:
                patch.setattr(TaskLosses, "add", spy)
                patch.setattr(held_out, "world_size", lambda n=world: n)
                patch.setattr(held_out, "rank", lambda n=number: n)
                found = HeldOut(
                    streams,
                    vocabulary,
                    decoder.stream,
                    packing,
                    documents=9,
                    rows_per_batch=1,
                    seed=0,
                )
                trainee = Counting(decoder)
                found.measure(trainee, CPU, Precision("fp32", "for this test"))
            given.append(trainee.given)
        assert len(set(given)) == 1
        assert sorted(counted[world]) == sorted(counted[1])
    assert len(counted[1]) == 5, "a number that no other world divides"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the second of two processes, on a machine with two GPUs."""
    found = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("launched")
def test_what_a_launcher_did_not_say_is_named() -> None:
    with pytest.raises(ConfigError, match="MASTER_PORT is not set"), joined_ranks("cpu"):
        pass


@pytest.mark.usefixtures("launched")
def test_ranks_do_not_share_a_gpu() -> None:
    with pytest.raises(ConfigError, match="2 ranks cannot share `cuda:1`"), joined_ranks("cuda:1"):
        pass


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_rank_takes_the_gpu_of_its_number_and_its_backend(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    seen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(
        distributed, "init_process_group", lambda backend, **rest: seen.append(backend)
    )
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: seen.append("left"))
    with joined_ranks(name) as device:
        assert device == torch.device("cuda:1")
    assert seen == [device, "nccl", "left"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_failure_of_the_first_rank_reaches_the_others(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Rank 0 tells first and fails then; the others know that they must not wait."""
    told: list[list[float]] = []

    def largest(values: Sequence[float], device: torch.device) -> list[float]:
        told.append(list(values))
        return [-1.0, 1.0]

    def fail() -> int:
        raise ConfigError("no such folder")

    monkeypatch.setattr(ranks, "rank", lambda: number)
    monkeypatch.setattr(ranks, "largest", largest)
    with pytest.raises(UnimodalError, match="no such folder" if number == 0 else "Rank 0 cannot"):
        first_rank_alone(fail, CPU)
    assert told == [[-1, number == 0]]
