"""Plain folders and files as data sets: what lies there is told by content, never by promise.

`detect(path)` says what it found and why; `open_path(path, split)` opens it. Kinds: a manifest;
pictures, sound or video with `metadata.csv`/`metadata.jsonl` (`file_name,text`), with LJSpeech's
`metadata.csv` (`name|text`), or with a caption beside each file (`X.png`, `X.txt`); class folders
(the folder's name is the label); FASTA; Parquet and Arrow of Hugging Face `datasets`; text.
Manifests, FASTA windows and tables have modules of their own.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unimodal.data.manifest import (
    KNOWN_SPLITS,
    SEPARATORS,
    DataSetError,
    Finding,
    ManifestSource,
    escaped,
    has_surrogate,
)
from unimodal.data.sources import (
    ListSource,
    Record,
    Source,
    assign_splits,
    check_options,
    check_split,
)
from unimodal.errors import DataError

KINDS = ("manifest", "table", "captions", "classes", "fasta", "text", "parquet")
"""What a path may be; `table` is a metadata file beside media."""

FIELDS = {"image": "image", "audio": "speech", "video": "video"}
"""Media kind to the field that a record has it in."""

_IMAGE = {"PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"}
_AUDIO = {"WAV", "FLAC", "OGG", "MP3"}
_VIDEO = {"MP4", "MATROSKA", "AVI"}
_PROMISES = dict.fromkeys(".png .jpg .jpeg .gif .webp .bmp .tif .tiff".split(), "image")
_PROMISES |= dict.fromkeys(".wav .flac .ogg .oga .opus .mp3".split(), "audio")
_PROMISES |= dict.fromkeys(".mp4 .m4v .mov .mkv .webm .avi".split(), "video")
_PROMISES |= dict.fromkeys((".txt", ".md"), "text")
_SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "dev": "validation"}
_SPLIT_FOLDERS |= {"validation": "validation", "test": "test"}
_METADATA = ("metadata.jsonl", "metadata.csv")
FASTA_SUFFIXES = {".fa", ".fasta", ".fna", ".ffn", ".frn"}
_MAX_METADATA_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Found:
    """What a path is.

    Attributes:
        kind: One of `KINDS`.
        why: What told, as one sentence.
        path: The file or folder that is opened.
        files: The data files, relative to the folder, sorted.
        media: `image`, `audio` or `video`, where it matters.
    """

    kind: str
    why: str
    path: Path
    files: tuple[Path, ...] = ()
    media: str = ""


def detect(path: str | Path) -> Found:
    """What lies at `path`.

    Raises:
        DataError: if nothing does, or nothing that is known, or several things.
    """
    path = Path(path)
    if path.is_file():
        return _detect_file(path)
    if not path.is_dir():
        raise DataError("The data path does not exist.", subject=str(path), remedy="Check it.")
    files = tuple(sorted(f for f in path.rglob("*") if f.is_file() and not _hidden(f, path)))
    if not files:
        raise DataError(
            "The folder holds no files.", subject=str(path), remedy="Check the path for a typo."
        )
    manifest = path / "manifest.jsonl"
    if manifest.is_file():
        return Found("manifest", "it holds `manifest.jsonl`", manifest)
    tables = tuple(f for f in files if f.suffix in (".parquet", ".arrow"))
    if tables:
        return Found("parquet", f"it holds {len(tables)} Parquet or Arrow files", path, tables)
    media: dict[str, list[Path]] = {}
    for file in files:
        media.setdefault(media_kind(file), []).append(file)
    known = [kind for kind in FIELDS if media.get(kind)]
    if len(known) > 1:
        counts = ", ".join(f"{len(media[kind])} {kind}" for kind in known)
        raise DataError(
            f"The folder holds several kinds of media ({counts}).",
            subject=str(path),
            remedy="Write a `manifest.jsonl` that says which files belong together.",
        )
    for kind in known or [kind for kind in ("fasta", "text") if media.get(kind)]:
        # A damaged file is a sample, for the reader to refuse by name, and not a gap.
        damaged = [f for f in media.get("", ()) if _PROMISES.get(f.suffix.lower()) == kind]
        whole = tuple(sorted([*media[kind], *damaged]))
        if known:
            return _detect_media(path, kind, whole)
        return Found(kind, f"it holds {len(whole)} {kind} files", path, whole)
    rows = [file for file in files if file.suffix in (*SEPARATORS, ".jsonl")]
    if len(rows) == 1:
        return Found("manifest", f"its only data file is `{rows[0].name}`", rows[0])
    names = "Name one of its tables, not the folder. " if rows else ""
    raise DataError(
        f"None of the {len(files)} files is of a known kind.",
        subject=str(path),
        remedy=f"{names}Known: pictures, sound, video, FASTA, Parquet, Arrow, text, "
        "`manifest.jsonl`, one CSV or TSV file.",
    )


def _detect_media(path: Path, kind: str, files: tuple[Path, ...]) -> Found:
    """How a folder with one kind of media says what is in each file."""
    metadata = next((path / name for name in _METADATA if (path / name).is_file()), None)
    if metadata is not None:
        why = f"it holds `{metadata.name}` and {len(files)} {kind} files"
        return Found("table", why, metadata, files, kind)
    if any(file.with_suffix(".txt").is_file() for file in files):
        why = f"it holds {len(files)} {kind} files with captions beside them"
        return Found("captions", why, path, files, kind)
    if all(len(_inner(file, path).parts) == 2 for file in files):
        labels = {_inner(file, path).parts[0] for file in files}
        why = f"it holds {len(files)} {kind} files in {len(labels)} class folders"
        return Found("classes", why, path, files, kind)
    raise DataError(
        f"The folder holds {len(files)} {kind} files, but neither captions nor classes.",
        subject=str(path),
        remedy="Put `X.txt` beside each file, or a `metadata.csv` with the columns "
        "`file_name,text`, or one folder a class.",
    )


def media_kind(file: Path) -> str:
    """`image`, `audio`, `video`, `fasta`, `text` or "" by a file's first bytes."""
    from unimodal.media.sources import sniff

    with file.open("rb") as opened:
        head = opened.read(512)
    found = sniff(head)
    for kind, formats in (("image", _IMAGE), ("audio", _AUDIO), ("video", _VIDEO)):
        if found in formats:
            return kind
    stem = file.name.removesuffix(".gz")
    if Path(stem).suffix.lower() in FASTA_SUFFIXES or head.lstrip().startswith(b">"):
        return "fasta"
    if not found and head and b"\0" not in head and file.suffix in (".txt", ".md", ""):
        return "text"
    return ""


