"""Plain folders: each kind is told by content, opened, and refused with all its errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unimodal.data.commands import validate
from unimodal.data.folders import detect, open_path
from unimodal.data.manifest import DataSetError
from unimodal.data.sources import Windowed
from unimodal.errors import DataError
from unimodal.media.values import FileRef


def picture(path: Path) -> None:
    """A small PNG."""
    from PIL import Image as Picture

    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(path, format="PNG")


def sound(path: Path) -> None:
    """A tenth of a second of WAV."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(1600, np.float32), 16_000, format="WAV")


def records(path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """All records of train and validation, by id."""
    found: dict[str, dict[str, Any]] = {}
    for split in ("train", "validation"):
        source = open_path(path, split=split, **options)
        found |= {source[i]["id"]: source[i] for i in range(len(source))}
    return found


def test_captions_beside_pictures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"caption {name}\n")
    assert detect(tmp_path).kind == "captions"
    found = records(tmp_path)
    assert found["a.png"]["text"] == "caption a"
    assert found["a.png"]["image"] == FileRef(tmp_path / "a.png")
    picture(tmp_path / "c.png")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(DataSetError) as error:
        open_path(tmp_path)
    assert [Path(f.file).name for f in error.value.findings] == ["b.txt", "c.txt"]
    assert validate(tmp_path)["ok"] is False


def test_class_folders_and_split_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("red_fox", "owl"):
            picture(tmp_path / part / label / f"{part}.png")
    assert detect(tmp_path).kind == "classes"
    test = open_path(tmp_path, split="test")
    assert [test[i]["text"] for i in range(len(test))] == ["owl", "red fox"]
    assert len(open_path(tmp_path, split="train")) == 2


@pytest.mark.parametrize(
    "table",
    ['file_name,text\nwavs/x.wav,hello\nwavs/y.wav,"a, b"\n', "x|hello|hello\ny|raw|a, b\n"],
)
def test_sound_with_metadata(tmp_path: Path, table: str) -> None:
    sound(tmp_path / "wavs" / "x.wav")
    sound(tmp_path / "wavs" / "y.wav")
    (tmp_path / "metadata.csv").write_text(table)
    assert detect(tmp_path).kind == "table"
    found = list(records(tmp_path).values())
    assert sorted(r["text"] for r in found) == ["a, b", "hello"]
    assert all(isinstance(r["speech"], FileRef) for r in found)


