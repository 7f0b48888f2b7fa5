"""What a tokenizer is trained on: groups of values, in the place of a decoder's packed rows.

The loop, the counters, quarantine, resuming and held-out losses are the same; a step takes
`rows_per_step` values. A micro-batch holds values of one task, so that each task has a loss of its
own. Not here: the loss itself (`Modality.loss`).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimodal.data.sources import Source
from unimodal.errors import ConfigError, UnimodalError, sample_errors
from unimodal.media import FileRef
from unimodal.modality import Modality
from unimodal.model.decoder import LossOutput
from unimodal.tasks.base import Record
from unimodal.training.draws import Drawn, Draws, Key, Quarantine
from unimodal.training.held_out import (
    LEFT_OUT,
    NOTHING_HELD_OUT,
    HeldOutBatches,
    held_out_records,
)
from unimodal.training.trainee import Placed, Precision, Trainee

log = logging.getLogger(__name__)
MEASURED = 16
"""Held-out values of a task that are encoded and decoded at each measurement, at most."""


@dataclass(frozen=True)
class ValueStream:
    """Values of one task.

    Attributes:
        modality: What reads and varies them.
        source: Their records.
        field: The field of a record that holds one.
        weight: Share of draws, relative to the other tasks.
        loss_weight: Weight of each value in the loss.
        vary: Whether training varies them.
    """

    modality: Modality[Any, Any]
    source: Source
    field: str
    weight: float = 1.0
    loss_weight: float = 1.0
    vary: bool = True

    def value(self, record: Record) -> Any:
        """The value of a record; a file is read by the modality.

        Raises:
            ConfigError: if the record lacks the field.
        """
        if record.get(self.field) is None:
            raise ConfigError(
                f"The record has no field `{self.field}`, but {sorted(k for k in record)}.",
                subject=str(record.get("id", "")) or None,
                remedy="Set the option `target_field` of its task.",
            )
        found = record[self.field]
        return self.modality.read(found.path) if isinstance(found, FileRef) else found


@dataclass(frozen=True)
class Item:
    """A value with the task and the record that it comes from."""

    task: str
    id: str
    value: Any


@dataclass(frozen=True)
class ValueBatch:
    """Values of one task that are computed at once.

    Attributes:
        items: The values.
        weight: Loss weight of each.
    """

    items: list[Item]
    weight: float

    @property
    def samples(self) -> list[tuple[str, str]]:
        """Task and id of each value."""
        return [(item.task, item.id) for item in self.items]

    def to(self, device: torch.device | str) -> "ValueBatch":
        """The batch itself: a modality moves what it makes of values."""
        return self

    def placed(self, losses: Sequence[Tensor]) -> Iterator[Placed]:
        """Losses of the values."""
        for nll in losses:
            place = torch.zeros(len(nll), dtype=torch.int64, device=nll.device)
            yield [self.items[0].task], place, nll, torch.full_like(nll, self.weight)


class TokenizerTrainee:
    """A modality as the loop sees it: the parameters of its network, and its loss.

    Args:
        modality: With a network and a loss; its network is moved by the caller.
    """

    def __init__(self, modality: Modality[Any, Any]):
        assert modality.network is not None
        self.modality, self.network = modality, modality.network

    def loss(self, batch: ValueBatch) -> LossOutput:
        """weight x number of values x their mean loss."""
        count = len(batch.items)
        mean = self.modality.loss([item.value for item in batch.items]).float()
        weight = batch.weight * count
        return LossOutput(mean * weight, weight, [mean.detach().expand(count)])

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the network."""
        return self.network.named_parameters()

    def state_dict(self, *, keep_vars: bool) -> dict[str, Tensor]:
        """Those of the network."""
        return self.network.state_dict(keep_vars=keep_vars)

    def train(self, mode: bool = True) -> None:
        """Switch dropout and the like on or off."""
        self.network.train(mode)


