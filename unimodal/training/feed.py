"""The batches of each step, prepared ahead by one thread, with the data state after each step."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import torch

from unimodal.stream import Batch
from unimodal.training.mixture import DataState, Mixture, step_batches
from unimodal.training.ranks import rank, world_size

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StepData:
    """What one optimizer step computes on.

    Attributes:
        batches: Micro-batches of this rank.
        state: Of the data, after this step's rows.
        weight: Loss weight over the rows of all ranks.
        tokens: Positions over the rows of all ranks, padding not counted.
        fill: Share of the positions that are not padding.
        seconds: What it took to prepare.
    """

    batches: list[Batch]
    state: DataState
    weight: float
    tokens: int
    fill: float
    seconds: float

    def sample_ids(self) -> list[str]:
        """Ids of the documents of this rank, for messages."""
        found = [d.document for batch in self.batches for d in batch.documents]
        return [f"{document.task}:{document.id}" for document in found]


class Feed:
    """Yields the data of one step after another; a context manager.

    Args:
        mixture: Where rows come from. While the feed is open, nobody else may use it.
        rows_per_step: Rows of one step over all ranks; a multiple of their number.
        rows_per_batch: Rows of a micro-batch.
        ahead: Steps that a thread prepares ahead; 0 prepares each when it is asked for.
    """

    def __init__(self, mixture: Mixture, rows_per_step: int, rows_per_batch: int, ahead: int):
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

    @torch.no_grad()
    def _prepare(self) -> StepData:
        start = time.perf_counter()
        rows = self.mixture.rows(self.rows_per_step)
        row_length = self.mixture.packing.row_length
        batches = step_batches(
            rows,
            row_length,
            self.rows_per_batch,
            self.mixture.vocabulary,
            self._rank,
            self._world,
        )
        tokens = sum(len(document) for row in rows for document in row)
        weights = [d.loss_weight.sum(dtype=torch.float64) for row in rows for d in row]
        return StepData(
            batches=batches,
            state=self.mixture.state(),
            weight=float(sum(weights)),
            tokens=tokens,
            fill=tokens / (row_length * len(rows)),
            seconds=time.perf_counter() - start,
        )
