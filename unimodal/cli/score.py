"""`unimodal score`: bits that each file costs the model, as a table or TSV."""

import argparse
import csv
import io
import math
from pathlib import Path
from typing import Any

from unimodal.cli.console import print_json
from unimodal.cli.options import add_compute_options, add_run

ABOUT = "Measure how many bits each file costs the model: less is more expected."
COLUMNS = ("name", "modality", "bits", "raw_units", "raw_unit", "bits_per_raw_unit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `score`."""
    add_run(parser)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a FASTA file gives a row a record"
    )
    parser.add_argument("--from", dest="source", metavar="NAME", help="modality of the files")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a TSV file")
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score all files."""
    from unimodal.cli.inputs import naming, read_files
    from unimodal.runtime import load
    from unimodal.stream import Segment

    model = load(arguments.run, arguments.device)
    rows = []
    for found in read_files(arguments.files, model.vocabulary, arguments.source):
        model.vocabulary.grammar(found.modality)  # what is input only has no likelihood
        with naming([found]):
            [score] = model.score([Segment(found.modality, found.value)])
        modality = model.vocabulary.modality(found.modality)
        bits = score.nats / math.log(2)
        units = modality.raw_units(found.value)
        each = bits / units if units and modality.is_lossless else None
        rows.append((found.name, found.modality, bits, units, modality.raw_unit, each))
    if arguments.out is not None:
        arguments.out.write_text(_table(rows), encoding="utf-8")
    if arguments.json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    elif arguments.out is None:
        print(_table(rows), end="")
    else:
        print(arguments.out)
    return 0


def _table(rows: list[tuple[Any, ...]]) -> str:
    """Tab-separated values with a header."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return file.getvalue()
