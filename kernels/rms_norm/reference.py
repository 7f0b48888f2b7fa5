"""RMS norm in plain torch: what is right. Differentiable by autograd, and what compilers trace."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x ** 2) + eps) * weight, in at least float32, returned as `dtype`."""
    work = x.double() if x.dtype == torch.float64 else x.float()
    return (work * torch.rsqrt(work.pow(2).mean(dim=-1, keepdim=True) + eps) * weight).to(dtype)
