"""Tuning tries what kernels declare, passes over what is wrong, and keeps the best."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.kernels.bench import revisions, tune
from unimodal.kernels.bench.revisions import compare
from unimodal.kernels.bench.spec import Spec
from unimodal.kernels.dispatch import tables

SPEC = Spec(op="swiglu", seq=32, heads=1, kv_heads=1, head_dim=16, device="cuda")
CONFIGS = [{"B": n, "num_warps": 4} for n in (1, 2, 3, 4)]


def look_up(problem: Any, right: Any) -> None:
    """A run that launches one kernel, of rows of 16."""
    tables.lookup("swiglu.forward", 16, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_tuning_needs_a_gpu() -> None:
    with pytest.raises(BackendUnavailableError, match="on a GPU"):
        tune.tune(SPEC)


def test_the_fastest_config_that_is_right_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path))
    monkeypatch.setattr(tables, "_declared", {})
    monkeypatch.setattr(tables, "source_hashes", lambda: {"swiglu": "a"})
    monkeypatch.setattr(tables, "_current_architecture", lambda: "sm90")
    monkeypatch.setattr(tables, "card_name", lambda: "a-card")
    tables._tuned.cache_clear()
    tables.declare("swiglu.forward", CONFIGS[0], candidates=CONFIGS)
    results = {1: 4.0, 2: 1.0, 3: "its results are wrong", 4: 2.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tune, "problem_of", lambda spec: None)
    monkeypatch.setattr(tune.numerics, "truth", lambda problem: None)
    monkeypatch.setattr(tune, "_checked", look_up)
    monkeypatch.setattr(tune, "_time", lambda p, r, kernel, config, spec: results[config["B"]])
    found = tune.tune(SPEC)
    assert found["kernels"]["swiglu.forward"]["best"] == {"config": CONFIGS[1], "result": 1.0}
    assert len(found["kernels"]["swiglu.forward"]["tried"]) == 4
    assert tables.lookup("swiglu.forward", 16, torch.float32) == CONFIGS[1]
    results.update({1: "no", 2: "no", 4: "no"})
    with pytest.raises(BackendUnavailableError, match=r"No config of swiglu\.forward runs"):
        tune.tune(SPEC)


def test_an_operator_without_candidates_cannot_be_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_current_architecture", lambda: "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tables, "_declared", {})
    monkeypatch.setattr(tune, "problem_of", lambda spec: None)
    monkeypatch.setattr(tune.numerics, "truth", lambda problem: None)
    monkeypatch.setattr(tune, "_checked", look_up)
    tables.declare("swiglu.forward", CONFIGS[0])
    with pytest.raises(ConfigError, match="declares candidates"):
        tune.tune(SPEC)


STUB = """
import json, os, pathlib, sys
here = pathlib.Path(os.environ["PYTHONPATH"])
assert here == pathlib.Path.cwd() and (here / "kernels" / "bench" / "run.py").is_file()
asked = json.loads(sys.argv[1])
is_base = here.parent.name.startswith("bench-base-")
with open(LOG, "a") as log:
    log.write("base " if is_base else "now ")
number = len(open(LOG).read().split())
row = {"contender": "unimodal", "direction": "forward", "ms": 10.0 * is_base + number}
found = {"machine": {"commit": "c"}, "spec": asked, "results": [row]}
json.dump(found, open(sys.argv[2], "w"))
"""


def test_a_revision_is_measured_in_turn_with_these_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not (revisions.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    log = tmp_path / "log"
    monkeypatch.setattr(revisions, "_RUN", f"LOG = {str(log)!r}\n{STUB}")
    found = compare(Spec(op="swiglu"), "HEAD")
    assert log.read_text().split() == ["base", "now"] * revisions.ROUNDS
    # The faster of both rounds: 11 ms there, 2 ms here.
    assert found["ratios"] == {"forward": 11.0 / 2.0}
    assert found["base"]["spec"]["against"] == ["eager"]
    assert "bench-base-" not in revisions._git("worktree", "list").stdout


def test_a_revision_that_does_not_exist_is_refused() -> None:
    with pytest.raises((ConfigError, BackendUnavailableError), match="--base"):
        compare(Spec(op="swiglu"), "no-such-revision")
