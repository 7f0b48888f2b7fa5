"""What modalities of pictures share: files, pages, patches, and the variations that training draws.

`PictureModality` is the base of the modalities whose values are pictures; `PictureVariation` says
how training may change one before it is encoded, `vary_picture` does it. Not here: decoding picture
files (`unimodal.media.image`).
"""

import base64
import io
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unimodal.errors import ConfigError
from unimodal.media.image import read_image, write_image
from unimodal.media.values import Image
from unimodal.modality import Modality

PADDINGS = ("edge", "white")
SHOWN_SIDE = 160
"""Small pictures are enlarged to about this many screen pixels in reports."""
LIGHT = 240
"""A background is light if no colour of it is below this."""
NUM_DRAWN = 21
"""Numbers that one variation draws, whatever is switched on: each has its own place."""
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = 3.3
"""Area of an erased rectangle as a share of the picture, and the most of height by width or width
by height: the ranges of Zhong et al. 2020. Differs: its shape is uniform in the logarithm."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in a grey, by ITU-R BT.601."""


@dataclass(frozen=True, kw_only=True)
class PictureVariation:
    """How training varies a picture before it is encoded; all off by default."""

    flip: float = 0.0
    """Chance that left and right are exchanged, in [0, 1]."""

    shift: float = 0.0
    """Largest shift along each axis, as a share of the side, in [0, 1]."""

    scale: float = 0.0
    """Largest change of size: the factor lies in [1 / (1 + scale), 1 + scale]; in [0, 4]."""

    turn: float = 0.0
    """Largest turn in degrees, to either side, in [0, 180]."""

    hue: float = 0.0
    """Largest turn of the circle of colours in degrees, to either side, in [0, 180]."""

    background: float = 0.0
    """Chance that a plain light background, as far as it reaches in from the edges, takes another
    colour, in [0, 1]."""

    brightness: float = 0.0
    """Largest change of brightness: the factor lies in [1 - b, 1 + b]; in [0, 1]."""

    contrast: float = 0.0
    """Largest change of contrast, about the mean grey: a factor as above; in [0, 1]."""

    saturation: float = 0.0
    """Largest change of saturation, about each pixel's grey: a factor as above; in [0, 1]."""

    erase: float = 0.0
    """Chance that a rectangle of about 2 to 33 % of the picture is painted over with one colour
    (random erasing: Zhong et al. 2020), in [0, 1]."""

    def __post_init__(self) -> None:
        limits = {"scale": 4.0, "turn": 180.0, "hue": 180.0}
        for field in fields(self):
            value, most = getattr(self, field.name), limits.get(field.name, 1.0)
            if not 0 <= value <= most:
                raise ConfigError(f"`vary.{field.name}` must lie in [0, {most:g}], but is {value}.")

    @property
    def shades(self) -> bool:
        """Whether brightness, contrast or saturation change."""
        return bool(self.brightness or self.contrast or self.saturation)

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.flip or self.shift or self.scale or self.turn)


class PictureConfig(Protocol):
    """What the configs of these modalities have."""

    vary: PictureVariation


Config = TypeVar("Config", bound=PictureConfig)


class PictureModality(Modality[Image, Config]):
    """A modality whose values are pictures."""

    value_type = Image
    raw_unit = "pixel"

    def vary(self, value: Image, rng: np.random.Generator) -> Image:
        """The picture as `config.vary` changes it."""
        return vary_picture(value, self.config.vary, rng)

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


def vary_picture(value: Image, vary: PictureVariation, rng: np.random.Generator) -> Image:
    """A picture varied by numbers of `rng`; the picture itself where nothing is switched on.

    A light background first takes its colour, then the circle of colours turns and shades change,
    then pixels move (what comes in from outside repeats the edge), then a rectangle is erased.
    """
    if not any(getattr(vary, field.name) for field in fields(vary)):
        return value
    drawn = rng.random(NUM_DRAWN)
    pixels = value.pixels.numpy()
    if drawn[6] < vary.background:
        pixels = _new_background(pixels, drawn[7:10])
    if vary.hue:
        turned = pixels @ _hue_matrix(math.radians(vary.hue * (2 * drawn[5] - 1))).T
        pixels = np.clip(np.rint(turned), 0, 255).astype(np.uint8)
    if vary.shades:
        pixels = _shaded(pixels, vary, 2 * drawn[10:13] - 1)
    if vary.moves:
        pixels = _moved(pixels, vary, drawn)
    if drawn[13] < vary.erase:
        pixels = _erased(pixels, drawn[14:18], drawn[18:21])
    return Image(torch.from_numpy(np.ascontiguousarray(pixels)))


