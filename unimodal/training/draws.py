"""What comes next in a run's data, as a function of counters: what every mixture shares.

Draw n takes a task by (seed, n); the k-th draw of a task takes the record at place k of the task's
current epoch, in an order that (seed, task, epoch) decides; crops, masks and augmentations draw
from (seed, task, k). So (task, k) names a sample for ever, and the state of a run's data is a few
counters and the keys of the samples that wait to be used.

What a record becomes, and how samples make the batches of a step, is said by `mixture` (documents
in packed rows, for decoders) and `values` (groups of values, for tokenizers).

A sample that cannot be used costs one draw: it is written to `bad_samples.jsonl` and counted,
within a budget.
"""

import bisect
import itertools
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from unimodal.data.sources import Source
from unimodal.errors import DataError, UnimodalError, sample_errors
from unimodal.tasks.base import Record
from unimodal.training.counters import generator, key_of, permuted, uniform
from unimodal.training.trainee import StepBatch

Key = tuple[str, int]
"""(task, k): names a sample."""
Draft = TypeVar("Draft")
Sample = TypeVar("Sample")

_TASK, _ORDER, _DOCUMENT = 1, 2, 3
BAD_SAMPLES = "bad_samples.jsonl"


class Stream(Protocol):
    """Records of one task.

    Attributes:
        source: Its records.
        weight: Share of draws, relative to the other tasks.
    """

    @property
    def source(self) -> Source: ...

    @property
    def weight(self) -> float: ...


@dataclass
class DataState:
    """Where the data of a run stands. JSON-ready by `asdict`.

    Attributes:
        draws: Draws so far.
        counts: Draws of each task so far.
        pending: Samples that wait to be used, oldest first.
        bad: Unusable samples: task, record number and the error's type.
    """

    draws: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    pending: list[Key] = field(default_factory=list)
    bad: list[tuple[str, int, str]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataState":
        """The state of a checkpoint."""
        pending = [(str(task), int(k)) for task, k in values["pending"]]
        bad = [(str(task), int(k), str(reason)) for task, k, reason in values["bad"]]
        return cls(int(values["draws"]), dict(values["counts"]), pending, bad)


class Quarantine:
    """Samples that could not be used: named, counted, within a budget.

    Args:
        path: `bad_samples.jsonl`, or None to write none (other ranks).
        budget: How many there may be.
    """

    def __init__(self, path: Path | None, budget: int):
        self.path, self.budget = path, budget
        self.samples: dict[Key, str] = {}
        self.last: dict[str, str] = {}
        """What was wrong with the last sample of each task."""
        self._written = _read_bad_samples(path)

    def add(self, task: str, index: int, sample: str, error: Exception) -> None:
        """Put a sample away.

        Raises:
            DataError: when the budget is spent; says how many by reason, and the last one.
        """
        reason = type(error).__name__
        self.samples[task, index] = reason
        self.last[task] = str(error)
        if self.path is not None and (task, index) not in self._written:
            self._written.add((task, index))
            line = {"task": task, "index": index, "id": sample, "reason": reason}
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps({**line, "message": str(error)}, ensure_ascii=False) + "\n")
        if len(self.samples) > self.budget:
            counts = ", ".join(f"{n} x {name}" for name, n in self.reasons.most_common())
            raise DataError(
                f"{len(self.samples)} samples are unusable ({counts}), and "
                f"`training.max_bad_samples` is {self.budget}. The last one: {error}",
                subject=f"task `{task}`, sample `{sample}`",
                remedy=f"Repair the data ({BAD_SAMPLES} in the run folder names each sample), or "
                "raise the budget.",
            ) from error

    @property
    def reasons(self) -> Counter[str]:
        """Number of unusable samples by the type of their error."""
        return Counter(self.samples.values())

    def per_task(self) -> Counter[str]:
        """Number of unusable samples of each task."""
        return Counter(task for task, _ in self.samples)


@dataclass(frozen=True)
class Drawn:
    """What one step computes on.

    Attributes:
        batches: Micro-batches of one rank.
        weight: Loss weight of the samples of all ranks.
        tokens: Positions of the samples of all ranks, padding not counted.
        fill: Share of the positions that are not padding.
    """

    batches: Sequence[StepBatch]
    weight: float
    tokens: int
    fill: float


