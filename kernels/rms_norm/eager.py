"""RMS norm for eager execution: few temporaries, each of a size that stays in the cache.

Tested against `reference`.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 17
"""Elements worked on at once: half a mebibyte of float32."""


class AddRmsNorm(torch.autograd.Function):
    """(x + update, rms_norm(x + update)); `update` None leaves x as it is."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        total = x if update is None else x.new_empty(x.shape)
        normed = torch.empty(x.shape, dtype=dtype, device=x.device)
        size = _rows(x)
        others = [normed] if update is None else [normed, update]
        for total_c, x_c, normed_c, *update_c in _chunks(size, total, x, *others):
            if update_c:
                torch.add(x_c, update_c[0], out=total_c)
            work = total_c * _inverse_rms(total_c, eps)
            torch.mul(work, weight, out=work)
            normed_c.copy_(work)
        ctx.save_for_backward(total, weight)
        ctx.eps = eps
        ctx.update_dtype = None if update is None else update.dtype
        return (x.view_as(x) if update is None else total), normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        grad_total, grad_normed = grads
        grad = total.new_empty(total.shape)
        update = None
        if ctx.update_dtype is not None and ctx.update_dtype != total.dtype:
            update = torch.empty(total.shape, dtype=ctx.update_dtype, device=total.device)
        grad_weight = torch.zeros_like(weight)
        others = [] if update is None else [update]
        pieces = _chunks(_rows(total), total, grad_total, grad_normed, grad, *others)
        for total_c, grad_total_c, grad_normed_c, grad_c, *update_c in pieces:
            inverse = _inverse_rms(total_c, ctx.eps)
            unit = total_c * inverse
            flow = grad_normed_c.to(total.dtype, copy=True)
            product = flow * unit
            grad_weight += product.sum(dim=0)
            mean = product.mul_(weight).sum(dim=-1, keepdim=True).div_(total.shape[-1])
            flow.mul_(weight).addcmul_(unit, mean, value=-1)
            torch.addcmul(grad_total_c, flow, inverse, out=grad_c)
            if update_c:
                update_c[0].copy_(grad_c)
        if ctx.update_dtype is not None and update is None:
            update = grad
        return grad, update, grad_weight, None, None


def _rows(x: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // max(1, x.shape[-1]))


def _chunks(size: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Pieces of rows, as views."""
    flat = [tensor.reshape(-1, tensor.shape[-1]).split(size) for tensor in tensors]
    return list(zip(*flat, strict=True))


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
