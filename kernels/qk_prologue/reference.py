"""Per-head RMS norm and rotary position embedding in plain torch: what is right.

Differentiable by autograd, in any floating dtype. Also what `torch.compile` traces, since its
compiler fuses these few lines by itself.
"""

import torch
from torch import Tensor


def normalise_and_rotate(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> Tensor:
    """RMS norm over the last axis, times `weight`, then the rotation of halves.

    Arithmetic in at least float32; see `api.qk_prologue` for the arguments.
    """
    work = x.double() if x.dtype == torch.float64 else x.float()
    if weight is not None:
        work = work * torch.rsqrt(work.pow(2).mean(dim=-1, keepdim=True) + eps) * weight
    first, second = work.chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def placed(x: Tensor, order: Tensor | None) -> Tensor:
    """x [B, T, ...] with flat place p holding its flat token order[p]."""
    return x if order is None else x.flatten(0, 1).index_select(0, order).view(x.shape)
