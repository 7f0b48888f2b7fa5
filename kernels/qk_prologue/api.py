"""The prologue of attention: RMS norm of heads (QK-norm), rotary positions (RoPE), a permutation.

    cos, sin = rope_tables(position, head_dim)                # once a batch; position [B, T, 3]
    q, k, v = qk_prologue(q, k, v, q_weight, k_weight, cos, sin)  # q [B, T, N, H], k [B, T, K, H]
    q, k, v = qk_prologue(..., order=plan.order)              # as attention of `plan` visits them

Not here: the projections, and attention itself. Compilers of CPU code get the plain formula, which
they fuse with what stands round it. Tested against float64 and against transformers' Qwen3.
"""

import importlib
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.qk_prologue import cpu, reference
from unimodal.kernels.qk_prologue.inputs import Inputs

MAX_HEAD_DIM = 1024
"""A Triton program holds whole heads in its registers; larger ones do not fit."""

dispatch.register("qk_prologue", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define(
    "qk_prologue(Tensor q, Tensor k, Tensor? v, Tensor? q_weight, Tensor? k_weight, Tensor cos, "
    "Tensor sin, Tensor? order, float eps, str impl) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "qk_prologue_backward(Tensor q, Tensor k, Tensor? v, Tensor? q_weight, Tensor? k_weight, "
    "Tensor cos, Tensor sin, Tensor? order, float eps, Tensor grad_q, Tensor grad_k, "
    "Tensor grad_v, str impl) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def rope_tables(
    position: Tensor,
    head_dim: int,
    theta: float = 10_000.0,
    sections: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of interleaved M-RoPE.

    Frequency i is theta ** (-2 i / head_dim), i < head_dim / 2. It turns with h if i % 3 == 1, with
    w if i % 3 == 2, else with t; so t = h = w gives the one-dimensional RoPE of Qwen3.

    Args:
        position: float32 [B, T, 3]: t, h, w.
        head_dim: Head size H, even.
        theta: Base of the frequencies.
        sections: As Qwen3-VL's `mrope_section`: how many frequencies t, h and w have. Where h or w
            have used up theirs, t takes the rest. None: no such limit.

    Returns:
        cos, sin: float32 [B, T, H / 2].

    Raises:
        ShapeError: if `position` is not [B, T, 3] or `head_dim` is odd.

    References:
        Su et al. 2021, RoFormer; Bai et al. 2025, Qwen3-VL. Differs: none.
    """
    if position.ndim != 3 or position.shape[-1] != 3:
        raise ShapeError(f"`position` must have shape (B, T, 3), but has {tuple(position.shape)}.")
    if head_dim % 2:
        raise ShapeError(f"`head_dim` must be even, but is {head_dim}.")
    number = torch.arange(head_dim // 2, device=position.device)
    exponent = (2 * number).to(torch.float32) / head_dim
    frequency = 1.0 / (theta**exponent)
    axis = number % 3
    if sections is not None:
        if sum(sections) != head_dim // 2:
            raise ShapeError(
                f"`sections` must sum to half of `head_dim` ({head_dim // 2}), but is {sections}."
            )
        limit = torch.tensor((head_dim, *sections[1:]), device=position.device)
        axis = torch.where(number < 3 * limit[axis], axis, 0)
    angle = position.float()[..., axis] * frequency
    return angle.cos(), angle.sin()


def qk_prologue(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float = 1e-6,
    *,
    order: Tensor | None = None,
    impl: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise the heads of q and k, rotate them (x / rms(x) * weight, then RoPE), reorder all.

    RoPE turns (x[i], x[i + H / 2]) by the angle of frequency i, as Qwen3 does. The arithmetic is in
    float32 (float64 for float64), the result in the dtype of the input.

    Args:
        q: [B, T, N, H]; may be a view of a fused projection.
        k: [B, T, K, H].
        v: [B, T, K, H]; takes part in the permutation only.
        q_weight, k_weight: [H], both or None for no norm.
        cos, sin: From `rope_tables`, [B, T, H / 2]; [B, T, H] as transformers has them is accepted.
        eps: Added to the mean square.
        order: int64 [B * T], a permutation (not checked): flat place p of the results holds token
            order[p], for layers that visit tokens in another order. None: as they come.
        impl: As `dispatch.choose` takes it.

    Returns:
        The new q and k, contiguous, in the shapes of the old ones, and v: itself without an order.

    Raises:
        ShapeError: if shapes do not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    size = q.shape[-1]
    if cos.shape[-1] == size:
        cos, sin = cos[..., : size // 2], sin[..., : size // 2]
    moved = v if order is not None else None
    given = Inputs(q, k, moved, q_weight, k_weight, cos, sin, order, eps)
    _check(given)
    refusal = None
    if q.dtype == torch.float64:
        refusal = "its kernels compute in float32, and the input is float64"
    elif size > MAX_HEAD_DIM:
        refusal = f"heads of more than {MAX_HEAD_DIM:,} elements do not fit a program"
    chosen = dispatch.choose("qk_prologue", q, k, cos, sin, impl=impl, unsupported=refusal)
    if chosen == "reference" or (chosen == "cpu" and torch.compiler.is_compiling()):
        out_q = reference.normalise_and_rotate(q, q_weight, cos, sin, eps)
        out_k = reference.normalise_and_rotate(k, k_weight, cos, sin, eps)
        return (
            reference.placed(out_q, order),
            reference.placed(out_k, order),
            reference.placed(v, order),
        )
    results = _Prologue.apply(*(getattr(given, field.name) for field in fields(given)), chosen)
    return results[0], results[1], v if order is None else results[2]


def _check(x: Inputs) -> None:
    q, k, size = x.q, x.k, x.q.shape[-1]
    if q.ndim != 4 or k.ndim != 4 or size % 2 or k.shape[-1] != size or q.shape[:2] != k.shape[:2]:
        raise ShapeError(
            "`q` and `k` must have shapes (B, T, N, H) and (B, T, K, H) with even H, but have "
            f"{tuple(q.shape)} and {tuple(k.shape)}."
        )
    expected = (*q.shape[:2], size // 2)
    if x.cos.shape != expected or x.sin.shape != expected:
        raise ShapeError(
            f"`cos` and `sin` must have shape {expected}, but have {tuple(x.cos.shape)} and "
            f"{tuple(x.sin.shape)}."
        )
    if x.order is not None:
        _check_order(x)
    weights = [weight for weight in (x.q_weight, x.k_weight) if weight is not None]
    if len(weights) == 1 or any(weight.shape != (size,) for weight in weights):
        raise ShapeError(
            f"`q_weight` and `k_weight` must both have shape ({size},), or both be None, but have "
            f"{[None if w is None else tuple(w.shape) for w in (x.q_weight, x.k_weight)]}."
        )


def _check_order(x: Inputs) -> None:
    assert x.order is not None
    assert x.v is not None
    tokens = x.q.shape[0] * x.q.shape[1]
    if x.order.shape != (tokens,) or x.order.dtype != torch.int64:
        raise ShapeError(
            f"`order` must be int64 of shape ({tokens},), but is {x.order.dtype} of shape "
            f"{tuple(x.order.shape)}."
        )
    if x.v.shape != x.k.shape:
        raise ShapeError(
            f"`v` must have the shape of `k` {tuple(x.k.shape)}, but has {tuple(x.v.shape)}."
        )


class _Prologue(torch.autograd.Function):
    """The prologue with its gradient written out. It takes the fields of `Inputs`, and `impl`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, eps, impl = arguments
        ctx.save_for_backward(*tensors)
        ctx.options = eps, impl
        # The CPU path never meets a compiler, so it saves itself the operator.
        step = _forward if impl == "cpu" else torch.ops.unimodal.qk_prologue.default
        out_q, out_k, out_v = step(*arguments)
        return out_q, out_k, out_v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        eps, impl = ctx.options
        step = _backward if impl == "cpu" else torch.ops.unimodal.qk_prologue_backward.default
        results = step(*ctx.saved_tensors, eps, *grads, impl)
        _, _, v, weight, *_ = ctx.saved_tensors
        grad_q, grad_k, grad_v, *weights = results
        return (
            grad_q,
            grad_k,
            None if v is None else grad_v,
            *((None, None) if weight is None else weights),
            *(None for _ in range(5)),
        )


def _module(impl: str) -> Any:
    return cpu if impl == "cpu" else importlib.import_module("unimodal.kernels.qk_prologue.triton")


@dispatch.on_own_device
def _forward(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, impl = rest
    out_q, out_k, out_v = _module(impl).forward(Inputs(q, *inputs))
    return out_q, out_k, out_v


@dispatch.on_own_device
def _backward(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *inputs, grad_q, grad_k, grad_v, impl = rest
    results = _module(impl).backward(Inputs(q, *inputs), grad_q, grad_k, grad_v)
    out_q, out_k, out_v, out_q_weight, out_k_weight = results
    return out_q, out_k, out_v, out_q_weight, out_k_weight


def _fake_forward(q: Tensor, k: Tensor, v: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(_empty_like(x, q) for x in (q, k, v))  # type: ignore[return-value]


def _fake_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(_empty_like(x, q) for x in (q, k, v, q_weight, k_weight))  # type: ignore[return-value]


def _empty_like(x: Tensor | None, other: Tensor) -> Tensor:
    """A contiguous result in the shape of x; without x an empty one."""
    return other.new_empty(0) if x is None else x.new_empty(x.shape)


_library.impl("qk_prologue", _forward, "CompositeExplicitAutograd")
_library.impl("qk_prologue_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::qk_prologue", _fake_forward, lib=_library)
torch.library.register_fake("unimodal::qk_prologue_backward", _fake_backward, lib=_library)
