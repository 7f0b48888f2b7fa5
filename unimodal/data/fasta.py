"""FASTA files as sources of windows: parsed once a process, refused with every error."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.genome import GenomeWindows
from unimodal.data.manifest import DataSetError, Finding
from unimodal.errors import MediaError

_Stamp = tuple[Path, int, int]
"""A file with its size and time of change."""


def open_fasta(
    files: Sequence[Path],
    split: str,
    *,
    name: str,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.02,
) -> GenomeWindows:
    """Windows over the records of FASTA files; see `GenomeWindows`.

    Raises:
        DataSetError: with every record that is unsound, or whose name stands twice.
    """
    findings, sequences = read_sequences(files)
    if findings:
        raise DataSetError(Path(name), findings)
    return GenomeWindows(
        sequences,
        split,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        name=name,
        license="the user's own",
    )


def read_sequences(
    files: Sequence[Path],
) -> tuple[Sequence[Finding], dict[str, NDArray[np.uint8]]]:
    """Every error of FASTA files, and the letters of each sound record by name, as uint8."""
    stamps = []
    for file in files:
        facts = file.stat()
        stamps.append((file, facts.st_size, facts.st_mtime_ns))
    return _read(tuple(stamps))


@lru_cache(maxsize=2)
def _read(stamps: tuple[_Stamp, ...]) -> tuple[list[Finding], dict[str, NDArray[np.uint8]]]:
    """All splits, fitting and scoring of a run share what is read here once."""
    findings: list[Finding] = []
    sequences: dict[str, NDArray[np.uint8]] = {}
    lines: dict[str, str] = {}
    for file, _, _ in stamps:
        for number, line, found in _records(file, findings):
            key = found.id or f"{file.name}:{number}"
            if key in sequences:
                value, remedy = f"{lines[key]} has it too", "Rename one of the records."
                rule = "Sequence names must be unique"
                findings.append(Finding(line, key, rule, value, remedy, str(file)))
                continue
            lines[key] = f"{file.name}, line {line}"
            sequences[key] = np.frombuffer(found.bases.encode("ascii"), np.uint8)
    return findings, sequences


def _records(file: Path, findings: list[Finding]) -> Iterator[tuple[int, int, Any]]:
    """Number, line and record of each sound record; the others become findings."""
    from unimodal.media.fasta import FastaRecord, scan_fasta

    try:
        for number, (line, found) in enumerate(scan_fasta(file), start=1):
            if isinstance(found, FastaRecord):
                yield number, line, found
            else:
                findings.append(_finding(file, line, found))
    except MediaError as error:
        findings.append(_finding(file, None, error))


def _finding(file: Path, line: int | None, error: MediaError) -> Finding:
    rule, but, value = error.message.partition(", but ")
    if not but:
        rule, value = (
            "Each FASTA record must be sound",
            error.message[:1].lower() + error.message[1:],
        )
    remedy = error.remedy or "Correct the record."
    name = error.subject if line is None else (error.subject or "").removeprefix(f"{file}, ")
    return Finding(line, name, rule, value, remedy, str(file))
