"""Model folders: a decoder with its ledger and tokenizers, as files that run no code.

    FOLDER/
      manifest.json        size and SHA-256 of every file
      config.json          the decoder's config
      vocabulary.json      the ledger: spans and fingerprints
      model.safetensors    weights
      tokenizers/NAME/...  what each modality learned

`save_model` writes one whole or not at all, `load_model` verifies before it reads, and `grow` takes
a decoder to a vocabulary that extends its own. A run folder holds one as `model/`, and every
checkpoint is one with more files; both load. Modalities are looked up by registered name.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import CheckpointError
from unimodal.modality import config_from_dict
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.durable import (
    MANIFEST,
    TEMPORARY,
    durable_folder,
    read_tensors,
    remove_folder,
    remove_leftovers,
    verify_folder,
    write_bytes,
    write_json,
    write_tensors,
)
from unimodal.model.huggingface import is_huggingface, open_huggingface
from unimodal.shipped import shipped_folder
from unimodal.vocabulary import Vocabulary

WEIGHTS = "model.safetensors"
AVERAGE = "ema.safetensors"
"""Averaged weights, in a checkpoint of a run that averages: the ones to use."""
CONFIG = "config.json"
LEDGER = "vocabulary.json"
TOKENIZERS = "tokenizers"
MODEL = "model"
"""Name of the finished model in a run folder."""
CHECKPOINTS = "checkpoints"
EXPERIMENT = "experiment.json"
"""The experiment that made a model, beside it and in its run folder."""
FORMAT = 1
_STEP = re.compile(r"step-(\d+)")


def write_model_files(
    folder: Path, decoder: Decoder, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the files of a model into an open folder, without a manifest.

    Args:
        folder: Where, e.g. of `durable_folder`.
        decoder: Its config, vocabulary and weights.
        weights: Other weights of the same names, e.g. averaged ones.
    """
    described = {"format": FORMAT, "decoder": dataclasses.asdict(decoder.config)}
    write_json(folder / CONFIG, described)
    write_bytes(folder / LEDGER, decoder.vocabulary.to_json().encode())
    for name, modality in decoder.vocabulary.modalities.items():
        for file, data in modality.state().items():
            write_bytes(folder / TOKENIZERS / name / file, data)
    write_tensors(folder / WEIGHTS, decoder.state_dict() if weights is None else weights)


def save_model(
    folder: Path,
    decoder: Decoder,
    files: Mapping[str, bytes] | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    replace: bool = False,
) -> None:
    """Save a model folder, whole or not at all.

    Args:
        folder: Where it will stand.
        decoder: What to save.
        files: More files by name, e.g. `experiment.json`.
        weights: Other weights of the same names, e.g. averaged ones.
        replace: Take an older folder of that name away, once the new one is on the disk.

    Raises:
        CheckpointError: if the folder exists and `replace` is not set, or the disk refuses.
    """
    remove_leftovers(folder.parent, folder.name)
    if not (replace and folder.exists()):
        with durable_folder(folder, {"kind": MODEL}) as work:
            _fill(work, decoder, files, weights)
        return
    fresh = folder.with_name(f"{folder.name}.next")
    if fresh.exists():
        remove_folder(fresh)
    with durable_folder(fresh, {"kind": MODEL}) as work:
        _fill(work, decoder, files, weights)
    remove_folder(folder)
    fresh.rename(folder)


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    vocabulary: Vocabulary | None = None,
) -> Decoder:
    """The decoder of a model folder, a run folder, a checkpoint or a Qwen3 folder of Hugging Face.

    It is in evaluation mode.

    Args:
        folder: Which; see `find_model`.
        device: Where to put the weights.
        vocabulary: If given, it must keep every id of the checkpoint; the decoder is grown to it.

    Raises:
        CheckpointError: if it is missing, incomplete, changed, or its weights do not fit.
        ConfigError: if it is of Hugging Face, but not a plain Qwen3; names the option.
        VocabularyError: if a tokenizer or `vocabulary` means other things by its ids; names the
            span, both fingerprints and the remedy.
    """
    folder = find_model(Path(folder))
    if is_huggingface(folder):
        decoder = open_huggingface(folder)
    else:
        verify_folder(folder)
        if not (folder / CONFIG).is_file():
            raise CheckpointError(
                "It holds a tokenizer, not a model.",
                subject=str(folder),
                remedy="Name it below `tokenizers:` of an experiment, and train a model with it.",
            )
        decoder = Decoder(read_config(folder), read_vocabulary(folder))
        averaged = folder / AVERAGE
        load_weights(decoder, averaged if averaged.is_file() else folder / WEIGHTS)
    if vocabulary is not None:
        decoder = grow(decoder, vocabulary)
    return decoder.to(device).eval()


