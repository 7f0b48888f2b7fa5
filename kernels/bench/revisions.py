"""One benchmark at two commits: the sources of the other are checked out beside these.

Both sides are measured by today's benchmark, which is copied over the older sources, in processes
of their own, one after the other and again, so that a machine that grows slower grows slower for
both; the second round counts too (the faster median of the two).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.kernels.bench.spec import OURS, PLAIN, Spec

ROUNDS = 2
ROOT = Path(__file__).resolve().parents[2]
_RUN = """
import json, sys
from unimodal.kernels.bench.run import bench
from unimodal.kernels.bench.spec import Spec
wanted = json.loads(sys.argv[1])
wanted["against"] = tuple(wanted["against"])
wanted["grid"] = wanted["grid"] and tuple(wanted["grid"])
json.dump(bench(Spec(**wanted)), open(sys.argv[2], "w"))
"""


def compare(spec: Spec, revision: str) -> dict[str, Any]:
    """Ours at a revision and now.

    Returns:
        `base` and `now`, each as `bench` returns it, and `ratios`: base's time over today's for
        each direction (above 1: today is faster).

    Raises:
        ConfigError: if the revision does not exist.
        BackendUnavailableError: if these sources are not a git checkout, or the benchmark does not
            run on the older ones.
    """
    # One other alone: the others do not change with our sources.
    asked = {**asdict(spec), "against": [PLAIN.get(spec.op, "eager")]}
    found: dict[str, list[dict[str, Any]]] = {"base": [], "now": []}
    with _worktree(revision) as folder:
        bench_folder = folder / "kernels" / "bench"
        shutil.rmtree(bench_folder, ignore_errors=True)
        shutil.copytree(ROOT / "kernels" / "bench", bench_folder)
        for _ in range(ROUNDS):
            for name, place in (("base", folder), ("now", ROOT)):
                found[name].append(_bench_in(place, asked, revision))
    best = {name: _best(rounds) for name, rounds in found.items()}
    base, now = (
        {row["direction"]: row["ms"] for row in best[name]["results"] if row["contender"] == OURS}
        for name in ("base", "now")
    )
    ratios = {direction: base[direction] / now[direction] for direction in now if direction in base}
    return {"base": best["base"], "now": best["now"], "revision": revision, "ratios": ratios}


def _best(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The first round, each row replaced by the fastest of its kind."""
    kept = dict(rounds[0])
    kept["results"] = [
        min(same, key=lambda row: float(row["ms"]))
        for same in zip(*(r["results"] for r in rounds), strict=True)
    ]
    return kept


@contextmanager
def _worktree(revision: str) -> Iterator[Path]:
    if not (ROOT / ".git").exists():
        raise BackendUnavailableError(
            f"Comparing revisions needs a git checkout, and {ROOT} is none.", subject="--base"
        )
    named = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if named.returncode:
        raise ConfigError(f"There is no commit `{revision}` here.", subject="--base")
    with tempfile.TemporaryDirectory(prefix="bench-base-") as parent:
        folder = Path(parent, "base")
        added = _git("worktree", "add", "--detach", str(folder), named.stdout.strip())
        if added.returncode:
            raise BackendUnavailableError(f"git says: {added.stderr.strip()}", subject="--base")
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _bench_in(folder: Path, asked: dict[str, Any], revision: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-c", _RUN, json.dumps(asked), file.name]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise BackendUnavailableError(
                f"The benchmark does not run in {folder} ({last[0]}).",
                subject="--base",
                remedy=f"Choose a commit after {revision} whose operator has the same arguments.",
            )
        found: dict[str, Any] = json.loads(Path(file.name).read_text(encoding="utf-8"))
    return found


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    )
