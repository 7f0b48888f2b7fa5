"""The gated activation of the feed-forward layer: checks, dispatch, operators.

    hidden = swiglu(gate_up)  # [..., 2 F] to [..., F]

Compilers of CPU code get the plain formula, which they fuse with what stands round it.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.swiglu import cpu, reference

dispatch.register("swiglu", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define("swiglu(Tensor gate_up, str impl) -> Tensor")
_library.define("swiglu_backward(Tensor gate_up, Tensor grad, str impl) -> Tensor")


def swiglu(gate_up: Tensor, *, impl: str | None = None) -> Tensor:
    """silu(gate) * up; Triton computes in float32.

    Args:
        gate_up: [..., 2 F]: gate in the first half of the last axis, up in the second.
        impl: As `dispatch.choose` takes it.

    Returns:
        [..., F] in the dtype of `gate_up`.

    Raises:
        ShapeError: if the last axis is odd.
        BackendUnavailableError: if `impl` names one that cannot run here.

    References:
        Shazeer 2020, GLU Variants Improve Transformer. Differs: none.
    """
    if gate_up.shape[-1] % 2:
        raise ShapeError(
            f"`gate_up` must have an even last axis, but has shape {tuple(gate_up.shape)}."
        )
    is_wide = gate_up.dtype == torch.float64
    refusal = "its kernels compute in float32, and the input is float64" if is_wide else None
    chosen = dispatch.choose("swiglu", gate_up, impl=impl, unsupported=refusal)
    if chosen == "cpu" and (torch.compiler.is_compiling() or not torch.is_grad_enabled()):
        chosen = "reference"
    if chosen == "reference":
        return reference.swiglu(gate_up)
    result: Tensor = _SwiGlu.apply(gate_up, chosen)
    return result


class _SwiGlu(torch.autograd.Function):
    """`reference.swiglu` with its gradient written out; keeps only its input."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, impl: str) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.impl = impl
        # The CPU path never meets a compiler, so it saves itself the operator.
        step = _forward if impl == "cpu" else torch.ops.unimodal.swiglu.default
        out: Tensor = step(gate_up, impl)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gate_up,) = ctx.saved_tensors
        step = _backward if ctx.impl == "cpu" else torch.ops.unimodal.swiglu_backward.default
        return step(gate_up, grads[0], ctx.impl), None


def _module(impl: str) -> Any:
    return cpu if impl == "cpu" else importlib.import_module("unimodal.kernels.swiglu.triton")


@dispatch.on_own_device
def _forward(gate_up: Tensor, impl: str) -> Tensor:
    out: Tensor = _module(impl).forward(gate_up)
    return out


@dispatch.on_own_device
def _backward(gate_up: Tensor, grad: Tensor, impl: str) -> Tensor:
    out: Tensor = _module(impl).backward(gate_up, grad)
    return out


def _fake_forward(gate_up: Tensor, impl: str) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


def _fake_backward(gate_up: Tensor, grad: Tensor, impl: str) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


_library.impl("swiglu", _forward, "CompositeExplicitAutograd")
_library.impl("swiglu_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::swiglu", _fake_forward, lib=_library)
torch.library.register_fake("unimodal::swiglu_backward", _fake_backward, lib=_library)
