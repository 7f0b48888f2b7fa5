"""Guard bands: what a kernel reads or writes outside its tensors is noticed.

The interpreter checks no bounds. Inputs lie inside NaN (or a large number), so that what is read
outside spoils the result; what is allocated inside `guarded_allocations` lies between sentinels
that must survive, and is NaN until it is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BAND = 4096
"""Elements on each side."""

SENTINEL = -57
"""What output bands hold: exact in every dtype that kernels write (as 1 for bool)."""


def guarded(tensor: Tensor, band: int = BAND) -> Tensor:
    """A copy of `tensor`, contiguous, inside a larger buffer of poison (NaN; integers: -57)."""
    buffer = torch.empty(tensor.numel() + 2 * band, dtype=tensor.dtype, device=tensor.device)
    buffer.fill_(torch.nan if tensor.is_floating_point() else SENTINEL)
    inner = buffer[band : band + tensor.numel()].view(tensor.shape)
    with torch.no_grad():
        inner.copy_(tensor)
    return inner.requires_grad_(tensor.requires_grad)


@contextmanager
def guarded_allocations(band: int = BAND) -> Iterator[None]:
    """Guard what `torch.empty`, `torch.empty_like` and `Tensor.new_empty` make inside.

    Raises:
        AssertionError: at the end, if something was written beside a tensor.
    """
    made: list[tuple[Tensor, int]] = []
    empty = torch.empty

    def allocate(shape: Any, dtype: torch.dtype | None, device: Any) -> Tensor:
        size = torch.Size(shape)
        buffer = empty(size.numel() + 2 * band, dtype=dtype, device=device)
        buffer.fill_(SENTINEL)
        inner = buffer[band : band + size.numel()]
        if buffer.is_floating_point():
            inner.fill_(torch.nan)
        made.append((buffer, size.numel()))
        return inner.view(size)

    def flat(shape: tuple[Any, ...]) -> Any:
        return shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape

    def new(self: Tensor, *shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return allocate(flat(shape), dtype or self.dtype, device or self.device)

    def like(tensor: Tensor, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        return allocate(tensor.shape, dtype or tensor.dtype, device or tensor.device)

    def plain(*shape: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        return allocate(flat(shape), dtype, device)

    with (
        mock.patch.object(torch, "empty", plain),
        mock.patch.object(torch, "empty_like", like),
        mock.patch.object(Tensor, "new_empty", new),
    ):
        yield
    assert made, "Nothing was allocated: the guard saw no output."
    for buffer, size in made:
        expected = torch.full_like(buffer[:band], SENTINEL)
        for side in (buffer[:band], buffer[band + size :]):
            assert torch.equal(side, expected), (
                f"A kernel wrote outside of a tensor of {size} elements of {buffer.dtype}."
            )