def open_path(path: str | Path, *, split: str = "train", **options: Any) -> Source:
    """Open a file or folder.

    Args:
        path: See `detect`.
        split: Which split; without explicit splits, records are drawn by a hash of their id.
        **options: `validation_fraction=`; for FASTA `test_fraction=`, too; for media `field=` (the
            record's key for them).

    Raises:
        DataSetError: with all errors of a manifest or folder.
        DataError: if the path is of no known kind. An empty split is a source of length 0.
    """
    check_split(split, KNOWN_SPLITS, str(path))
    found = detect(path)
    if found.kind == "manifest":
        check_options(found.kind, options, ManifestSource)
        return ManifestSource(found.path, split, **options)
    if found.kind == "fasta":
        from unimodal.data.fasta import open_fasta

        check_options(found.kind, options, open_fasta)
        return open_fasta(found.files, split, name=str(path), **options)
    if found.kind == "parquet":
        from unimodal.data.parquet import ParquetSource

        check_options(found.kind, options, ParquetSource)
        return ParquetSource(found.files, split, name=str(path), **options)
    rows, findings = read_folder(found, field=options.pop("field", None))
    if findings:
        raise DataSetError(found.path, findings)
    fraction = options.pop("validation_fraction", 0.05)
    check_options(found.kind, options, None)
    places = [(row.get("split"), str(row.get("group", row["id"]))) for row in rows]
    splits = assign_splits(places, validation=fraction)
    own = [row for row, its in zip(rows, splits, strict=True) if its == split]
    return FileSource(own, name=str(path), split=split)


class FileSource(ListSource):
    """Rows whose `Path` values become `FileRef`s when a record is handed out."""

    def __init__(self, rows: Sequence[Record], *, name: str, split: str):
        super().__init__(rows, name=name, license="the user's own", split=split)

    def record(self, index: int) -> Record:
        from unimodal.media.values import FileRef

        row = super().record(index)
        return {key: FileRef(v) if isinstance(v, Path) else v for key, v in row.items()}


def read_folder(found: Found, field: str | None = None) -> tuple[list[Record], list[Finding]]:
    """The rows of a folder of media or text, files as `Path`, and all its errors."""
    rows, findings = _read_rows(found, field)
    for row in rows:
        for key, value in row.items():
            if isinstance(value, str) and has_surrogate(value):
                rule, remedy = "Names and texts must be valid Unicode", "Rename or correct it."
                place = str(found.path)
                findings.append(
                    Finding(None, escaped(row["id"]), rule, f"`{key}` is not", remedy, place)
                )
                break
    return rows, findings


