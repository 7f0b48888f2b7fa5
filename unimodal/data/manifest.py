"""Manifests, JSON Lines or CSV: one record a line, checked wholly before anything is read.

`{"id": "a", "split": "train", "text": "inline string", "image": "relative/path.png"}`. A field that
a modality reads is a file's path, relative to the manifest, or, where the modality's values are
strings, the string itself; `{"path": ...}` always names a file. Other keys hold plain facts. In a
CSV (or TSV) file the first line names the fields; without `id`, records are named by their lines.
`validate_manifest` returns every error of a file at once; `ManifestSource` refuses a file with any.
Which fields hold strings is asked from the modality registry. Media are not decoded here.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from unimodal.data.sources import BaseSource, Record, assign_splits
from unimodal.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
"""Longest line of a manifest."""

MAX_FINDINGS = 1_000
"""Errors after which reading stops; the last finding says so."""

KNOWN_SPLITS = ("train", "validation", "test")

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Endings of tables, and what parts their columns."""

MAX_TABLE_BYTES = 512 * 2**20
"""Largest table; its rows are held in memory."""

FieldKinds = Mapping[str, str]
"""Field names to `inline` (a JSON string is the value) or `file` (it is a path)."""


@dataclass(frozen=True)
class Finding:
    """One error of a manifest or folder.

    Attributes:
        line: Line number from 1; None for what concerns the whole.
        id: The record's id, if it is known.
        rule: What must hold.
        value: What was found instead, shortened.
        remedy: What to do.
        file: The manifest or the file it is about.
    """

    line: int | None
    id: str | None
    rule: str
    value: str
    remedy: str
    file: str = ""

    def __str__(self) -> str:
        place = self.file + (f", line {self.line}" if self.line is not None else "")
        name = f" (id {self.id!r})" if self.id else ""
        return f"{place}{name}: {self.rule}, but {self.value.rstrip('.')}. {self.remedy}"


class DataSetError(DataError):
    """A manifest or folder has errors; all of them are in `findings`."""

    def __init__(self, path: Path, findings: Sequence[Finding]):
        shown = "\n".join(f"  {finding}" for finding in findings[:20])
        more = f"\n  and {len(findings) - 20} more" if len(findings) > 20 else ""
        count = "is 1 error" if len(findings) == 1 else f"are {len(findings)} errors"
        super().__init__(
            f"There {count}:\n{shown}{more}\n",
            subject=str(path),
            remedy="Correct them; `unimodal data validate` lists them all.",
        )
        self.findings = list(findings)


@lru_cache(maxsize=1)
def registered_kinds() -> dict[str, str]:
    """Field kinds of all registered modalities: `inline` where values are strings."""
    from unimodal.modality import modalities

    return {
        name: "inline" if modalities.get(name).value_type is str else "file"
        for name in modalities.names()
    }


def validate_manifest(
    path: str | Path, *, kinds: FieldKinds | None = None, required: Sequence[str] = ()
) -> list[Finding]:
    """Every error of a manifest; empty if it is sound.

    Args:
        path: The manifest.
        kinds: Fields that modalities read; all registered modalities by default.
        required: Fields that every record must have.
    """
    return _scan(Path(path), kinds or registered_kinds(), required)[0]


