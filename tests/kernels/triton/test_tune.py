"""A whole search on interpreted kernels: real checks, real lookups, a table that is used."""

import importlib
from pathlib import Path

import pytest
import torch

from unimodal.kernels.bench import timing, tune
from unimodal.kernels.bench.spec import Spec
from unimodal.kernels.dispatch import tables, using

pytestmark = pytest.mark.gates

SPEC = Spec(op="rms_norm", seq=3, heads=1, kv_heads=1, head_dim=8, seconds=0.0)


def test_a_search_keeps_a_config_for_each_kernel_that_was_launched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path))
    monkeypatch.setattr(tables, "card_name", lambda: "a-card")
    monkeypatch.setattr(timing, "FLUSH_BYTES", {"cpu": 1024})
    monkeypatch.setattr(timing, "MAX_SAMPLES", 2)
    tables._tuned.cache_clear()
    importlib.import_module("unimodal.kernels.rms_norm.triton")
    for kernel in ("rms_norm.forward", "rms_norm.backward"):
        declared = tables._declared[kernel]
        few = {**declared.default, "ELEMENTS": 8}
        monkeypatch.setitem(
            tables._declared, kernel, tables.Declaration(declared.default, {}, (few,))
        )
    with using("triton"):
        found = tune.search(SPEC)
    assert set(found["kernels"]) == {"rms_norm.forward", "rms_norm.backward"}
    for kernel, facts in found["kernels"].items():
        assert [t["config"]["ELEMENTS"] for t in facts["tried"]] == [4096, 8]
        assert all(isinstance(t["result"], float) for t in facts["tried"])
        monkeypatch.setattr(tables, "_current_architecture", lambda: "sm90")
        assert tables.lookup(kernel, 8, torch.float32) == facts["best"]["config"]
    assert Path(found["path"]).parent == tmp_path / "kernels"
    tables._tuned.cache_clear()