def unused(found: Found, rows: Sequence[Record]) -> list[Finding]:
    """What lies in a folder of media and belongs to no row: captions, and files beside a table."""
    if found.kind == "captions":
        named = {file.with_suffix(".txt") for file in found.files}
        left = sorted(set(found.path.rglob("*.txt")) - named - set(found.files))
        rule, value = "Each caption must have its file", f"there is no {found.media} of this name"
    elif found.kind == "table":
        named = {value for row in rows for value in row.values() if isinstance(value, Path)}
        left = sorted(set(found.files) - named)
        rule, value = f"Each {found.media} must have a line", f"`{found.path.name}` has none"
    else:
        return []
    remedy = "Add what is missing, or remove the file."
    return [Finding(None, None, rule, value, remedy, str(file)) for file in left]


def _read_rows(found: Found, field: str | None) -> tuple[list[Record], list[Finding]]:
    key = field or FIELDS.get(found.media, "text")
    if found.kind == "table":
        return _read_table(found, key)
    if found.kind == "text":
        return _read_text(found)
    rows: list[Record] = []
    findings = []
    for file in found.files:
        row: Record = {"id": file.relative_to(found.path).as_posix(), key: file}
        first = file.relative_to(found.path).parts[0]
        if first in _SPLIT_FOLDERS and first != file.name:
            row["split"] = _SPLIT_FOLDERS[first]
        if found.kind == "classes":
            row["text"] = file.parent.name.replace("_", " ")
            row["label"] = file.parent.name
        else:
            caption = _caption(file.with_suffix(".txt"))
            if isinstance(caption, Finding):
                findings.append(caption)
                continue
            row["text"] = caption
        rows.append(row)
    return rows, findings


def _caption(file: Path) -> str | Finding:
    remedy = f"Write the caption or transcript into `{file.name}`, in UTF-8."
    try:
        text = file.read_text("utf-8-sig").strip()
    except FileNotFoundError:
        return Finding(
            None, None, "Each file must have a `.txt`", "it is missing", remedy, str(file)
        )
    except UnicodeDecodeError:
        return Finding(None, None, "A caption must be UTF-8", "it is not", remedy, str(file))
    if not text:
        return Finding(None, None, "A caption must not be empty", "it is", remedy, str(file))
    return text


def _read_table(found: Found, key: str) -> tuple[list[Record], list[Finding]]:
    """Rows of `metadata.csv` or `.jsonl`: files must exist inside the folder, ids be unique."""
    rows: list[Record] = []
    findings: list[Finding] = []
    seen: dict[str, int] = {}
    ids: dict[str, int] = {}
    for number, row in _table_rows(found, findings):
        name, text = row.pop("file_name", None), row.get("text")
        identity = str(row.get("id") or name)
        problem = ""
        if not isinstance(name, str) or not name:
            problem = "`file_name` must be a path, but is missing or empty"
        elif not isinstance(text, str) or not text.strip():
            problem = "`text` must be a string that is not empty, but is missing or empty"
        elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            problem = "`file_name` must be relative and stay inside the folder"
        elif name in seen:
            problem = f"`file_name` must be unique, but line {seen[name]} has it too"
        elif identity in ids:
            problem = f"`id` must be unique, but line {ids[identity]} has it too"
        else:
            file = _existing(found, name)
            if file is None:
                problem = f"`file_name` must name a file, but there is no {name!r}"
            elif row.get("split") not in (None, "", *KNOWN_SPLITS):
                problem = f"`split` must be one of {KNOWN_SPLITS}, but is {row['split']!r}"
        if problem:
            rule, _, value = problem.partition(", but ")
            finding = Finding(
                number, str(name), rule, value or f"it is {name!r}", "Correct the line.",
                str(found.path),
            )  # fmt: skip
            findings.append(finding)
            continue
        seen[str(name)] = ids[identity] = number
        if not row.get("split"):
            row.pop("split", None)
        rows.append({**row, "id": identity, key: file})
    if not rows and not findings:
        rule, remedy = "The table must have rows", "Write one line a file."
        findings.append(Finding(None, None, rule, "it has none", remedy, str(found.path)))
    return rows, findings


def _existing(found: Found, name: str) -> Path | None:
    """The file that a table names: beside it, or in LJSpeech's `wavs/NAME.wav`."""
    root = found.path.parent
    for candidate in (root / name, root / "wavs" / f"{name}.wav", root / f"{name}.wav"):
        if candidate.is_file() and candidate.resolve().is_relative_to(root.resolve()):
            return candidate
    return None


