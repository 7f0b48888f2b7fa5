"""The gated activation of the feed-forward layer: checks and dispatch."""

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.swiglu import reference
from unimodal.kernels.swiglu.eager import SwiGlu


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up.

    Args:
        gate_up: [..., 2 F]: gate in the first half of the last axis, up in the second.

    Returns:
        [..., F] in the dtype of `gate_up`.

    Raises:
        ShapeError: if the last axis is odd.

    References:
        Shazeer 2020, GLU Variants Improve Transformer. Differs: none.
    """
    if gate_up.shape[-1] % 2:
        raise ShapeError(
            f"`gate_up` must have an even last axis, but has shape {tuple(gate_up.shape)}."
        )
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return reference.swiglu(gate_up)
    result: Tensor = SwiGlu.apply(gate_up)
    return result
