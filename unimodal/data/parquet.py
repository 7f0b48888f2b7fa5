"""Tables of Hugging Face `datasets` folders: Parquet and Arrow files, read a row at a time.

Picture and sound columns hold `{bytes, path}`; they are decoded by `unimodal.media` when a record
is asked for. Needs pyarrow (extra `data`). A file's split is in its name (`train-00000-of-...`)
or its folder; without any, records are drawn by hash.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from unimodal.data.sources import BaseSource, Record, assign_splits
from unimodal.errors import BackendUnavailableError, DataError

_RENAMED = {"audio": "speech", "sentence": "text", "transcription": "text", "caption": "text"}
_SPLIT = re.compile(r"(?:^|[-_/.])(train|validation|valid|val|dev|test)(?:[-_/.]|$)")


class ParquetSource(BaseSource):
    """One split of a folder of tables.

    Args:
        files: Parquet or Arrow files.
        split: Which split.
        name: See `Source`.
        fields: Column to record key, besides the usual ones (`audio` becomes `speech`; `sentence`,
            `transcription` and `caption` become `text`).
        validation_fraction: Share drawn by hash of the rows whose file names no split.

    Raises:
        BackendUnavailableError: without pyarrow.
        DataError: if a file cannot be read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        split: str,
        *,
        name: str,
        fields: dict[str, str] | None = None,
        validation_fraction: float = 0.05,
    ):
        super().__init__(name, "the user's own", split)
        self._fields = {**_RENAMED, **(fields or {})}
        self._files = list(files)
        sizes = [len(_table(file)) for file in files]
        self._ends = list(accumulate(sizes))
        rows = [
            (split_of_file(file), f"{file.stem}:{row}")
            for file, size in zip(files, sizes, strict=True)
            for row in range(size)
        ]
        splits = assign_splits(rows, validation=validation_fraction)
        self._index = [i for i, own in enumerate(splits) if own == split]

    def __len__(self) -> int:
        return len(self._index)

    def record(self, index: int) -> Record:
        position = self._index[index]
        part = bisect_right(self._ends, position)
        row = position - (self._ends[part - 1] if part else 0)
        file = self._files[part]
        values = _table(file).slice(row, 1).to_pylist()[0]
        record: Record = {"id": f"{file.stem}:{row}"}
        for column, value in values.items():
            key = self._fields.get(column, column)
            if isinstance(value, dict) and value.keys() >= {"bytes", "path"}:
                record[key] = _decode(value, file, row)
            else:
                record[key] = value
        record["id"] = str(record["id"])
        return record


def split_of_file(file: Path) -> str:
    """The split that a file's name or folder tells, or ""."""
    match = _SPLIT.search(file.name) or _SPLIT.fullmatch(file.parent.name)
    if match is None:
        return ""
    return {"train": "train", "test": "test"}.get(match[1], "validation")


def _decode(value: dict[str, Any], file: Path, row: int) -> Any:
    from unimodal.media import FileRef, read_audio, read_image
    from unimodal.media.sources import AUDIO_FORMATS, IMAGE_FORMATS, sniff

    data, path = value["bytes"], value["path"]
    if data is None and path:
        return FileRef(file.parent / Path(path).name)
    found = sniff(data[:64]) if data else ""
    if found in IMAGE_FORMATS:
        return read_image(data)
    if found in AUDIO_FORMATS:
        return read_audio(data)
    raise DataError(
        f"A media column must hold pictures or sound, but its bytes show {found or 'neither'}.",
        subject=f"{file}, row {row}",
        remedy="Write the column anew, with a picture or sound in each row, or leave the row out.",
    )


@lru_cache(maxsize=64)
def _table(file: Path) -> Any:
    """The file as a memory-mapped table, opened once a process."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise BackendUnavailableError(
            "Parquet and Arrow files need the package `pyarrow`.",
            remedy="Install the extra: `pip install 'unimodal[data]'`.",
        ) from None
    try:
        if file.suffix == ".parquet":
            return pyarrow.parquet.read_table(file, memory_map=True)
        source = pyarrow.memory_map(str(file))
        try:
            return pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(source).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"The table cannot be read ({error}).",
            subject=str(file),
            remedy="It is cut or damaged: fetch it again.",
        ) from None
