"""Makes the embedded files from the recipes: `python -m unimodal.data.embedded.build`.

Prepares the recipes if need be (fetches their packages, runs the synthesizers), draws a seeded
part of each, and writes the files and `manifest.json` beside this module. Not used at run time.
"""

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.cache import MappedArray, read_rows, write_arrays, write_json, write_rows
from unimodal.data.embedded.sets import FOLDER, SHEET_COLUMNS, SPEECH_RATE_HZ
from unimodal.data.genome import pack_bases
from unimodal.data.motion import divide_images
from unimodal.data.packages import sha256_of
from unimodal.data.recipes.emoji import Emoji
from unimodal.data.recipes.fashion_mnist import FashionMnist
from unimodal.data.recipes.genomes import EscherichiaColi
from unimodal.data.recipes.moving_digits import MovingDigitsRecipe
from unimodal.data.recipes.spoken_captions import HELD_OUT_VOICES
from unimodal.data.recipes.wordnet import WordNet
from unimodal.data.sources import hash_fraction, stable_split
from unimodal.data.synthesis import (
    FLITE_VOICES,
    check_distinct,
    espeak,
    require_synthesizers,
    synthesize,
)
from unimodal.errors import run_module

WORDS = (
    "red green blue yellow black white orange purple "
    "zero one two three four five six seven eight nine ten "
    "dog cat bird fish horse cow lion tiger bear mouse snake monkey "
    "apple banana bread cheese water coffee "
    "sun moon star rain snow fire tree flower "
    "house car train boat plane bicycle "
    "yes no left right up down stop go hello"
).split()
"""The vocabulary of `embedded/spoken_words`."""

ESPEAK = tuple(
    espeak(voice)
    for voice in (
        "en-us+m3",
        "en-us+f3",
        "en-us+Andy",
        "en+f2",
        "en+m4",
        "en-gb-scotland+m5",
        "en-029+Lee",
        "en-gb-x-rp+anika",
        "en-us+f5",
        "en+linda",
    )
)

_SUBJECTS = (3, 4, 5, 6, 7)
_NUM_CONCEPTS = 480
_NUM_DIGITS = {"train": 1_000, "validation": 100, "test": 200}
_NUM_GARMENTS = {"train": 6_000, "validation": 300, "test": 1_000}
_NUM_ENTRIES = 20_000


def main() -> None:
    """Write every file."""
    _emoji()
    _fashion()
    _digits()
    _speech()
    _genome()
    _text()
    files = [
        p for p in sorted(FOLDER.iterdir()) if p.is_file() and p.suffix not in (".py", ".json")
    ]
    write_json(
        FOLDER / "manifest.json",
        {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files},
    )
    print(sum(p.stat().st_size for p in files), "bytes in", len(files), "files")


def _emoji() -> None:
    folder = Emoji().prepare()
    names = Emoji().source("train")._labels["en"]  # type: ignore[attr-defined]
    rows = [
        row
        for row in read_rows(folder / "rows.jsonl")
        if row["tone"] == ""
        and row["group"] in _SUBJECTS
        and row["split"] != "concepts"
        and names[row["concept"]].replace(" ", "").isalpha()
        and len(names[row["concept"]].split()) <= 3
    ]
    styles: dict[str, int] = {}
    for row in rows:
        styles[row["concept"]] = styles.get(row["concept"], 0) + 1
    common = [concept for concept, number in styles.items() if number >= 4]
    chosen = set(sorted(common, key=lambda c: hash_fraction("embedded", c))[:_NUM_CONCEPTS])
    rows = [row for row in rows if row["concept"] in chosen]
    seen = {row["concept"] for row in rows if row["split"] == "train"}
    rows = [row for row in rows if row["split"] == "train" or row["concept"] in seen]
    pixels = MappedArray(folder / "pictures.safetensors", "pixels")
    keep = ("id", "split", "style", "concept", "license")
    _write_sheet(
        "emoji",
        np.stack([pixels[row["picture"]] for row in rows]),
        [{**{k: row[k] for k in keep}, "text": names[row["concept"]]} for row in rows],
    )


def _fashion() -> None:
    folder = FashionMnist().prepare()
    rows = _draw(read_rows(folder / "rows.jsonl"), _NUM_GARMENTS)
    pixels = MappedArray(folder / "pictures.safetensors", "pixels")
    keep = ("id", "split", "label", "text")
    _write_sheet(
        "fashion",
        np.stack([pixels[row["picture"]] for row in rows]),
        [{key: row[key] for key in keep} for row in rows],
    )


