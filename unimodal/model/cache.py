"""The key-value cache of generation.

Rows share their slots: a block of T new positions takes the next T slots of every row, and a row
that has fewer leaves the first of them empty (document -1), so that each row has its own length.
The order of the filled slots of a row is its stream order; `coordinates.index` says each one's
place. Not here: who sees whom (`unimodal.patterns.visible`).
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unimodal.types import CONTROL_CELL, Coordinates

FIELDS = 8
"""Integers kept a slot: index, document, segment, kind, full, t, h, w."""
GROWTH = 2
"""A cache that is too small grows by this factor."""


@dataclass
class LayerCache:
    """Rotated keys and values of one layer.

    Attributes:
        keys, values: (B, K, S, H).
        start, stop: Slots of the block being written; set by `Cache.place_packed`.
    """

    keys: Float[Tensor, "B K S H"]
    values: Float[Tensor, "B K S H"]
    start: int = 0
    stop: int = 0

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, T, K, H); return all that may be read (B, S, K, H)."""
        self.keys[:, :, self.start : self.stop] = k.transpose(1, 2)
        self.values[:, :, self.start : self.stop] = v.transpose(1, 2)
        keys, values = self.keys[:, :, : self.stop], self.values[:, :, : self.stop]
        return keys.transpose(1, 2), values.transpose(1, 2)


class Cache:
    """Keys, values and coordinates of everything so far, for a batch of rows.

    Args:
        num_layers, batch, capacity, num_kv_heads, head_dim: Its shape; `capacity` is the number of
            slots at first, and grows when it must.
        dtype, device: Of keys and values.

    Attributes:
        length: Slots in use.
        gaps: 0 where a slot of a row is filled, -inf where it is empty, (B, S) float32.
        has_gaps: Whether any slot in use is empty.
    """

    def __init__(
        self,
        num_layers: int,
        batch: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (batch, num_kv_heads, capacity, head_dim)
        self.layers = [
            LayerCache(
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
            )
            for _ in range(num_layers)
        ]
        self.packed = torch.full((batch, capacity, FIELDS), CONTROL_CELL, dtype=torch.int32).to(
            device
        )
        self.gaps = torch.zeros(batch, capacity, device=device)
        self.length = 0
        self.has_gaps = False

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.packed)

    @property
    def capacity(self) -> int:
        """Slots for which there is memory."""
        return self.packed.shape[1]

    def place_packed(self, block: Int[Tensor, "B T 8"], has_gaps: bool = False) -> None:
        """Take the next slots for a block that is about to be written.

        Args:
            block: Its coordinates, by `pack`; `document` is -1 where a row has no position.
            has_gaps: Whether any row has none somewhere.
        """
        start, stop = self.length, self.length + block.shape[1]
        self.reserve(stop)
        self.packed[:, start:stop] = block
        if has_gaps:
            self.gaps[:, start:stop].masked_fill_(block[..., 1] < 0, -torch.inf)
            self.has_gaps = True
        self.length = stop
        for layer in self.layers:
            layer.start, layer.stop = start, stop

    def readable(self) -> Coordinates:
        """Coordinates of the slots in use."""
        return unpack(self.packed[:, : self.length])

    def reserve(self, slots: int) -> None:
        """Make room for `slots` slots in all."""
        if slots <= self.capacity:
            return
        more = max(slots, GROWTH * self.capacity) - self.capacity
        for layer in self.layers:
            layer.keys = _longer(layer.keys, 2, more, 0)
            layer.values = _longer(layer.values, 2, more, 0)
        self.packed = _longer(self.packed, 1, more, CONTROL_CELL)
        self.gaps = _longer(self.gaps, 1, more, 0)

    def keep(self, rows: Int[Tensor, " R"]) -> None:
        """Drop all rows but these."""
        for layer in self.layers:
            layer.keys = layer.keys.index_select(0, rows)
            layer.values = layer.values.index_select(0, rows)
        self.packed = self.packed.index_select(0, rows)
        self.gaps = self.gaps.index_select(0, rows)

    def copy_rows(self, rows: Int[Tensor, " R"]) -> "Cache":
        """A cache of these rows, each as often as it is named."""
        other = copy.copy(self)
        other.layers = [copy.copy(layer) for layer in self.layers]
        other.keep(rows)
        return other


def pack(coordinates: Coordinates) -> Int[Tensor, "*batch T 8"]:
    """Coordinates as one int32 tensor."""
    c = coordinates
    parts = [c.index, c.document, c.segment, c.kind, c.full]
    columns = torch.stack([part.to(torch.int32) for part in parts], dim=-1)
    return torch.cat([columns, c.grid.to(torch.int32)], dim=-1)


def unpack(packed: Int[Tensor, "*batch T 8"]) -> Coordinates:
    """Inverse of `pack`."""
    index, document, segment, kind, full = packed[..., :5].unbind(-1)
    return Coordinates(index, document, segment, kind, full == 1, packed[..., 5:])


def _longer(tensor: Tensor, axis: int, more: int, fill: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = more
    return torch.cat([tensor, tensor.new_full(shape, fill)], dim=axis)
