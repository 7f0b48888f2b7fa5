from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unimodal.modality import modalities

Run = Callable[..., Any]


def test_the_file_of_a_new_modality_holds_the_contract(unimodal: Run, tmp_path: Path) -> None:
    path = tmp_path / "heart_rate.py"
    written = unimodal("modality", "new", "heart_rate", "--out", path)
    assert written.code == 0
    assert len(path.read_text().splitlines()) <= 40
    try:
        done = unimodal("modality", "check", f"{path}:HeartRate", "--json")
        assert done.code == 0, done.json
        assert done.json["findings"] == []
        assert "heart_rate" in modalities.names()
    finally:
        modalities._entries.pop("heart_rate", None)


def test_a_broken_class_is_1_and_says_what_is_wrong(unimodal: Run, tmp_path: Path) -> None:
    path = tmp_path / "wrong_rate.py"
    unimodal("modality", "new", "wrong_rate", "--out", path)
    path.write_text(path.read_text().replace("/ 255.0", "/ 1.0"))
    try:
        done = unimodal("modality", "check", f"{path}:WrongRate")
    finally:
        modalities._entries.pop("wrong_rate", None)
    assert done.code == 1
    assert "round_trip" in done.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["new", "Heart Rate"], "lower-case identifier"),
        (["new", "class"], "lower-case identifier"),
        (["check", "no_such_package_at_all:Thing"], "cannot be imported"),
        (["check", "missing.py:Thing"], "no such file"),
        (["check", "unimodal.errors:MediaError"], "not a class of modality"),
        (["check", "unimodal.tokenizers.dna:Dnaa"], "Did you mean `Dna`"),
        (["check", "dna", "--examples", "0"], "at least 1"),
    ],
)
def test_wrong_names_are_2(unimodal: Run, argv: list[str], message: str) -> None:
    done = unimodal("modality", *argv)
    assert done.code == 2
    assert message in done.err


def test_an_existing_file_is_not_overwritten(unimodal: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    assert unimodal("modality", "new", "mine", "--out", path).code == 2
    assert path.read_text() == "x = 1\n"


def test_a_file_with_a_syntax_error_is_named_with_its_line(unimodal: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = (\n")
    done = unimodal("modality", "check", f"{path}:X")
    assert done.code == 2
    assert "broken.py, line 1" in done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import no_such_package_at_all", "ModuleNotFoundError: No module named"),
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("json.loads('{')", "JSONDecodeError: "),
    ],
)
def test_a_file_that_fails_at_import_is_named_with_its_line(
    unimodal: Run, tmp_path: Path, line: str, words: str
) -> None:
    path = tmp_path / "fails_at_import.py"
    path.write_text(f"import json\n\n{line}\n")
    done = unimodal("modality", "check", f"{path}:X")
    assert done.code == 2
    assert f"{path}, line 3" in done.err
    assert words in done.err


def test_all_registered_names_are_listed(unimodal: Run) -> None:
    names = {row["name"] for row in unimodal("modality", "list", "--json").json}
    assert {"text", "dna", "image"} <= names
