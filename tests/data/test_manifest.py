"""Manifests: every rule of the bad-input matrix is named with its line, all at once."""

import json
import pickle
from pathlib import Path

import pytest

from unimodal.data.manifest import (
    MAX_LINE_BYTES,
    FindingsError,
    ManifestSource,
    registered_kinds,
    validate_manifest,
)
from unimodal.media.values import FileRef

KINDS = {"text": "inline", "image": "file"}


def write(folder: Path, *lines: object) -> Path:
    """A manifest of JSON values, or raw bytes as they are."""
    path = folder / "manifest.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ({"text": "no id"}, "`id`"),
        ({"id": 7, "text": "x"}, "`id`"),
        ({"id": "good", "text": "again"}, "unique"),
        ({"id": "a", "split": "trian", "text": "x"}, "`split`"),
        ({"id": "a"}, "field that a modality reads"),
        ({"id": "a", "text": 5}, "`text` must be a string"),
        ({"id": "a", "text": ""}, "`text` must be a string"),
        ({"id": "a", "text": "x", "image": ["p.png"]}, "`image` must be a file's path"),
        ({"id": "a", "image": "../secret.png"}, "relative path"),
        ({"id": "a", "image": "/etc/passwd"}, "relative path"),
        ({"id": "a", "image": "C:/x.png"}, "relative path"),
        ({"id": "a", "image": "a\\b.png"}, "relative path"),
        ({"id": "a", "text": {"path": "../x.txt"}}, "relative path"),
        ({"id": "a", "text": {"file": "x.txt"}}, "if it is an object"),
        ({"id": "a", "image": "missing.png"}, "must name a file"),
        ({"id": "a", "image": "nul\0byte"}, "must name a file"),
        ({"id": "a", "text": "x", "facts": {"deep": 1}}, "`facts`"),
        (b'{"id": "a", "text": "\\ud800"}', "Unicode"),
        (b'{"id": "a", "text": "x", "text": "y"}', "one JSON object"),
        (b'{"id": "a", "text": "x", "n": NaN}', "one JSON object"),
        (b'{"id": "a", "text": "\xff"}', "UTF-8"),
        (b'{"id": "a", "text": ', "one JSON object"),
        (b"[1, 2]", "one JSON object"),
        (b"[" * 100_000, "one JSON object"),
    ],
)
def test_each_rule_is_named_with_its_line(tmp_path: Path, line: object, rule: str) -> None:
    path = write(tmp_path, {"id": "good", "text": "fine"}, line, {"id": "last", "text": "fine"})
    findings = validate_manifest(path, kinds=KINDS)
    assert [finding.line for finding in findings] == [2]
    assert rule in findings[0].rule
    assert findings[0].remedy
    assert findings[0].value
    with pytest.raises(FindingsError, match="line 2"):
        ManifestSource(path, kinds=KINDS)


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    lines = [{"text": "x"}, b"{", {"id": "a", "image": "/x"}, {"id": "b", "text": 1}]
    findings = validate_manifest(write(tmp_path, *lines), kinds=KINDS)
    assert [finding.line for finding in findings] == [1, 2, 3, 4]


def test_a_huge_line_is_refused_and_the_next_line_still_read(tmp_path: Path) -> None:
    huge = b'{"id": "a", "text": "' + b"x" * (2 * MAX_LINE_BYTES) + b'"}'
    findings = validate_manifest(write(tmp_path, huge, {"id": "b"}), kinds=KINDS)
    assert [finding.line for finding in findings] == [1, 2]
    assert str(MAX_LINE_BYTES) in findings[0].rule


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link.png").symlink_to(tmp_path / "outside.png")
    path = write(tmp_path / "inner", {"id": "a", "image": "link.png"})
    assert "links out" in validate_manifest(path, kinds=KINDS)[0].value


def test_missing_and_empty_manifests_have_a_finding(tmp_path: Path) -> None:
    assert "there is none" in validate_manifest(tmp_path / "none.jsonl", kinds=KINDS)[0].value
    assert "empty" in validate_manifest(write(tmp_path, b""), kinds=KINDS)[0].value


def test_required_fields(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a", "text": "x"})
    findings = validate_manifest(path, kinds=KINDS, required=["text", "image"])
    assert [finding.rule for finding in findings] == ["`image` must be there"]


def test_records_splits_and_random_access(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"x")
    rows = [{"id": f"r{i}", "text": f"é {i}", "image": "p.png", "voice": i} for i in range(200)]
    path = write(tmp_path, *rows, {"id": "t", "split": "test", "text": {"path": "p.png"}})
    parts = {s: ManifestSource(path, s, kinds=KINDS) for s in ("train", "validation", "test")}
    assert len(parts["train"]) + len(parts["validation"]) == 200
    assert len(parts["validation"]) > 2
    ids = {s: {record["id"] for record in part} for s, part in parts.items()}
    assert not ids["train"] & ids["validation"]
    assert ids["test"] == {"t"}
    assert parts["test"][0]["text"] == FileRef(tmp_path / "p.png")
    copy = pickle.loads(pickle.dumps(parts["train"]))
    assert copy[-1] == parts["train"][-1]
    assert copy[3]["image"] == FileRef(tmp_path / "p.png")
    assert copy[3]["text"].startswith("é")
    with pytest.raises(IndexError):
        copy[len(copy)]


def test_a_group_stays_in_one_split(tmp_path: Path) -> None:
    rows = [{"id": f"{g}-{i}", "group": g, "text": "x"} for g in range(100) for i in range(3)]
    path = write(tmp_path, *rows)
    groups = [
        {r["group"] for r in ManifestSource(path, s, kinds=KINDS)} for s in ("train", "validation")
    ]
    assert groups[1]
    assert not groups[0] & groups[1]


def test_the_registry_says_which_fields_hold_strings() -> None:
    kinds = registered_kinds()
    assert kinds["text"] == "inline"
    assert kinds["dna"] == "inline"
    assert kinds["image"] == "file"
