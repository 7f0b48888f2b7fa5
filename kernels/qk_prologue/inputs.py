"""What every implementation of the prologue takes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """The arguments of `api.qk_prologue`.

    Weights are both there, or both None; so are `v` and `order`: without an order v stays as it is.
    """

    q: Tensor
    k: Tensor
    v: Tensor | None
    q_weight: Tensor | None
    k_weight: Tensor | None
    cos: Tensor
    sin: Tensor
    order: Tensor | None
    eps: float
