"""The functions behind `unimodal data`: plain, JSON-ready data."""

import json
from pathlib import Path

import pytest

from unimodal.data.commands import list_data, stats, validate
from unimodal.data.sources import open_source
from unimodal.errors import ConfigError, DataError


def test_the_list_names_sets_and_recipes_with_licences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in list_data()}
    assert rows["embedded/emoji"]["ready"]
    assert not rows["emoji"]["ready"]
    assert all(row["license"] and row["about"] for row in rows.values())
    json.dumps(list(rows.values()))


def test_stats_count_every_split() -> None:
    result = stats("embedded/spoken_words", sample=10)
    assert {split: facts["records"] for split, facts in result["splits"].items()} == {
        "train": 806,
        "validation": 34,
        "test": 180,
    }


def test_validate_names_line_rule_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "text": "fine"}\n{"id": "a", "text": 3}\n')
    result = validate(path)
    assert not result["ok"]
    assert [finding["line"] for finding in result["findings"]] == [2, 2]
    path.write_text('{"id": "a", "text": "fine"}\n')
    assert validate(path)["records"] == 1
    json.dumps(result)


def test_unknown_names_and_paths_are_told_apart() -> None:
    with pytest.raises(ConfigError, match="embedded/emoji"):
        open_source("embedded/emojis")
    with pytest.raises(DataError, match="path does not exist"):
        open_source("./nowhere")
