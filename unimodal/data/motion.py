"""Moving digits: short clips of a real handwritten digit in motion, made on the fly.

A clip is a function of (seed, index): which digit image, which motion, where it starts, how
fast. Some (digit, motion) pairs never occur in training, so a model that names both in a held-out
pair has composed them. The digit images are divided beforehand.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.sources import BaseSource, Record, hash_fraction, hash_seed
from unimodal.data.tables import Array
from unimodal.errors import ConfigError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""How captions write the digits."""

_DIAGONAL = math.sqrt(0.5)
DIRECTIONS = {
    "left": (0.0, -1.0),
    "right": (0.0, 1.0),
    "up": (-1.0, 0.0),
    "down": (1.0, 0.0),
    "up and left": (-_DIAGONAL, -_DIAGONAL),
    "up and right": (-_DIAGONAL, _DIAGONAL),
    "down and left": (_DIAGONAL, -_DIAGONAL),
    "down and right": (_DIAGONAL, _DIAGONAL),
}
"""Straight motions as (rows, columns) a frame at speed 1."""

MOTIONS = (
    *(f"moving {direction}" for direction in DIRECTIONS),
    "circling",
    "bouncing",
    "growing",
    "shrinking",
    "standing still",
)
"""What follows the digit in a caption."""

HELD_OUT_PAIRS = tuple((digit, MOTIONS[(5 * digit + 3) % len(MOTIONS)]) for digit in range(10)) + (
    tuple((digit, MOTIONS[(5 * digit + 9) % len(MOTIONS)]) for digit in range(10))
)
"""The (digit, motion) pairs of the test split: two motions of every digit."""


class MovingDigits(BaseSource):
    """Clips of moving digits; record: `{"id", "video", "text", "digit", "motion"}`.

    `train` has training images and every pair but the held-out ones; `validation` has the same
    pairs with other images; `test` has the held-out pairs with images that are in neither.

    Args:
        digits: uint8 [n, 28, 28].
        labels: The digit that each image shows.
        images: Which of the images belong to this split.
        split: `train`, `validation` or `test`.
        length: Number of clips.
        seed: Another seed makes other clips.
        num_frames: Frames a clip, at least 2.
        size: Height and width of a frame in pixels, at least 20.
        frame_rate_hz: Frames a second, for the value.
        name: See `Source`.
        license: See `Source`.
    """

    def __init__(
        self,
        digits: Array,
        labels: Sequence[int],
        images: Sequence[int],
        *,
        split: str,
        length: int,
        seed: int = 0,
        num_frames: int = 8,
        size: int = 32,
        frame_rate_hz: float = 8.0,
        name: str = "moving_digits",
        license: str = "MIT",
    ):
        super().__init__(name, license, split)
        if num_frames < 2 or size < 20 or length < 0:
            raise ConfigError(
                "`num_frames` must be at least 2, `size` at least 20 and `length` at least 0, but "
                f"they are {num_frames}, {size} and {length}."
            )
        self._digits, self._labels, self._images = digits, labels, images
        self._length, self.seed = length, seed
        self.num_frames, self.size, self.frame_rate_hz = num_frames, size, frame_rate_hz
        held_out = set(HELD_OUT_PAIRS)
        self._motions = {
            digit: [m for m in MOTIONS if ((digit, m) in held_out) == (split == "test")]
            for digit in range(10)
        }

    def __len__(self) -> int:
        return self._length

    def record(self, index: int) -> Record:
        import torch

        from unimodal.media.values import Video

        rng = np.random.default_rng(hash_seed("clip", self.split, self.seed, index))
        image = int(self._images[int(rng.integers(len(self._images)))])
        digit = int(self._labels[image])
        motions = self._motions[digit]
        motion = motions[int(rng.integers(len(motions)))]
        frames = render(
            np.asarray(self._digits[image]), motion, rng, num_frames=self.num_frames, size=self.size
        )
        pixels = np.repeat(frames[..., None], 3, axis=3)
        return {
            "id": f"{self.split}-{self.seed}-{index}",
            "video": Video(torch.from_numpy(pixels), self.frame_rate_hz),
            "text": f"a {WORDS[digit]} {motion}" if digit != 8 else f"an eight {motion}",
            "digit": digit,
            "motion": motion,
        }


