"""Attention over packed documents with a pattern: checks, dispatch by device, and the operator.

`attention` is for training and prefill, with a plan made once per batch. Where a plan visits tokens
in another order, the operators work in it throughout, and the result is scattered back once; the
prologue can have put queries, keys and values into it. The operators are registered with torch
(`torch.ops.unimodal.attention`), so `torch.compile` passes through them.

Not here: decoding against a cache (`cached`), who sees whom (a function handed to
`plan_attention`), normalisation and rotation of queries and keys (`unimodal.kernels.qk_prologue`).
Which implementation runs is decided with the plan (`unimodal.kernels.dispatch`): forward and
backward of one call always take the same.
"""

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.attention import cpu, reference
from unimodal.kernels.attention.contract import AttentionPlan, why_no_kernel
from unimodal.kernels.attention.tokens import TOKEN_TENSORS
from unimodal.kernels.dispatch import choose, on_own_device, register

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

register("attention", ("reference", "cpu", "triton"))

_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor[] plan, float scale) -> (Tensor, Tensor)"
)
_library.define(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "Tensor[] plan, float scale) -> (Tensor, Tensor, Tensor)"
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    scale: float | None = None,
    *,
    ordered: bool = False,
) -> Tensor:
    """Attention of packed documents: softmax(scale * q k^T over visible keys) v.

    Sums are accumulated in at least float32; the result has the dtype of `q`. Padding positions
    and queries that see no key give zeros and take no gradient; what they hold is never read.

    Args:
        q: Queries [B, T, N, H], normalised and rotated.
        k: Keys [B, T, K, H]; K divides N, and query head n reads key head n // (N // K).
        v: Values [B, T, K, H].
        plan: From `plan_attention` for this batch and this layer's patterns.
        scale: Factor of the scores, H ** -0.5 by default.
        ordered: Whether `q`, `k` and `v` come in `plan.order` already, as from the prologue
            (`unimodal.kernels.qk_prologue`). The result is in stream order all the same.

    Returns:
        [B, T, N, H].

    Raises:
        ShapeError: if shapes, dtypes or the plan do not fit together.

    References:
        Dao et al. 2022, FlashAttention. Differs: masks come from a pattern algebra.
    """
    return attention_with_lse(q, k, v, plan, scale, ordered=ordered)[0]


def attention_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    scale: float | None = None,
    *,
    ordered: bool = False,
) -> tuple[Tensor, Tensor]:
    """`attention`, and the log of the sum of exponentials of its scores.

    Returns:
        The result [B, T, N, H], and the log-sums [B, T, N], float32 (float64 for float64), minus
        infinity where a query sees no key; no gradient flows through them.

    Raises:
        ShapeError: as `attention`.
    """
    _check(q, k, v)
    if plan.shape != tuple(q.shape[:2]):
        raise ShapeError(
            f"`plan` must be made for the batch (B, T) = {tuple(q.shape[:2])}, but is for "
            f"{plan.shape}.",
            remedy="Make a plan for each batch.",
        )
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    tensors = plan.tensors()
    if any(x.device != q.device for x in (k, v, tensors[0])):
        raise ShapeError(
            f"`q`, `k`, `v` and `plan` must be on one device, but are on {q.device}, {k.device}, "
            f"{v.device} and {tensors[0].device}."
        )
    order = plan.order
    if order is not None and not ordered:
        q, k, v = (x.flatten(0, 1).index_select(0, order).view(x.shape) for x in (q, k, v))
    out, lse = _Attention.apply(q, k, v, factor, *tensors)
    if order is not None:
        out, lse = _scattered(out, order), _scattered(lse, order)
    return out, lse


def _scattered(x: Tensor, order: Tensor) -> Tensor:
    """A result in stream order; the gradient is gathered."""
    flat = x.flatten(0, 1)
    return torch.empty_like(flat).index_copy(0, order, flat).view(x.shape)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, *plan: Tensor
    ) -> tuple[Tensor, Tensor]:
        out, lse = torch.ops.unimodal.attention(q, k, v, list(plan), scale)
        ctx.save_for_backward(q, k, v, out, lse, *plan)
        ctx.mark_non_differentiable(lse)
        ctx.scale = scale
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, *plan = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.ops.unimodal.attention_backward(
            grads[0], q, k, v, out, lse, plan, ctx.scale
        )
        return grad_q, grad_k, grad_v, None, *([None] * len(plan))


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ShapeError(
            "`q` must have shape (B, T, N, H), `k` and `v` (B, T, K, H), but they have "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}."
        )
    if not q.shape[3]:
        raise ShapeError(f"`q` must have a head size of at least 1, but has {tuple(q.shape)}.")
    fits = q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]
    if not fits or not k.shape[2] or q.shape[2] % k.shape[2]:
        raise ShapeError(
            f"`k` must have the (B, T) and H of `q` {tuple(q.shape)} and a number of heads that "
            f"divides {q.shape[2]}, but has {tuple(k.shape)}."
        )
    if q.dtype not in _DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ShapeError(
            "`q`, `k` and `v` must have one floating dtype, but have "
            f"{q.dtype}, {k.dtype}, {v.dtype}."
        )


def _implementation(q: Tensor, plan: list[Tensor]) -> ModuleType:
    """Of a plan of tokens the Triton kernels, of gathered documents the CPU path or reference."""
    if len(plan) != TOKEN_TENSORS:
        fault = "its plan was made for another implementation"
        return cpu if choose("attention", q, unsupported=fault) == "cpu" else reference
    # On the CPU it was asked for by name, when the plan was made.
    impl = None if q.device.type == "cuda" else "triton"
    if choose("attention", q, impl=impl, unsupported=why_no_kernel(q)) == "triton":
        return importlib.import_module("unimodal.kernels.attention.triton")
    return reference


@on_own_device
def _forward(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _implementation(q, plan).forward(q, k, v, plan, scale)
    return result


@on_own_device
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: list[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (grad, q, k, v, out, lse, plan, scale)
    result: tuple[Tensor, Tensor, Tensor] = _implementation(q, plan).backward(*inputs)
    return result


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    lse = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=lse)


def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


for _key in ("CPU", "CUDA"):
    _library.impl("attention", _forward, _key)
    _library.impl("attention_backward", _backward, _key)
torch.library.register_fake("unimodal::attention", _fake_forward, lib=_library)
torch.library.register_fake("unimodal::attention_backward", _fake_backward, lib=_library)