def _table_rows(found: Found, findings: list[Finding]) -> list[tuple[int, Record]]:
    path = found.path

    def refuse(line: int | None, rule: str, value: str, remedy: str) -> None:
        findings.append(Finding(line, None, rule, value, remedy, str(path)))

    if path.stat().st_size > _MAX_METADATA_BYTES:
        refuse(
            None,
            f"A table must have at most {_MAX_METADATA_BYTES} bytes",
            "it has more",
            "Split it.",
        )
        return []
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(None, "A table must be UTF-8", f"byte {error.start + 1} is not", "Save it as UTF-8.")
        return []
    rows: list[tuple[int, Record]] = []
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    row = str(error)
                if isinstance(row, dict):
                    rows.append((number, row))
                else:
                    refuse(number, "A line must be one JSON object", "it is not", "Correct it.")
        return rows
    first = text.split("\n", 1)[0]
    if "|" in first and "file_name" not in first:
        for number, line in enumerate(text.split("\n"), start=1):
            parts = line.rstrip("\r").split("|")
            if line.strip() and len(parts) not in (2, 3):
                rule = "A line must be name|transcript or name|transcript|normalised transcript"
                refuse(number, rule, f"it has {len(parts)} fields", "Correct the line.")
            elif line.strip():
                rows.append((number, {"file_name": parts[0], "text": parts[-1]}))
        return rows
    reader = csv.DictReader(io.StringIO(text), strict=True)
    if reader.fieldnames is None or "file_name" not in reader.fieldnames:
        rule, remedy = "The first line must name the columns", "Write `file_name,text` there."
        refuse(1, rule, f"it is {first[:80]!r}", remedy)
        return []
    try:
        for row in reader:
            if None in row or None in row.values():
                rule = f"A line must have {len(reader.fieldnames)} columns"
                refuse(reader.line_num, rule, "it has not", 'Quote texts with commas: "a, b".')
            else:
                rows.append((reader.line_num, dict(row)))
    except csv.Error as error:
        refuse(reader.line_num, "A table must be CSV", str(error), "Check the quotes.")
    return rows


def _read_text(found: Found) -> tuple[list[Record], list[Finding]]:
    """Documents: one a file of a folder; of a single file, what blank lines part."""
    from unimodal.errors import MediaError
    from unimodal.media import read_text

    rows: list[Record] = []
    findings = []
    for file in found.files:
        try:
            text = read_text(file).replace("\r\n", "\n")
        except MediaError as error:
            remedy = error.remedy or "Correct the file."
            findings.append(
                Finding(None, None, "Text must be readable", error.message, remedy, str(file))
            )
            continue
        documents = [text] if found.path.is_dir() else text.split("\n\n")
        name = file.relative_to(found.path).as_posix() if found.path.is_dir() else file.name
        kept = [document.strip("\n") for document in documents if document.strip()]
        rows += [{"id": f"{name}:{i}", "text": document} for i, document in enumerate(kept)]
    if not rows and not findings:
        rule, remedy = "A text data set must have text", "Check the path."
        findings.append(Finding(None, None, rule, "it is empty", remedy, str(found.path)))
    return rows, findings


def _detect_file(path: Path) -> Found:
    if path.suffix == ".jsonl" and path.name not in _METADATA:
        return Found("manifest", "its name ends in `.jsonl`", path)
    if path.name in _METADATA:
        return detect(path.parent)
    if path.suffix in SEPARATORS:
        return Found("manifest", f"its name ends in `{path.suffix}`", path)
    if path.suffix in (".parquet", ".arrow"):
        return Found("parquet", f"its name ends in `{path.suffix}`", path, (path,))
    kind = media_kind(path) or _PROMISES.get(path.suffix.lower(), "")
    if kind in ("fasta", "text"):
        return Found(kind, f"its content is {kind}", path, (path,))
    raise DataError(
        f"One {kind} file is not a data set." if kind else "The file is of no known kind.",
        subject=str(path),
        remedy="Give a folder of such files, a manifest (`.jsonl`, `.csv`), FASTA, Parquet or a "
        "text.",
    )


def _inner(file: Path, root: Path) -> Path:
    """The path inside the folder, without a leading split folder."""
    inner = file.relative_to(root)
    return Path(*inner.parts[1:]) if inner.parts[0] in _SPLIT_FOLDERS else inner


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)