def test_all_errors_of_a_table_come_at_once(tmp_path: Path) -> None:
    sound(tmp_path / "x.wav")
    lines = ["file_name,text", "x.wav,fine", "x.wav,again", "../y.wav,climbs", "z.wav,missing"]
    lines += ["x.wav,", "x.wav", "/etc/passwd,absolute"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    result = validate(tmp_path)
    assert sorted(finding["line"] for finding in result["findings"]) == [3, 4, 5, 6, 7, 8]
    assert all(finding["remedy"] for finding in result["findings"])


def test_ids_of_a_table_are_unique_and_texts_unicode(tmp_path: Path) -> None:
    for name in "abcd":
        sound(tmp_path / f"{name}.wav")
    rows = [{"file_name": f"{name}.wav", "text": "x", "id": "one"} for name in "ab"]
    rows += [{"file_name": "c.wav", "text": "\ud800"}, {"file_name": "d.wav", "text": "fine"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = validate(tmp_path)
    assert [finding["id"] for finding in result["findings"]] == ["b.wav", "c.wav"]
    assert "`id` must be unique" in result["findings"][0]["rule"]
    assert "Unicode" in result["findings"][1]["rule"]


def test_a_damaged_file_stays_in_its_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "red" / f"{name}.png")
    (tmp_path / "red" / "empty.png").write_bytes(b"")
    (tmp_path / "red" / "notes.bin").write_bytes(b"\0")
    assert set(records(tmp_path)) == {"red/a.png", "red/b.png", "red/empty.png"}
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("one")
    (texts / "nul.txt").write_text("be\0fore")
    assert {record["text"] for record in records(texts).values()} == {"one", "be\0fore"}
    (texts / "empty.txt").write_text("")
    with pytest.raises(DataSetError, match=r"empty\.txt"):
        open_path(texts)


def test_fasta_with_a_held_out_tail(tmp_path: Path) -> None:
    path = tmp_path / "genome.fa"
    path.write_text(">chr1 first\r\nACGTN\r\nacgta\r\n>chr2\nGGGGGGGGGG\n")
    shares = {"test_fraction": 0.2, "validation_fraction": 0.0}
    train = open_path(path, **shares)
    assert isinstance(train, Windowed)
    train = train.windows(4)
    assert [train[i]["dna"] for i in range(len(train))] == ["ACGT", "Nacg", "GGGG", "GGGG"]
    test = open_path(path, split="test", **shares)
    assert isinstance(test, Windowed)
    test = test.windows(4)
    assert [test[i]["dna"] for i in range(len(test))] == ["ta", "GG"]
    (tmp_path / "protein.fa").write_text(">p\nMKVLAWEEQ\n")
    result = validate(tmp_path)
    assert result["kind"] == "fasta"
    assert len(result["findings"]) == 1


def test_text_by_blank_line_and_by_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n\nthree\n")
    assert sorted(r["text"] for r in records(path).values()) == ["one\ntwo", "three"]
    assert [r["text"] for r in records(tmp_path).values()] == ["one\ntwo\n\n\nthree"]


def test_parquet_of_hugging_face(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    picture(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").unlink()
    rows = [{"image": {"bytes": data, "path": "p.png"}, "caption": f"c{i}"} for i in range(3)]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    parquet.write_table(table.slice(0, 1), tmp_path / "test-00000-of-00001.parquet")
    train = open_path(tmp_path)
    assert len(train) == 3
    assert len(open_path(tmp_path, split="test")) == 1
    assert train[2]["text"] == "c2"
    assert train[2]["image"].pixels.shape == (4, 4, 3)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "a.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="cannot be read"):
        open_path(tmp_path / "cut")


@pytest.mark.parametrize("form", ["stream", "file"])
def test_arrow_as_datasets_saves_it(form: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    picture(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").unlink()
    for split, count in (("train", 3), ("test", 2)):
        cells = [{"bytes": data, "path": None}, {"bytes": None, "path": None}]
        cells.append({"bytes": b"no picture", "path": "p.png"})
        table = pyarrow.table({"image": cells[:count], "caption": ["a", "b", "c"][:count]})
        (tmp_path / split).mkdir()
        (tmp_path / split / "state.json").write_text("{}")
        opened = pyarrow.ipc.new_stream if form == "stream" else pyarrow.ipc.new_file
        file = str(tmp_path / split / "data-00000-of-00001.arrow")
        with opened(file, table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(open_path(tmp_path, split="test")) == 2
    train = open_path(tmp_path, split="train")
    assert len(train) == 3
    assert train[0]["text"] == "a"
    assert train[0]["image"].pixels.shape == (4, 4, 3)
    for row in (1, 2):
        with pytest.raises(DataError, match=f"row {row}.*pictures or sound") as raised:
            train[row]
        assert raised.value.remedy


def test_a_folder_with_one_table_is_that_table(tmp_path: Path) -> None:
    (tmp_path / "reads.csv").write_text("id,dna\na,ACGT\nb,ACGTT\n")
    (tmp_path / "notes.bin").write_bytes(b"\0")
    assert detect(tmp_path).kind == "manifest"
    assert sum(len(open_path(tmp_path, split=s)) for s in ("train", "validation", "test")) == 2
    (tmp_path / "more.csv").write_text("id,dna\nc,ACGT\n")
    with pytest.raises(DataError, match="Name one of its tables"):
        detect(tmp_path)


@pytest.mark.parametrize("case", ["missing", "empty", "bare", "mixed", "one", "unknown"])
def test_what_is_no_data_set_is_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    target = tmp_path / "data"
    if case != "missing":
        target.mkdir()
    if case in ("bare", "mixed"):
        picture(target / "a.png")
    if case == "mixed":
        sound(target / "a.wav")
    if case == "one":
        picture(target / "a.png")
        target = target / "a.png"
    if case == "unknown":
        (target / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DataError) as error:
        detect(target)
    assert error.value.remedy


def test_a_small_data_set_has_something_held_out(tmp_path: Path) -> None:
    for number in range(2, 12):
        pictures = tmp_path / f"n{number}"
        for i in range(number):
            picture(pictures / f"{i}.png")
            (pictures / f"{i}.txt").write_text("x")
        reads = tmp_path / f"reads{number}.fa"
        reads.write_text("".join(f">r{i}\nACGTACGTAC\n" for i in range(number)))
        for path in (pictures, reads):
            sizes = {s: len(open_path(path, split=s)) for s in ("train", "validation", "test")}
            assert sizes["validation"] >= 1
            assert sizes["train"] >= 1
            assert sum(sizes.values()) == number
    assert len(open_path(tmp_path / "n2", split="test")) == 0


def test_tables_and_manifests_draw_alike_beside_a_named_split(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": f"r{i}", "text": "x"} for i in range(60)]
    rows[7]["split"] = "test"
    table = tmp_path / "table"
    for row in rows:
        sound(table / f"{row['id']}.wav")
    lines = [{**row, "file_name": f"{row['id']}.wav"} for row in rows]
    (table / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in ("train", "validation", "test"):
        ids = [[r["id"] for r in open_path(p, split=split)] for p in (table, manifest)]  # type: ignore[attr-defined]
        assert ids[0] == ids[1]
        assert ids[0]


def test_validate_names_damaged_files_orphans_and_bad_paths(tmp_path: Path) -> None:
    for name in ("cut", "good"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut", "good", "text", "empty", "orphan"):
        (tmp_path / f"{name}.txt").write_text("x")
    result = validate(tmp_path)
    named = {Path(finding["file"]).name for finding in result["findings"]}
    assert named == {"cut.png", "text.png", "empty.png", "orphan.txt"}
    quick = validate(tmp_path, quick=True)
    assert [Path(finding["file"]).name for finding in quick["findings"]] == ["orphan.txt"]
    assert validate(tmp_path / "nowhere")["kind"] is None


def test_validate_goes_on_after_a_bad_fasta_record(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    path.write_text(">one\nACGT\n>p\nMKVLAWEEQ\n>empty\n>one\nAC\n>two\nGG\n")
    result = validate(path)
    assert [finding["line"] for finding in result["findings"]] == [3, 5, 6]
    assert result["records"] == 2
    with pytest.raises(DataError) as raised:
        open_path(path)
    lines = raised.value.message.splitlines()
    assert all(line.count(", but ") == 1 for line in lines if ", line " in line), lines
    assert ", but the record has no bases." in str(raised.value)


def test_a_line_of_ljspeech_without_transcript_is_named(tmp_path: Path) -> None:
    sound(tmp_path / "wavs" / "a.wav")
    sound(tmp_path / "wavs" / "b.wav")
    (tmp_path / "metadata.csv").write_text("a|hello\nb\n")
    assert [finding["line"] for finding in validate(tmp_path)["findings"]] == [2]


def test_a_fasta_file_is_parsed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unimodal.media import fasta

    parsed = []
    scan = fasta.scan_fasta
    monkeypatch.setattr(fasta, "scan_fasta", lambda file: parsed.append(file) or scan(file))
    path = tmp_path / "genome.fa"
    path.write_text(">one\nACGTACGTAC\n")
    for split in ("train", "validation", "test", "train"):
        open_path(path, split=split)
    assert len(parsed) == 1
    path.write_text(">one\nGGGGGGGGGGGG\n")
    source = open_path(path)
    assert source[0]["dna"] == "G" * 11
    assert len(parsed) == 2
