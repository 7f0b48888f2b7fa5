"""The cache of fetched archives and prepared data sets, and arrays that are read in place.

A prepared data set is one folder: JSON Lines and safetensors files, and a `manifest.json` with the
size and SHA-256 of each, written last. A folder appears under its name only when it is whole
(written under another name, then renamed), so a run that was killed leaves nothing half done.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from unimodal.data.packages import sha256_of
from unimodal.errors import DataError

MANIFEST = "manifest.json"
VERIFIED = ".verified.json"
"""Size and time of change of each prepared file as it was when its hash was found right."""
_MAX_HEADER_BYTES = 1 << 20
_DTYPES = {"U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F32": np.float32}


def cache_folder() -> Path:
    """`$UNIMODAL_CACHE`, else `~/.cache/unimodal`."""
    given = os.environ.get("UNIMODAL_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "unimodal"


@contextmanager
def prepared_folder(
    target: Path, facts: Mapping[str, Any], *, replace: bool = False
) -> Iterator[Path]:
    """A folder to fill; on leaving without an error it becomes `target`, with its manifest.

    Args:
        target: Where the whole folder will stand.
        facts: What else the manifest records (recipe, licence, counts, sources).
        replace: Take the place of a folder that stands there; until the new one is whole, the old
            one stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
    old = Path(f"{work}.replaced")
    try:
        yield work
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(work.iterdir())
        }
        write_json(work / MANIFEST, {**facts, "files": files})
        for path in work.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        work.chmod(0o755)
        if replace and target.exists():
            os.rename(target, old)
        try:
            os.rename(work, target)
        except OSError:
            if old.exists() and not target.exists():
                os.rename(old, target)
                raise
            # Another process prepared the same data meanwhile: both are whole, keep the first.
            if not (target / MANIFEST).is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        DataError: if it is missing or not JSON.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"The prepared folder has no readable `{MANIFEST}` ({error}).",
            subject=str(folder),
            remedy="Delete the folder and prepare it again.",
        ) from None
    assert isinstance(manifest, dict)
    return manifest


def check_prepared(folder: Path, *, hashes: bool) -> list[str]:
    """What is wrong with a prepared folder, one sentence a file; empty if nothing is.

    Args:
        folder: The prepared folder.
        hashes: Also hash every file, not only compare sizes.
    """
    problems = []
    for name, facts in read_manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(f"`{name}` is missing.")
        elif path.stat().st_size != facts["bytes"]:
            problems.append(
                f"`{name}` must have {facts['bytes']} bytes, but has {path.stat().st_size}."
            )
        elif hashes and sha256_of(path) != facts["sha256"]:
            problems.append(f"`{name}` does not have the recorded SHA-256.")
    return problems


def verify_prepared(folder: Path) -> list[str]:
    """`check_prepared` with hashes, of a folder that changed since it was found right.

    A stamp of sizes and times of change makes the next check cost no reading.
    """
    stamp = _stamp(folder)
    try:
        known = json.loads((folder / VERIFIED).read_text("utf-8"))
    except (OSError, ValueError):
        known = None
    if stamp is not None and known == stamp:
        return []
    problems = check_prepared(folder, hashes=True)
    if not problems:
        with suppress(OSError):  # a cache that others own is checked by each process
            write_json(folder / VERIFIED, stamp)
    return problems


def _stamp(folder: Path) -> dict[str, list[int]] | None:
    """Size and time of change (ns) of the manifest and of each file in it; None if one lacks."""
    try:
        facts = {
            name: (folder / name).stat() for name in (MANIFEST, *read_manifest(folder)["files"])
        }
    except OSError:
        return None
    return {name: [found.st_size, found.st_mtime_ns] for name, found in facts.items()}


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, readable and with keys in a fixed order."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON Lines, one row a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that `write_rows` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as one safetensors file."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


class MappedArray:
    """One array of a safetensors file, mapped into memory: nothing is read until it is indexed.

    Pickles as its path, so that worker processes share the pages.

    Args:
        path: The safetensors file.
        key: The array's name in it.

    Raises:
        DataError: if the file is cut, or has no such array, or one of an unexpected type.
    """

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.array = _map(path, key)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.array(self.array[index])

    def __reduce__(self) -> tuple[type["MappedArray"], tuple[Path, str]]:
        return MappedArray, (self.path, self.key)


def _map(path: Path, key: str) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _MAX_HEADER_BYTES:
                raise ValueError("the header is too long")
            entry = json.loads(file.read(size))[key]
        start, end = entry["data_offsets"]
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if end - start != dtype.itemsize * math.prod(shape):
            raise ValueError("offsets and shape disagree")
        if path.stat().st_size < 8 + size + end:
            raise ValueError("the file is cut")
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=8 + size + start, shape=shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Array `{key}` cannot be read ({error}).",
            subject=str(path),
            remedy="Delete the prepared folder and prepare it again.",
        ) from None
