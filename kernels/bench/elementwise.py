"""Benchmarks of RMS norm with its residual, SwiGLU, and the prologue of attention."""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodal.kernels.attention.tokens import plan_tokens
from unimodal.kernels.bench import layouts
from unimodal.kernels.bench.compilers import compiled
from unimodal.kernels.bench.spec import OURS, Contender, Missing, Problem, Spec, random
from unimodal.kernels.qk_prologue import qk_prologue, rope_tables
from unimodal.kernels.qk_prologue import reference as prologue_reference
from unimodal.kernels.rms_norm import add_rms_norm
from unimodal.kernels.rms_norm import reference as norm_reference
from unimodal.kernels.swiglu import reference as swiglu_reference
from unimodal.kernels.swiglu import swiglu

EPS = 1e-6


def rms_norm(spec: Spec) -> Problem:
    """x + update and its norm: rows of `heads * head_dim`, a float32 weight."""
    shape = (spec.rows, spec.width)
    x, update = random(shape, spec, 0), random(shape, spec, 1)
    weight = torch.rand(spec.width, generator=torch.Generator().manual_seed(2)) + 0.5
    weight = weight.to(spec.device).requires_grad_()
    grads = [random(shape, spec, seed, grad=False) for seed in (3, 4)]
    inputs = (x, update, weight)

    def formula(x: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + update
        return total, norm_reference.rms_norm(total, weight, EPS, x.dtype)

    def eager(x: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + update
        return total, F.rms_norm(total, (spec.width,), weight.to(x.dtype), EPS)

    def liger() -> Contender | Missing:
        module = _liger(spec.device, "LigerRMSNormFunction", "rms_norm")
        if isinstance(module, Missing):
            return module

        def forward() -> tuple[Tensor, Tensor]:
            total = x + update
            return total, module.apply(total, weight, EPS)

        return Contender(forward, note="addition apart")

    return Problem(
        inputs=inputs,
        grads=grads,
        exact=lambda tensors: formula(*tensors),
        makers={
            OURS: lambda: Contender(lambda: add_rms_norm(x, update, weight, EPS)),
            "eager": lambda: Contender(lambda: eager(*inputs)),
            "compile": lambda: compiled(spec.device, formula, inputs),
            "liger": liger,
        },
        flops=6.0 * x.numel(),
        num_bytes=4.0 * x.numel() * x.element_size(),
        backward_flops=2.0,
        backward_bytes=1.0,
    )


def gated(spec: Spec) -> Problem:
    """SwiGLU of rows of 2 x `heads * head_dim`."""
    gate_up = random((spec.rows, 2 * spec.width), spec, 0)
    grad = random((spec.rows, spec.width), spec, 1, grad=False)

    def liger() -> Contender | Missing:
        module = _liger(spec.device, "LigerSiLUMulFunction", "swiglu")
        if isinstance(module, Missing):
            return module
        gate, up = gate_up.chunk(2, dim=-1)
        return Contender(lambda: (module.apply(gate, up),))

    return Problem(
        inputs=(gate_up,),
        grads=(grad,),
        exact=lambda tensors: (swiglu_reference.swiglu(*tensors),),
        makers={
            OURS: lambda: Contender(lambda: (swiglu(gate_up),)),
            "eager": lambda: Contender(lambda: (swiglu_reference.swiglu(gate_up),)),
            "compile": lambda: compiled(spec.device, _one(swiglu_reference.swiglu), (gate_up,)),
            "liger": liger,
        },
        flops=5.0 * grad.numel(),
        num_bytes=3.0 * grad.numel() * grad.element_size(),
        backward_flops=2.0,
        backward_bytes=5 / 3,
    )


def prologue(spec: Spec) -> Problem:
    """QK-norm and RoPE of queries and keys, in the order that the pattern's attention works in.

    Where that is another one than the batch's, values move with them (the keys stand for them).
    """
    q = random((spec.batch, spec.seq, spec.heads, spec.head_dim), spec, 0)
    k = random((spec.batch, spec.seq, spec.kv_heads, spec.head_dim), spec, 1)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.rand(spec.head_dim, generator=generator) + 0.5 for _ in range(2)]
    q_weight, k_weight = (w.to(spec.device).requires_grad_() for w in weights)
    position = torch.arange(spec.seq, dtype=torch.float32, device=spec.device)
    position = position[None, :, None].expand(spec.batch, spec.seq, 3)
    cos, sin = rope_tables(position, spec.head_dim)
    rule = layouts.Rule.of(layouts.kinds(spec))
    order = plan_tokens(layouts.layout(spec), rule.programs).order  # type: ignore[arg-type]
    shapes = [tuple(x.shape) for x in ((q, k) if order is None else (q, k, k))]
    grads = [random(shape, spec, 3 + n, grad=False) for n, shape in enumerate(shapes)]
    inputs = (q, k, q_weight, k_weight)

    def formula(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor) -> tuple[Tensor, ...]:
        turn = prologue_reference.normalise_and_rotate
        made = (turn(q, q_weight, cos, sin, EPS), turn(k, k_weight, cos, sin, EPS))
        if order is None:
            return made
        return tuple(x.flatten(0, 1)[order].view(x.shape) for x in (*made, k))

    def ours() -> tuple[Tensor, ...]:
        return qk_prologue(q, k, k, *inputs[2:], cos, sin, EPS, order=order)[: len(grads)]

    elements = sum(x.numel() for x in grads)
    return Problem(
        inputs=inputs,
        grads=grads,
        exact=lambda tensors: formula(*tensors),
        makers={
            OURS: lambda: Contender(ours),
            "eager": lambda: Contender(lambda: formula(*inputs)),
            "compile": lambda: compiled(spec.device, formula, inputs),
        },
        flops=9.0 * elements,
        num_bytes=2.0 * elements * q.element_size() + 2.0 * cos.numel() * cos.element_size(),
        backward_flops=2.0,
        backward_bytes=1.5,
    )


def _one(run: object) -> object:
    return lambda *tensors: (run(*tensors),)  # type: ignore[operator]


def _liger(device: str, name: str, module: str) -> Any:
    if device != "cuda":
        return Missing("it needs a CUDA device")
    try:
        return getattr(importlib.import_module(f"liger_kernel.ops.{module}"), name)
    except ImportError:
        return Missing("liger-kernel is not installed")
