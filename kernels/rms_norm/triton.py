"""RMS norm as Triton kernels: a program holds whole rows, so that each tensor is moved once.

Arithmetic in float32; the norm is that of the sum as it is stored. The backward computes the norm
again from the sum, which it reads anyway. Gradients of the weight are summed per program in
float32, then over programs, always in the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.dispatch import GateCase, tables

tables.declare(
    "rms_norm.forward",
    {"ELEMENTS": 4096, "num_warps": 4, "num_stages": 1},
    candidates=tables.grid(ELEMENTS=(2048, 4096, 8192), num_warps=(4, 8, 16), num_stages=(1,)),
)
tables.declare(
    "rms_norm.backward",
    {"ELEMENTS": 4096, "PROGRAMS": 528, "num_warps": 8, "num_stages": 1},
    candidates=tables.grid(
        ELEMENTS=(2048, 4096, 8192), PROGRAMS=(264, 528, 1056), num_warps=(4, 8), num_stages=(1,)
    ),
)


@triton.jit
def add_rms_norm_kernel(
    p_x,
    p_update,
    p_weight,
    p_total,
    p_normed,
    num_rows,
    stride_x,
    stride_update,
    eps,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    HAS_UPDATE: tl.constexpr,
):
    """total = x + update; normed = total / rms(total) * weight."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    o_d = tl.arange(0, BLOCK_D)
    mask = (o_row < num_rows)[:, None] & (o_d < WIDTH)[None, :]
    o_out = o_row[:, None] * WIDTH + o_d[None, :]
    o_x = o_row[:, None] * stride_x + o_d[None, :]
    b_total = tl.load(p_x + o_x, mask=mask, other=0.0).to(tl.float32)  # [BR, BD]
    if HAS_UPDATE:
        o_update = o_row[:, None] * stride_update + o_d[None, :]
        b_total += tl.load(p_update + o_update, mask=mask, other=0.0).to(tl.float32)
        b_stored = b_total.to(p_total.dtype.element_ty)
        tl.store(p_total + o_out, b_stored, mask=mask)
        b_total = b_stored.to(tl.float32)
    b_weight = tl.load(p_weight + o_d, mask=o_d < WIDTH, other=0.0).to(tl.float32)  # [BD]
    b_inverse = tl.rsqrt(tl.sum(b_total * b_total, 1) / WIDTH + eps)  # [BR]
    b_normed = b_total * b_inverse[:, None] * b_weight[None, :]  # [BR, BD]
    tl.store(p_normed + o_out, b_normed.to(p_normed.dtype.element_ty), mask=mask)


