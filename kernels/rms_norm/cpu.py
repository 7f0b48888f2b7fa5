"""RMS norm on the CPU: few temporaries, each of a size that stays in the cache.

Tested against `reference`.
"""

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 17
"""Elements worked on at once: half a mebibyte of float32."""


def forward(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + update (empty without an update) and its norm as `dtype`."""
    total = x if update is None else x.new_empty(x.shape)
    normed = torch.empty(x.shape, dtype=dtype, device=x.device)
    others = [normed] if update is None else [normed, update]
    for total_c, x_c, normed_c, *update_c in _chunks(_rows(x), total, x, *others):
        if update_c:
            torch.add(x_c, update_c[0], out=total_c)
        work = total_c * _inverse_rms(total_c, eps)
        torch.mul(work, weight, out=work)
        normed_c.copy_(work)
    return (x.new_empty(0) if update is None else total), normed


def backward(
    total: Tensor,
    weight: Tensor,
    grad_total: Tensor | None,
    grad_normed: Tensor,
    eps: float,
    update_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, for the update as `update_dtype` (empty for None), and for the weight."""
    grad = total.new_empty(total.shape)
    update = torch.empty(
        (0,) if update_dtype is None else total.shape, dtype=update_dtype, device=total.device
    )
    grad_weight = torch.zeros_like(weight)
    others = [] if update_dtype is None else [update]
    given = grad_normed if grad_total is None else grad_total
    pieces = _chunks(_rows(total), total, given, grad_normed, grad, *others)
    for total_c, given_c, grad_normed_c, grad_c, *update_c in pieces:
        inverse = _inverse_rms(total_c, eps)
        unit = total_c * inverse
        flow = grad_normed_c.to(total.dtype, copy=True)
        product = flow * unit
        grad_weight += product.sum(dim=0)
        mean = product.mul_(weight).sum(dim=-1, keepdim=True).div_(total.shape[-1])
        flow.mul_(weight).addcmul_(unit, mean, value=-1)
        if grad_total is None:
            torch.mul(flow, inverse, out=grad_c)
        else:
            torch.addcmul(given_c, flow, inverse, out=grad_c)
        if update_c:
            update_c[0].copy_(grad_c)
    return grad, update, grad_weight


def _rows(x: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // max(1, x.shape[-1]))


def _chunks(size: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Pieces of rows, as views."""
    flat = [tensor.reshape(-1, tensor.shape[-1]).split(size) for tensor in tensors]
    return list(zip(*flat, strict=True))


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
