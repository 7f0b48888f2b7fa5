"""The data sets that lie inside the package: small, permissive, one for each modality.

`embedded/emoji`, `embedded/fashion`, `embedded/digits`, `embedded/moving_digits`,
`embedded/spoken_words`, `embedded/e_coli`, `embedded/text`; each has `train`, `validation` and
`test`. The files were made by `build.py` beside this module and are listed with their hashes in
`manifest.json`; NOTICE names their sources. Everything is decoded on first use and kept for the
process.
"""

import lzma
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.cache import MappedArray, read_rows
from unimodal.data.captions import check_captions, styled
from unimodal.data.genome import GenomeWindows, unpack_bases
from unimodal.data.motion import WORDS, MovingDigits
from unimodal.data.sources import (
    SOURCES,
    SPLITS,
    BaseSource,
    ListSource,
    Record,
    check_options,
    check_split,
)
from unimodal.data.tables import ImageTable
from unimodal.errors import DataError

FOLDER = Path(__file__).parent
NUM_BASES = 4_938_920
SHEET_COLUMNS = 64
SPEECH_RATE_HZ = 16_000


@SOURCES.register("embedded/emoji")
def emoji(*, split: str = "train", captions: str = "name") -> ImageTable:
    """Emoji of five subject groups in six styles, 32 x 32, with English names.

    Record: `{"id", "image", "text", "style", "concept", "license"}`. `test` and `validation` are
    (style, concept) pairs whose concept is in `train` in another style.

    Args:
        split: See `Source`.
        captions: `name`, or `styled`: a list of phrasings, some with the design.
    """
    rows = _rows("emoji.jsonl", split)
    if check_captions(captions) == "styled":
        rows = [{**row, "text": styled(row["text"], row["style"])} for row in rows]
    licenses = ", ".join(sorted({row["license"] for row in rows}))
    return ImageTable(
        Sheet("emoji.png", 32), rows, name="embedded/emoji", license=licenses, split=split
    )


@SOURCES.register("embedded/fashion")
def fashion(*, split: str = "train") -> ImageTable:
    """Garments of Fashion-MNIST, 28 x 28. Record: `{"id", "image", "text", "label"}`.

    `test` comes from the official test part.
    """
    return ImageTable(
        Sheet("fashion.png", 28),
        _rows("fashion.jsonl", split),
        name="embedded/fashion",
        license="MIT",
        split=split,
    )


@SOURCES.register("embedded/digits")
def digits(*, split: str = "train") -> ImageTable:
    """Handwritten digits, 28 x 28, white on black. Record: `{"id", "image", "text", "label"}`."""
    rows = _rows("digits.jsonl", split)
    return ImageTable(
        Sheet("digits.png", 28),
        [{**row, "text": f"a handwritten {WORDS[row['label']]}"} for row in rows],
        name="embedded/digits",
        license="MIT",
        split=split,
    )


@SOURCES.register("embedded/moving_digits")
def moving_digits(
    *, split: str = "train", length: int | None = None, **options: Any
) -> MovingDigits:
    """Moving digits, made on the fly: see `unimodal.data.motion.MovingDigits` for the options.

    Record: `{"id", "video", "text", "digit", "motion"}`. `test` has digit images and
    (digit, motion) pairs that `train` has not.
    """
    check_split(split, SPLITS, "embedded/moving_digits")
    defaults = {"train": 20_000, "validation": 200, "test": 400}
    options["length"] = defaults[split] if length is None else length
    check_options("embedded/moving_digits", options, MovingDigits)
    images = _all_rows("digits.jsonl")
    own = [row["picture"] for row in _rows("digits.jsonl", split)]
    return MovingDigits(
        Sheet("digits.png", 28),
        [row["label"] for row in images],
        own,
        split=split,
        name="embedded/moving_digits",
        **options,
    )


@SOURCES.register("embedded/spoken_words")
def spoken_words(*, split: str = "train") -> "SpokenWords":
    """Sixty words in fourteen synthetic voices.

    Record: `{"id", "speech", "text", "voice", "engine"}`. `test` has three voices that are in no
    other split, of both engines; `validation` has seen voices.
    """
    return SpokenWords(_rows("speech.jsonl", split), split)


