"""The feed: the same rows in the same order for any number of ranks and of steps prepared ahead."""

import dataclasses
import itertools
import json
from collections.abc import Callable

import pytest

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


def test_a_feed_that_is_left_ends_its_thread(experiment: Make) -> None:
    source = feed.Feed(mixture_of(experiment()), ROWS, 1, 1)
    with source as steps:
        next(iter(steps))
    assert source._thread is not None
    assert not source._thread.is_alive()
