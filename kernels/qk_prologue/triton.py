"""The prologue of attention as Triton kernels: queries and keys in one launch, each moved once.

A row is one head of one token; a program holds blocks of rows, in two halves as RoPE turns them.
Arithmetic in float32. The backward computes the norm again; gradients of the weights are summed
per program in float32, then over programs, always in the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.dispatch import GateCase, tables
from unimodal.kernels.qk_prologue.inputs import Inputs

tables.declare(
    "qk_prologue.forward",
    {"ELEMENTS": 2048, "num_warps": 4, "num_stages": 1},
    candidates=tables.grid(ELEMENTS=(1024, 2048, 4096), num_warps=(4, 8), num_stages=(1,)),
)
tables.declare(
    "qk_prologue.backward",
    {"ELEMENTS": 2048, "PROGRAMS": 528, "num_warps": 4, "num_stages": 1},
    candidates=tables.grid(
        ELEMENTS=(1024, 2048, 4096), PROGRAMS=(264, 528, 1056), num_warps=(4, 8), num_stages=(1,)
    ),
)


@triton.jit
def _halves(p_x, o_first, mask, HALF: tl.constexpr):
    """Both halves of heads, in float32. 2 x [BR, BH]."""
    b_first = tl.load(p_x + o_first, mask=mask, other=0.0).to(tl.float32)
    b_second = tl.load(p_x + o_first + HALF, mask=mask, other=0.0).to(tl.float32)
    return b_first, b_second


@triton.jit
def _rows_forward(
    p_x,
    p_weight,
    p_cos,
    p_sin,
    p_out,
    i_block,
    num_tokens,
    stride_token,
    stride_head,
    stride_table,
    eps,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    o_row = i_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    o_h = tl.arange(0, BLOCK_HALF)
    m_row = o_row < num_tokens * HEADS
    m_h = o_h < HALF
    mask = m_row[:, None] & m_h[None, :]
    o_token = o_row // HEADS
    o_x = (o_token * stride_token + (o_row % HEADS) * stride_head)[:, None] + o_h[None, :]
    b_first, b_second = _halves(p_x, o_x, mask, HALF)  # [BR, BH]
    if HAS_NORM:
        b_square = tl.sum(b_first * b_first, 1) + tl.sum(b_second * b_second, 1)
        b_inverse = tl.rsqrt(b_square / (2 * HALF) + eps)[:, None]  # [BR, 1]
        b_weight_1, b_weight_2 = _halves(p_weight, o_h, m_h, HALF)  # [BH]
        b_first = b_first * b_inverse * b_weight_1[None, :]
        b_second = b_second * b_inverse * b_weight_2[None, :]
    o_table = o_token[:, None] * stride_table + o_h[None, :]
    b_cos = tl.load(p_cos + o_table, mask=mask, other=0.0).to(tl.float32)  # [BR, BH]
    b_sin = tl.load(p_sin + o_table, mask=mask, other=0.0).to(tl.float32)
    b_turned_1 = b_first * b_cos - b_second * b_sin
    b_turned_2 = b_second * b_cos + b_first * b_sin
    p_row = p_out + o_row[:, None] * (2 * HALF) + o_h[None, :]
    tl.store(p_row, b_turned_1.to(p_out.dtype.element_ty), mask=mask)
    tl.store(p_row + HALF, b_turned_2.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def _rows_backward(
    p_x,
    p_weight,
    p_cos,
    p_sin,
    p_grad,
    p_grad_x,
    p_grad_weight,
    i_first,
    step,
    num_tokens,
    stride_token,
    stride_head,
    stride_table,
    eps,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    o_h = tl.arange(0, BLOCK_HALF)
    m_h = o_h < HALF
    b_sum_1 = tl.zeros([BLOCK_HALF], dtype=tl.float32)
    b_sum_2 = tl.zeros([BLOCK_HALF], dtype=tl.float32)
    for i_block in range(i_first, tl.cdiv(num_tokens * HEADS, BLOCK_ROWS), step):
        o_row = tl.cast(i_block, tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
        m_row = o_row < num_tokens * HEADS
        mask = m_row[:, None] & m_h[None, :]
        o_token = o_row // HEADS
        o_out = o_row[:, None] * (2 * HALF) + o_h[None, :]
        b_grad_1, b_grad_2 = _halves(p_grad, o_out, mask, HALF)  # [BR, BH]
        o_table = o_token[:, None] * stride_table + o_h[None, :]
        b_cos = tl.load(p_cos + o_table, mask=mask, other=0.0).to(tl.float32)  # [BR, BH]
        b_sin = tl.load(p_sin + o_table, mask=mask, other=0.0).to(tl.float32)
        b_flow_1 = b_grad_1 * b_cos + b_grad_2 * b_sin
        b_flow_2 = b_grad_2 * b_cos - b_grad_1 * b_sin
        if HAS_NORM:
            o_x = (o_token * stride_token + (o_row % HEADS) * stride_head)[:, None] + o_h[None, :]
            b_first, b_second = _halves(p_x, o_x, mask, HALF)
            b_square = tl.sum(b_first * b_first, 1) + tl.sum(b_second * b_second, 1)
            b_inverse = tl.rsqrt(b_square / (2 * HALF) + eps)[:, None]  # [BR, 1]
            b_first = b_first * b_inverse
            b_second = b_second * b_inverse
            b_sum_1 += tl.sum(b_flow_1 * b_first, 0)
            b_sum_2 += tl.sum(b_flow_2 * b_second, 0)
            b_weight_1, b_weight_2 = _halves(p_weight, o_h, m_h, HALF)  # [BH]
            b_flow_1 = b_flow_1 * b_weight_1[None, :]
            b_flow_2 = b_flow_2 * b_weight_2[None, :]
            b_mean = tl.sum(b_flow_1 * b_first, 1) + tl.sum(b_flow_2 * b_second, 1)
            b_mean = b_mean[:, None] / (2 * HALF)
            b_flow_1 = (b_flow_1 - b_first * b_mean) * b_inverse
            b_flow_2 = (b_flow_2 - b_second * b_mean) * b_inverse
        tl.store(p_grad_x + o_out, b_flow_1.to(p_grad_x.dtype.element_ty), mask=mask)
        tl.store(p_grad_x + o_out + HALF, b_flow_2.to(p_grad_x.dtype.element_ty), mask=mask)
    if HAS_NORM:
        tl.store(p_grad_weight + o_h, b_sum_1, mask=m_h)
        tl.store(p_grad_weight + HALF + o_h, b_sum_2, mask=m_h)


@triton.jit
def qk_prologue_kernel(
    p_q,
    p_k,
    p_q_weight,
    p_k_weight,
    p_cos,
    p_sin,
    p_out_q,
    p_out_k,
    num_tokens,
    num_blocks_q,
    stride_token_q,
    stride_head_q,
    stride_token_k,
    stride_head_k,
    stride_table,
    eps,
    HEADS_Q: tl.constexpr,
    HEADS_K: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    """The first `num_blocks_q` programs take the queries, the others the keys."""
    i_block = tl.program_id(0)
    # fmt: off
    if i_block < num_blocks_q:
        _rows_forward(
            p_q, p_q_weight, p_cos, p_sin, p_out_q, i_block, num_tokens,
            stride_token_q, stride_head_q, stride_table, eps, HEADS_Q, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM,
        )
    else:
        _rows_forward(
            p_k, p_k_weight, p_cos, p_sin, p_out_k, i_block - num_blocks_q, num_tokens,
            stride_token_k, stride_head_k, stride_table, eps, HEADS_K, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM,
        )
    # fmt: on


@triton.jit
def qk_prologue_backward_kernel(
    p_q,
    p_k,
    p_q_weight,
    p_k_weight,
    p_cos,
    p_sin,
    p_grad_q,
    p_grad_k,
    p_out_q,
    p_out_k,
    p_grad_weight,
    num_tokens,
    num_programs_q,
    stride_token_q,
    stride_head_q,
    stride_token_k,
    stride_head_k,
    stride_table,
    eps,
    HEADS_Q: tl.constexpr,
    HEADS_K: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    """`p_grad_weight` is float32 [programs, H]: first those of the queries, then of the keys."""
    i_program = tl.program_id(0)
    p_part = p_grad_weight + i_program.to(tl.int64) * (2 * HALF)
    # fmt: off
    if i_program < num_programs_q:
        _rows_backward(
            p_q, p_q_weight, p_cos, p_sin, p_grad_q, p_out_q, p_part,
            i_program, num_programs_q, num_tokens,
            stride_token_q, stride_head_q, stride_table, eps, HEADS_Q, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM,
        )
    else:
        _rows_backward(
            p_k, p_k_weight, p_cos, p_sin, p_grad_k, p_out_k, p_part,
            i_program - num_programs_q, tl.num_programs(0) - num_programs_q, num_tokens,
            stride_token_k, stride_head_k, stride_table, eps, HEADS_K, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM,
        )
    # fmt: on


def forward(x: Inputs) -> tuple[Tensor, Tensor]:
    """The new q and k."""
    q, k = x.q, x.k
    out_q, out_k = q.new_empty(q.shape), k.new_empty(k.shape)
    if not q.numel() + k.numel():
        return out_q, out_k
    inputs, sizes = _arguments(x)
    constants, launch = _config("forward", x)
    blocks = [triton.cdiv(y.numel() // q.shape[-1], constants["BLOCK_ROWS"]) for y in (q, k)]
    tokens, *strides = sizes
    qk_prologue_kernel[(sum(blocks),)](
        *inputs, out_q, out_k, tokens, blocks[0], *strides, **constants, **launch
    )
    return out_q, out_k


def backward(x: Inputs, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k and the weights (empty without weights)."""
    q, k, weights = x.q, x.k, (x.q_weight, x.k_weight)
    out_q, out_k = q.new_empty(q.shape), k.new_empty(k.shape)
    if not q.numel() + k.numel():
        no_q, no_k = (q.new_empty(0) if w is None else torch.zeros_like(w) for w in weights)
        return out_q, out_k, no_q, no_k
    inputs, sizes = _arguments(x)
    constants, launch = _config("backward", x)
    limit = launch.pop("PROGRAMS")
    programs_q, programs_k = (
        min(limit, triton.cdiv(y.numel() // q.shape[-1], constants["BLOCK_ROWS"])) for y in (q, k)
    )
    parts = q.new_empty((programs_q + programs_k, q.shape[-1]), dtype=torch.float32)
    tokens, *strides = sizes
    grads = (grad_q.contiguous(), grad_k.contiguous())
    qk_prologue_backward_kernel[(programs_q + programs_k,)](
        *inputs, *grads, out_q, out_k, parts, tokens, programs_q, *strides, **constants, **launch
    )
    sums = (parts[:programs_q].sum(dim=0), parts[programs_q:].sum(dim=0))
    sum_q, sum_k = (
        q.new_empty(0) if w is None else part.to(w.dtype)
        for w, part in zip(weights, sums, strict=True)
    )
    return out_q, out_k, sum_q, sum_k


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """Both kernels with norm, for the compile gate."""
    q, k = torch.empty(1, 4, 8, head_dim, dtype=dtype), torch.empty(1, 4, 2, head_dim, dtype=dtype)
    weight, table = torch.empty(head_dim), torch.empty(1, 4, head_dim // 2)
    parts = torch.empty(2, head_dim)
    given = Inputs(q, k, weight, weight, table, table, 1e-6)
    inputs, (tokens, *strides) = _arguments(given)
    cases = []
    for kernel, name, outputs in (
        (qk_prologue_kernel, "forward", (q, k)),
        (qk_prologue_backward_kernel, "backward", (q, k, q, k, parts)),
    ):
        constants, launch = _config(name, given)
        cases.append(
            GateCase(
                name=f"{name} {head_dim} {dtype}".replace("torch.", ""),
                kernel=kernel,
                args=(*inputs, *outputs, tokens, 4, *strides),
                constexprs=constants,
                num_warps=launch["num_warps"],
                num_stages=launch["num_stages"],
            )
        )
    return cases


def _arguments(x: Inputs) -> tuple[list[Tensor], list[int | float]]:
    """What both kernels read; the number of tokens, strides and eps. Weights not there are q."""
    flat_q, flat_k = _tokens(x.q), _tokens(x.k)
    cos, sin = _tokens(x.cos), _tokens(x.sin)
    if cos.stride() != sin.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    weights = [flat_q if w is None else w.contiguous() for w in (x.q_weight, x.k_weight)]
    strides = [*flat_q.stride()[:2], *flat_k.stride()[:2], cos.stride(0)]
    return [flat_q, flat_k, *weights, cos, sin], [len(flat_q), *strides, x.eps]


def _tokens(x: Tensor) -> Tensor:
    """[B * T, ...] with neighbouring elements last; a view where that is possible."""
    flat = x.flatten(0, 1)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _config(kernel: str, x: Inputs) -> tuple[dict[str, int], dict[str, int]]:
    """What the kernel is specialised on, and how it is launched."""
    half = x.q.shape[-1] // 2
    launch = tables.lookup(f"qk_prologue.{kernel}", x.q.shape[-1], x.q.dtype)
    block = triton.next_power_of_2(half)
    constants = {
        "HEADS_Q": x.q.shape[2],
        "HEADS_K": x.k.shape[2],
        "HALF": half,
        "BLOCK_ROWS": max(1, launch.pop("ELEMENTS") // block),
        "BLOCK_HALF": block,
        "HAS_NORM": x.q_weight is not None,
    }
    return constants, launch
