"""`unimodal score`: bits that each file costs the model, as a table or TSV."""

import argparse
import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimodal.cli.console import print_json
from unimodal.cli.options import add_compute_options, add_run
from unimodal.errors import ConfigError

if TYPE_CHECKING:
    from unimodal.cli.inputs import Input
    from unimodal.runtime import Model

ABOUT = "Measure how many bits each file costs the model: less is more expected."
COLUMNS = ("name", "modality", "bits", "raw_units", "raw_unit", "bits_per_raw_unit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `score`."""
    add_run(parser)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a FASTA file gives a row a record"
    )
    parser.add_argument("--from", dest="source", metavar="NAME", help="modality of the files")
    parser.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="score strings in pieces of N letters, 0: whole; by default as the run cut them",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a TSV file")
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score all files."""
    if arguments.window is not None and arguments.window < 0:
        raise ConfigError(f"`--window` must be at least 0, but is {arguments.window}.")
    from unimodal.cli.inputs import Failures, check_out, read_files
    from unimodal.runtime import load

    check_out(arguments.out)
    model = load(arguments.run, arguments.device)
    failures = Failures()
    windows = _windows(model)
    rows = []
    for found in read_files(arguments.files, model.vocabulary, arguments.source, failures):
        with failures.of(found.name):
            window = arguments.window
            rows.append(
                _row(model, found, windows.get(found.modality) if window is None else window)
            )
    code = failures.finish(len(rows))
    if arguments.out is not None and rows:
        arguments.out.write_text(_table(rows), encoding="utf-8")
    if arguments.json:
        scores = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        print_json({"scores": scores, "errors": failures.as_dicts()})
    elif arguments.out is None:
        print(_table(rows), end="")
    elif rows:
        print(arguments.out)
    return code


def _windows(model: "Model") -> dict[str, int]:
    """How long the pieces of each modality were in training, where a task of the run cut it."""
    found = {}
    for task in model.tasks.values():
        if window := getattr(task.options, "window", None):
            found[task.config.target] = window
    return found


def _row(model: "Model", found: "Input", window: int | None) -> tuple[Any, ...]:
    """The row of one value."""
    from unimodal.stream import Segment

    modality = model.vocabulary.modality(found.modality)
    if found.modality not in model.vocabulary.grammars:
        partner = modality.decoded_by
        remedy = f"Name the one that writes such files: --from {partner}." if partner else None
        raise ConfigError(f"`{found.modality}` is input only: it has no likelihood.", remedy=remedy)
    pieces = [found.value]
    if window and isinstance(found.value, str):
        pieces = [found.value[i : i + window] for i in range(0, len(found.value), window)]
    scores = [model.score([Segment(found.modality, piece)])[0] for piece in pieces]
    bits = sum(score.nats for score in scores) / math.log(2)
    units = modality.raw_units(found.value)
    each = bits / units if units and modality.is_lossless else None
    return (found.name, found.modality, bits, units, modality.raw_unit, each)


def _table(rows: list[tuple[Any, ...]]) -> str:
    """Tab-separated values with a header."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return file.getvalue()
