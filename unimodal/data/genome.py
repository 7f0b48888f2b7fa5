"""Windows over genomes: random access, a contiguous held-out tail.

Sequences are uint8 arrays of upper-case ASCII letters (bytes, a mapped file, or unpacked from two
bits a base). FASTA files are read by `unimodal.media.read_fasta`; nothing here parses them.
"""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from unimodal.data.sources import (
    SPLITS,
    BaseSource,
    Record,
    assign_splits,
    check_split,
)
from unimodal.data.tables import Array
from unimodal.errors import ConfigError, DataError

WINDOW = 768
"""Bases of a window, unless a task asks for another length."""


def split_range(number: int, split: str, *, test: float, validation: float) -> tuple[int, int]:
    """Start and end of a split in a sequence of `number` bases: train, validation, test in turn."""
    first_test = number - round(number * test)
    first_validation = first_test - round(number * validation)
    return {
        "train": (0, first_validation),
        "validation": (first_validation, first_test),
        "test": (first_test, number),
    }[split]


class GenomeWindows(BaseSource):
    """Windows of one or more sequences, side by side; record: `{"id", "dna", "start", "sequence"}`.

    The windows of a split cover it wholly; the last one of a sequence may be shorter. No window
    crosses a split's border. A sequence that fits in one window (a read) is not cut: one of several
    goes to a split whole, by hash of its name.

    Args:
        sequences: Names to uint8 arrays of letters.
        split: `train`, `validation` or `test`.
        window: Bases a window, at least 1.
        test_fraction: Share of each sequence's end that is held out, or of short sequences.
        validation_fraction: Share before it that is `validation`.
        name: See `Source`.
        license: See `Source`.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(
        self,
        sequences: Mapping[str, Array],
        split: str = "train",
        *,
        window: int = WINDOW,
        test_fraction: float = 0.1,
        validation_fraction: float = 0.02,
        name: str = "genome",
        license: str = "unknown",
    ):
        super().__init__(name, license, check_split(split, SPLITS, name))
        if window < 1:
            raise ConfigError(f"`window` must be at least 1, but is {window}.")
        if not (0 <= test_fraction and 0 <= validation_fraction <= 1 - test_fraction):
            raise ConfigError(
                "`test_fraction` and `validation_fraction` must be at least 0 and at most 1 "
                f"together, but are {test_fraction} and {validation_fraction}."
            )
        self.window = window
        self._sequences = dict(sequences)
        self._shares = {"test": test_fraction, "validation": validation_fraction}
        reads = [
            key
            for key, array in self._sequences.items()
            if len(array) <= window and len(self._sequences) > 1
        ]
        splits = assign_splits([(None, key) for key in reads], **self._shares)
        whole = dict(zip(reads, splits, strict=True))
        self._parts = [
            (key, 0, len(array) if whole[key] == split else 0)
            if key in whole
            else (key, *split_range(len(array), split, **self._shares))
            for key, array in self._sequences.items()
        ]
        self._parts = [part for part in self._parts if part[1] < part[2]]
        self._ends = list(accumulate(self._number(end - start) for _, start, end in self._parts))

    @property
    def num_bases(self) -> int:
        """Bases of this split."""
        return sum(end - start for _, start, end in self._parts)

    def __len__(self) -> int:
        return (self._ends or [0])[-1]

    def record(self, index: int) -> Record:
        part = bisect_right(self._ends, index)
        key, first, last = self._parts[part]
        start = first + self.window * (index - (self._ends[part - 1] if part else 0))
        bases = np.asarray(self._sequences[key][start : min(start + self.window, last)])
        return {
            "id": f"{key}:{start}:{len(bases)}",
            "dna": bases.tobytes().decode("ascii"),
            "start": start,
            "sequence": key,
        }

    def windows(self, length: int) -> "GenomeWindows":
        """The same split in windows of another length; see `unimodal.data.sources.Windowed`."""
        return GenomeWindows(
            self._sequences,
            self.split,
            window=length,
            test_fraction=self._shares["test"],
            validation_fraction=self._shares["validation"],
            name=self.name,
            license=self.license,
        )

    def _number(self, bases: int) -> int:
        """Windows that cover `bases`: full ones, and a shorter last one if any are left."""
        return -(-bases // self.window)


def pack_bases(bases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ASCII A, C, G, T as two bits a base, four to a byte, first base in the low bits.

    Raises:
        DataError: if there is any other letter.
    """
    codes = np.searchsorted(np.frombuffer(b"ACGT", np.uint8), bases)
    if not np.array_equal(np.frombuffer(b"ACGT\0", np.uint8)[codes], bases):
        raise DataError(
            "Only the letters A, C, G and T can be packed into two bits.",
            remedy="Leave the sequence as letters, which hold N and IUPAC codes too.",
        )
    padded = np.zeros(-(-len(bases) // 4) * 4, np.uint8)
    padded[: len(bases)] = codes
    quads = padded.reshape(-1, 4)
    return np.asarray(quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6)


def unpack_bases(packed: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The first `number` bases of what `pack_bases` made, as ASCII."""
    letters = np.frombuffer(b"ACGT", np.uint8)
    table = letters[(np.arange(256)[:, None] >> np.array([0, 2, 4, 6])) & 3]
    return np.asarray(table[packed].reshape(-1)[:number])
