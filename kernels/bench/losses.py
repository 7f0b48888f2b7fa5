"""Benchmarks of cross-entropy over a head, with and without gradients, and of the nearest code."""

import importlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodal.kernels.bench.compilers import compiled
from unimodal.kernels.bench.spec import OURS, Contender, Missing, Problem, Spec, random
from unimodal.kernels.cross_entropy import linear_cross_entropy, linear_nll
from unimodal.kernels.cross_entropy import reference as entropy_reference
from unimodal.kernels.nearest_code import nearest_code
from unimodal.kernels.nearest_code import reference as nearest_reference

Formula = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(spec: Spec) -> Problem:
    """Loss and gradients of `batch * seq` positions of width `heads * head_dim`, `classes` ids."""
    hidden, weight, target = _head(spec, grad=True)
    ones = torch.ones(spec.rows, device=spec.device)
    grad = torch.ones((), device=spec.device)

    def exact(tensors: Sequence[Tensor]) -> tuple[Tensor]:
        h, w = tensors
        loss, _ = entropy_reference.linear_cross_entropy(h, w, target, ones.to(h.dtype), 0.0)
        return (loss,)

    def eager(hidden: Tensor, weight: Tensor) -> tuple[Tensor]:
        logits = F.linear(hidden, weight).float()
        return (F.cross_entropy(logits, target, reduction="sum"),)

    def torch_fused() -> Contender | Missing:
        fused: Callable[..., Tensor] | None = getattr(F, "linear_cross_entropy", None)
        if fused is None:
            return Missing("this torch has no F.linear_cross_entropy")
        return Contender(lambda: (fused(hidden, weight, target, reduction="sum"),))

    return Problem(
        inputs=(hidden, weight),
        grads=(grad,),
        exact=exact,
        plain=lambda tensors: eager(*tensors),
        makers={
            OURS: lambda: Contender(lambda: linear_cross_entropy(hidden, weight, target, ones)[:1]),
            "eager": lambda: Contender(lambda: eager(hidden, weight)),
            "torch": torch_fused,
            "compile": lambda: compiled(spec.device, eager, (hidden, weight)),
            "liger": lambda: _liger(spec.device, hidden, weight, target),
        },
        flops=2.0 * spec.rows * spec.classes * spec.width,
        num_bytes=float((hidden.numel() + weight.numel()) * hidden.element_size()),
        backward_flops=2.0,
        directions=("forward", "both"),
    )


def nll(spec: Spec) -> Problem:
    """The loss of each position, as evaluation takes it: no gradient, no sum."""
    hidden, weight, target = _head(spec, grad=False)

    def formula(hidden: Tensor, weight: Tensor) -> tuple[Tensor]:
        logits = F.linear(hidden, weight)
        return (F.cross_entropy(_at_least_float32(logits), target, reduction="none"),)

    return Problem(
        inputs=(hidden, weight),
        grads=(),
        exact=lambda tensors: formula(*tensors),
        makers={
            OURS: lambda: Contender(
                lambda: linear_nll(hidden, weight, target)[:1], has_backward=False
            ),
            "eager": lambda: Contender(lambda: formula(hidden, weight), has_backward=False),
            "compile": lambda: compiled(spec.device, formula, (hidden, weight)),
        },
        flops=2.0 * spec.rows * spec.classes * spec.width,
        num_bytes=float((hidden.numel() + weight.numel()) * hidden.element_size()),
    )


def _head(spec: Spec, *, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the head's weight, and targets."""
    hidden = random((spec.rows, spec.width), spec, 0, grad=grad)
    weight = random((spec.classes, spec.width), spec, 1, scale=spec.width**-0.5, grad=grad)
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(spec.classes, (spec.rows,), generator=generator).to(spec.device)
    return hidden, weight, target


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _liger(device: str, hidden: Tensor, weight: Tensor, target: Tensor) -> Contender | Missing:
    if device != "cuda":
        return Missing("it needs a CUDA device")
    try:
        module = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        return Missing("liger-kernel is not installed")
    fused = module.liger_fused_linear_cross_entropy
    return Contender(lambda: (fused(hidden, weight, target, reduction="sum"),))


def nearest(spec: Spec) -> Problem:
    """The nearest of `classes` codes of `head_dim` numbers, for `batch * seq` vectors."""
    x = random((spec.rows, spec.head_dim), spec, 0, grad=False)
    codebook = random((spec.classes, spec.head_dim), spec, 1, grad=False)

    def judge(outputs: Sequence[Tensor]) -> tuple[Tensor]:
        # Of near ties any is right: what must agree is how far the chosen code is.
        chosen = codebook[outputs[0]].double()
        return ((x.double() - chosen).square().sum(dim=-1),)

    def distances(x: Tensor, codebook: Tensor) -> tuple[Tensor]:
        return (torch.cdist(x, codebook).argmin(dim=-1),)

    return Problem(
        inputs=(x, codebook),
        grads=(),
        exact=lambda tensors: (nearest_reference.nearest_code(*tensors),),
        judge=judge,
        makers={
            OURS: lambda: Contender(lambda: (nearest_code(x, codebook),), has_backward=False),
            "cdist": lambda: _cdist(spec, distances, x, codebook),
        },
        flops=2.0 * spec.rows * spec.classes * spec.head_dim,
        num_bytes=float((x.numel() + codebook.numel()) * x.element_size() + 8 * spec.rows),
    )


def _cdist(
    spec: Spec, formula: Callable[..., tuple[Tensor]], x: Tensor, codebook: Tensor
) -> Contender | Missing:
    if spec.dtype != "float32":
        return Missing("torch.cdist takes float32 only")
    return Contender(lambda: formula(x, codebook), has_backward=False, note="all distances at once")