@triton.jit
def add_rms_norm_backward_kernel(
    p_total,
    p_weight,
    p_grad_total,
    p_grad_normed,
    p_grad_x,
    p_grad_update,
    p_grad_weight,
    num_rows,
    stride_total,
    stride_grad_total,
    stride_grad_normed,
    eps,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    HAS_GRAD_TOTAL: tl.constexpr,
    HAS_UPDATE: tl.constexpr,
):
    """Gradients of both results; `p_grad_weight` is float32 [programs, WIDTH], a part each."""
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < WIDTH
    b_weight = tl.load(p_weight + o_d, mask=m_d, other=0.0).to(tl.float32)  # [BD]
    b_grad_weight = tl.zeros([BLOCK_D], dtype=tl.float32)
    for i_block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        o_row = tl.cast(i_block, tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
        mask = (o_row < num_rows)[:, None] & m_d[None, :]
        o_out = o_row[:, None] * WIDTH + o_d[None, :]
        o_total = o_row[:, None] * stride_total + o_d[None, :]
        o_flow = o_row[:, None] * stride_grad_normed + o_d[None, :]
        b_total = tl.load(p_total + o_total, mask=mask, other=0.0).to(tl.float32)  # [BR, BD]
        b_flow = tl.load(p_grad_normed + o_flow, mask=mask, other=0.0).to(tl.float32)
        b_inverse = tl.rsqrt(tl.sum(b_total * b_total, 1) / WIDTH + eps)[:, None]  # [BR, 1]
        b_unit = b_total * b_inverse
        b_grad_weight += tl.sum(b_flow * b_unit, 0)
        b_flow = b_flow * b_weight[None, :]
        b_mean = tl.sum(b_flow * b_unit, 1)[:, None] / WIDTH
        b_grad = (b_flow - b_unit * b_mean) * b_inverse  # [BR, BD]
        if HAS_GRAD_TOTAL:
            o_given = o_row[:, None] * stride_grad_total + o_d[None, :]
            b_grad += tl.load(p_grad_total + o_given, mask=mask, other=0.0).to(tl.float32)
        tl.store(p_grad_x + o_out, b_grad.to(p_grad_x.dtype.element_ty), mask=mask)
        if HAS_UPDATE:
            tl.store(p_grad_update + o_out, b_grad.to(p_grad_update.dtype.element_ty), mask=mask)
    o_part = tl.program_id(0).to(tl.int64) * WIDTH + o_d
    tl.store(p_grad_weight + o_part, b_grad_weight, mask=m_d)


def forward(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + update (empty without an update) and its norm as `dtype`."""
    total = x.new_empty((0,) if update is None else x.shape)
    normed = x.new_empty(x.shape, dtype=dtype)
    rows = _rows(x)
    added = rows if update is None else _rows(update)
    if not x.numel():
        return total, normed
    constants, launch = _config("forward", x)
    add_rms_norm_kernel[(triton.cdiv(len(rows), constants["BLOCK_ROWS"]),)](
        rows,
        added,
        weight.contiguous(),
        total,
        normed,
        len(rows),
        rows.stride(0),
        added.stride(0),
        eps,
        **constants,
        HAS_UPDATE=update is not None,
        **launch,
    )
    return total, normed


def backward(
    total: Tensor,
    weight: Tensor,
    grad_total: Tensor | None,
    grad_normed: Tensor,
    eps: float,
    update_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, for the update as `update_dtype` (empty for None), and for the weight."""
    grad = total.new_empty(total.shape)
    update = total.new_empty((0,) if update_dtype is None else total.shape, dtype=update_dtype)
    if not total.numel():
        return grad, update, torch.zeros_like(weight)
    rows, flow = _rows(total), _rows(grad_normed)
    given = flow if grad_total is None else _rows(grad_total)
    constants, launch = _config("backward", total)
    programs = min(launch.pop("PROGRAMS"), triton.cdiv(len(rows), constants["BLOCK_ROWS"]))
    parts = total.new_empty((programs, total.shape[-1]), dtype=torch.float32)
    add_rms_norm_backward_kernel[(programs,)](
        rows,
        weight.contiguous(),
        given,
        flow,
        grad,
        update,
        parts,
        len(rows),
        rows.stride(0),
        given.stride(0),
        flow.stride(0),
        eps,
        **constants,
        HAS_GRAD_TOTAL=grad_total is not None,
        HAS_UPDATE=update_dtype is not None,
        **launch,
    )
    return grad, update, parts.sum(dim=0).to(weight.dtype)


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """The kernels at the widths of common models, for the compile gate."""
    cases = []
    for width in (1024, 4096):
        x = torch.empty(2, width, dtype=dtype)
        weight, parts = torch.empty(width), torch.empty(2, width)
        for kernel, name, args, flags in (
            (add_rms_norm_kernel, "forward", (x, x, weight, x, x, 2, width, width, 1e-6), {}),
            (
                add_rms_norm_backward_kernel,
                "backward",
                (x, weight, x, x, x, x, parts, 2, width, width, width, 1e-6),
                {"HAS_GRAD_TOTAL": True},
            ),
        ):
            constants, launch = _config(name, x)
            launch.pop("PROGRAMS", None)
            cases.append(
                GateCase(
                    name=f"{name} {width} {dtype}".replace("torch.", ""),
                    kernel=kernel,
                    args=args,
                    constexprs={**constants, **flags, "HAS_UPDATE": True},
                    num_warps=launch["num_warps"],
                    num_stages=launch["num_stages"],
                )
            )
    return cases


def _config(kernel: str, x: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """What the kernel is specialised on, and how it is launched."""
    width = x.shape[-1]
    launch = tables.lookup(f"rms_norm.{kernel}", width, x.dtype)
    block = triton.next_power_of_2(width)
    rows = max(1, launch.pop("ELEMENTS") // block)
    launch["num_warps"] = max(launch["num_warps"], min(16, block // 512))
    return {"WIDTH": width, "BLOCK_D": block, "BLOCK_ROWS": rows}, launch


def _rows(x: Tensor) -> Tensor:
    """[rows, D] with neighbouring elements in a row; a view where that is possible."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
