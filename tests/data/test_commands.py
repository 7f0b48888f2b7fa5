"""The functions behind `unimodal data`: plain, JSON-ready data."""

import json
import os
import time
from pathlib import Path

import pytest

from unimodal.cli.main import main
from unimodal.data.commands import list_data, stats, validate
from unimodal.data.sources import open_source
from unimodal.errors import ConfigError, DataError
from unimodal.modality import build_modality
from unimodal.testing.bad_inputs import bad_inputs


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


def test_validate_encodes_strings(tmp_path: Path) -> None:
    path = tmp_path / "reads.csv"
    path.write_text("id,dna\na,ACGT\nb,ACGX!\n")
    (finding,) = validate(path)["findings"]
    assert finding["id"] == "b"
    assert "'X'" in finding["value"]
    assert finding["remedy"]


@pytest.mark.parametrize("kind", ["text", "dna"])
def test_every_bad_text_and_fasta_file_is_2_and_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for item in bad_inputs(tmp_path, [kind]):
        # Sequences of one name are refused as a data set, though each can be read.
        bad = item.expect == "error" or item.name == "whole.fa.gz"
        assert main(["data", "validate", str(item.path), "--json"]) == (2 if bad else 0), item.name
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert item.name in printed.out
        if bad:
            [result] = json.loads(printed.out) if printed.out.startswith("[") else [None]
            found = json.loads(printed.out) if result is None else result["findings"][0]
            assert found["remedy"], item.name


@pytest.mark.soak
def test_a_line_of_1_gb_is_2_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = [item for item in bad_inputs(tmp_path, ["dna"], huge=True) if "1_gb" in item.name]
    start = time.monotonic()
    assert main(["data", "validate", str(line.path)]) == 2
    assert time.monotonic() - start < 5
    assert f"{line.path}, line 2" in capsys.readouterr().out


def test_a_modality_that_fails_at_a_file_costs_one_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: object, path: Path) -> None:
        raise ValueError("no array in it")

    monkeypatch.setattr(type(build_modality("image")), "read", read)
    (tmp_path / "x.png").write_bytes(b"junk")
    (tmp_path / "m.jsonl").write_text('{"id": "a", "image": "x.png"}\n')
    [finding] = validate(tmp_path / "m.jsonl")["findings"]
    assert (finding["id"], Path(finding["file"]).name) == ("a", "x.png")
    assert "ValueError: no array in it" in finding["value"]


def test_unknown_names_and_paths_are_told_apart() -> None:
    with pytest.raises(ConfigError, match="embedded/emoji"):
        open_source("embedded/emojis")
    with pytest.raises(DataError, match="path does not exist"):
        open_source("./nowhere")


def test_a_name_that_is_not_utf8_is_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        path.write_text('{"id": "a", "text": 3}\n')
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    assert main(["data", "validate", str(path)]) == 2
    assert "caf\\udce9.jsonl:1" in capsys.readouterr().out
    assert main(["data", "validate", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)[0]["path"] == str(path)
