"""RMS norm, alone and fused with the residual addition before it: checks and dispatch.

Float32 arithmetic (float64 for float64); the result is already in the dtype that the following
product takes under autocast, so that it needs no cast of its own.
"""

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.rms_norm import reference
from unimodal.kernels.rms_norm.eager import AddRmsNorm

SMALL = 1 << 15
"""Without gradients, inputs of fewer elements take the reference: it has the least overhead."""


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x ** 2) + eps) * weight.

    Args:
        x: [..., D].
        weight: [D].
        eps: Added to the mean square.

    Returns:
        [..., D], in the autocast dtype under autocast, else in that of `x`.

    Raises:
        ShapeError: if `weight` does not fit.

    References:
        Zhang and Sennrich 2019, Root Mean Square Layer Normalization. Differs: none.
    """
    _check(x, weight)
    if _plain(x):
        return reference.rms_norm(x, weight, eps, _out_dtype(x))
    normed: Tensor = AddRmsNorm.apply(x, None, weight, eps, _out_dtype(x))[1]
    return normed


def add_rms_norm(
    x: Tensor, update: Tensor, weight: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The residual x + update and its RMS norm.

    Args:
        x: The residual stream [..., D].
        update: [..., D], of the same or a lower precision.
        weight: [D].
        eps: Added to the mean square.

    Returns:
        x + update in the dtype of `x`, and its norm as `rms_norm` gives it.

    Raises:
        ShapeError: if shapes do not fit.
    """
    _check(x, weight)
    if update.shape != x.shape:
        raise ShapeError(
            f"`update` must have the shape of `x` {tuple(x.shape)}, but has {tuple(update.shape)}."
        )
    if _plain(x):
        total = x + update
        return total, reference.rms_norm(total, weight, eps, _out_dtype(x))
    total, normed = AddRmsNorm.apply(x, update, weight, eps, _out_dtype(x))
    return total, normed


def _plain(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.dtype not in (torch.float32, torch.float64):
        return True
    return not torch.is_grad_enabled() and x.numel() < SMALL


def _out_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def _check(x: Tensor, weight: Tensor) -> None:
    if weight.shape != x.shape[-1:]:
        raise ShapeError(
            f"`weight` must have shape ({x.shape[-1]},), but has {tuple(weight.shape)}."
        )
