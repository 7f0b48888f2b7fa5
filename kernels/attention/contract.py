"""What attention and its callers agree on: what a plan is, and what is asked of a pattern."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from unimodal.kernels.attention.forms import Form

if TYPE_CHECKING:
    from unimodal.types import Coordinates


class AttentionPlan(ABC):
    """What one batch's attention visits, made once for all layers of the same patterns.

    Which sort it is decides what runs: a `GatheredPlan` the CPU path or the reference, a
    `TokenPlan` the Triton kernels.
    """

    shape: tuple[int, int]
    """(B, T)."""

    @property
    def order(self) -> Tensor | None:
        """Flat position (row * T + column) that each visited place holds, if not stream order.

        int64 [B * T]. Column patterns are visited column by column.
        """
        return None

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """What the operators take."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The plan on another device."""


class PatternLike(Protocol):
    """What the kernels ask of a pattern; `unimodal.patterns.Pattern` has it."""

    @property
    def is_dense(self) -> bool:
        """Whether every pair is allowed."""
        ...

    def form(self) -> Form | None:
        """The pattern as kernels read it, or None if it has no such form."""
        ...


MaskFunction = Callable[["Coordinates", "Coordinates", Sequence[PatternLike]], Tensor]
"""The dense definition: `(queries, keys, by_kind) -> bool (..., Tq, Tk)`."""

MAX_HEAD = 256
"""Largest head size of the Triton kernels."""


def why_no_kernel(q: Tensor) -> str | None:
    """Why the Triton kernels cannot take these queries (a clause), if they cannot."""
    if q.dtype == torch.float64:
        return "its inputs are float64"
    if q.shape[-1] > MAX_HEAD:
        return f"its head size {q.shape[-1]} is more than {MAX_HEAD}"
    return None
