"""The compile gate: what it reads, what it refuses, and that the table is of today's sources."""

from dataclasses import replace
from pathlib import Path

import pytest

from unimodal.errors import DataError
from unimodal.kernels.compile_gate import resources, table
from unimodal.kernels.compile_gate.targets import TARGETS, Measured
from unimodal.kernels.dispatch import tables

USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function add:
  REG:26 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:400 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function other:
  REG:255 STACK:48 SHARED:0 LOCAL:0 CONSTANT[0]:400 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
AMD = """
    .vgpr_count:     104
    .vgpr_spill_count: 3
"""
DOT = (
    "%1 = tt.dot %a, %b, %c, inputPrecision = tf32 : tensor<{rows}x64x{kind}> * "
    "tensor<64x128x{kind}> -> tensor<{rows}x128xf32>"
)
CLEAN = Measured(
    op="op",
    kernel="forward",
    case="forward-64",
    config={"BM": 64, "num_warps": 4},
    target="sm90",
    triton="3.7.1",
    registers=128,
    spills=0,
    shared=32768,
    wgmma=4,
    tma=2,
)


def test_usage_is_read_from_what_the_tools_print() -> None:
    assert resources.cuda_usage(USAGE) == (255, 48)
    assert resources.amd_usage(AMD) == (104, 3)
    with pytest.raises(ValueError, match="no resource usage"):
        resources.cuda_usage("nothing")
    with pytest.raises(ValueError, match="vgpr_count"):
        resources.amd_usage("nothing")


@pytest.mark.parametrize(
    ("rows", "kind", "warps", "is_wanted"),
    [
        (64, "bf16", 4, True),
        (128, "f16", 8, True),
        (16, "bf16", 4, False),
        (64, "f32", 4, False),
        (64, "bf16", 2, False),
    ],
)
def test_large_products_of_16_bit_numbers_want_wgmma(
    rows: int, kind: str, warps: int, is_wanted: bool
) -> None:
    assert resources.wants_wgmma(DOT.format(rows=rows, kind=kind), warps) is is_wanted


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"spills": 8}, "spills 8"),
        ({"spills": 128, "config": {"PRECISION": "ieee"}}, None),
        ({"spills": 129, "config": {"PRECISION": "ieee"}}, "spills 129"),
        ({"shared": 228 * 1024}, "shared memory"),
        ({"target": "gfx942", "shared": 65 * 1024}, "65536 are there"),
        ({"target": "sm80", "shared": 163 * 1024}, None),
        ({"wgmma": 0, "wants_wgmma": True}, "wgmma"),
        ({"tma": 0, "wants_tma": True}, "TMA"),
    ],
)
def test_a_kernel_that_breaks_a_limit_is_a_fault(
    change: dict[str, object], fault: str | None
) -> None:
    found = replace(CLEAN, **change).faults()
    assert found == [] if fault is None else fault in found[0]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    hashes = {"op": "a", "other": "b"}
    monkeypatch.setattr(tables, "source_hashes", lambda: dict(hashes))
    return hashes


def test_the_table_is_refused_when_sources_change(tmp_path: Path, sources: dict[str, str]) -> None:
    path = tmp_path / "compile.json"
    table.write([CLEAN, replace(CLEAN, op="other")], ["op", "other"], path)
    assert table.faults(path) == []
    sources["op"] = "changed"
    assert [fault[:3] for fault in table.faults(path)] == ["op:"]
    table.write([CLEAN], ["op"], path)
    assert table.faults(path) == []
    sources["new"] = "c"
    assert len(table.faults(path)) == 2
    del sources["new"], sources["other"]
    assert [fault[:6] for fault in table.faults(path)] == ["other:"]
    table.write([CLEAN], ["op"], path)
    assert [row["op"] for row in table.read(path)["rows"]] == ["op"]


def test_rows_of_the_same_sources_stay_until_they_are_measured_again(
    tmp_path: Path, sources: dict[str, str]
) -> None:
    path = tmp_path / "compile.json"
    table.write([CLEAN], ["op"], path)
    table.write([replace(CLEAN, triton="3.6.0", registers=90)], ["op"], path)
    table.write([replace(CLEAN, registers=100)], ["op"], path)
    assert [row["registers"] for row in table.read(path)["rows"]] == [90, 100]
    sources["op"] = "changed"
    table.write([replace(CLEAN, registers=110)], ["op"], path)
    assert [row["registers"] for row in table.read(path)["rows"]] == [110]


def test_a_bad_row_or_a_broken_table_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    path = tmp_path / "compile.json"
    with pytest.raises(DataError, match="compile-gate"):
        table.faults(path)
    table.write([replace(CLEAN, spills=4), replace(CLEAN, op="other")], list(sources), path)
    assert table.faults(path) == ["op, forward-64, sm90, triton 3.7.1: it spills 4."]
    path.write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        table.read(path)


def test_a_target_is_named_as_architectures_are() -> None:
    assert [t.name for t in TARGETS] == ["sm80", "sm90", "gfx942"]


def test_the_table_is_of_todays_sources() -> None:
    assert table.faults() == []


def test_the_table_holds_every_operator_on_every_target() -> None:
    rows = table.read()["rows"]
    for op in tables.source_hashes():
        assert {row["target"] for row in rows if row["op"] == op} == {t.name for t in TARGETS}, op


def test_the_table_holds_attention_at_the_sizes_of_the_gate() -> None:
    dense = "forward dense {} bfloat16"
    names = {row["case"] for row in table.read()["rows"] if row["op"] == "attention"}
    assert {dense.format(64), dense.format(128)} <= names