def divide_images(number: int, *, salt: str = "digits") -> dict[str, list[int]]:
    """Image numbers by split: 85 % train, 5 % validation, 10 % test, by hash."""
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for image in range(number):
        fraction = hash_fraction(salt, image)
        part = "test" if fraction < 0.1 else "validation" if fraction < 0.15 else "train"
        parts[part].append(image)
    return parts


def render(
    digit: NDArray[np.uint8], motion: str, rng: np.random.Generator, *, num_frames: int, size: int
) -> NDArray[np.uint8]:
    """Frames uint8 [t, size, size] of `digit` (28 x 28, light on dark) in `motion`.

    The digit is drawn 16 to 20 pixels high for frames of 32, and stays inside the frame.
    """
    scale = rng.uniform(0.5, 0.62) * size
    room = size - scale
    steps = np.arange(num_frames) / (num_frames - 1)
    sizes = np.full(num_frames, scale)
    tops, lefts = (np.full(num_frames, rng.uniform(0.1, 0.9) * room) for _ in range(2))
    words = motion.removeprefix("moving ")
    if words in DIRECTIONS:
        travel = rng.uniform(0.7, 1.0) * room
        down, right = DIRECTIONS[words]
        tops = _path(down * travel, room, steps, rng)
        lefts = _path(right * travel, room, steps, rng)
    elif motion == "circling":
        radius = rng.uniform(0.35, 0.5) * room
        angles = 2 * math.pi * (steps * rng.uniform(0.8, 1.0) + rng.uniform())
        tops, lefts = room / 2 + radius * np.sin(angles), room / 2 + radius * np.cos(angles)
    elif motion == "bouncing":
        beats = 2.0 * steps * rng.uniform(0.9, 1.1)
        tops = room * (1 - rng.uniform(0.8, 1.0) * np.abs(np.cos(math.pi * beats)))
    elif motion in ("growing", "shrinking"):
        sizes = size * np.linspace(0.35, rng.uniform(0.75, 0.9), num_frames)
        if motion == "shrinking":
            sizes = sizes[::-1]
        middle = size / 2 + rng.uniform(-0.03, 0.03) * size
        tops = lefts = np.clip(middle - sizes / 2, 0, size - sizes)
    return np.stack(
        [
            _draw(digit, float(top), float(left), float(scale), size)
            for top, left, scale in zip(tops, lefts, sizes, strict=True)
        ]
    )


def _path(
    distance: float, room: float, steps: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Positions along one axis, from a random start that leaves room for `distance`."""
    low, high = max(0.0, -distance), min(room, room - distance)
    return np.asarray(rng.uniform(low, max(low, high)) + steps * distance)


def _draw(
    digit: NDArray[np.uint8], top: float, left: float, scale: float, size: int
) -> NDArray[np.uint8]:
    """One frame: the digit's 20 x 20 core, resampled to `scale` pixels at (top, left)."""
    from PIL import Image as Picture

    core = digit[2:26, 2:26]
    zoom = core.shape[0] / scale
    frame = Picture.fromarray(core).transform(
        (size, size),
        Picture.Transform.AFFINE,
        (zoom, 0.0, -left * zoom, 0.0, zoom, -top * zoom),
        resample=Picture.Resampling.BILINEAR,
    )
    return np.asarray(frame, np.uint8)


def stats(source: MovingDigits) -> dict[str, Any]:
    """How many digit images and (digit, motion) pairs a source draws from."""
    pairs = sum(len(motions) for motions in source._motions.values())
    return {"digit images": len(source._images), "pairs": pairs}
