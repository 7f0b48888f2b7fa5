"""Configs of kernels: rows, defaults, tuned tables of the card, and their refusal."""

import json
import logging
from pathlib import Path

import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.kernels.dispatch import tables

DEFAULT = {"BM": 64, "num_warps": 4, "num_stages": 2}
SM90 = {"BM": 128, "num_warps": 8, "num_stages": 3}
TUNED = {"BM": 32, "num_warps": 2, "num_stages": 1}
CASE = ("op.forward", 64, torch.bfloat16)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path))
    monkeypatch.setattr(tables, "_declared", {})
    monkeypatch.setattr(tables, "_overridden", {})
    monkeypatch.setattr(tables, "source_hashes", lambda: {"op": "a", "other": "b"})
    tables._tuned.cache_clear()
    tables.declare("op.forward", DEFAULT, {("sm90", 64, torch.bfloat16): SM90}, [TUNED])


def on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_current_architecture", lambda: "sm90")
    monkeypatch.setattr(tables, "card_name", lambda: "a-card")


def test_the_row_of_the_architecture_size_and_dtype_wins() -> None:
    with tables.pretending("sm90"):
        assert tables.lookup(*CASE) == SM90
        assert tables.lookup("op.forward", 128, torch.bfloat16) == DEFAULT
        assert tables.lookup("op.forward", 64, torch.float16) == DEFAULT
        with tables.pretending("gfx942"):
            assert tables.lookup(*CASE) == DEFAULT
        assert tables.lookup(*CASE) == SM90


def test_a_size_takes_the_next_larger_row_and_a_card_that_of_its_family() -> None:
    half = torch.bfloat16
    rows = {("sm90", 64, half): SM90, ("sm80", 128, half): TUNED, ("gfx942", 128, half): SM90}
    tables.declare("op.forward", DEFAULT, rows)

    def found(arch: str, size: int, dtype: torch.dtype = half) -> dict[str, int]:
        with tables.pretending(arch):
            return tables.lookup("op.forward", size, dtype)

    assert found("sm90", 40) == found("sm90", 64) == SM90
    assert found("sm90", 65) == found("sm120", 64) == found("sm80", 32) == TUNED
    assert found("gfx90a", 96) == SM90
    assert found("sm90", 129) == found("sm90", 64, torch.float32) == found("cpu", 64) == DEFAULT


def test_a_config_is_overridden_inside_only() -> None:
    with tables.overriding("op.forward", TUNED):
        assert tables.lookup(*CASE) == TUNED
    with tables.pretending("sm90"):
        assert tables.lookup(*CASE) == SM90


def test_configs_of_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="one has"):
        tables.declare("op.backward", DEFAULT, candidates=[{"BN": 1}])


def test_a_tuned_table_is_used_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch)
    assert tables.lookup(*CASE) == SM90
    tables.write_tuned("a-card", {("op.forward", 64, "bfloat16"): TUNED})
    assert tables.lookup(*CASE) == TUNED
    with tables.pretending("sm90"):
        assert tables.lookup(*CASE) == SM90
    tables.write_tuned("a-card", {("other.forward", 0, "float32"): TUNED})
    assert tables.lookup(*CASE) == TUNED


def test_a_tuned_table_of_other_sources_is_refused_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_card(monkeypatch)
    path = tables.write_tuned("a-card", {("op.forward", 64, "bfloat16"): TUNED})
    monkeypatch.setattr(tables, "source_hashes", lambda: {"op": "changed", "other": "b"})
    tables._tuned.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert tables.lookup(*CASE) == SM90
    assert f"{path} is refused for op: it was tuned for other sources" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"sources": {}, "rows": [{}]})])
def test_a_broken_tuned_table_is_refused_aloud(
    content: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_card(monkeypatch)
    path = tables.tuned_path("a-card")
    path.parent.mkdir()
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert tables.lookup(*CASE) == SM90
    assert "cannot be read" in caplog.text


def test_hashes_follow_the_triton_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tables, "__file__", str(tmp_path / "dispatch" / "tables.py"))
    for name in ("op/triton.py", "op/cpu.py", "bench/triton_x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    first = tables.source_hashes()
    assert set(first) == {"op"}
    (tmp_path / "op/cpu.py").write_text("2")
    assert tables.source_hashes() == first
    (tmp_path / "op/triton.py").write_text("2")
    assert tables.source_hashes() != first
