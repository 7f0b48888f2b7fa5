"""Cross-entropy of a linear head without the logits: checks, dispatch, the operator.

    loss, nll = linear_cross_entropy(hidden, weight, target, loss_weight)  # hidden [P, D]
    nll, correct = linear_nll(hidden, weight, target)                      # weight [C, D]

The head is one matrix or several whose rows are concatenated (the spans and control rows of a head
set), so positions touch only the columns of their head set. Not here: which head set a position
uses.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.cross_entropy import cpu, reference

dispatch.register("cross_entropy", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define(
    "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor target, Tensor loss_weight, "
    "float z_loss, bool low_precision, bool want_grads, str impl)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor | Sequence[Tensor],
    target: Tensor,
    loss_weight: Tensor,
    z_loss: float = 0.0,
    *,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of softmax(hidden @ weight.T), chunked over positions.

    loss = sum over positions of loss_weight * (nll + z_loss * lse ** 2). Products run in bfloat16
    under autocast, the softmax in float32.

    Args:
        hidden: [P, D].
        weight: [C, D], or pieces whose rows are concatenated in order.
        target: int64 [P], rows of the concatenation.
        loss_weight: float32 [P]; takes no gradient.
        z_loss: Factor of the squared log of the partition sum, at least 0.
        impl: As `dispatch.choose` takes it.

    Returns:
        The loss, a scalar in float32 with gradients for hidden and weight, and nll [P] in nats,
        float32, detached, without z-loss.

    Raises:
        ShapeError: if shapes do not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    joined = _join(weight)
    _check(hidden, joined, target)
    if loss_weight.shape != target.shape:
        raise ShapeError(
            f"`loss_weight` must have shape {tuple(target.shape)}, but has "
            f"{tuple(loss_weight.shape)}."
        )
    chosen = _implementation(impl, hidden, joined, target, loss_weight)
    if chosen == "reference":
        return reference.linear_cross_entropy(hidden, joined, target, loss_weight, z_loss)
    low = _low_precision(hidden)
    # Asked here: inside the function, gradients are wanted whether or not anybody records them.
    want = torch.is_grad_enabled() and (hidden.requires_grad or joined.requires_grad)
    total, nll = _LinearCrossEntropy.apply(
        hidden, joined, target, loss_weight, z_loss, low, want, chosen
    )
    return total, nll


def linear_nll(
    hidden: Tensor,
    weight: Tensor | Sequence[Tensor],
    target: Tensor,
    *,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods for evaluation, without gradients.

    Args:
        hidden, weight, target, impl: As for `linear_cross_entropy`.

    Returns:
        nll: float32 [P] in nats.
        correct: bool [P], whether the target has the largest logit.

    Raises:
        ShapeError: if shapes do not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    with torch.no_grad():
        joined = _join(weight)
        _check(hidden, joined, target)
        chosen = _implementation(impl, hidden, joined, target)
        if chosen == "reference":
            return reference.nll_and_correct(hidden, joined, target)
        run = dispatch.on_own_device(_module(chosen).nll_and_correct)
        nll, correct = run(hidden, joined, target, _low_precision(hidden))
        return nll, correct


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        loss_weight: Tensor,
        z_loss: float,
        low_precision: bool,
        want: bool,
        impl: str,
    ) -> tuple[Tensor, Tensor]:
        total, nll, grad_hidden, grad_weight = torch.ops.unimodal.linear_cross_entropy(
            hidden, weight, target, loss_weight, z_loss, low_precision, want, impl
        )
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return grad_hidden * scale, grad_weight * scale, None, None, None, None, None, None


def _join(weight: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(weight, Tensor):
        return weight
    return weight[0] if len(weight) == 1 else torch.cat(list(weight))


def _low_precision(hidden: Tensor) -> bool:
    device = hidden.device.type
    return hidden.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.bfloat16
        and hidden.dtype != torch.float64
    )


def _check(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ShapeError(
            "`hidden` must have shape (P, D) and `weight` (C, D), but they have "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}."
        )
    if target.shape != hidden.shape[:1] or target.dtype != torch.int64:
        raise ShapeError(
            f"`target` must be int64 of shape ({hidden.shape[0]},), but is {target.dtype} of "
            f"shape {tuple(target.shape)}."
        )
    # On a GPU this would wait for it; kernels there give such a row a loss that is no number.
    if target.is_cpu and target.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in target.aminmax())
        if low < 0 or high >= len(weight):
            raise ShapeError(
                f"`target` must be from 0 to {len(weight) - 1}, but is from {low} to {high}.",
                remedy="Give positions without a target any class and the loss weight 0.",
            )


def _implementation(impl: str | None, hidden: Tensor, *others: Tensor) -> str:
    is_wide = hidden.dtype == torch.float64
    refusal = "its kernels compute in float32, and the input is float64" if is_wide else None
    return dispatch.choose("cross_entropy", hidden, *others, impl=impl, unsupported=refusal)


def _module(impl: str) -> Any:
    return (
        cpu if impl == "cpu" else importlib.import_module("unimodal.kernels.cross_entropy.triton")
    )


@dispatch.on_own_device
def _loss_and_grads(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    loss_weight: Tensor,
    z_loss: float,
    low_precision: bool,
    want_grads: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total, nll, grad_hidden, grad_weight = _module(impl).loss_and_grads(
        hidden, weight, target, loss_weight, z_loss, low_precision, want_grads
    )
    return total, nll, grad_hidden, grad_weight


def _fake(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    loss_weight: Tensor,
    z_loss: float,
    low_precision: bool,
    want_grads: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return (
        hidden.new_empty((), dtype=wide),
        hidden.new_empty((hidden.shape[0],), dtype=wide),
        hidden.new_empty(hidden.shape if want_grads else (0,)),
        weight.new_empty(weight.shape if want_grads else (0,)),
    )


_library.impl("linear_cross_entropy", _loss_and_grads, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::linear_cross_entropy", _fake, lib=_library)