class ManifestSource(BaseSource):
    """The records of one split of a manifest; a line is parsed when its record is asked for.

    Without a `split` key the split is drawn by hash of `group`, if there is one, else of the id.

    Args:
        path: The manifest.
        split: Which split.
        kinds: See `validate_manifest`.
        required: See `validate_manifest`.
        validation_fraction: Share drawn by hash.
        license: See `Source`.

    Raises:
        DataSetError: if the manifest has any error.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        *,
        kinds: FieldKinds | None = None,
        required: Sequence[str] = (),
        validation_fraction: float = 0.05,
        license: str = "unknown",
    ):
        self._path = Path(path)
        super().__init__(str(path), license, split)
        self._kinds = dict(kinds or registered_kinds())
        findings, places = _scan(self._path, self._kinds, required)
        if findings:
            raise DataSetError(self._path, findings)
        splits = assign_splits([place[1:] for place in places], validation=validation_fraction)
        self._places = [place[0] for place, own in zip(places, splits, strict=True) if own == split]

    def __len__(self) -> int:
        return len(self._places)

    def record(self, index: int) -> Record:
        from unimodal.media.values import FileRef

        place = self._places[index]
        if isinstance(place, dict):
            row: Record = dict(place)
        else:
            with self._path.open("rb") as file:
                file.seek(place)
                row = json.loads(file.readline(MAX_LINE_BYTES + 1))
        for name in row.keys() & self._kinds.keys():
            value = row[name]
            if isinstance(value, dict):
                row[name] = FileRef(self._path.parent / value["path"])
            elif self._kinds[name] == "file":
                row[name] = FileRef(self._path.parent / value)
        return row


def _scan(
    path: Path, kinds: FieldKinds, required: Sequence[str]
) -> tuple[list[Finding], list[tuple[int | Record, str | None, str]]]:
    """Errors, and for each sound record its offset (of a table, itself), split and group."""
    check = _Checker(path, kinds, required)
    places: list[tuple[int | Record, str | None, str]] = []
    if not path.is_file():
        check.add(None, None, "A manifest must be a file", "there is none", "Check the path.")
        return check.findings, []
    is_table = path.suffix in SEPARATORS
    for number, place, row in _table_rows(path, check) if is_table else _json_rows(path, check):
        if row is not None:
            places.append((place, row.get("split"), str(row.get("group", row.get("id")))))
        if len(check.findings) >= MAX_FINDINGS:
            check.add(number, None, "Reading stopped", f"{MAX_FINDINGS} errors", "Correct them.")
            break
    if not places and not check.findings:
        rule, remedy = "A manifest must have records", "Write one JSON object a line."
        check.add(None, None, rule, "this one is empty", remedy)
    return check.findings, places


def _json_rows(path: Path, check: "_Checker") -> Iterator[tuple[int, int, Record | None]]:
    """Number, offset and record of each line; None where it is not sound."""
    for number, offset, line in _lines(path):
        if line is None:
            rule = f"A line must have at most {MAX_LINE_BYTES} bytes"
            remedy = 'Put long values into files, and name them: {"path": ...}.'
            check.add(number, None, rule, "this one is longer", remedy)
            yield number, offset, None
        elif line.strip():
            yield number, offset, check.line(number, line)


def _table_rows(path: Path, check: "_Checker") -> Iterator[tuple[int, Record, Record | None]]:
    """Line, record, and the record again if it is sound; a column that is empty is left out."""
    if path.stat().st_size > MAX_TABLE_BYTES:
        rule, remedy = f"A table must have at most {MAX_TABLE_BYTES} bytes", "Split it."
        return check.add(None, None, rule, "it has more", remedy)
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=SEPARATORS[path.suffix], strict=True)
        try:
            for cells in reader:
                number = reader.line_num
                if None in cells or None in cells.values():
                    rule = f"A line must have {len(reader.fieldnames or ())} columns"
                    check.add(number, None, rule, "it has not", "Quote values with separators.")
                    continue
                row: Record = {
                    key: cell for key, cell in cells.items() if cell or key in check.kinds
                }
                row = {"id": f"line {number}", **row}
                yield number, row, check.row(number, row)
        except (csv.Error, UnicodeDecodeError) as error:
            rule, remedy = "A table must be CSV in UTF-8", "Check its quotes, or save it again."
            check.add(reader.line_num + 1, None, rule, f"it is not ({error})", remedy)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes | None]]:
    """Number, offset and bytes of each line; None for one that is too long, never held whole."""
    number = offset = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            start, offset = offset, offset + len(line)
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                    offset += len(line)
                yield number, start, None
            else:
                yield number, start, line


class _Checker:
    """Collects the findings of one manifest."""

    def __init__(self, path: Path, kinds: FieldKinds, required: Sequence[str]):
        self.path, self.kinds, self.required = path, kinds, required
        self.findings: list[Finding] = []
        self._ids: dict[str, int] = {}

    def add(self, line: int | None, id: str | None, rule: str, value: str, remedy: str) -> None:
        name = None if id is None else escaped(id)
        texts = escaped(rule), escaped(value[:200]), escaped(remedy)
        self.findings.append(Finding(line, name, *texts, str(self.path)))

    def line(self, number: int, line: bytes) -> dict[str, Any] | None:
        """The record of a line if it is sound."""
        try:
            # Editors of some systems write a byte order mark at the start of a file.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            value = f"byte {error.start + 1} is {line[error.start]:#04x}"
            self.add(number, None, "A line must be UTF-8", value, "Save the file as UTF-8.")
            return None
        try:
            row = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            rule, remedy = "A line must be one JSON object", "Check quotes, commas and braces."
            what = str(error)
            if isinstance(error, json.JSONDecodeError):  # it counts lines from this one
                what = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
            self.add(number, None, rule, f"it is not ({what})", remedy)
            return None
        if not isinstance(row, dict):
            rule, remedy = "A line must be one JSON object", 'Write {"id": ..., ...}.'
            self.add(number, None, rule, f"it is a {type(row).__name__}", remedy)
            return None
        return self.row(number, row)

    def row(self, number: int, row: dict[str, Any]) -> dict[str, Any] | None:
        """The record if it is sound."""
        before = len(self.findings)
        self._record(number, row)
        return row if len(self.findings) == before else None

    def _record(self, number: int, row: dict[str, Any]) -> None:
        key = row.get("id")
        name = key if isinstance(key, str) and key else None
        if name is None:
            value = "there is none" if key is None else f"it is {key!r}"
            self.add(
                number, None, "`id` must be a non-empty string", value, "Give each record one."
            )
        elif name in self._ids:
            value = f"line {self._ids[name]} has it too"
            self.add(number, name, "`id` must be unique", value, "Rename or delete one.")
        else:
            self._ids[name] = number
        split = row.get("split")
        if split is not None and split not in KNOWN_SPLITS:
            rule = f"`split` must be one of {', '.join(KNOWN_SPLITS)}"
            self.add(number, name, rule, f"it is {split!r}", "Correct it or leave it out.")
        for field in self.required:
            if field not in row:
                rule, remedy = f"`{field}` must be there", "Add it, or choose another task."
                self.add(number, name, rule, "it is missing", remedy)
        if not row.keys() & self.kinds.keys():
            rule = "A record must have a field that a modality reads"
            value = f"its keys are {', '.join(map(repr, row)) or 'none'}"
            self.add(number, name, rule, value, f"Known: {', '.join(sorted(self.kinds))}.")
        for field, value in row.items():
            self._field(number, name, field, value)

    def _field(self, number: int, name: str | None, field: str, value: Any) -> None:
        text = value.get("path") if isinstance(value, dict) else value
        if has_surrogate(field) or (isinstance(text, str) and has_surrogate(text)):
            rule, remedy = "Text must be valid Unicode", "Remove the unpaired surrogate (\\ud800)."
            self.add(number, name, rule, f"`{field}` is not", remedy)
            return
        if field not in self.kinds:
            if isinstance(value, list | dict):
                rule = f"`{field}` must be a string, a number, true, false or null"
                self.add(number, name, rule, f"it is {type(value).__name__}", "Flatten it.")
            return
        if isinstance(value, dict):
            if set(value) == {"path"} and isinstance(value["path"], str):
                self._path(number, name, field, value["path"])
            else:
                rule, remedy = (
                    f"`{field}` must be {{'path': ...}} if it is an object",
                    "Correct it.",
                )
                self.add(number, name, rule, f"it is {value!r}", remedy)
        elif not isinstance(value, str) or not value:
            kind = "a string" if self.kinds[field] == "inline" else "a file's path"
            rule = f"`{field}` must be {kind}, not empty"
            self.add(number, name, rule, f"it is {value!r}", "Correct or drop the record.")
        elif self.kinds[field] == "file":
            self._path(number, name, field, value)

    def _path(self, number: int, name: str | None, field: str, value: str) -> None:
        parts = PurePosixPath(value)
        rule = f"`{field}` must be a relative path inside the manifest's folder"
        if parts.is_absolute() or "\\" in value or ".." in parts.parts or value[1:2] == ":":
            remedy = "Write it relative to the manifest, with `/` and without `..`."
            self.add(number, name, rule, f"it is {value!r}", remedy)
            return
        try:
            target = (self.path.parent / value).resolve()
            is_file = target.is_file()
        except (OSError, ValueError, RuntimeError):
            is_file, target = False, self.path.parent
        if not is_file:
            rule, remedy = f"`{field}` must name a file", "Correct the path or add the file."
            self.add(number, name, rule, f"there is no {value!r}", remedy)
        elif not target.is_relative_to(self.path.parent.resolve()):
            self.add(number, name, rule, f"{value!r} links out of it", "Copy the file into it.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def escaped(text: str) -> str:
    """`text` as every terminal and file can take it: what does not print is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def has_surrogate(text: str) -> bool:
    """Whether it holds half a surrogate pair, which no UTF-8 text can."""
    return any("\ud800" <= character <= "\udfff" for character in text)
