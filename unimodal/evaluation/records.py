"""Records that are scored or learned from: held-out ones, and a guard round those that are bad."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from unimodal.data.sources import Source
from unimodal.errors import ConfigError, DataError, UnimodalError, sample_errors
from unimodal.tasks.base import Record

HELD_OUT = ("test", "validation")
"""Splits that `split="auto"` tries, in this order."""
Read = TypeVar("Read")


class Splits(Protocol):
    """A data set under the name of its task; `unimodal.tasks.base.Task` is one."""

    @property
    def name(self) -> str:
        """Of the task."""
        ...

    def open(self, split: str) -> Source:
        """The records of one split."""
        ...


class UsableRecords:
    """Some records of a source, in an order; one that cannot be read costs itself alone.

    Args:
        source: Where they come from.
        numbers: Which, in this order.
        should_stop: Polled before each record.

    Attributes:
        bad: Message of each record that could not be read, by its number.
    """

    def __init__(
        self,
        source: Source,
        numbers: Sequence[int],
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self.source, self.numbers, self.should_stop = source, numbers, should_stop
        self.bad: dict[int, str] = {}

    def read(self, make: Callable[[Record], Read]) -> Iterator[tuple[int, Read]]:
        """(number, what `make` makes of it) of each record that can be read.

        Raises:
            KeyboardInterrupt: when asked to stop.
        """
        for number in self.numbers:
            if number in self.bad:
                continue
            if self.should_stop():
                raise KeyboardInterrupt(f"asked to stop while reading `{self.source.name}`")
            try:
                with sample_errors(f"{self.source.name}, record {number} of {self.source.split}"):
                    made = make(self.source[number])
            except (UnimodalError, OSError) as error:
                self.bad[number] = str(error)
                continue
            yield number, made

    def note(self, task: str) -> str | None:
        """What was left out and why, in a sentence; None if nothing was."""
        if not self.bad:
            return None
        first = next(iter(self.bad.values()))
        part = f"of {len(self.numbers):,} records of `{self.source.split}`"
        return f"{task}: {len(self.bad)} {part} are left out, e.g. {first}"


def open_held_out(task: Splits, split: str) -> tuple[str, Source]:
    """The split that is scored, and its records.

    Args:
        task: Whose data.
        split: Its name; `auto` takes the first of `HELD_OUT` that has records.

    Raises:
        ConfigError: if a split that was named does not exist.
        DataError: if there is no record, or the data cannot be opened.
    """
    reason = ""
    for name in HELD_OUT if split == "auto" else (split,):
        try:
            source = task.open(name)
        except (ConfigError, DataError) as error:
            if split != "auto":
                raise
            reason = f" {error}"
            continue
        if len(source):
            return name, source
    wanted = " or ".join(HELD_OUT) if split == "auto" else split
    raise DataError(
        f"The data has no record in the split {wanted}.{reason}",
        subject=f"task `{task.name}`",
        remedy="Hold out some records, or name another split.",
    )


def drawn(size: int, limit: int, seed: int) -> list[int]:
    """Numbers of at most `limit` records (0: all), drawn by `seed`, in order."""
    if not limit or size <= limit:
        return list(range(size))
    return sorted(np.random.default_rng(seed).choice(size, limit, replace=False).tolist())
