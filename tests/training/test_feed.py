"""The feed: the same rows in the same order for any number of ranks and of steps prepared ahead."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable

import pytest
import torch

from unimodal.errors import DataError
from unimodal.stream import StreamConfig
from unimodal.training import feed
from unimodal.training.build import build_streams, build_vocabulary, task_configs
from unimodal.training.config import ExperimentConfig
from unimodal.training.draws import DataState, Quarantine
from unimodal.training.mixture import Mixture, TaskStream
from unimodal.vocabulary import Vocabulary

Make = Callable[..., ExperimentConfig]
ROWS = 4
BUILT: list[tuple[Vocabulary, dict[str, TaskStream]]] = []


def mixture_of(config: ExperimentConfig, state: str | None = None) -> Mixture:
    vocabulary, streams = built(config)
    mixture = Mixture(streams, vocabulary, StreamConfig(), config.packing, 0, Quarantine(None, 10))
    if state is not None:
        mixture.restore(DataState.from_dict(json.loads(state)))
    return mixture


def built(config: ExperimentConfig) -> tuple[Vocabulary, dict[str, TaskStream]]:
    """Vocabulary and records, which no feed changes: built once."""
    if not BUILT:
        vocabulary = build_vocabulary(config)
        BUILT.append((vocabulary, build_streams(task_configs(config), vocabulary, "train")))
    return BUILT[0]


def steps_of(
    mixture: Mixture, ahead: int, count: int, rows_per_batch: int = 1
) -> tuple[list[list[list[str]]], str]:
    """Ids of each row of each step of this rank, and the data state as a checkpoint holds it."""
    found, state = [], mixture.state()
    with feed.Feed(mixture, ROWS, rows_per_batch, ahead) as steps:
        for step in itertools.islice(steps, count):
            found.append([[f"{d.task}:{d.id}" for d in row] for row in documents(step)])
            state = step.state
    return found, json.dumps(dataclasses.asdict(state))


def documents(step: feed.StepData) -> list[list[object]]:
    """Documents of each micro-batch, which is one row here."""
    return [[d.document for d in batch.documents] for batch in step.batches]


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_order_is_that_of_one_rank_that_prepares_nothing_ahead(
    experiment: Make, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Two, one and four ranks take two steps each, from the saved state of those before."""
    worlds = (2, 1, 4)
    config = experiment({"packing.look_ahead": 6})
    reference, end = steps_of(mixture_of(config), 0, 2 * len(worlds))
    state = None
    for number, world in enumerate(worlds):
        monkeypatch.setattr(feed, "world_size", lambda world=world: world)
        after = set()
        for rank in range(world):
            monkeypatch.setattr(feed, "rank", lambda rank=rank: rank)
            dealt, last = steps_of(mixture_of(config, state), ahead, 2)
            wanted = reference[2 * number : 2 * number + 2]
            assert dealt == [step[rank::world] for step in wanted]
            after.add(last)
        assert len(after) == 1
        state = after.pop()
    assert state == end


needs_fork = pytest.mark.skipif(not feed.can_fork(), reason="this system cannot fork safely")


@needs_fork
def test_a_feed_that_is_left_ends_its_worker(experiment: Make) -> None:
    before = set(multiprocessing.active_children())
    with feed.Feed(mixture_of(experiment()), ROWS, 1, 1) as steps:
        next(iter(steps))
        (worker,) = set(multiprocessing.active_children()) - before
        # Signals to the group are not for workers.
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
        for step in itertools.islice(steps, 3):
            assert step.batches
    worker.join(10)
    assert not worker.is_alive()


@needs_fork
def test_an_error_in_the_worker_is_raised_whole(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixture_of(experiment())
    error = DataError("It is broken.", subject="a.png", remedy="Mend it.")

    def broken(*_: int) -> None:
        raise error

    monkeypatch.setattr(mixture, "step", broken)
    with feed.Feed(mixture, ROWS, 1, 2) as steps, pytest.raises(DataError) as caught:
        next(iter(steps))
    assert caught.value.as_dict() == error.as_dict()
    monkeypatch.setattr(mixture, "step", lambda *_: 1 // 0)
    with feed.Feed(mixture, ROWS, 1, 2) as steps, pytest.raises(ZeroDivisionError, match="worker"):
        next(iter(steps))


def test_where_nothing_can_be_forked_steps_are_prepared_when_they_are_due(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "can_fork", lambda: False)
    before = set(multiprocessing.active_children())
    with feed.Feed(mixture_of(experiment()), ROWS, 1, 2) as steps:
        assert next(iter(steps)).batches
        assert set(multiprocessing.active_children()) == before


@needs_fork
def test_random_numbers_of_the_run_stay_what_they_are(experiment: Make) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with feed.Feed(mixture_of(experiment()), ROWS, 1, 1) as steps:
        next(iter(steps))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("asked", "device", "expected"), [(None, "cpu", 0), (None, "cuda", 2), (3, "cpu", 3)]
)
def test_a_cpu_prepares_nothing_ahead_unless_told_to(asked, device: str, expected: int) -> None:
    assert feed.steps_ahead(asked, torch.device(device)) == expected
