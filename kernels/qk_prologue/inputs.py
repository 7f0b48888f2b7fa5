"""What every implementation of the prologue takes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """The arguments of `api.qk_prologue`; weights are both there, or both None."""

    q: Tensor
    k: Tensor
    q_weight: Tensor | None
    k_weight: Tensor | None
    cos: Tensor
    sin: Tensor
    eps: float
