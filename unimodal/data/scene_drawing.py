"""The pixels of composed scenes: antialiased shapes and cut-out drawings on a plain background.

Shapes are computed once a size with sixteen samples a pixel; drawings are cut out of their white
background once and resized once a size. Painting a scene is then a few blends of small arrays.
Which objects stand where is decided in `unimodal.data.scenes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring")

COLOURS = {
    "red": (222, 45, 45),
    "orange": (246, 140, 30),
    "yellow": (250, 212, 48),
    "green": (46, 158, 70),
    "blue": (44, 98, 222),
    "purple": (140, 66, 190),
    "pink": (246, 140, 184),
    "black": (32, 32, 34),
}
"""Colours of shapes."""

BACKGROUNDS = {
    "white": (255, 255, 255),
    "gray": (168, 170, 174),
    "black": (24, 24, 26),
    "blue": (150, 196, 246),
    "green": (168, 218, 160),
    "yellow": (252, 238, 170),
    "pink": (252, 208, 222),
}
"""Colours behind the objects: paler than those of shapes, but for black."""

_SAMPLES = 4
_WHITE = 246
_Mask = NDArray[np.float32]


@dataclass(frozen=True)
class Thing:
    """A drawing of a thing.

    Attributes:
        style: Design that it is in.
        pixels: uint8 [h, w, 3] on white.
    """

    style: str
    pixels: NDArray[np.uint8]


class _Placed(Protocol):
    """What the painter reads of an object."""

    @property
    def name(self) -> str: ...
    @property
    def style(self) -> str: ...
    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def size(self) -> int: ...


class Painter:
    """Paints scenes of one size.

    Args:
        things: Drawings by name, at most one a style.
        size: Height and width of a picture in pixels.
    """

    def __init__(self, things: Mapping[str, Sequence[Thing]], size: int):
        self.size = size
        self._things = {name: {t.style: t for t in drawn} for name, drawn in things.items()}
        self._whole: dict[tuple[str, str], tuple[NDArray[np.float32], _Mask]] = {}
        self._cut: dict[tuple[str, str, int], tuple[NDArray[np.float32], _Mask]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": {}, "_cut": {}}

    def style_of(self, name: str, rng: np.random.Generator) -> str:
        """A style in which a thing is drawn; empty for shapes."""
        styles = sorted(self._things.get(name, ()))
        return styles[int(rng.integers(len(styles)))] if styles else ""

    def paint(
        self, objects: Sequence[_Placed], background: str, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """uint8 [size, size, 3]; the last object is painted first, colours vary a little."""
        picture = np.empty((self.size, self.size, 3), np.float32)
        plain = BACKGROUNDS[background]
        picture[:] = plain if background == "white" else _varied(plain, rng, 6.0)
        colours: dict[str, NDArray[np.float32]] = {}
        for placed in reversed(objects):
            if placed.style:
                ink, mask = self._cut_out(placed.name, placed.style, placed.size)
            else:
                colour, shape = placed.name.split()
                if placed.name not in colours:
                    colours[placed.name] = _varied(COLOURS[colour], rng, 10.0)
                ink, mask = colours[placed.name], shape_mask(shape, placed.size)
            rows = slice(placed.top, placed.top + placed.size)
            columns = slice(placed.left, placed.left + placed.size)
            part = picture[rows, columns]
            part += mask[:, :, None] * (ink - part)
        return np.rint(picture).astype(np.uint8)

    def _cut_out(self, name: str, style: str, size: int) -> tuple[NDArray[np.float32], _Mask]:
        """Colours and opacity of a drawing at a size, made once."""
        key = (name, style, size)
        if key not in self._cut:
            if key[:2] not in self._whole:
                self._whole[key[:2]] = cut_out(self._things[name][style].pixels)
            self._cut[key] = _resized(*self._whole[key[:2]], size)
        return self._cut[key]


@lru_cache(maxsize=1024)
def shape_mask(shape: str, size: int) -> _Mask:
    """Opacity of a shape that fills a box: float32 [size, size] in [0, 1]."""
    step = (np.arange(size * _SAMPLES) + 0.5) / (size * _SAMPLES) * 2 - 1
    y, x = np.meshgrid(step, step, indexing="ij")
    inside: NDArray[np.bool_] = _INSIDE[shape](x, y)
    cells = inside.reshape(size, _SAMPLES, size, _SAMPLES)
    return np.asarray(cells.mean(axis=(1, 3)), np.float32)


def cut_out(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], _Mask]:
    """Colours and opacity of a drawing on white: what is white and joined to the border is clear.

    At the outline, where the drawing is mixed with white, opacity is guessed from the darkest
    neighbour.

    Returns:
        float32 [h, w, 3] and float32 [h, w].
    """
    white = pixels.min(axis=2) >= _WHITE
    outside = np.zeros_like(white)
    outside[[0, -1]], outside[:, [0, -1]] = white[[0, -1]], white[:, [0, -1]]
    while True:
        grown = _spread(outside) & white
        if (grown == outside).all():
            break
        outside = grown
    colours = pixels.astype(np.float32)
    darkest = _darkest_near(colours)
    edge = _spread(outside) & ~outside
    ink, room = 255.0 * 3 - colours.sum(axis=2), 255.0 * 3 - darkest.sum(axis=2)
    share = np.where(room > 30, np.minimum(ink / np.maximum(room, 1.0), 1.0), 1.0)
    mask = np.where(edge, share, ~outside).astype(np.float32)
    mixed = edge & (mask < 1)
    return np.where(mixed[:, :, None], darkest, colours).astype(np.float32), mask


def _darkest_near(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The darkest colour of each pixel's three by three, float32 [h, w, 3]."""
    height, width, _ = colours.shape
    padded = np.pad(colours, ((1, 1), (1, 1), (0, 0)), constant_values=255.0)
    near = np.stack(
        [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=2
    )
    place = near.sum(axis=3).argmin(axis=2)
    found = np.take_along_axis(near, place[:, :, None, None], axis=2)
    return np.asarray(found[:, :, 0], np.float32)


def _resized(
    colours: NDArray[np.float32], mask: _Mask, size: int
) -> tuple[NDArray[np.float32], _Mask]:
    """The drawing cropped to what is opaque, in a square box of `size`; colours weighed by mask."""
    from PIL import Image as Picture

    rows, columns = np.nonzero(mask.max(axis=1) > 0.1)[0], np.nonzero(mask.max(axis=0) > 0.1)[0]
    if len(rows) and len(columns):
        top, left = rows[0], columns[0]
        side = max(rows[-1] - top, columns[-1] - left) + 1
        height, width = mask.shape
        top, left = max(0, min(top, height - side)), max(0, min(left, width - side))
        box = (slice(top, top + side), slice(left, left + side))
        colours, mask = colours[box], mask[box]
    layers = np.concatenate([colours * mask[:, :, None], mask[:, :, None]], axis=2)
    small = [
        np.asarray(
            Picture.fromarray(np.ascontiguousarray(layers[:, :, i])).resize(
                (size, size), Picture.Resampling.BOX
            )
        )
        for i in range(4)
    ]
    opacity = np.clip(small[3], 0, 1)
    ink = np.stack(small[:3], axis=2) / np.maximum(opacity, 1e-3)[:, :, None]
    return np.asarray(np.clip(ink, 0, 255), np.float32), np.asarray(opacity, np.float32)


def _spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and its four neighbours."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _varied(
    colour: tuple[int, int, int], rng: np.random.Generator, spread: float
) -> NDArray[np.float32]:
    changed = colour + rng.uniform(-spread, spread, 3)
    return np.minimum(np.maximum(changed, 0), 255).astype(np.float32)


_Plane = NDArray[np.float64]


def _star(x: _Plane, y: _Plane) -> NDArray[np.bool_]:
    """Five points; inner radius .45 of the outer one."""
    angle = np.arctan2(x, -y) % (2 * np.pi / 5)
    angle = np.minimum(angle, 2 * np.pi / 5 - angle)
    radius = np.hypot(x, y + 0.05)
    # The edge runs from (1, 0) to (.45, pi / 5) in polar coordinates of one tenth.
    inner = 0.45 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    return np.asarray((px - 1) * inner[1] - py * (inner[0] - 1) <= 0)


def _heart(x: _Plane, y: _Plane) -> NDArray[np.bool_]:
    u, v = 1.2 * x, -1.2 * y + 0.15
    return np.asarray((u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0)


_INSIDE: dict[str, Callable[[_Plane, _Plane], Any]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.9,
    "triangle": lambda x, y: (abs(x) <= (y + 0.95) / 1.9) & (y <= 0.9),
    "diamond": lambda x, y: abs(x) + abs(y) <= 1,
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: (abs(x) <= 0.32) & (abs(y) <= 0.95) | (abs(y) <= 0.32) & (abs(x) <= 0.95),
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.55**2),
}
