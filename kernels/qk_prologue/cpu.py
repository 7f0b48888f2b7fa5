"""The prologue on the CPU: few temporaries, each of a size that stays in the cache.

The forward keeps only its input; the backward computes the norm again. Tested against `reference`.
"""

import torch
from torch import Tensor

from unimodal.kernels.qk_prologue.inputs import Inputs
from unimodal.kernels.qk_prologue.reference import placed

CHUNK_ELEMENTS = 1 << 16
"""Elements worked on at once: a quarter of a mebibyte of float32."""


def forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The new q, k and v (empty without an order)."""
    out_q = _one(x.q, x.q_weight, x.cos, x.sin, x.eps)
    out_k = _one(x.k, x.k_weight, x.cos, x.sin, x.eps)
    out_v = x.q.new_empty(0) if x.v is None else placed(x.v, x.order)
    return placed(out_q, x.order), placed(out_k, x.order), out_v


def backward(
    x: Inputs, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v (empty without an order) and of the weights (empty without any)."""
    if x.order is not None:
        place = torch.empty_like(x.order)
        place[x.order] = torch.arange(len(place), device=place.device)
        grad_q, grad_k, grad_v = (placed(grad, place) for grad in (grad_q, grad_k, grad_v))
    out_q, out_q_weight = _one_backward(x.q, x.q_weight, x.cos, x.sin, grad_q, x.eps)
    out_k, out_k_weight = _one_backward(x.k, x.k_weight, x.cos, x.sin, grad_k, x.eps)
    return out_q, out_k, grad_v, out_q_weight, out_k_weight


def _one(x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Norm and rotation of x [B, T, n, H]."""
    out = x.new_empty(x.shape)
    for x_c, cos_c, sin_c, out_c in _chunks(x, cos, sin, out):
        work = x_c.to(_work_dtype(x))
        if weight is not None:
            if work is x_c:
                work = work.clone()
            work.mul_(_inverse_rms(work, eps)).mul_(weight)
        _rotate(work, cos_c, sin_c, out_c)
    return out


def _one_backward(
    x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, grad_out: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight (empty without one)."""
    grad_x = x.new_empty(x.shape)
    grad_weight = x.new_empty(0) if weight is None else torch.zeros_like(weight)
    for x_c, cos_c, sin_c, grad_c, out_c in _chunks(x, cos, sin, grad_out, grad_x):
        if weight is None:
            _rotate(grad_c, cos_c, -sin_c, out_c)
            continue
        grad = torch.empty(x_c.shape, dtype=_work_dtype(x), device=x.device)
        _rotate(grad_c, cos_c, -sin_c, grad)
        normed = x_c.to(grad.dtype)
        inverse = _inverse_rms(normed, eps)
        normed = normed * inverse
        product = grad * normed
        grad_weight += product.sum(dim=(0, 1)).to(weight.dtype)
        mean = product.mul_(weight).sum(dim=-1, keepdim=True).div_(x.shape[-1])
        grad.mul_(weight).addcmul_(normed, mean, value=-1)
        out_c.copy_(grad.mul_(inverse))
    return grad_x, grad_weight


def _chunks(x: Tensor, cos: Tensor, sin: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Pieces of tokens of [B, T, n, H] tensors and the tables, as views [t, n, H]."""
    size = max(1, CHUNK_ELEMENTS // max(1, x.shape[-1] * x.shape[-2]))
    flat = [tensor.flatten(0, 1).split(size) for tensor in (x, cos, sin, *others)]
    return list(zip(*flat, strict=True))


def _work_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write the rotation of `x` [t, n, H] by tables [t, H / 2] to `out`."""
    cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    turned = first * cos
    out_first.copy_(turned.addcmul_(second, sin, value=-1))
    torch.mul(second, cos, out=turned)
    out_second.copy_(turned.addcmul_(first, sin))
