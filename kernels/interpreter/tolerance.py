"""Tolerances that follow from the arithmetic, not from what a kernel happens to reach.

A kernel may err twice as much as PyTorch does in the same precision, plus a rounding band: one
rounding of the largest value to the dtype of the result.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def assert_as_exact(
    got: Sequence[Tensor],
    same_precision: Sequence[Tensor],
    exact: Sequence[Tensor],
    names: Sequence[str],
) -> None:
    """Hold results to twice (the error of PyTorch in the same precision + a rounding band).

    Args:
        got: Results of the kernel.
        same_precision: The same of plain PyTorch, in the precision of the inputs.
        exact: The same in float64.
        names: What each is, for the message.

    Raises:
        AssertionError: naming the result, its error and the bound.
    """
    for name, result, plain, truth in zip(names, got, same_precision, exact, strict=True):
        assert result.shape == truth.shape, f"{name} has shape {tuple(result.shape)}"
        if not truth.numel():
            continue
        band = float(truth.abs().max()) * torch.finfo(result.dtype).eps / 2
        bound = 2 * (float((plain.double() - truth).abs().max()) + band)
        assert torch.isfinite(result).all(), f"{name} is not finite"
        error = float((result.double() - truth).abs().max())
        assert error <= bound, f"{name} errs by {error:.3g}, allowed is {bound:.3g}"
