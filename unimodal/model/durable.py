"""Folders that are complete and verified, or invisible.

A folder is filled under another name (`NAME.tmp-<id>`), every file is flushed to the disk, a
`manifest.json` with the size and SHA-256 of each file comes last, and a rename makes it appear. A
folder that stands is never written to. Reading starts with the manifest: a missing, cut or changed
file is named.

`reached` marks the instants at which tests kill the process. Not here: what the files mean.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unimodal.errors import CheckpointError

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
"""Part of the name of every folder that is not whole yet, or on its way out."""


def reached(point: str) -> None:
    """Do nothing; a test replaces it to stop the process at a named point of a save."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value to a new file and flush it to the disk."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, with the mode of any other new file, and flush them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(held, path)
    path.chmod(0o666 & ~_umask())  # safetensors leaves 0600
    _sync(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: if the file is missing or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The file cannot be read as safetensors ({type(error).__name__}).",
            subject=str(path),
            remedy="It is missing, cut or damaged: restore it from a copy.",
        ) from None


@contextmanager
def durable_folder(target: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill; on leaving without an error it stands as `target`, with its manifest.

    Args:
        target: Where the whole folder will stand. It must not exist.
        facts: What else the manifest records.

    Raises:
        CheckpointError: if `target` exists, or the disk refuses to take it.
    """
    if target.exists():
        raise CheckpointError(
            "It exists, and is never overwritten.",
            subject=str(target),
            remedy="Move it away, or name another folder.",
        )
    save_id = uuid.uuid4().hex[:12]
    work = target.with_name(f"{target.name}{TEMPORARY}{save_id}")
    try:
        work.mkdir(parents=True)
        reached("made")
        yield work
        reached("filled")
        files = {name: _describe(work / name) for name in files_of(work)}
        write_json(work / MANIFEST, {**facts, "save_id": save_id, "files": files})
        reached("manifest")
        for folder in [work, *(path for path in work.rglob("*") if path.is_dir())]:
            _sync(folder)
        reached("synced")
        work.rename(target)
        reached("renamed")
        _sync(target.parent)
    except OSError as error:
        raise CheckpointError(
            f"It could not be saved: {error.strerror or error}. What was there before is kept.",
            subject=str(target),
            remedy="Make room or choose a writable folder (`run_dir=`), and start again: the run "
            "resumes.",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def files_of(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, sorted; the manifest left out."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in names if name != MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; its files are not looked at.

    Raises:
        CheckpointError: if it is missing or not readable.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if not isinstance(manifest["files"], dict):
            raise ValueError("`files` is not a table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"It has no readable `{MANIFEST}` ({error}).",
            subject=str(folder),
            remedy="Use another checkpoint of the run: this one is damaged, or not one of ours.",
        ) from None
    return manifest


def verify_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, after checking every file against it.

    Raises:
        CheckpointError: naming the first file that is missing, unlisted, cut or changed.
    """
    manifest = read_manifest(folder)
    found = set(files_of(folder))
    if extra := found - manifest["files"].keys():
        raise _damaged(folder, min(extra), "is not in the manifest")
    for name, facts in manifest["files"].items():
        path = folder / name
        if name not in found:
            raise _damaged(folder, name, "is missing")
        if path.stat().st_size != facts["bytes"]:
            size = path.stat().st_size
            raise _damaged(folder, name, f"has {size} bytes instead of {facts['bytes']}")
        if hash_file(path) != facts["sha256"]:
            raise _damaged(folder, name, "does not have the SHA-256 of the manifest")
    return manifest


def remove_folder(folder: Path) -> None:
    """Take a folder away, so that a half-removed one is never seen under its name."""
    doomed = folder.with_name(f"{folder.name}{TEMPORARY}{uuid.uuid4().hex[:12]}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(parent: Path, name: str) -> None:
    """Remove what killed saves of folders called `name` (or `step-*`) left below `parent`."""
    for folder in parent.glob(f"{name}{TEMPORARY}*"):
        shutil.rmtree(folder, ignore_errors=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def _damaged(folder: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"`{name}` {what}: the folder is damaged.",
        subject=str(folder),
        remedy="Use an earlier checkpoint of the run, or copy the folder again.",
    )


def _sync(path: Path) -> None:
    """Flush a file or folder; systems that cannot flush a folder do not need it."""
    number = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(PermissionError):
            os.fsync(number)
    finally:
        os.close(number)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
