"""The error that tests of operators hold to a bound."""

from collections.abc import Sequence

import torch
from torch import Tensor


def worst(got: Sequence[Tensor], expected: Sequence[Tensor], least: float = 1.0) -> float:
    """Largest error over the largest value of each tensor, or over `least`; infinite for NaN."""
    errors = [
        (a.double() - b).abs().max() / b.abs().max().clamp(min=least)
        for a, b in zip(got, expected, strict=True)
        if b.numel()
    ]
    return float(torch.stack(errors).nan_to_num(nan=torch.inf).max())
