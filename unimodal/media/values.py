"""The raw values that files hold and modalities read: pictures, sound, moving pictures.

Text and DNA are plain `str`. Nothing here reads or writes a file (see the readers beside this
module) and nothing turns a value into tokens (see `unimodal.tokenizers`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unimodal.errors import ShapeError

MIN_SAMPLE_RATE_HZ = 100
"""Slowest sample rate that counts as sound; anything below is a forged or damaged header."""

MAX_SAMPLE_RATE_HZ = 768_000
"""Fastest sample rate that converters record at."""


@dataclass(frozen=True)
class Image:
    """A picture.

    Attributes:
        pixels: uint8, height x width x (red, green, blue), 0 is dark, sRGB as stored.
    """

    pixels: UInt8[Tensor, "h w 3"]

    def __post_init__(self) -> None:
        check_pixels("pixels", self.pixels, axes=3)

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class Audio:
    """Sound of one channel.

    Attributes:
        samples: float32, nominally in [-1, 1]; finite.
        sample_rate_hz: Samples a second, between 100 and 768,000.
    """

    samples: Float[Tensor, " T"]
    sample_rate_hz: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != torch.float32:
            raise ShapeError(
                "`samples` must be a float32 tensor of shape (T,), but is "
                f"{self.samples.dtype} of shape {tuple(self.samples.shape)}.",
                remedy="Mix the channels to mono and convert with `.float()`.",
            )
        if len(self.samples) == 0:
            raise ShapeError("`samples` must hold at least one sample, but is empty.")
        if not MIN_SAMPLE_RATE_HZ <= self.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise ShapeError(
                f"`sample_rate_hz` must be between {MIN_SAMPLE_RATE_HZ} and "
                f"{MAX_SAMPLE_RATE_HZ}, but is {self.sample_rate_hz}."
            )

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class Video:
    """Moving pictures without sound.

    Attributes:
        frames: uint8, time x height x width x (red, green, blue).
        frame_rate_hz: Frames a second, above 0.
    """

    frames: UInt8[Tensor, "t h w 3"]
    frame_rate_hz: float

    def __post_init__(self) -> None:
        check_pixels("frames", self.frames, axes=4)
        if not 0.0 < self.frame_rate_hz < 1e6:
            raise ShapeError(
                f"`frame_rate_hz` must be above 0 and below 1e6, but is {self.frame_rate_hz}."
            )

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.frames) / self.frame_rate_hz


@dataclass(frozen=True)
class FileRef:
    """A value that still lies in a file; `Modality.read(path)` reads it when it is needed.

    Attributes:
        path: Where the file lies.
    """

    path: Path


def check_pixels(name: str, pixels: Tensor, axes: int) -> None:
    """Raise ShapeError unless `pixels` is a non-empty uint8 tensor of `axes` axes, RGB last."""
    if pixels.dtype != torch.uint8 or pixels.ndim != axes or pixels.shape[-1] != 3:
        shape = "(h, w, 3)" if axes == 3 else "(t, h, w, 3)"
        raise ShapeError(
            f"`{name}` must be a uint8 tensor of shape {shape}, but is "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}."
        )
    if pixels.numel() == 0:
        raise ShapeError(f"`{name}` must not be empty, but has shape {tuple(pixels.shape)}.")
