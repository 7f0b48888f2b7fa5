"""The compile gate's command; see the package. Exit code 1 on any fault.

Every version of Triton runs in a process of its own with an empty cache, so nothing stale is
measured; a version that is not installed is put in the user's cache folder by pip.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from unimodal.errors import BackendUnavailableError, run_module
from unimodal.kernels.compile_gate import table
from unimodal.kernels.compile_gate.targets import TARGETS, Measured

QUICK = ([64, 128], ["bfloat16"])
EVERYTHING = ([32, 64, 96, 128, 192, 256], ["float16", "bfloat16", "float32"])
VERSIONS = ("3.6.0", "3.7.1")
"""The oldest that is supported, and the one of requirements.lock."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gate."""
    options = _parser().parse_args(argv)
    if options.worker:
        return _work(options)
    start = time.monotonic()
    rows: list[Measured] = []
    failed: list[str] = []
    for version in options.triton:
        found, messages = _compile_with(version, options)
        rows += found
        failed += messages
    for row in rows:
        failed += [
            f"{row.op}, {row.case}, {row.target}, triton {row.triton}: it {fault}."
            for fault in row.faults()
        ]
    ops = sorted({row.op for row in rows})
    print(
        f"compile gate: {len(rows)} kernels of {', '.join(ops) or 'no operator'} compiled in "
        f"{time.monotonic() - start:.0f} s, {len(failed)} faults"
    )
    for fault in failed:
        print(f"FAULT {fault}")
    if options.write and rows and not failed:
        table.write(rows, ops)
        print(f"wrote {table.PATH}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unimodal.kernels.compile_gate")
    parser.add_argument("--all", action="store_true", help="all head sizes and dtypes")
    parser.add_argument("--write", action="store_true", help="write the table if nothing is wrong")
    parser.add_argument("--op", nargs="+", help="these operators only")
    parser.add_argument("--head-dim", type=int, nargs="+", help="these head sizes")
    parser.add_argument("--dtype", nargs="+", choices=EVERYTHING[1], help="these dtypes")
    parser.add_argument("--target", nargs="+", choices=[t.name for t in TARGETS])
    parser.add_argument(
        "--triton", nargs="+", metavar="VERSION", default=VERSIONS, help="by default all supported"
    )
    parser.add_argument("--jobs", type=int, default=_cores(), help="processes at once")
    parser.add_argument("--worker", metavar="PATH", help=argparse.SUPPRESS)
    return parser


def _compile_with(version: str, options: argparse.Namespace) -> tuple[list[Measured], list[str]]:
    """Rows and messages of one version, compiled by `--jobs` processes."""
    sizes, dtypes = EVERYTHING if options.all else QUICK
    sizes, dtypes = options.head_dim or sizes, options.dtype or dtypes
    targets = options.target or [target.name for target in TARGETS]
    ops = options.op or _operators()
    with tempfile.TemporaryDirectory(prefix="compile-gate-") as folder:
        environment = dict(os.environ, TRITON_CACHE_DIR=os.path.join(folder, "triton"))
        environment.pop("TRITON_INTERPRET", None)
        # A compile is one thread; two processes of several threads each would fight.
        environment["OMP_NUM_THREADS"] = "1"
        place = _folder_of(version)
        if place is not None:
            before = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join([str(place), *([before] if before else [])])
        pending = [(op, target) for op in ops for target in targets]
        return _drain(pending, sizes, dtypes, options.jobs, environment, folder)


def _drain(
    pending: list[tuple[str, str]],
    sizes: list[int],
    dtypes: list[str],
    jobs: int,
    environment: dict[str, str],
    folder: str,
) -> tuple[list[Measured], list[str]]:
    """Share operators and targets out among processes, and read back what they wrote."""
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    for number in range(min(jobs, len(pending))):
        path = Path(folder, f"{number}.json")
        share = pending[number::jobs]
        path.write_text(json.dumps({"share": share, "head_dims": sizes, "dtypes": dtypes}))
        command = [sys.executable, "-m", "unimodal.kernels.compile_gate", "--worker", str(path)]
        running.append((subprocess.Popen(command, env=environment), path))
    rows: list[Measured] = []
    failed: list[str] = []
    for process, path in running:
        if process.wait():
            failed.append(f"a compiling process ended with exit code {process.returncode}")
            continue
        found = json.loads(path.read_text())
        rows += [Measured(**row) for row in found["rows"]]
        failed += found["failed"]
    return rows, failed


def _work(options: argparse.Namespace) -> int:
    """One process's share; what it finds replaces the file that asked."""
    from dataclasses import asdict

    import torch

    from unimodal.kernels.compile_gate import triton_compile

    path = Path(options.worker)
    asked: dict[str, Any] = json.loads(path.read_text())
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    dtypes = [getattr(torch, name) for name in asked["dtypes"]]
    for op, target in asked["share"]:
        chosen = [t for t in TARGETS if t.name == target]
        for found in triton_compile.compile_all([op], asked["head_dims"], dtypes, chosen):
            if isinstance(found, str):
                failed.append(found)
            else:
                rows.append(asdict(found))
    path.write_text(json.dumps({"rows": rows, "failed": failed}))
    return 0


def _operators() -> list[str]:
    from unimodal.kernels.dispatch import tables

    return sorted(tables.source_hashes())


def _installed() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        raise BackendUnavailableError(
            "The compile gate needs triton, which is not installed.",
            remedy="Run `make gates`, or pip install 'unimodal[gpu]'.",
        ) from None


def _folder_of(version: str) -> Path | None:
    """Where a version lies: None if it is the installed one, else a folder that pip fills once."""
    try:
        if _installed() == version:
            return None
    except BackendUnavailableError:
        pass
    given = os.environ.get("UNIMODAL_CACHE")
    root = Path(given) if given else Path.home() / ".cache" / "unimodal"
    folder = root / "triton" / version
    if not (folder / "triton").is_dir():
        print(f"compile gate: pip puts triton {version} in {folder}", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", str(folder), f"triton=={version}"], check=True)
    return folder


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    run_module(main)
