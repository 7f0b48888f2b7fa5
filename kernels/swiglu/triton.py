"""SwiGLU as Triton kernels: each tensor is moved once, arithmetic in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.dispatch import GateCase, tables

for _name in ("forward", "backward"):
    tables.declare(
        f"swiglu.{_name}",
        {"BLOCK_ROWS": 4, "BLOCK_F": 1024, "num_warps": 8, "num_stages": 1},
        candidates=tables.grid(
            BLOCK_ROWS=(1, 2, 4), BLOCK_F=(512, 1024, 2048), num_warps=(4, 8), num_stages=(1,)
        ),
    )


@triton.jit
def swiglu_kernel(
    p_gate_up,
    p_out,
    num_rows,
    stride_gate_up,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """out = gate * sigmoid(gate) * up; gate and up are the halves of a row."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)  # [BF]
    mask = (o_row < num_rows)[:, None] & (o_f < WIDTH)[None, :]
    p_gate = p_gate_up + o_row[:, None] * stride_gate_up + o_f[None, :]
    b_gate = tl.load(p_gate, mask=mask, other=0.0).to(tl.float32)  # [BR, BF]
    b_up = tl.load(p_gate + WIDTH, mask=mask, other=0.0).to(tl.float32)
    b_out = b_gate * tl.sigmoid(b_gate) * b_up
    o_out = o_row[:, None] * WIDTH + o_f[None, :]
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def swiglu_backward_kernel(
    p_gate_up,
    p_grad,
    p_grad_gate_up,
    num_rows,
    stride_gate_up,
    stride_grad,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradients of gate and up, side by side as they lie in the input."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)  # [BF]
    mask = (o_row < num_rows)[:, None] & (o_f < WIDTH)[None, :]
    p_gate = p_gate_up + o_row[:, None] * stride_gate_up + o_f[None, :]
    b_gate = tl.load(p_gate, mask=mask, other=0.0).to(tl.float32)  # [BR, BF]
    b_up = tl.load(p_gate + WIDTH, mask=mask, other=0.0).to(tl.float32)
    o_grad = o_row[:, None] * stride_grad + o_f[None, :]
    b_grad = tl.load(p_grad + o_grad, mask=mask, other=0.0).to(tl.float32)
    b_sigmoid = tl.sigmoid(b_gate)
    b_slope = b_sigmoid * (1.0 + b_gate * (1.0 - b_sigmoid))
    p_out = p_grad_gate_up + o_row[:, None] * (2 * WIDTH) + o_f[None, :]
    tl.store(p_out, (b_grad * b_up * b_slope).to(p_out.dtype.element_ty), mask=mask)
    b_grad_up = b_grad * b_gate * b_sigmoid
    tl.store(p_out + WIDTH, b_grad_up.to(p_out.dtype.element_ty), mask=mask)


def forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up: [..., 2 F] to [..., F]."""
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], width))
    if not out.numel():
        return out
    rows = _rows(gate_up)
    config = tables.lookup("swiglu.forward", width, gate_up.dtype)
    swiglu_kernel[_grid(len(rows), width, config)](
        rows, out, len(rows), rows.stride(0), WIDTH=width, **config
    )
    return out


def backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """Gradient [..., 2 F] from that of the result [..., F]."""
    width = gate_up.shape[-1] // 2
    grad_gate_up = gate_up.new_empty(gate_up.shape)
    if not grad.numel():
        return grad_gate_up
    rows, flow = _rows(gate_up), _rows(grad)
    config = tables.lookup("swiglu.backward", width, gate_up.dtype)
    swiglu_backward_kernel[_grid(len(rows), width, config)](
        rows,
        flow,
        grad_gate_up,
        len(rows),
        rows.stride(0),
        flow.stride(0),
        WIDTH=width,
        **config,
    )
    return grad_gate_up


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """The kernels at a common width, for the compile gate."""
    width = 11_008
    wide, out = torch.empty(2, 2 * width, dtype=dtype), torch.empty(2, width, dtype=dtype)
    cases = []
    for kernel, name, args in (
        (swiglu_kernel, "forward", (wide, out, 2, 2 * width)),
        (swiglu_backward_kernel, "backward", (wide, out, wide, 2, 2 * width, width)),
    ):
        config = tables.lookup(f"swiglu.{name}", width, dtype)
        launch = {key: config.pop(key) for key in ("num_warps", "num_stages")}
        cases.append(
            GateCase(
                name=f"{name} {width} {dtype}".replace("torch.", ""),
                kernel=kernel,
                args=args,
                constexprs={"WIDTH": width, **config},
                num_warps=launch["num_warps"],
                num_stages=launch["num_stages"],
            )
        )
    return cases


def _grid(rows: int, width: int, config: dict[str, int]) -> tuple[int, int]:
    return triton.cdiv(rows, config["BLOCK_ROWS"]), triton.cdiv(width, config["BLOCK_F"])


def _rows(x: Tensor) -> Tensor:
    """[rows, F] with neighbouring elements in a row; a view where that is possible."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
