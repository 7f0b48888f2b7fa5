"""The batches of each step, prepared ahead by one thread, with the data state after each step."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from unimodal.training.draws import DataState, Draws
from unimodal.training.ranks import rank, world_size
from unimodal.training.trainee import StepBatch

POLL_SECONDS = 0.2


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
        mixture: Where samples come from. While the feed is open, nobody else may use it.
        rows_per_step: Rows (or values) of one step over all ranks; a multiple of their number.
        rows_per_batch: Rows (or values) of a micro-batch.
        ahead: Steps that a thread prepares ahead; 0 prepares each when it is asked for.
    """

    def __init__(
        self, mixture: Draws[Any, Any], rows_per_step: int, rows_per_batch: int, ahead: int
    ):
        self.mixture = mixture
        self.rows_per_step, self.rows_per_batch = rows_per_step, rows_per_batch
        self._rank, self._world = rank(), world_size()
        self._queue: queue.Queue[StepData | BaseException] = queue.Queue(max(ahead, 1))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if ahead:
            self._thread = threading.Thread(target=self._work, name="feed", daemon=True)

    def __enter__(self) -> "Feed":
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def __iter__(self) -> Iterator[StepData]:
        while True:
            if self._thread is None:
                yield self._prepare()
                continue
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._put(self._prepare())
        except BaseException as error:  # handed over: the loop raises it
            self._put(error)

    def _put(self, item: StepData | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def _prepare(self) -> StepData:
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
