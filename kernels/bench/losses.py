"""Benchmarks of cross-entropy over a head and of the nearest code of a codebook."""

import importlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodal.kernels.bench.compilers import compiled
from unimodal.kernels.bench.spec import OURS, Contender, Missing, Problem, Spec, random
from unimodal.kernels.cross_entropy import linear_cross_entropy
from unimodal.kernels.cross_entropy import reference as entropy_reference

Formula = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(spec: Spec) -> Problem:
    """Loss and gradients of `batch * seq` positions of width `heads * head_dim`, `classes` ids."""
    hidden = random((spec.rows, spec.width), spec, 0)
    weight = random((spec.classes, spec.width), spec, 1, scale=spec.width**-0.5)
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(spec.classes, (spec.rows,), generator=generator).to(spec.device)
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


def _liger(device: str, hidden: Tensor, weight: Tensor, target: Tensor) -> Contender | Missing:
    if device != "cuda":
        return Missing("it needs a CUDA device")
    try:
        module = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        return Missing("liger-kernel is not installed")
    fused = module.liger_fused_linear_cross_entropy
    return Contender(lambda: (fused(hidden, weight, target, reduction="sum"),))
