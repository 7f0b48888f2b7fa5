"""Pictures as continuous patches: what a model reads, not what it draws.

A picture of any size becomes rows of square patches in raster order, after an optional resize and
after padding to whole patches. `image_codes` is the discrete partner that draws.

Not here: what it shares with other modalities of pictures (`unimodal.tokenizers.pixels`).
"""

import math
from dataclasses import dataclass

from einops import rearrange

from unimodal.media.values import Image
from unimodal.modality import register_modality, training_only
from unimodal.tokenizers.pixels import (
    PictureModality,
    PictureVariation,
    cells_of,
    check_patches,
    fit_frames,
)
from unimodal.types import Tokens, raster_grid


@dataclass(kw_only=True)
class ImageConfig:
    """How a picture becomes patches."""

    patch_size: int = 8
    """Pixels along the side of a patch."""

    size: tuple[int, int] | None = None
    """Height and width in pixels that every picture is resized to; None keeps its own."""

    pad: str = "edge"
    """What fills the last patches on the right and at the bottom: `edge` repeats, or `white`."""

    vary: PictureVariation = training_only(PictureVariation())  # noqa: RUF009 (a frozen default)
    """How training varies a picture before it is encoded."""

    def __post_init__(self) -> None:
        check_patches("image", self.patch_size, self.size, self.pad)


@register_modality("image")
class ImagePatches(PictureModality[ImageConfig]):
    """Pictures as patches in [-1, 1]."""

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

    def _cells(self, value: Image) -> tuple[int, int]:
        return cells_of(value.height, value.width, self.config.size, self.config.patch_size)
