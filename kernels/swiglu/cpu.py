"""SwiGLU on the CPU, in pieces that stay in the cache. Tested against `reference`."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18
"""Elements of gate and up worked on at once."""


def forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up: [..., 2 F] to [..., F]."""
    out = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    for gate_up_c, out_c in _chunks(gate_up, out):
        gate, up = gate_up_c.chunk(2, dim=-1)
        torch.mul(F.silu(gate), up, out=out_c)
    return out


def backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """Gradient [..., 2 F] from that of the result [..., F]."""
    grad_gate_up = gate_up.new_empty(gate_up.shape)
    for gate_up_c, grad_c, out_c in _chunks(gate_up, grad, grad_gate_up):
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
