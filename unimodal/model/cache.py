"""The static key-value cache of generation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unimodal.types import CONTROL_CELL, Coordinates


@dataclass
class LayerCache:
    """Rotated keys and values of one layer, in stream order.

    Attributes:
        keys, values: (B, S, K, H).
        slots: Where the block being written goes, (B, T), int64; set by `Cache.place`.
        length: Slots that attention has to read: the longest row so far.
    """

    keys: Float[Tensor, "B S K H"]
    values: Float[Tensor, "B S K H"]
    slots: Int[Tensor, "B T"]
    length: int = 0

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, T, K, H); return all that may be read."""
        rows = torch.arange(len(k), device=k.device)[:, None]
        self.keys[rows, self.slots] = k.to(self.keys.dtype)
        self.values[rows, self.slots] = v.to(self.values.dtype)
        return self.keys[:, : self.length], self.values[:, : self.length]


class Cache:
    """Keys, values and coordinates of everything generated so far, for a batch of rows.

    Args:
        num_layers, batch, capacity, num_kv_heads, head_dim: Its shape; `capacity` is the largest
            number of positions of a row.
        dtype, device: Of keys and values.
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
        shape = (batch, capacity, num_kv_heads, head_dim)
        none = torch.zeros(batch, 0, dtype=torch.int64, device=device)
        self.layers = [
            LayerCache(
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
                none,
            )
            for _ in range(num_layers)
        ]
        self.capacity = capacity
        flat = (batch, capacity)
        self.coordinates = Coordinates(
            index=torch.arange(capacity, dtype=torch.int32, device=device).repeat(batch, 1),
            document=torch.full(flat, -1, dtype=torch.int32, device=device),
            segment=torch.full(flat, -1, dtype=torch.int32, device=device),
            kind=torch.full(flat, -1, dtype=torch.int32, device=device),
            full=torch.zeros(flat, dtype=torch.bool, device=device),
            grid=torch.full((*flat, 3), CONTROL_CELL, dtype=torch.int32, device=device),
        )

    def place(self, coordinates: Coordinates, length: int) -> None:
        """Reserve the slots of a block that is about to be written.

        Args:
            coordinates: Of the block, (B, T); `index` is the slot in its row.
            length: Slots in use after the block, at most the capacity.
        """
        slots = coordinates.index.long()
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        mine = self.coordinates
        for name in ("document", "segment", "kind", "full", "grid"):
            getattr(mine, name)[rows, slots] = getattr(coordinates, name)
        for layer in self.layers:
            layer.slots, layer.length = slots, length

    def readable(self, length: int) -> Coordinates:
        """Coordinates of the first `length` slots."""
        return self.coordinates[:, :length]
