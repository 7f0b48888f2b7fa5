"""RMS norm, alone and fused with the residual addition before it: checks, dispatch, operators.

    normed = rms_norm(x, weight)                        # x [..., D], weight [D]
    residual, normed = add_rms_norm(x, update, weight)  # x + update, and its norm

Float32 arithmetic (float64 for float64); the result is already in the dtype that the following
product takes under autocast, so that it needs no cast of its own. Compilers of CPU code get the
plain formula, which they fuse with what stands round it.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.rms_norm import cpu, reference

SMALL = 1 << 15
"""Without gradients, inputs of fewer elements take the reference: it has the least overhead."""

MAX_WIDTH = 16_384
"""A Triton program holds whole rows in its registers; longer ones do not fit."""

dispatch.register("rms_norm", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define(
    "add_rms_norm(Tensor x, Tensor? update, Tensor weight, float eps, ScalarType dtype, str impl)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "add_rms_norm_backward(Tensor total, Tensor weight, Tensor? grad_total, Tensor grad_normed, "
    "float eps, ScalarType? update_dtype, str impl) -> (Tensor, Tensor, Tensor)"
)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, impl: str | None = None) -> Tensor:
    """x / sqrt(mean(x ** 2) + eps) * weight.

    Args:
        x: [..., D].
        weight: [D].
        eps: Added to the mean square.
        impl: As `dispatch.choose` takes it.

    Returns:
        [..., D], in the autocast dtype under autocast, else in that of `x`.

    Raises:
        ShapeError: if `weight` does not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.

    References:
        Zhang and Sennrich 2019, Root Mean Square Layer Normalization. Differs: none.
    """
    _check(x, weight)
    chosen = _implementation(impl, x, weight)
    if chosen == "reference":
        return reference.rms_norm(x, weight, eps, _out_dtype(x))
    normed: Tensor = _AddRmsNorm.apply(x, None, weight, eps, _out_dtype(x), chosen)[1]
    return normed


def add_rms_norm(
    x: Tensor, update: Tensor, weight: Tensor, eps: float = 1e-6, *, impl: str | None = None
) -> tuple[Tensor, Tensor]:
    """The residual x + update and its RMS norm.

    Args:
        x: The residual stream [..., D].
        update: [..., D], of the same or a lower precision.
        weight: [D].
        eps: Added to the mean square.
        impl: As `dispatch.choose` takes it.

    Returns:
        x + update in the dtype of `x`, and its norm as `rms_norm` gives it.

    Raises:
        ShapeError: if shapes do not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    _check(x, weight)
    if update.shape != x.shape:
        raise ShapeError(
            f"`update` must have the shape of `x` {tuple(x.shape)}, but has {tuple(update.shape)}."
        )
    chosen = _implementation(impl, x, update, weight)
    if chosen == "reference":
        total = (x + update).to(x.dtype)
        return total, reference.rms_norm(total, weight, eps, _out_dtype(x))
    total, normed = _AddRmsNorm.apply(x, update, weight, eps, _out_dtype(x), chosen)
    return total, normed


class _AddRmsNorm(torch.autograd.Function):
    """(x + update, rms_norm(x + update)); `update` None leaves x as it is."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
        impl: str,
    ) -> tuple[Tensor, Tensor]:
        # The CPU path never meets a compiler, so it saves itself the operator.
        step = _forward if impl == "cpu" else torch.ops.unimodal.add_rms_norm.default
        total, normed = step(x, update, weight, eps, dtype, impl)
        ctx.save_for_backward(x if update is None else total, weight)
        ctx.options = eps, None if update is None else update.dtype, impl
        ctx.set_materialize_grads(False)
        return (x.view_as(x) if update is None else total), normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        eps, update_dtype, impl = ctx.options
        grad_total, grad_normed = grads
        if grad_normed is None:
            grad_normed = torch.zeros_like(total)
        step = _backward if impl == "cpu" else torch.ops.unimodal.add_rms_norm_backward.default
        # An update of the same dtype has the gradient of x.
        own = None if update_dtype == total.dtype else update_dtype
        grad, grad_update, grad_weight = step(
            total, weight, grad_total, grad_normed, eps, own, impl
        )
        if own is None:
            grad_update = None if update_dtype is None else grad
        return grad, grad_update, grad_weight, None, None, None


def _implementation(impl: str | None, x: Tensor, *others: Tensor) -> str:
    triton_refuses = None
    if x.dtype == torch.float64:
        triton_refuses = "its kernels compute in float32, and the input is float64"
    elif x.shape[-1] > MAX_WIDTH:
        triton_refuses = f"rows of more than {MAX_WIDTH:,} elements do not fit a program"
    chosen = dispatch.choose("rms_norm", x, *others, impl=impl, unsupported=triton_refuses)
    return "reference" if chosen == "cpu" and _plain(x) else chosen


def _plain(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.dtype not in (torch.float32, torch.float64):
        return True
    return not torch.is_grad_enabled() and x.numel() < SMALL


def _out_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def _check(x: Tensor, weight: Tensor) -> None:
    if weight.shape != x.shape[-1:]:
        raise ShapeError(
            f"`weight` must have shape ({x.shape[-1]},), but has {tuple(weight.shape)}."
        )


def _module(impl: str) -> Any:
    return cpu if impl == "cpu" else importlib.import_module("unimodal.kernels.rms_norm.triton")


@dispatch.on_own_device
def _forward(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype, impl: str
) -> tuple[Tensor, Tensor]:
    total, normed = _module(impl).forward(x, update, weight, eps, dtype)
    return total, normed


@dispatch.on_own_device
def _backward(
    total: Tensor,
    weight: Tensor,
    grad_total: Tensor | None,
    grad_normed: Tensor,
    eps: float,
    update_dtype: torch.dtype | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, grad_update, grad_weight = _module(impl).backward(
        total, weight, grad_total, grad_normed, eps, update_dtype
    )
    return grad, grad_update, grad_weight


def _fake_forward(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype, impl: str
) -> tuple[Tensor, Tensor]:
    return x.new_empty((0,) if update is None else x.shape), x.new_empty(x.shape, dtype=dtype)


def _fake_backward(
    total: Tensor,
    weight: Tensor,
    grad_total: Tensor | None,
    grad_normed: Tensor,
    eps: float,
    update_dtype: torch.dtype | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (0,) if update_dtype is None else total.shape
    return (
        total.new_empty(total.shape),
        total.new_empty(shape, dtype=update_dtype),
        weight.new_empty(weight.shape),
    )


_library.impl("add_rms_norm", _forward, "CompositeExplicitAutograd")
_library.impl("add_rms_norm_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::add_rms_norm", _fake_forward, lib=_library)
torch.library.register_fake("unimodal::add_rms_norm_backward", _fake_backward, lib=_library)
