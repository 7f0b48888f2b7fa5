"""The prologue of attention as Triton kernels: all heads in one launch, each moved once.

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
    # Twice as many spill 8 bytes at head size 96.
    {
        ("sm80", 128, torch.float32): {
            "ELEMENTS": 1024,
            "PROGRAMS": 528,
            "num_warps": 4,
            "num_stages": 1,
        }
    },
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
    p_order,
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
    HAS_ORDER: tl.constexpr,
):
    o_row = i_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    o_h = tl.arange(0, BLOCK_HALF)
    m_row = o_row < num_tokens * HEADS
    m_h = o_h < HALF
    mask = m_row[:, None] & m_h[None, :]
    o_token = o_row // HEADS
    if HAS_ORDER:
        o_token = tl.load(p_order + o_token, mask=m_row, other=0)
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
    p_order,
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
    HAS_ORDER: tl.constexpr,
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
        o_grad = o_row[:, None] * (2 * HALF) + o_h[None, :]
        o_out = o_grad
        if HAS_ORDER:
            o_token = tl.load(p_order + o_token, mask=m_row, other=0)
            o_out = (o_token * HEADS + o_row % HEADS)[:, None] * (2 * HALF) + o_h[None, :]
        b_grad_1, b_grad_2 = _halves(p_grad, o_grad, mask, HALF)  # [BR, BH]
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
def _rows_moved(
    p_x,
    p_order,
    p_out,
    i_block,
    num_tokens,
    stride_token,
    stride_head,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BACK: tl.constexpr,
):
    """Heads into the new order, or, going `BACK`, out of it."""
    o_row = i_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    o_h = tl.arange(0, BLOCK_HALF)
    m_row = o_row < num_tokens * HEADS
    mask = m_row[:, None] & (o_h < HALF)[None, :]
    o_from = o_row // HEADS
    o_to = tl.load(p_order + o_from, mask=m_row, other=0)
    if not BACK:
        o_from, o_to = o_to, o_from
    o_head = o_row % HEADS
    o_x = (o_from * stride_token + o_head * stride_head)[:, None] + o_h[None, :]
    o_out = (o_to * HEADS + o_head)[:, None] * (2 * HALF) + o_h[None, :]
    tl.store(p_out + o_out, tl.load(p_x + o_x, mask=mask), mask=mask)
    tl.store(p_out + o_out + HALF, tl.load(p_x + o_x + HALF, mask=mask), mask=mask)


@triton.jit
def qk_prologue_kernel(
    p_q,
    p_k,
    p_v,
    p_q_weight,
    p_k_weight,
    p_cos,
    p_sin,
    p_order,
    p_out_q,
    p_out_k,
    p_out_v,
    num_tokens,
    num_programs_q,
    num_programs_k,
    stride_token_q,
    stride_head_q,
    stride_token_k,
    stride_head_k,
    stride_token_v,
    stride_head_v,
    stride_table,
    eps,
    HEADS_Q: tl.constexpr,
    HEADS_K: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ORDER: tl.constexpr,
):
    """The first `num_programs_q` programs take q, the next `num_programs_k` k, the others v."""
    i_block = tl.program_id(0)
    # fmt: off
    if i_block < num_programs_q:
        _rows_forward(
            p_q, p_q_weight, p_cos, p_sin, p_order, p_out_q, i_block, num_tokens,
            stride_token_q, stride_head_q, stride_table, eps, HEADS_Q, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM, HAS_ORDER,
        )
    elif i_block < num_programs_q + num_programs_k:
        _rows_forward(
            p_k, p_k_weight, p_cos, p_sin, p_order, p_out_k, i_block - num_programs_q, num_tokens,
            stride_token_k, stride_head_k, stride_table, eps, HEADS_K, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM, HAS_ORDER,
        )
    elif HAS_ORDER:
        _rows_moved(
            p_v, p_order, p_out_v, i_block - num_programs_q - num_programs_k, num_tokens,
            stride_token_v, stride_head_v, HEADS_K, HALF, BLOCK_ROWS, BLOCK_HALF, False,
        )
    # fmt: on


@triton.jit
def qk_prologue_backward_kernel(
    p_q,
    p_k,
    p_v,
    p_q_weight,
    p_k_weight,
    p_cos,
    p_sin,
    p_order,
    p_grad_q,
    p_grad_k,
    p_grad_v,
    p_out_q,
    p_out_k,
    p_out_v,
    p_grad_weight,
    num_tokens,
    num_programs_q,
    num_programs_k,
    stride_token_q,
    stride_head_q,
    stride_token_k,
    stride_head_k,
    stride_token_v,
    stride_head_v,
    stride_table,
    eps,
    HEADS_Q: tl.constexpr,
    HEADS_K: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ORDER: tl.constexpr,
):
    """Programs as those of the forward; `p_grad_weight` is float32 [programs of q and k, H]."""
    i_program = tl.program_id(0)
    p_part = p_grad_weight + i_program.to(tl.int64) * (2 * HALF)
    # fmt: off
    if i_program < num_programs_q:
        _rows_backward(
            p_q, p_q_weight, p_cos, p_sin, p_order, p_grad_q, p_out_q, p_part,
            i_program, num_programs_q, num_tokens,
            stride_token_q, stride_head_q, stride_table, eps, HEADS_Q, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM, HAS_ORDER,
        )
    elif i_program < num_programs_q + num_programs_k:
        _rows_backward(
            p_k, p_k_weight, p_cos, p_sin, p_order, p_grad_k, p_out_k, p_part,
            i_program - num_programs_q, num_programs_k, num_tokens,
            stride_token_k, stride_head_k, stride_table, eps, HEADS_K, HALF,
            BLOCK_ROWS, BLOCK_HALF, HAS_NORM, HAS_ORDER,
        )
    elif HAS_ORDER:
        _rows_moved(
            p_grad_v, p_order, p_out_v, i_program - num_programs_q - num_programs_k, num_tokens,
            HEADS_K * 2 * HALF, 2 * HALF, HEADS_K, HALF, BLOCK_ROWS, BLOCK_HALF, True,
        )
    # fmt: on


def forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The new q, k and v (empty without an order)."""
    heads = _heads(x)
    outputs = [y.new_empty(y.shape) for y in heads]
    if x.q.numel() + x.k.numel():
        inputs, sizes = _arguments(x)
        constants, launch = _config("forward", x)
        programs = [_blocks(y, constants) for y in heads]
        tokens, *strides = sizes
        qk_prologue_kernel[(sum(programs),)](
            *inputs, *outputs, tokens, *programs[:2], *strides, **constants, **launch
        )
    return outputs[0], outputs[1], outputs[2]


