"""Tokenizer folders: one trained modality as files that run no code, and how it is taken over.

    FOLDER/
      manifest.json         size and SHA-256 of every file
      modality.json         registered name, config, fingerprints
      tokenizers/NAME/...   what it learned, as in a model folder

`load_tokenizer` reads one, or takes a modality out of a model folder, where it lies in the same
way; a run folder and a checkpoint hold either. Tested with `unimodal.training`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimodal.errors import CheckpointError
from unimodal.modality import (
    TRAINING_ONLY,
    Modality,
    build_modality,
    config_to_dict,
    config_type,
    modalities,
)
from unimodal.model.durable import (
    durable_folder,
    remove_folder,
    remove_leftovers,
    verify_folder,
    write_bytes,
    write_json,
)
from unimodal.model.folder import LEDGER, TOKENIZERS, find_model

MODALITY = "modality.json"
FORMAT = 1


def write_tokenizer_files(folder: Path, name: str, modality: Modality[Any, Any]) -> None:
    """Write the files of a tokenizer into an open folder, without a manifest."""
    described = {
        "format": FORMAT,
        "name": name,
        "config": config_to_dict(modality.config),
        "fingerprint": modality.fingerprint(),
        "decoder_hash": modality.decoder_hash(),
    }
    write_json(folder / MODALITY, described)
    for file, data in modality.state().items():
        write_bytes(folder / TOKENIZERS / name / file, data)


def save_tokenizer(
    folder: Path,
    name: str,
    modality: Modality[Any, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Save a tokenizer folder, whole or not at all, in the place of an older one.

    Args:
        folder: Where it will stand.
        name: Ledger name.
        modality: What to save.
        files: More files by name.

    Raises:
        CheckpointError: if the disk refuses.
    """
    remove_leftovers(folder.parent, folder.name)
    fresh = folder.with_name(f"{folder.name}.next")
    if fresh.exists():
        remove_folder(fresh)
    with durable_folder(fresh, {"kind": "tokenizer"}) as work:
        write_tokenizer_files(work, name, modality)
        for file, data in (files or {}).items():
            write_bytes(work / file, data)
    if folder.exists():
        remove_folder(folder)
    fresh.rename(folder)


def load_tokenizer(folder: Path | str, name: str) -> Modality[Any, Any]:
    """The modality of a tokenizer folder, or one of a model folder, with what it learned.

    Fields of its config that matter in training alone have their defaults: how the tokenizer was
    trained says nothing of what comes next.

    Args:
        folder: A run, tokenizer or model folder, or a checkpoint.
        name: Ledger name; `NAME@2` takes a tokenizer of `NAME`.

    Raises:
        CheckpointError: if there is none, it does not verify, or it is of another modality.
    """
    found = find_model(Path(folder))
    verify_folder(found)
    base = name.partition("@")[0]
    is_model = not (found / MODALITY).is_file()
    written = _read(found / (LEDGER if is_model else MODALITY))
    entries = written["modalities"] if is_model else {written.get("name"): written}
    held = next((n for n in (name, base) if n in entries), None)
    held = held or next((n for n in entries if str(n).partition("@")[0] == base), None)
    if held is None:
        raise CheckpointError(
            f"It holds the tokenizer of {', '.join(f'`{n}`' for n in entries)}, not of `{base}`.",
            subject=str(folder),
            remedy=f"Give a folder of `{base}` as `tokenizers.{name}`.",
        )
    entry = entries[held]
    kind = config_type(modalities.get(base))
    own = {f.name for f in dataclasses.fields(kind) if TRAINING_ONLY in f.metadata}
    modality = build_modality(name, {k: v for k, v in entry["config"].items() if k not in own})
    paths = sorted((found / TOKENIZERS / held).glob("*"))
    if paths:
        modality.load_state({path.name: path.read_bytes() for path in paths})
    if modality.fingerprint() != entry["fingerprint"]:
        raise CheckpointError(
            f"The tokenizer `{held}` has fingerprint {modality.fingerprint()}, but was saved with "
            f"{entry['fingerprint']}: its ids no longer mean the same.",
            subject=str(folder),
            remedy="Use the version of the code that trained it, or train it again.",
        )
    return modality


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"It holds no tokenizer that can be read ({type(error).__name__}).",
            subject=str(path),
            remedy="Name the folder of a trained tokenizer or model.",
        ) from None
    return value
