"""SwiGLU for eager execution: keeps only its input, works in pieces that stay in the cache.

Tested against `reference`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18
"""Elements of gate and up worked on at once."""


class SwiGlu(torch.autograd.Function):
    """`reference.swiglu` with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        width = gate_up.shape[-1] // 2
        out = gate_up.new_empty(*gate_up.shape[:-1], width)
        for gate_up_c, out_c in _chunks(gate_up, out):
            gate, up = gate_up_c.chunk(2, dim=-1)
            torch.mul(F.silu(gate), up, out=out_c)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad_gate_up = gate_up.new_empty(gate_up.shape)
        for gate_up_c, grad_c, out_c in _chunks(gate_up, grads[0], grad_gate_up):
            gate, up = gate_up_c.chunk(2, dim=-1)
            grad_gate, grad_up = out_c.chunk(2, dim=-1)
            torch.mul(F.silu(gate), grad_c, out=grad_up)
            torch.ops.aten.silu_backward.grad_input(grad_c * up, gate, grad_input=grad_gate)
        return grad_gate_up


def _chunks(gate_up: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Pieces of rows, as views."""
    size = max(1, CHUNK_ELEMENTS // max(1, gate_up.shape[-1]))
    flat = [t.reshape(-1, t.shape[-1]).split(size) for t in (gate_up, *others)]
    return list(zip(*flat, strict=True))
