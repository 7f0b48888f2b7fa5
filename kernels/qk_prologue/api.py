"""The prologue of attention: per-head RMS norm (QK-norm) and rotary position embedding (RoPE).

    cos, sin = rope_tables(position, head_dim)                # once a batch; position [B, T, 3]
    q, k = qk_prologue(q, k, q_weight, k_weight, cos, sin)    # q [B, T, N, H], k [B, T, K, H]

Not here: the projections, and attention itself. Compilers of CPU code get the plain formula, which
they fuse with what stands round it. Tested against float64 and against transformers' Qwen3.
"""

import importlib
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
    "qk_prologue(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, Tensor cos, Tensor sin, "
    "float eps, str impl) -> (Tensor, Tensor)"
)
_library.define(
    "qk_prologue_backward(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, Tensor cos, "
    "Tensor sin, float eps, Tensor grad_q, Tensor grad_k, str impl)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
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
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float = 1e-6,
    *,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalise each head of q and k and rotate them: x / rms(x) * weight, then RoPE.

    RoPE turns (x[i], x[i + H / 2]) by the angle of frequency i, as Qwen3 does. The arithmetic is in
    float32 (float64 for float64), the result in the dtype of the input.

    Args:
        q: [B, T, N, H]; may be a view of a fused projection.
        k: [B, T, K, H].
        q_weight, k_weight: [H], both or None for no norm.
        cos, sin: From `rope_tables`, [B, T, H / 2]; [B, T, H] as transformers has them is accepted.
        eps: Added to the mean square.
        impl: As `dispatch.choose` takes it.

    Returns:
        The new q and k, contiguous, in the shapes of the old ones.

    Raises:
        ShapeError: if shapes do not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    size = q.shape[-1]
    if cos.shape[-1] == size:
        cos, sin = cos[..., : size // 2], sin[..., : size // 2]
    _check(Inputs(q, k, q_weight, k_weight, cos, sin, eps))
    refusal = None
    if q.dtype == torch.float64:
        refusal = "its kernels compute in float32, and the input is float64"
    elif size > MAX_HEAD_DIM:
        refusal = f"heads of more than {MAX_HEAD_DIM:,} elements do not fit a program"
    chosen = dispatch.choose("qk_prologue", q, k, cos, sin, impl=impl, unsupported=refusal)
    if chosen == "reference" or (chosen == "cpu" and torch.compiler.is_compiling()):
        return (
            reference.normalise_and_rotate(q, q_weight, cos, sin, eps),
            reference.normalise_and_rotate(k, k_weight, cos, sin, eps),
        )
    q, k = _NormaliseAndRotate.apply(q, k, q_weight, k_weight, cos, sin, eps, chosen)
    return q, k


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
    weights = [weight for weight in (x.q_weight, x.k_weight) if weight is not None]
    if len(weights) == 1 or any(weight.shape != (size,) for weight in weights):
        raise ShapeError(
            f"`q_weight` and `k_weight` must both have shape ({size},), or both be None, but have "
            f"{[None if w is None else tuple(w.shape) for w in (x.q_weight, x.k_weight)]}."
        )


class _NormaliseAndRotate(torch.autograd.Function):
    """`reference.normalise_and_rotate` of q and k with its gradient written out.

    It takes the fields of `Inputs` and the implementation.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, eps, impl = arguments
        ctx.save_for_backward(*tensors)
        ctx.options = eps, impl
        # The CPU path never meets a compiler, so it saves itself the operator.
        step = _forward if impl == "cpu" else torch.ops.unimodal.qk_prologue.default
        out_q, out_k = step(*arguments)
        return out_q, out_k

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        eps, impl = ctx.options
        step = _backward if impl == "cpu" else torch.ops.unimodal.qk_prologue_backward.default
        grad_q, grad_k, *weights = step(*ctx.saved_tensors, eps, grads[0], grads[1], impl)
        if ctx.saved_tensors[2] is None:
            return grad_q, grad_k, *(None for _ in range(6))
        return grad_q, grad_k, *weights, *(None for _ in range(4))


def _module(impl: str) -> Any:
    return cpu if impl == "cpu" else importlib.import_module("unimodal.kernels.qk_prologue.triton")


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, impl = arguments
    out_q, out_k = _module(impl).forward(Inputs(*inputs))
    return out_q, out_k


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *inputs, grad_q, grad_k, impl = arguments
    results = _module(impl).backward(Inputs(*inputs), grad_q, grad_k)
    out_q, out_k, out_q_weight, out_k_weight = results
    return out_q, out_k, out_q_weight, out_k_weight


def _fake_forward(q: Tensor, k: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _fake_backward(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        q.new_empty(0) if q_weight is None else q_weight.new_empty(q_weight.shape),
        k.new_empty(0) if k_weight is None else k_weight.new_empty(k_weight.shape),
    )


_library.impl("qk_prologue", _forward, "CompositeExplicitAutograd")
_library.impl("qk_prologue_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::qk_prologue", _fake_forward, lib=_library)
torch.library.register_fake("unimodal::qk_prologue_backward", _fake_backward, lib=_library)