@SOURCES.register("embedded/e_coli")
def e_coli(*, split: str = "train") -> GenomeWindows:
    """Windows of Escherichia coli 536; see `unimodal.data.genome.GenomeWindows`.

    Record: `{"id", "dna", "start", "sequence"}`. `test` is the last tenth.
    """
    return GenomeWindows(
        {"NC_008253": PackedGenome()},
        split,
        name="embedded/e_coli",
        license="public domain",
    )


@SOURCES.register("embedded/text")
def text(*, split: str = "train") -> ListSource:
    """Dictionary entries with example sentences, from WordNet. Record: `{"id", "text"}`."""
    check_split(split, SPLITS, "embedded/text")
    return ListSource(
        [row for row in _entries() if row["split"] == split],
        name="embedded/text",
        license="WordNet-3.0",
        split=split,
    )


class Sheet:
    """Pictures of one size in the cells of one PNG, read row by row; pickles as its name.

    Args:
        name: File in the embedded folder.
        cell: Height and width of a picture.
    """

    def __init__(self, name: str, cell: int):
        self.name, self.cell = name, cell

    def __len__(self) -> int:
        return len(_sheet(self.name, self.cell))

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return np.array(_sheet(self.name, self.cell)[index])


class PackedGenome:
    """The genome, unpacked from two bits a base on first use; pickles as nothing."""

    def __len__(self) -> int:
        return NUM_BASES

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return np.array(_genome()[index])


class SpokenWords(BaseSource):
    """Clips out of one sound file a voice.

    Args:
        rows: Facts, each with the voice's `file`, and `start` and `length` in samples.
        split: See `Source`.
    """

    def __init__(self, rows: Sequence[Record], split: str):
        super().__init__("embedded/spoken_words", "synthesised; see NOTICE", split)
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        import torch

        from unimodal.media.values import Audio

        row = dict(self._rows[index])
        samples = _voice(row.pop("file"))
        start = row.pop("start")
        clip = samples[start : start + row.pop("length")].astype(np.float32) / 32768.0
        row["speech"] = Audio(torch.from_numpy(clip), SPEECH_RATE_HZ)
        return row


def embedded_file(name: str) -> Path:
    """Path of an embedded file.

    Raises:
        DataError: if the installation lacks it.
    """
    path = FOLDER / name
    if not path.is_file():
        raise DataError(
            "An embedded data file is missing.",
            subject=name,
            remedy="Install the package again: this copy is incomplete.",
        )
    return path


@cache
def _all_rows(name: str) -> list[Record]:
    return read_rows(embedded_file(name))


def _rows(name: str, split: str) -> list[Record]:
    check_split(split, SPLITS, name)
    return [row for row in _all_rows(name) if row["split"] == split]


@cache
def _sheet(name: str, cell: int) -> NDArray[np.uint8]:
    from PIL import Image as Picture

    with Picture.open(embedded_file(name), formats=("PNG",)) as file:
        pixels = np.asarray(file, np.uint8)
    rows, columns = pixels.shape[0] // cell, pixels.shape[1] // cell
    cells = pixels.reshape(rows, cell, columns, cell, -1).swapaxes(1, 2)
    cells = cells.reshape(rows * columns, cell, cell, -1)
    return np.ascontiguousarray(cells if cells.shape[-1] == 3 else cells[..., 0])


@cache
def _voice(name: str) -> NDArray[np.int16]:
    import soundfile

    samples, rate = soundfile.read(embedded_file(name), dtype="int16")
    assert rate == SPEECH_RATE_HZ
    return np.asarray(samples, np.int16)


@cache
def _genome() -> NDArray[np.uint8]:
    packed = MappedArray(embedded_file("e_coli.safetensors"), "packed").array
    return unpack_bases(packed, NUM_BASES)


@cache
def _entries() -> list[Record]:
    lines = lzma.decompress(embedded_file("text.tsv.xz").read_bytes()).decode("utf-8")
    return [
        dict(zip(("id", "split", "text"), line.split("\t"), strict=True))
        for line in lines.splitlines()
    ]
