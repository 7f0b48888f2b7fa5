"""The batches of each step, prepared ahead by one process, with the data state after each step.

The process is a worker of torch's `DataLoader`, forked when the feed is opened: it holds what the
run built, computes on one thread, and hands tensors over in shared memory. A thread would share the
interpreter's lock with the step and slow it down more than it saves (docs/log.md).
"""

import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from unimodal.errors import UnimodalError
from unimodal.training.draws import DataState, Draws
from unimodal.training.ranks import rank, world_size
from unimodal.training.trainee import StepBatch


@dataclass(frozen=True)
class StepData:
    """What one optimizer step computes on.

    Attributes:
        batches: Micro-batches of this rank: packed rows, or values.
        state: Of the data, after this step's samples.
        weight: Loss weight over the samples of all ranks.
        tokens: Positions over the samples of all ranks, padding not counted.
        fill: Share of the positions that are not padding.
        seconds: What it took to prepare.
    """

    batches: Sequence[StepBatch]
    state: DataState
    weight: float
    tokens: int
    fill: float
    seconds: float

    def sample_ids(self) -> list[str]:
        """Ids of the samples of this rank, for messages."""
        return [f"{task}:{name}" for batch in self.batches for task, name in batch.samples]


class Feed:
    """Yields the data of one step after another; a context manager.

    Args:
        mixture: Where samples come from. While the feed is open, nobody else may use it; a worker
            leaves it as it was.
        rows_per_step: Rows (or values) of one step over all ranks; a multiple of their number.
        rows_per_batch: Rows (or values) of a micro-batch.
        ahead: Steps that a process prepares ahead; 0 prepares each when it is asked for, as does a
            system that cannot fork.
    """

    def __init__(
        self, mixture: Draws[Any, Any], rows_per_step: int, rows_per_batch: int, ahead: int
    ):
        self.steps = _Steps(mixture, rows_per_step, rows_per_batch)
        self.ahead = ahead if can_fork() else 0
        self._from_worker: Iterator[StepData | UnimodalError] | None = None

    def __enter__(self) -> "Feed":
        if self.ahead:
            loader = DataLoader(
                self.steps,
                batch_size=None,
                num_workers=1,
                prefetch_factor=self.ahead,
                multiprocessing_context="fork",
                worker_init_fn=_begin_work,
                collate_fn=_as_it_is,
                # Its own, so that the run's random numbers stay what they are.
                generator=torch.Generator(),
            )
            with warnings.catch_warnings():
                # Python warns of any fork beside threads; a worker touches none of ours.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._from_worker = iter(loader)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The loader ends its worker when nobody holds its iterator.
        self._from_worker = None

    def __iter__(self) -> Iterator[StepData]:
        while True:
            if self._from_worker is None:
                yield self.steps.prepare()
                continue
            item = next(self._from_worker)
            if isinstance(item, UnimodalError):
                raise item
            yield item


class _Steps(IterableDataset[StepData]):
    """The steps of this rank, as a worker yields them: an error of ours is the last item."""

    def __init__(self, mixture: Draws[Any, Any], rows_per_step: int, rows_per_batch: int):
        super().__init__()
        self.mixture = mixture
        self.rows_per_step, self.rows_per_batch = rows_per_step, rows_per_batch
        self._rank, self._world = rank(), world_size()

    def __iter__(self) -> Iterator[Any]:
        try:
            while True:
                yield self.prepare()
        except UnimodalError as error:  # handed over whole; others the loader raises again
            yield error

    def prepare(self) -> StepData:
        """The next step's data."""
        start = time.perf_counter()
        drawn = self.mixture.step(self.rows_per_step, self.rows_per_batch, self._rank, self._world)
        return StepData(
            batches=drawn.batches,
            state=self.mixture.state(),
            weight=drawn.weight,
            tokens=drawn.tokens,
            fill=drawn.fill,
            seconds=time.perf_counter() - start,
        )


def steps_ahead(asked: int | None, device: torch.device) -> int:
    """Steps to prepare ahead where the configuration leaves it open: on a CPU none."""
    if asked is not None:
        return asked
    return 0 if device.type == "cpu" else 2


def can_fork() -> bool:
    """Whether a worker can be forked safely: macOS's system libraries do not survive it."""
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


def _begin_work(_: int) -> None:
    """Signals to the group are the run's to answer: it saves, and then ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(item: Any) -> Any:
    return item