def backward(
    x: Inputs, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v (empty without an order) and of the weights (empty without any)."""
    heads, weights = _heads(x), (x.q_weight, x.k_weight)
    outputs = [y.new_empty(y.shape) for y in heads]
    if not x.q.numel() + x.k.numel():
        no_q, no_k = (x.q.new_empty(0) if w is None else torch.zeros_like(w) for w in weights)
        return outputs[0], outputs[1], outputs[2], no_q, no_k
    inputs, sizes = _arguments(x)
    constants, launch = _config("backward", x)
    limit = launch.pop("PROGRAMS")
    programs = [_blocks(y, constants) for y in heads]
    programs_q, programs_k = (min(limit, count) for count in programs[:2])
    parts = x.q.new_empty((programs_q + programs_k, x.q.shape[-1]), dtype=torch.float32)
    tokens, *strides = sizes
    grads = [grad.contiguous() for grad in (grad_q, grad_k, grad_v)]
    qk_prologue_backward_kernel[(programs_q + programs_k + programs[2],)](
        *inputs,
        *grads,
        *outputs,
        parts,
        tokens,
        programs_q,
        programs_k,
        *strides,
        **constants,
        **launch,
    )
    sum_q, sum_k = (
        x.q.new_empty(0) if w is None else part.sum(dim=0).to(w.dtype)
        for w, part in zip(weights, parts.split((programs_q, programs_k)), strict=True)
    )
    return outputs[0], outputs[1], outputs[2], sum_q, sum_k


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """Both kernels with norm and an order, for the compile gate."""
    q, k = torch.empty(1, 4, 8, head_dim, dtype=dtype), torch.empty(1, 4, 2, head_dim, dtype=dtype)
    weight, table = torch.empty(head_dim), torch.empty(1, 4, head_dim // 2)
    order, parts = torch.zeros(4, dtype=torch.int64), torch.empty(2, head_dim)
    given = Inputs(q, k, k, weight, weight, table, table, order, 1e-6)
    inputs, (tokens, *strides) = _arguments(given)
    cases = []
    for kernel, name, outputs in (
        (qk_prologue_kernel, "forward", (q, k, k)),
        (qk_prologue_backward_kernel, "backward", (q, k, k, q, k, k, parts)),
    ):
        constants, launch = _config(name, given)
        cases.append(
            GateCase(
                name=f"{name} {head_dim} {dtype}".replace("torch.", ""),
                kernel=kernel,
                args=(*inputs, *outputs, tokens, 4, 1, *strides),
                constexprs=constants,
                num_warps=launch["num_warps"],
                num_stages=launch["num_stages"],
            )
        )
    return cases


def _heads(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v; nothing for a v that stays as it is."""
    return x.q, x.k, x.q.new_empty(0) if x.v is None else x.v


def _blocks(heads: Tensor, constants: dict[str, int]) -> int:
    """Blocks of rows of [B, T, n, H]."""
    rows = heads.numel() // (2 * constants["HALF"])
    return -(-rows // constants["BLOCK_ROWS"])


def _arguments(x: Inputs) -> tuple[list[Tensor], list[int | float]]:
    """What both kernels read; the number of tokens, strides and eps. What is not there is q."""
    flat_q, flat_k = _tokens(x.q), _tokens(x.k)
    flat_v = flat_q if x.v is None else _tokens(x.v)
    cos, sin = _tokens(x.cos), _tokens(x.sin)
    if cos.stride() != sin.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    weights = [flat_q if w is None else w.contiguous() for w in (x.q_weight, x.k_weight)]
    order = flat_q if x.order is None else x.order.contiguous()
    strides = [stride for flat in (flat_q, flat_k, flat_v) for stride in flat.stride()[:2]]
    inputs = [flat_q, flat_k, flat_v, *weights, cos, sin, order]
    return inputs, [len(flat_q), *strides, cos.stride(0), x.eps]


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
        "HAS_ORDER": x.order is not None,
    }
    return constants, launch
