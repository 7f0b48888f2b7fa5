"""The table of compiled kernels, `kernels/bench/results/compile.json`.

It holds one row for each case, target and version of Triton, and the hash of the sources (kernels
and configs) that were compiled. A test compares the hashes with today's sources, so a kernel that
was changed cannot keep old numbers. `make compile-gate` writes it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unimodal.errors import DataError
from unimodal.kernels.compile_gate.targets import TARGETS, Measured
from unimodal.kernels.dispatch import tables

PATH = Path(__file__).resolve().parents[1] / "bench" / "results" / "compile.json"
REMEDY = "Run `make compile-gate`."


def read(path: Path = PATH) -> dict[str, Any]:
    """The table.

    Raises:
        DataError: if it is not there or cannot be read.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {"sources": dict(table["sources"]), "rows": [dict(row) for row in table["rows"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"It cannot be read ({error}).", subject=str(path), remedy=REMEDY) from None


def write(rows: Sequence[Measured], ops: Sequence[str], path: Path = PATH) -> None:
    """Write the rows of some operators.

    Of these, rows that were not measured again stay if the sources are still the same: other sizes
    and other Tritons. Rows of other operators stay if those still exist.
    """
    hashes = tables.source_hashes()
    old = read(path) if path.is_file() else {"sources": {}, "rows": []}
    stale = {op for op in ops if old["sources"].get(op) != hashes[op]}
    again = {_key(row.as_dict()) for row in rows}
    kept = [
        row
        for row in old["rows"]
        if row["op"] in hashes and row["op"] not in stale and _key(row) not in again
    ]
    sources = {op: digest for op, digest in old["sources"].items() if op in hashes}
    sources |= {op: hashes[op] for op in ops}
    joined = kept + [row.as_dict() for row in rows]
    joined.sort(key=_key)
    lines = ",\n  ".join(json.dumps(row) for row in joined)
    head = {
        "targets": [asdict(target) for target in TARGETS],
        "sources": dict(sorted(sources.items())),
    }
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "rows": [\n  {lines}\n ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def faults(path: Path = PATH) -> list[str]:
    """What is wrong with the table: sources that changed, rows that break a limit."""
    table = read(path)
    hashes = tables.source_hashes()
    found = [
        f"{op}: its Triton files differ from those in the table. {REMEDY}"
        for op in sorted(hashes.keys() | table["sources"].keys())
        if hashes.get(op) != table["sources"].get(op)
    ]
    measured = {row["op"] for row in table["rows"]}
    found += [f"{op}: it has no row. {REMEDY}" for op in sorted(hashes.keys() - measured)]
    for row in table["rows"]:
        name = f"{row['op']}, {row['case']}, {row['target']}, triton {row['triton']}"
        found += [f"{name}: it {fault}." for fault in Measured(**row).faults()]
    return found


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("op", "case", "target", "triton"))
