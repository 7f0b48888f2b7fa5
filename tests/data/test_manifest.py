"""Manifests: every rule of the bad-input matrix is named with its line, all at once."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from unimodal.cli.main import main
from unimodal.data.manifest import (
    MAX_LINE_BYTES,
    DataSetError,
    ManifestSource,
    registered_kinds,
    validate_manifest,
)
from unimodal.data.sources import open_source
from unimodal.media.values import FileRef

ROOT = Path(__file__).parents[2]
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
        (b'{"id": "\\ud800", "text": "x"}', "Unicode"),
        (b'{"id": "a", "text": "x", "\\ud800": 1}', "Unicode"),
        (b'{"id": "a", "image": {"path": "\\udcff.png"}}', "Unicode"),
        (b'{"id": "\\u001b[31m", "text": 5}', "`text` must be a string"),
        (b'\xef\xbb\xbf{"id": "a", "text": "x"}', "one JSON object"),
        (b'{"id": "a", "text": "x", "text": "y"}', "one JSON object"),
        (b'{"id": "a", "text": "x", "n": NaN}', "one JSON object"),
        (b'{"id": "a", "text": "\xff"}', "UTF-8"),
        (b'{"id": "a", "text": ', "one JSON object"),
        (b"[1, 2]", "one JSON object"),
        (b"[" * 100_000, "one JSON object"),
    ],
)
def test_each_rule_is_named_with_its_line(
    tmp_path: Path, line: object, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"id": "good", "text": "fine"}, line, {"id": "last", "text": "fine"})
    findings = validate_manifest(path, kinds=KINDS)
    assert [finding.line for finding in findings] == [2]
    assert rule in findings[0].rule
    assert findings[0].remedy
    assert findings[0].value
    with pytest.raises(DataSetError, match="line 2"):
        ManifestSource(path, kinds=KINDS)
    assert main(["data", "validate", str(path)]) == 2
    printed = capsys.readouterr()
    assert f"{path}:2" in printed.out
    assert rule in printed.out
    assert "\x1b" not in printed.out
    assert printed.err == ""
    printed.out.encode()
    assert main(["data", "validate", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)[0]["findings"][0]["line"] == 2


def test_a_byte_order_mark_at_the_start_is_no_fault(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "split": "train", "text": f"é {i}"} for i in range(2)]
    path = write(tmp_path, *rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert validate_manifest(path, kinds=KINDS) == []
    assert list(ManifestSource(path, kinds=KINDS)) == rows


@pytest.mark.soak
def test_a_line_of_100_mb_is_refused_within_512_mib(tmp_path: Path) -> None:
    line = b'{"id": "a", "text": "' + b"x" * 100_000_000 + b'"}'
    path = write(tmp_path, line, {"id": "b", "text": "x"}, {"id": "b", "text": "x"})
    script = (
        "import resource, sys; from unimodal.cli.main import main;"
        "from unimodal.data.manifest import registered_kinds; registered_kinds();"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29));"
        "sys.exit(main(['data', 'validate', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert f"{path}:1" in done.stdout
    assert f"{path}:3 [b]: `id` must be unique" in done.stdout


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


def test_a_table_is_a_manifest_whose_first_line_names_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "reads.csv"
    path.write_text('id,dna,split,note\na,ACGT,train,\nb,GGCC,test,"x, y"\n')
    source = open_source(str(path), "test")
    assert [source[i] for i in range(len(source))] == [
        {"id": "b", "dna": "GGCC", "split": "test", "note": "x, y"}
    ]
    table = tmp_path / "reads.tsv"
    table.write_text("dna\nACGT\nGGCC\n")
    records = [open_source(str(table), split) for split in ("train", "validation")]
    assert sorted(r[0]["id"] for r in records) == ["line 2", "line 3"]
    path.write_text("id,dna\na,ACGT\na,\nb,A,C\nc,ACGT\n")
    assert [(f.line, f.id) for f in validate_manifest(path)] == [(3, "a"), (3, "a"), (4, None)]
    path.write_bytes(b"id,dna\na,AC\xff\n")
    [finding] = validate_manifest(path)
    assert "UTF-8" in finding.rule


def test_what_is_wrong_with_a_line_is_counted_within_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text" 3}\n')
    [finding] = validate_manifest(path)
    assert finding.line == 2
    assert "at character 20" in finding.value
    assert "line 1" not in finding.value