def find_model(folder: Path) -> Path:
    """The model folder that `folder` is or holds: itself, its `model/`, else its newest checkpoint
    that verifies. Where there is no such folder, the shipped model of that name.

    Raises:
        CheckpointError: if there is none.
    """
    if not folder.exists():
        folder = shipped_folder(str(folder)) or folder
    if (folder / MANIFEST).is_file() or is_huggingface(folder):
        return folder
    if (folder / MODEL / MANIFEST).is_file():
        return folder / MODEL
    if (folder / f"{MODEL}.next" / MANIFEST).is_file():  # killed between the two renames
        return folder / f"{MODEL}.next"
    newest = newest_verified(folder / CHECKPOINTS)
    if newest is not None:
        return newest
    remedy = "Give the folder of a run (`runs/NAME`), a model folder, or a shipped name."
    what = "It holds no model." if folder.is_dir() else "There is no such run."
    raise CheckpointError(what, subject=str(folder), remedy=remedy)


def steps_of(checkpoints: Path) -> list[tuple[int, Path]]:
    """Complete-looking checkpoints (step, folder), newest first. Nothing is verified."""
    if not checkpoints.is_dir():
        return []
    found = []
    for path in checkpoints.iterdir():
        matched = _STEP.fullmatch(path.name)
        if matched and path.is_dir() and TEMPORARY not in path.name:
            found.append((int(matched[1]), path))
    return sorted(found, reverse=True)


def newest_verified(checkpoints: Path, damaged: list[str] | None = None) -> Path | None:
    """The newest checkpoint whose files all verify, or None.

    Args:
        checkpoints: Folder of `step-N` folders.
        damaged: Takes the message of each newer checkpoint that does not verify.
    """
    for _, path in steps_of(checkpoints):
        try:
            verify_folder(path)
        except CheckpointError as error:
            if damaged is not None:
                damaged.append(str(error))
            continue
        return path
    return None


def read_config(folder: Path) -> DecoderConfig:
    """The decoder's config of a verified folder.

    Raises:
        CheckpointError: if it is not one that we wrote.
    """
    written = _read_json(folder / CONFIG)
    if written.get("format") != FORMAT or not isinstance(written.get("decoder"), dict):
        raise CheckpointError(
            f"Its format is {written.get('format')!r}, but this version reads {FORMAT}.",
            subject=str(folder / CONFIG),
            remedy="Open it with the version that wrote it, or train anew.",
        )
    config: DecoderConfig = config_from_dict(
        DecoderConfig, written["decoder"], str(folder / CONFIG)
    )
    return config


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a verified folder, with its tokenizers.

    Raises:
        VocabularyError: if a tokenizer of today means other things by its ids.
    """
    states: dict[str, dict[str, bytes]] = {}
    for path in sorted((folder / TOKENIZERS).glob("*/*")):
        states.setdefault(path.parent.name, {})[path.name] = path.read_bytes()
    return Vocabulary.from_json((folder / LEDGER).read_text("utf-8"), states)


def load_weights(decoder: Decoder, path: Path) -> None:
    """Copy weights of a file into a decoder.

    Raises:
        CheckpointError: naming the first weight that is missing, unknown, or of another shape.
    """
    tensors = read_tensors(path)
    expected = decoder.state_dict()
    for name in [*expected, *tensors]:
        have, want = tensors.get(name), expected.get(name)
        if have is None or want is None:
            which = "is missing" if have is None else "is not one of this model"
            raise CheckpointError(
                f"Weight `{name}` {which}.",
                subject=str(path),
                remedy="It is of another model or config: name the folder that it came with.",
            )
        if have.shape != want.shape:
            raise CheckpointError(
                f"Weight `{name}` must have shape {tuple(want.shape)}, "
                f"but has {tuple(have.shape)}.",
                subject=str(path),
                remedy="It is of another model or config: name the folder that it came with.",
            )
    decoder.load_state_dict(tensors)


@torch.no_grad()
def grow(decoder: Decoder, vocabulary: Vocabulary) -> Decoder:
    """A decoder for a vocabulary that extends the old one; old ids and logits stay bit-identical.

    Args:
        decoder: The old one; it is left as it is.
        vocabulary: Begins with the old ledger.

    Raises:
        VocabularyError: if `vocabulary` moves or changes a span.
    """
    vocabulary.check_extends(decoder.vocabulary)
    grown = Decoder(decoder.config, vocabulary).to(decoder.norm.weight)  # its device and dtype
    old = decoder.state_dict()
    for name, tensor in grown.state_dict().items():
        if name in old:
            tensor.copy_(old[name])
    return grown.train(decoder.training)


def _fill(
    work: Path,
    decoder: Decoder,
    files: Mapping[str, bytes] | None,
    weights: Mapping[str, Tensor] | None,
) -> None:
    write_model_files(work, decoder, weights)
    for name, data in (files or {}).items():
        write_bytes(work / name, data)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"It cannot be read as JSON ({error}).",
            subject=str(path),
            remedy="It is missing or damaged: restore the folder from a copy.",
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(
            "It must hold a JSON object.",
            subject=str(path),
            remedy="It is missing or damaged: restore the folder from a copy.",
        )
    return value
