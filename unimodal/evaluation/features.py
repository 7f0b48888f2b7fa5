"""Raw features of values, for baselines that look at the input: pixels, frames, log-mel, ids.

Taken from what the modality encodes, so any modality has them, and nothing is trained. Continuous
positions stand on their grid (t, h, w); where values differ in size along an axis, they are
resampled to one size, and where they differ in duration, the mean over time is taken away (a
microphone, a level). Discrete ones are the share of each id.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unimodal.modality import Modality
from unimodal.types import Tokens, raster_grid

Matrix = NDArray[np.float32]
Box = tuple[int, int, int]
MAX_NUMBERS = 65_536
"""Numbers that describe a value, at most; larger grids are averaged down."""


class RawFeatures:
    """Rows of numbers for values of one modality, comparable with each other.

    Args:
        modality: What encoded them.
        sample: Encoded values that decide the common size; at least one.
        max_numbers: Longest row, unless one position alone has more.
    """

    def __init__(
        self,
        modality: Modality[Any, Any],
        sample: Sequence[Tokens],
        max_numbers: int = MAX_NUMBERS,
    ):
        self._sizes = list(modality.spans.values())
        self._box: Box | None = None
        self._has_durations = False
        features = [tokens.features for tokens in sample]
        if all(rows is not None for rows in features):
            boxes = np.array([_box_of(tokens) for tokens in sample])
            self._has_durations = bool((boxes[:, 0] != boxes[0, 0]).any())
            width = math.prod(sample[0].features.shape[1:])  # type: ignore[union-attr]
            median = [int(size) for size in np.median(boxes, axis=0)]
            self._box = _fitting(median, max_numbers // width)

    def rows(self, values: Sequence[Tokens]) -> Matrix:
        """One float32 row a value, (values, numbers)."""
        if self._box is None:
            return np.stack([_shares(tokens, self._sizes) for tokens in values])
        return np.stack([self._row(tokens, self._box) for tokens in values])

    def _row(self, tokens: Tokens, box: Box) -> Matrix:
        assert tokens.features is not None
        rows = tokens.features.flatten(1).float()
        own = _box_of(tokens)
        if own != box:
            rows = _resampled(rows, own, box)
        if self._has_durations:
            still = rows.view(box[0], -1)
            rows = still - still.mean(dim=0)
        return np.asarray(rows.flatten().numpy(), dtype=np.float32)


def _box_of(tokens: Tokens) -> Box:
    """Size of the grid; a value whose positions are no full grid counts along t."""
    if not len(tokens):
        return 0, 1, 1
    t, h, w = (int(size) + 1 for size in tokens.grid.amax(dim=0))
    if t * h * w == len(tokens) and torch.equal(tokens.grid.int(), raster_grid(t, h, w)):
        return t, h, w
    return len(tokens), 1, 1


def _fitting(box: Sequence[int], room: int) -> Box:
    """The box, its longest axes halved until it has at most `room` cells."""
    sizes = [max(1, size) for size in box]
    while math.prod(sizes) > max(1, room):
        longest = max(range(3), key=lambda axis: sizes[axis])
        sizes[longest] = (sizes[longest] + 1) // 2
    return sizes[0], sizes[1], sizes[2]


def _resampled(rows: Tensor, own: Box, box: Box) -> Tensor:
    """Rows (cells, F) of one grid on another: averaged where it is far coarser, interpolated."""
    if not len(rows):
        return rows.new_zeros(math.prod(box), rows.shape[1])
    cells = rows.T.reshape(1, -1, *own)
    coarse: Any = [b if a >= 2 * b else a for a, b in zip(own, box, strict=True)]
    cells = functional.adaptive_avg_pool3d(cells, coarse)
    cells = functional.interpolate(cells, size=box, mode="trilinear", align_corners=False)
    return cells.flatten(2)[0].T.contiguous()


def _shares(tokens: Tokens, sizes: Sequence[int]) -> Matrix:
    assert tokens.ids is not None
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    ids = tokens.ids.numpy() + starts[tokens.spans().numpy()]
    counts = np.bincount(ids, minlength=int(sum(sizes))).astype(np.float32)
    return counts / np.float32(max(1, len(ids)))
