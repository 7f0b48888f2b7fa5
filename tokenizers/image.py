"""Pictures as continuous patches: what a model reads, not what it draws.

A picture of any size becomes rows of square patches in raster order, after an optional resize and
after padding to whole patches. `image_codes` is the discrete partner that draws.

Not here: decoding picture files (`unimodal.media.image`) and augmentation (a task's choice).
"""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from unimodal.errors import ConfigError
from unimodal.media.image import read_image, write_image
from unimodal.media.values import Image
from unimodal.modality import Modality, register_modality
from unimodal.types import Tokens, raster_grid

PADDINGS = ("edge", "white")
SHOWN_SIDE = 160
"""Small pictures are enlarged to about this many screen pixels in reports."""


@dataclass(kw_only=True)
class ImageConfig:
    """How a picture becomes patches."""

    patch_size: int = 8
    """Pixels along the side of a patch."""

    size: tuple[int, int] | None = None
    """Height and width in pixels that every picture is resized to; None keeps its own."""

    pad: str = "edge"
    """What fills the last patches on the right and at the bottom: `edge` repeats, or `white`."""

    def __post_init__(self) -> None:
        check_patches("image", self.patch_size, self.size, self.pad)


@register_modality("image")
class ImagePatches(Modality[Image, ImageConfig]):
    """Pictures as patches in [-1, 1]."""

    value_type = Image
    raw_unit = "pixel"
    attend = "full"
    decoded_by = "image_codes"

    def __init__(self, config: ImageConfig):
        super().__init__(config)
        self.feature_shape = (config.patch_size**2 * 3,)

    def encode(self, value: Image) -> Tokens:
        """Patches in raster order, each (row, column, colour) flattened."""
        c = self.config
        frames = fit_frames(value.pixels[None], c.size, c.patch_size, c.pad)
        features = rearrange(
            frames, "1 (h p) (w q) c -> (h w) (p q c)", p=c.patch_size, q=c.patch_size
        )
        h, w = self._cells(value)
        return Tokens(grid=raster_grid(1, h, w), features=features.contiguous())

    def length(self, value: Image) -> int:
        """Number of patches."""
        return math.prod(self._cells(value))

    def raw_units(self, value: Image) -> float:
        """Pixels of the picture as given."""
        return float(value.height * value.width)

    def example(self, rng: np.random.Generator) -> Image:
        """A picture of random pixels, of 1 to 40 pixels a side."""
        h, w = rng.integers(1, 41, 2)
        return Image(torch.from_numpy(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)))

    def read(self, path: Path) -> Image:
        """A picture file."""
        return read_image(path)

    def write(self, value: Image, path: Path) -> None:
        """A PNG or JPEG file."""
        write_image(value, path)

    def show(self, value: Image) -> str:
        """The picture as a PNG inside the page."""
        return show_png(value.pixels)

    def _cells(self, value: Image) -> tuple[int, int]:
        return cells_of(value.height, value.width, self.config.size, self.config.patch_size)


def check_patches(name: str, patch_size: int, size: tuple[int, int] | None, pad: str) -> None:
    """Raise ConfigError unless patch size, size and padding are possible."""
    if patch_size < 1:
        raise ConfigError(f"`{name}.patch_size` must be at least 1, but is {patch_size}.")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"`{name}.size` must be two numbers of at least 1, but is {size}.")
    if pad not in PADDINGS:
        raise ConfigError(f"`{name}.pad` must be one of {PADDINGS}, but is {pad!r}.")


def cells_of(
    height: int, width: int, size: tuple[int, int] | None, patch_size: int
) -> tuple[int, int]:
    """Rows and columns of patches of a picture."""
    height, width = size or (height, width)
    return -(-height // patch_size), -(-width // patch_size)


def fit_frames(
    frames: UInt8[Tensor, "t h w 3"], size: tuple[int, int] | None, patch_size: int, pad: str
) -> Float[Tensor, "t H W 3"]:
    """Frames in [-1, 1], resized where asked (bilinear, antialiased), padded to whole patches."""
    scaled = rearrange(frames.float() / 127.5 - 1.0, "t h w c -> t c h w")
    if size is not None and tuple(scaled.shape[2:]) != tuple(size):
        scaled = functional.interpolate(
            scaled, size=tuple(size), mode="bilinear", antialias=True, align_corners=False
        ).clamp(-1.0, 1.0)
    right, bottom = -scaled.shape[3] % patch_size, -scaled.shape[2] % patch_size
    if right or bottom:
        edges = (0, right, 0, bottom)
        if pad == "edge":
            scaled = functional.pad(scaled, edges, mode="replicate")
        else:
            scaled = functional.pad(scaled, edges, value=1.0)
    return rearrange(scaled, "t c h w -> t h w c")


def show_png(pixels: UInt8[Tensor, "h w 3"]) -> str:
    """An HTML picture that needs no other file; small ones are enlarged without smoothing."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels.contiguous().numpy()).save(buffer, format="PNG")
    return show_data("png", buffer.getvalue(), int(pixels.shape[0]), int(pixels.shape[1]))


def show_data(kind: str, data: bytes, height: int, width: int) -> str:
    """An HTML picture of encoded bytes of the given size."""
    factor = max(1, SHOWN_SIDE // max(height, width))
    encoded = base64.b64encode(data).decode("ascii")
    return (
        f'<img alt="{width} x {height} pixels" width="{width * factor}" '
        f'height="{height * factor}" style="image-rendering:pixelated;max-width:100%" '
        f'src="data:image/{kind};base64,{encoded}">'
    )
