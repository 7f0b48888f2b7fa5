"""Tuning tries what kernels declare, passes over what is wrong, and keeps the best."""

from pathlib import Path

import pytest
import torch

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.kernels.bench import tune
from unimodal.kernels.bench.revisions import compare
from unimodal.kernels.bench.spec import Spec
from unimodal.kernels.dispatch import tables

SPEC = Spec(op="swiglu", seq=32, heads=1, kv_heads=1, head_dim=16, device="cuda")
CONFIGS = [{"B": n, "num_warps": 4} for n in (1, 2, 3, 4)]


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
    monkeypatch.setattr(tune, "_time", lambda p, r, kernel, config, spec: results[config["B"]])
    found = tune.tune(SPEC)
    assert found["kernels"]["swiglu.forward"]["best"] == {"config": CONFIGS[1], "result": 1.0}
    assert len(found["kernels"]["swiglu.forward"]["tried"]) == 4
    assert tables.lookup("swiglu.forward", SPEC.width, torch.float32) == CONFIGS[1]
    results.update({1: "no", 2: "no", 4: "no"})
    with pytest.raises(BackendUnavailableError, match=r"No config of swiglu\.forward runs"):
        tune.tune(SPEC)


def test_an_operator_without_candidates_cannot_be_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tables, "_declared", {})
    monkeypatch.setattr(tune, "problem_of", lambda spec: None)
    monkeypatch.setattr(tune.numerics, "truth", lambda problem: None)
    with pytest.raises(ConfigError, match="declares candidates"):
        tune.tune(SPEC)


def test_a_revision_that_does_not_exist_is_refused() -> None:
    with pytest.raises((ConfigError, BackendUnavailableError), match="--base"):
        compare(Spec(op="swiglu"), "no-such-revision")