class Draws(ABC, Generic[Draft, Sample]):
    """An endless, resumable stream of samples.

    Args:
        streams: Tasks and their records, by name.
        seed: Decides every choice.
        quarantine: Where unusable samples go.

    Raises:
        DataError: if there is no task, or a task has no record.
    """

    def __init__(self, streams: Mapping[str, Stream], seed: int, quarantine: Quarantine):
        check_streams(streams)
        self.sources = {name: stream.source for name, stream in streams.items()}
        self.seed, self.quarantine = seed, quarantine
        self._names = list(streams)
        total = sum(s.weight for s in streams.values())
        self._bounds = list(itertools.accumulate(s.weight / total for s in streams.values()))
        self._draws = 0
        self._counts = dict.fromkeys(self._names, 0)

    @abstractmethod
    def draft(self, task: str, record: Record, rng: np.random.Generator) -> Draft:
        """What a record is to become. Every random choice is drawn from `rng`."""

    @abstractmethod
    def make(self, draft: Draft) -> Sample:
        """The sample of a draft."""

    def prepare(self, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """Drafts after the work that is cheaper for many at once; nothing unless overridden."""
        return drafts

    @abstractmethod
    def step(self, count: int, per_batch: int, rank: int, world: int) -> Drawn:
        """The next `count` rows or values, as micro-batches of one rank."""

    @abstractmethod
    def waiting(self) -> list[Key]:
        """Keys of the samples that are made but not used yet, oldest first."""

    @abstractmethod
    def wait(self, samples: Iterable[tuple[Key, Sample]]) -> None:
        """Begin anew with samples that wait, oldest first."""

    def state(self) -> DataState:
        """Where the stream stands, after what was taken."""
        bad = sorted((*key, reason) for key, reason in self.quarantine.samples.items())
        return DataState(self._draws, dict(self._counts), self.waiting(), bad)

    def restore(self, state: DataState) -> None:
        """Go on from a saved state: the same steps follow.

        A waiting sample that can no longer be read is put away, like any other.
        """
        self._draws = state.draws
        self._counts = {name: state.counts.get(name, 0) for name in self._names}
        self.quarantine.samples |= {(task, index): reason for task, index, reason in state.bad}
        self.wait(self._usable(state.pending))

    def record_number(self, key: Key) -> int:
        """Which record of its task's source a key names."""
        task, k = key
        size = len(self.sources[task])
        epoch, place = divmod(k, size)
        return permuted(place, size, key_of(f"{self.seed}:{_ORDER}:{task}:{epoch}"))

    def take(self, count: int) -> list[tuple[Key, Sample]]:
        """The next `count` samples that can be used, with their keys."""
        found: list[tuple[Key, Sample]] = []
        while len(found) < count:
            found += self._usable([self._draw() for _ in range(count - len(found))])
        return found

    def _usable(self, keys: Sequence[Key]) -> list[tuple[Key, Sample]]:
        drafts = []
        for key in keys:
            index = self.record_number(key)
            if (key[0], index) in self.quarantine.samples:
                self._check_any_left(key[0])
                continue
            rng = generator(self.seed, _DOCUMENT, key_of(key[0]), key[1])
            with self._caught(key, index):
                drafts.append((key, index, self.draft(key[0], self.sources[key[0]][index], rng)))
        prepared = self.prepare([draft for _, _, draft in drafts])
        found = []
        for (key, index, _), draft in zip(drafts, prepared, strict=True):
            with self._caught(key, index):
                found.append((key, self.make(draft)))
        return found

    @contextmanager
    def _caught(self, key: Key, index: int) -> Iterator[None]:
        """Put the sample away if it cannot be used."""
        try:
            with sample_errors(f"task `{key[0]}`, record {index}"):
                yield
        except (UnimodalError, OSError) as error:
            self._put_away(key, index, error)

    def _draw(self) -> Key:
        point = uniform(self.seed, _TASK, self._draws)
        name = self._names[min(bisect.bisect_right(self._bounds, point), len(self._names) - 1)]
        k = self._counts[name]
        self._draws += 1
        self._counts[name] = k + 1
        return name, k

    def _put_away(self, key: Key, index: int, error: Exception) -> None:
        sample = getattr(error, "subject", None) or ""
        try:
            with sample_errors(f"task `{key[0]}`, record {index}"):
                sample = str(self.sources[key[0]][index].get("id", sample))
        except (UnimodalError, OSError):
            sample = sample or str(index)
        self.quarantine.add(key[0], index, sample, error)

    def _check_any_left(self, name: str) -> None:
        size = len(self.sources[name])
        if self.quarantine.per_task()[name] >= size:
            last = (
                f" The last one: {self.quarantine.last[name]}"
                if name in self.quarantine.last
                else ""
            )
            raise DataError(
                f"None of the {size} samples of task `{name}` can be used.{last}",
                remedy=f"`{BAD_SAMPLES}` in the run folder says what is wrong with each.",
            )


def check_streams(streams: Mapping[str, Stream]) -> None:
    """Check that there is something to draw from.

    Raises:
        DataError: if there is no task, or one without records.
    """
    if not streams:
        raise DataError("There is no task to train on.", remedy="Name one below `tasks:`.")
    for name, stream in streams.items():
        if len(stream.source) == 0:
            raise DataError(
                f"Task `{name}` has no records in the split `{stream.source.split}`.",
                subject=stream.source.name,
                remedy="Give it data with such records, or leave the task out.",
            )


def _read_bad_samples(path: Path | None) -> set[Key]:
    if path is None or not path.is_file():
        return set()
    found = set()
    for line in path.read_text("utf-8").splitlines():
        try:
            entry = json.loads(line)
            found.add((str(entry["task"]), int(entry["index"])))
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed run may be cut; the sample is written again
    return found
