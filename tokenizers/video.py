"""Moving pictures as continuous tubelets: blocks of frames x patch x patch.

A clip of any size and duration becomes tubelets in raster order (time, row, column), after an
optional resize, and after its last frame is repeated to whole tubelets. Each knows the second in
which it begins. `video_codes` is the discrete partner that draws.

Not here: decoding video files (`unimodal.media.video`) and choosing frames (the reader does).
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from einops import rearrange

from unimodal.errors import ConfigError
from unimodal.media.values import Video
from unimodal.media.video import read_video, write_video
from unimodal.modality import Attend, Modality, register_modality
from unimodal.tokenizers.pixels import cells_of, check_patches, fit_frames, show_data
from unimodal.types import Tokens, raster_grid

ATTENDS: tuple[Attend, ...] = ("full", "causal")
MAX_SHOWN_FRAMES = 64


@dataclass(kw_only=True)
class VideoConfig:
    """How a clip becomes tubelets."""

    frames: int = 2
    """Frames of a tubelet."""

    patch_size: int = 8
    """Pixels along the side of a tubelet."""

    size: tuple[int, int] | None = None
    """Height and width in pixels that every frame is resized to; None keeps its own."""

    pad: str = "edge"
    """What fills the last tubelets on the right and at the bottom: `edge` repeats, or `white`."""

    attend: str = "full"
    """`full`: every tubelet sees all others; `causal`: those before it in raster order."""

    def __post_init__(self) -> None:
        check_patches("video", self.patch_size, self.size, self.pad)
        if self.frames < 1:
            raise ConfigError(f"`video.frames` must be at least 1, but is {self.frames}.")
        if self.attend not in ATTENDS:
            raise ConfigError(f"`video.attend` must be one of {ATTENDS}, but is {self.attend!r}.")


@register_modality("video")
class VideoTubelets(Modality[Video, VideoConfig]):
    """Moving pictures as tubelets in [-1, 1]."""

    value_type = Video
    raw_unit = "pixel"
    decoded_by = "video_codes"

    def __init__(self, config: VideoConfig):
        super().__init__(config)
        self.feature_shape = (config.frames * config.patch_size**2 * 3,)
        self.attend = "causal" if config.attend == "causal" else "full"

    def encode(self, value: Video) -> Tokens:
        """Tubelets in raster order, each (frame, row, column, colour) flattened."""
        c = self.config
        missing = -len(value.frames) % c.frames
        clip = value.frames
        if missing:
            clip = torch.cat([clip, clip[-1:].expand(missing, *clip.shape[1:])])
        features = rearrange(
            fit_frames(clip, c.size, c.patch_size, c.pad),
            "(t f) (h p) (w q) c -> (t h w) (f p q c)",
            f=c.frames,
            p=c.patch_size,
            q=c.patch_size,
        )
        grid = raster_grid(*self._cells(value))
        seconds = grid[:, 0].float() * (c.frames / value.frame_rate_hz)
        return Tokens(grid=grid, features=features.contiguous(), seconds=seconds)

    def length(self, value: Video) -> int:
        """Number of tubelets."""
        return math.prod(self._cells(value))

    def raw_units(self, value: Video) -> float:
        """Pixels of all frames as given."""
        return float(math.prod(value.frames.shape[:3]))

    def example(self, rng: np.random.Generator) -> Video:
        """1 to 5 frames of random pixels, of 1 to 20 pixels a side, at 1 to 30 frames a second."""
        t, h, w = rng.integers(1, 6), rng.integers(1, 21), rng.integers(1, 21)
        frames = rng.integers(0, 256, (t, h, w, 3), dtype=np.uint8)
        return Video(torch.from_numpy(frames), float(rng.integers(1, 31)))

    def read(self, path: Path) -> Video:
        """A video file."""
        return read_video(path)

    def write(self, value: Video, path: Path) -> None:
        """A video file."""
        write_video(value, path)

    def show(self, value: Video) -> str:
        """The clip as an animated PNG inside the page, at most 64 evenly chosen frames of it."""
        step = -(-len(value.frames) // MAX_SHOWN_FRAMES)
        pictures = [PIL.Image.fromarray(frame.numpy()) for frame in value.frames[::step]]
        buffer = io.BytesIO()
        pictures[0].save(
            buffer,
            format="PNG",
            save_all=True,
            append_images=pictures[1:],
            duration=1000.0 * step / value.frame_rate_hz,
            loop=0,
        )
        height, width = value.frames.shape[1:3]
        return show_data("png", buffer.getvalue(), height, width)

    def _cells(self, value: Video) -> tuple[int, int, int]:
        c = self.config
        frames, height, width = value.frames.shape[:3]
        rows, columns = cells_of(height, width, c.size, c.patch_size)
        return -(-frames // c.frames), rows, columns
