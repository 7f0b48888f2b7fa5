"""Axis letters and the value types that every layer shares.

Axis legend, used as suffixes of tensor names in bodies with three or more live tensors:

    B batch (rows)   T tokens   D width   N query heads   K key/value heads   H head size
    V vocabulary     C codebook F features S cached keys   L layers

Nothing here knows about a model or a modality.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unimodal.errors import ShapeError

CONTROL_CELL = -1
"""Grid coordinate of openers, headers and ends: patterns do not restrict them."""


@dataclass(frozen=True)
class Tokens:
    """The stream positions of one value.

    A value has discrete `ids`, continuous `features`, or both (a masked target of discrete ids
    beside a continuous input).

    Attributes:
        grid: Coordinates (t, h, w) of each position, int, at least 0. One-dimensional values count
            in t. Several codes of one frame share a coordinate.
        ids: Ids local to their span, int64.
        span: Which of the modality's spans each id belongs to: an index into the order of
            `Modality.spans`; one int when all ids share it.
        features: One row a position, float32.
        seconds: Start time of each position in seconds, float32, where there is time.
    """

    grid: Int[Tensor, "T 3"]
    ids: Int[Tensor, " T"] | None = None
    span: Int[Tensor, " T"] | int = 0
    features: Float[Tensor, "T ..."] | None = None
    seconds: Float[Tensor, " T"] | None = None

    def __post_init__(self) -> None:
        if self.grid.ndim != 2 or self.grid.shape[1] != 3:
            raise ShapeError(f"`grid` must have shape (T, 3), but has {tuple(self.grid.shape)}.")
        if self.ids is None and self.features is None:
            raise ShapeError("`Tokens` must have `ids` or `features`, but has neither.")
        for name in ("ids", "span", "features", "seconds"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and len(value) != len(self.grid):
                raise ShapeError(
                    f"`{name}` must have one row a position ({len(self.grid)}), "
                    f"but has {len(value)}."
                )

    def __len__(self) -> int:
        return len(self.grid)

    def spans(self) -> Int[Tensor, " T"]:
        """`span` as one index a position."""
        if isinstance(self.span, Tensor):
            return self.span
        return torch.full((len(self),), self.span, dtype=torch.int64)


def line_grid(length: int) -> Int[Tensor, "T 3"]:
    """The grid of a one-dimensional value: t counts up, h = w = 0. int32."""
    grid = torch.zeros(length, 3, dtype=torch.int32)
    grid[:, 0] = torch.arange(length, dtype=torch.int32)
    return grid


def raster_grid(t: int, h: int, w: int, codes_per_cell: int = 1) -> Int[Tensor, "T 3"]:
    """The grid of a t x h x w value in raster order, each cell `codes_per_cell` times. int32."""
    axes = [torch.arange(n, dtype=torch.int32) for n in (t, h, w)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    return grid.repeat_interleave(codes_per_cell, dim=0) if codes_per_cell > 1 else grid


@dataclass(frozen=True)
class Coordinates:
    """The integers of each stream position from which attention is decided.

    Attributes:
        index: Place in the row: causality. int32.
        document: Number of the packed document in the row, -1 on padding. int32.
        segment: Number of the segment in its document. int32.
        kind: Number of the segment's modality in the model: selects its pattern. int32.
        full: Whether the segment attends in both directions.
        grid: Cell (t, h, w), or `CONTROL_CELL` thrice on control positions. int32.
    """

    index: Int[Tensor, "*batch T"]
    document: Int[Tensor, "*batch T"]
    segment: Int[Tensor, "*batch T"]
    kind: Int[Tensor, "*batch T"]
    full: Bool[Tensor, "*batch T"]
    grid: Int[Tensor, "*batch T 3"]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Coordinates":
        """The same coordinates with `change` applied to each tensor."""
        return Coordinates(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def __getitem__(self, key: object) -> "Coordinates":
        """Index the batch and token axes of every tensor alike."""
        return self.map(lambda tensor: tensor[key])  # type: ignore[index]