class ValueMixture(Draws[Item, Item]):
    """An endless, resumable stream of values.

    Args:
        streams: Values of each task, by name.
        seed: Decides every choice.
        quarantine: Where unusable samples go.

    Raises:
        DataError: if there is no task, or a task has no record.
    """

    def __init__(self, streams: Mapping[str, ValueStream], seed: int, quarantine: Quarantine):
        super().__init__(streams, seed, quarantine)
        self.streams = dict(streams)

    def draft(self, task: str, record: Record, rng: np.random.Generator) -> Item:
        """The value of a record, or a variant of it, varied unless its task says no."""
        stream = self.streams[task]
        value = stream.modality.draw_variant(stream.value(record), rng)
        if stream.vary:
            value = stream.modality.vary(value, rng)
        stream.modality.length(value)  # refuses what the layout has no room for
        return Item(task, str(record.get("id", "")), value)

    def make(self, draft: Item) -> Item:
        """The value itself."""
        return draft

    def step(self, count: int, per_batch: int, rank: int, world: int) -> Drawn:
        """The next `count` values, in batches of one task each. Each counts as one token."""
        items = [item for _, item in self.take(count)]
        return Drawn(
            batches=value_batches(items[rank::world], self.streams, per_batch),
            weight=float(sum(self.streams[item.task].loss_weight for item in items)),
            tokens=count,
            fill=1.0,
        )

    def waiting(self) -> list[Key]:
        """None: a value is used in the step for which it is made."""
        return []

    def wait(self, samples: Iterable[tuple[Key, Item]]) -> None:
        """Nothing waits."""


class HeldOutValues(HeldOutBatches):
    """Held-out values of every task; nothing is varied.

    Args:
        streams: Held-out values of each task.
        count: Values of each task, at most; spread over its records.
        per_batch: Values computed at once.
        seed: Chooses them.
    """

    def __init__(
        self, streams: Mapping[str, ValueStream], *, count: int, per_batch: int, seed: int
    ):
        self.modalities = {name: stream.modality for name, stream in streams.items()}
        items = []
        for name, stream in streams.items():
            found = held_out_items(name, stream, count, seed)
            items += found
            if count and not found:
                log.warning(NOTHING_HELD_OUT, name, stream.source.split)
        self.shown = {name: [i for i in items if i.task == name][:MEASURED] for name in streams}
        super().__init__(list(streams), value_batches(items, streams, per_batch))

    @torch.no_grad()
    def measure(
        self, trainee: Trainee, device: torch.device, precision: Precision
    ) -> dict[str, Any]:
        """The losses, and how well some values come back from their ids."""
        measured = super().measure(trainee, device, precision)
        if not measured:
            return {}
        fidelity: dict[str, float] = {}
        for name, items in self.shown.items():
            if items:
                values = [item.value for item in items]
                fidelity |= {
                    f"{name}_{metric}": float(np.mean(numbers))
                    for metric, (numbers, _) in round_trips(self.modalities[name], values).items()
                }
        return {**measured, "fidelity": fidelity}


def value_batches(
    items: Sequence[Item], streams: Mapping[str, ValueStream], per_batch: int
) -> list[ValueBatch]:
    """Batches of at most `per_batch` values, task by task."""
    batches = []
    for name, stream in streams.items():
        own = [item for item in items if item.task == name]
        for start in range(0, len(own), per_batch):
            batches.append(ValueBatch(own[start : start + per_batch], stream.loss_weight))
    return batches


def held_out_items(name: str, stream: ValueStream, count: int, seed: int) -> list[Item]:
    """Up to `count` values of a task as they stand; those that cannot be read are named."""
    items = []
    for index, _ in held_out_records(name, stream, count, seed):
        try:
            with sample_errors(f"task `{name}`, record {index}"):
                record = stream.source[index]
                value = stream.value(record)
                stream.modality.length(value)
        except (UnimodalError, OSError) as error:
            log.warning(LEFT_OUT, index, name, error)
            continue
        items.append(Item(name, str(record.get("id", "")), value))
    return items


def round_trips(
    modality: Modality[Any, Any], values: Sequence[Any]
) -> dict[str, tuple[list[float], str]]:
    """Fidelity of values to what their ids decode to: numbers, and which way is better, by name."""
    found: dict[str, tuple[list[float], str]] = {}
    decoded = modality.decode_batch(modality.encode_batch(values))
    for value, own in zip(values, decoded, strict=True):
        for metric, (number, better) in modality.fidelity(value, own).items():
            found.setdefault(metric, ([], better))[0].append(number)
    return found