def _moved(
    pixels: NDArray[np.uint8], vary: PictureVariation, drawn: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Pixels flipped, turned, scaled and shifted at once, bilinear."""
    height, width = pixels.shape[:2]
    angle = math.radians(vary.turn * (2 * drawn[3] - 1))
    factor = (1 + vary.scale) ** (2 * drawn[4] - 1)
    mirror = -1.0 if drawn[0] < vary.flip else 1.0
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    right, down = (2 * vary.shift * (2 * d - 1) for d in drawn[1:3])
    # From places in the result to places in the picture, both in [-1, 1].
    back = [
        [mirror * cos, mirror * sin * height / width, right],
        [-sin * width / height, cos, down],
    ]
    grid = functional.affine_grid(
        torch.tensor([back], dtype=torch.float32), [1, 3, height, width], align_corners=False
    )
    source = rearrange(torch.from_numpy(pixels).float(), "h w c -> 1 c h w")
    moved = functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    result: NDArray[np.uint8] = (
        rearrange(moved, "1 c h w -> h w c").round().clamp(0, 255).to(torch.uint8).numpy()
    )
    return result


def _hue_matrix(angle: float) -> NDArray[np.float32]:
    """Turns colours about the grey axis."""
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    matrix = math.cos(angle) * np.eye(3) + (1 - math.cos(angle)) * grey + math.sin(angle) * cross
    return matrix.astype(np.float32)


def _new_background(pixels: NDArray[np.uint8], colour: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The light region that touches the edges, and one pixel around it, multiplied by a colour.

    A product turns white into the colour and leaves black, so the soft pixels at the border of an
    object keep their share of it.
    """
    light = (pixels >= LIGHT).all(axis=2)
    found = np.zeros_like(light)
    for axis in (0, 1):
        found |= np.logical_and.accumulate(light, axis=axis)
        ahead = np.logical_and.accumulate(np.flip(light, axis), axis=axis)
        found |= np.flip(ahead, axis)
    if not found.any():
        return pixels
    count = -1
    while count != (count := int(found.sum())):
        found = _spread(found) & light
    shade = np.where(_spread(found)[:, :, None], colour, 1.0)
    return np.asarray(np.rint(pixels * shade), np.uint8)


def _shaded(
    pixels: NDArray[np.uint8], vary: PictureVariation, drawn: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation changed, in this order, by numbers in [-1, 1]."""
    shaded = pixels * np.float32(1 + vary.brightness * drawn[0])
    mean = (shaded @ GREY).mean()
    shaded = mean + np.float32(1 + vary.contrast * drawn[1]) * (shaded - mean)
    grey = (shaded @ GREY)[:, :, None]
    shaded = grey + np.float32(1 + vary.saturation * drawn[2]) * (shaded - grey)
    return np.clip(np.rint(shaded), 0, 255).astype(np.uint8)


def _erased(
    pixels: NDArray[np.uint8], drawn: NDArray[np.float64], colour: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """A rectangle painted over; `drawn` are its area, its shape and its place."""
    height, width = pixels.shape[:2]
    area = height * width * (ERASED_AREA[0] + drawn[0] * (ERASED_AREA[1] - ERASED_AREA[0]))
    aspect = ERASED_ASPECT ** (2 * drawn[1] - 1)
    rows = min(height, max(1, round(math.sqrt(area * aspect))))
    columns = min(width, max(1, round(math.sqrt(area / aspect))))
    top = int(drawn[2] * (height - rows + 1))
    left = int(drawn[3] * (width - columns + 1))
    erased = pixels.copy()
    erased[top : top + rows, left : left + columns] = np.rint(255 * colour)
    return erased


def _spread(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A region and its four neighbours."""
    wide = region.copy()
    wide[1:] |= region[:-1]
    wide[:-1] |= region[1:]
    wide[:, 1:] |= region[:, :-1]
    wide[:, :-1] |= region[:, 1:]
    return wide


def unfit_frames(frames: Float[Tensor, "t h w 3"]) -> UInt8[Tensor, "t h w 3"]:
    """Frames in [-1, 1] (what lies outside is cut) as pixels."""
    return ((frames.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


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