def _digits() -> None:
    folder = MovingDigitsRecipe().prepare()
    file = folder / "digits.safetensors"
    pixels, labels = MappedArray(file, "pixels"), MappedArray(file, "labels").array.tolist()
    rows = [
        {"id": f"digit-{image:05d}", "split": split, "label": labels[image], "picture": image}
        for split, images in divide_images(len(labels)).items()
        for image in images
    ]
    rows = _draw(rows, _NUM_DIGITS)
    pictures = np.stack([pixels[row["picture"]] for row in rows])
    _write_sheet("digits", pictures, rows)


def _speech() -> None:
    require_synthesizers()
    voices = (*FLITE_VOICES, *ESPEAK)
    check_distinct(voices)
    rows = []
    import soundfile

    for voice in voices:
        test = voice.name in HELD_OUT_VOICES
        file = "speech_" + voice.name.replace("/", "_").replace("+", "_").lower() + ".ogg"
        clips: list[NDArray[np.int16]] = []
        position = 0
        takes = 2 if voice.engine == "flite" and not test else 1
        for word in WORDS:
            for take in range(takes):
                speed = 0.9 + 0.25 * hash_fraction("speed", voice.name, word, take)
                pitch = 0.92 + 0.16 * hash_fraction("pitch", voice.name, word, take)
                clip = synthesize(word, voice, speed=speed, pitch=pitch)
                key = f"{voice.name}/{word}/{take}"
                # Takes of one word by one voice sound alike, so they share a split.
                split = stable_split(f"{voice.name}/{word}", validation=0.07, salt="spoken_words")
                rows.append(
                    {
                        "id": key,
                        "split": "test" if test else split,
                        "text": word,
                        "voice": voice.name,
                        "engine": voice.engine,
                        "file": file,
                        "start": position,
                        "length": len(clip),
                    }
                )
                clips.append(clip)
                position += len(clip)
        with soundfile.SoundFile(
            FOLDER / file, "w", SPEECH_RATE_HZ, 1, "VORBIS", format="OGG", compression_level=0.55
        ) as out:
            samples = np.concatenate(clips)
            # libsndfile's Vorbis encoder overflows its stack on one very long write.
            for start in range(0, len(samples), 16_000):
                out.write(samples[start : start + 16_000])
    write_rows(FOLDER / "speech.jsonl", rows)


def _genome() -> None:
    folder = EscherichiaColi().prepare()
    bases = MappedArray(folder / "genome.safetensors", "bases").array
    write_arrays(FOLDER / "e_coli.safetensors", {"packed": pack_bases(bases)})


def _text() -> None:
    folder = WordNet().prepare()
    rows = sorted(
        read_rows(folder / "rows.jsonl"), key=lambda r: hash_fraction("embedded", r["id"])
    )
    lines = [
        f"{row['id']}\t{row['split']}\t{row['text']}"
        for row in rows[:_NUM_ENTRIES]
        if "\t" not in row["text"]
    ]
    data = ("\n".join(lines) + "\n").encode("utf-8")
    (FOLDER / "text.tsv.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def _draw(rows: Sequence[dict[str, Any]], numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """A part of the rows: so many of each split, drawn by hash of the id, split by split."""
    drawn: list[dict[str, Any]] = []
    for split, number in numbers.items():
        own = [row for row in rows if row["split"] == split]
        drawn += sorted(own, key=lambda row: hash_fraction("embedded", row["id"]))[:number]
    return drawn


def _write_sheet(name: str, pixels: NDArray[np.uint8], rows: Sequence[Mapping[str, Any]]) -> None:
    """One PNG with a picture a cell, row by row, and one JSON line a picture."""
    from PIL import Image as Picture

    number, cell = len(pixels), pixels.shape[1]
    lines = -(-number // SHEET_COLUMNS)
    padded = np.zeros((lines * SHEET_COLUMNS, *pixels.shape[1:]), np.uint8)
    padded[:number] = pixels
    grid = padded.reshape(lines, SHEET_COLUMNS, cell, cell, -1).swapaxes(1, 2)
    sheet = grid.reshape(lines * cell, SHEET_COLUMNS * cell, -1)
    picture = Picture.fromarray(sheet if sheet.shape[-1] == 3 else sheet[..., 0])
    picture.save(Path(FOLDER) / f"{name}.png", optimize=True)
    write_rows(
        FOLDER / f"{name}.jsonl", [{**row, "picture": index} for index, row in enumerate(rows)]
    )


if __name__ == "__main__":
    run_module(main)
