from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_data_sets_are_listed_with_licence(unimodal: Run) -> None:
    rows = {row["name"]: row for row in unimodal("data", "list", "--json").json}
    assert rows["embedded/emoji"]["ready"]
    assert rows["joined"]["license"] == "depends on first, second"
    assert rows["fashion_mnist"]["license"] == "MIT"
    assert "embedded/e_coli" in unimodal("data", "list").out


def test_a_sound_file_has_no_fault(unimodal: Run, tmp_path: Path) -> None:
    path = tmp_path / "genome.fa"
    path.write_text(">one\nACGTACGT\n>two\nACGT\n")
    done = unimodal("data", "validate", path)
    assert done.code == 0
    assert "2 records, no fault" in done.out


def test_every_fault_is_named_by_line(unimodal: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": 3}\nnot json\n')
    done = unimodal("data", "validate", path)
    assert done.code == 2
    assert "a.jsonl:2" in done.out
    assert "a.jsonl:3" in done.out
    assert ".." not in done.out.replace(str(tmp_path), "")
    assert ".)" not in unimodal("data", "validate", tmp_path / "nowhere.jsonl").out
    found = unimodal("data", "validate", path, "--json").json[0]
    assert {f["line"] for f in found["findings"]} >= {2, 3}


def test_a_missing_path_is_2(unimodal: Run) -> None:
    done = unimodal("data", "validate", "nowhere.jsonl")
    assert done.code == 2
    assert "nowhere.jsonl" in done.out


@pytest.mark.parametrize("action", ["fetch", "prepare"])
def test_an_unknown_recipe_gets_a_suggestion(unimodal: Run, action: str) -> None:
    done = unimodal("data", action, "fashion_mnis")
    assert done.code == 2
    assert "`fashion_mnist`" in done.err


def test_stats_count_records_and_fields(unimodal: Run) -> None:
    found = unimodal("data", "stats", "embedded/text", "--sample", "5", "--json").json
    assert found["splits"]["train"]["records"] > 100
    assert "text" in found["splits"]["train"]["keys"]
    done = unimodal("data", "stats", "embedded/txt")
    assert done.code == 2
    assert "`embedded/text`" in done.err
