"""The backward kernels: delta, then the gradient of queries, then that of keys and values.

Probabilities are made again from the log-sums. The gradient of queries visits the same tiles as the
forward; that of keys and values visits, for each block of keys, the query tiles that see it, and
sums over the query heads of a group in float32, so that nothing is added atomically.
"""

import triton
import triton.language as tl

from unimodal.kernels.attention.triton_forward import load_rows
from unimodal.kernels.attention.triton_predicate import load_tokens, visible

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["rows", "length"])
def attention_delta(
    p_grad,
    p_out,
    p_lse,
    p_delta,
    p_document,
    rows,
    heads,
    length,
    stride_gb,
    stride_gt,
    stride_gn,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """sum(grad * out) over the head, [rows = B * T * N]; zero on padding and on blind queries."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_h = tl.arange(0, BLOCK_H)[None, :]
    o_token = o // heads
    m = o < rows
    held = tl.load(p_document + o_token, mask=m, other=-1) >= 0
    m_seen = held & (tl.load(p_lse + o, mask=m, other=float("-inf")) != float("-inf"))
    p_row = p_grad + o_token // length * stride_gb + o_token % length * stride_gt
    p_row += o % heads * stride_gn
    m_block = m_seen[:, None] & (o_h < H)
    # [BLOCK, BH]
    b_grad = tl.load(p_row[:, None] + o_h, mask=m_block, other=0.0).to(tl.float32)
    b_out = tl.load(p_out + o[:, None] * H + o_h, mask=m_block, other=0.0).to(tl.float32)
    tl.store(p_delta + o, tl.sum(b_grad * b_out, 1), mask=m)


@triton.jit
def _visit_keys(
    b_grad_q,
    b_q,
    b_grad,
    b_lse,
    b_delta,
    q,
    p_k,
    p_v,
    p_token,
    p_parameter,
    j,
    length,
    stride_field,
    stride_kt,
    stride_vt,
    o_h,
    scale,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of keys: the gradient of the queries [BM, BH] with its share added."""
    start = j * BLOCK_N
    o_n = tl.arange(0, BLOCK_N)
    p_k += start.to(tl.int64) * stride_kt
    p_v += start.to(tl.int64) * stride_vt
    m_keys = (start + o_n < length)[None, :]
    m_n = (start + o_n < length)[:, None]
    if MASKED:
        document = tl.load(p_token + stride_field + start + o_n[:, None], mask=m_n, other=-1)
        m_n = document >= 0
    # [BN, BH]
    b_k = load_rows(p_k, o_n[:, None], o_h[None, :], stride_kt, m_n, H, MASKED)
    b_v = load_rows(p_v, o_n[:, None], o_h[None, :], stride_vt, m_n, H, MASKED)
    # [BM, BN]
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2E)
    b_p = tl.exp2(b_s - b_lse[:, None])
    if MASKED:
        k = load_tokens(p_token, stride_field, start + o_n[None, :], m_keys)
        b_p = tl.where(visible(q, k, p_parameter, CODES, CONDITIONS), b_p, 0.0)
    b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
    b_ds = b_p * (b_dp - b_delta[:, None])
    return tl.dot(b_ds.to(b_k.dtype), b_k, b_grad_q, input_precision=PRECISION)


@triton.jit(do_not_specialize=["length", "blocks", "stride_field"])
def attention_backward_q(
    p_grad,
    p_q,
    p_k,
    p_v,
    p_lse,
    p_delta,
    p_grad_q,
    p_token,
    p_parameter,
    p_runs,
    length,
    blocks,
    heads,
    share,
    stride_field,
    stride_gb,
    stride_gt,
    stride_gn,
    stride_qb,
    stride_qt,
    stride_qn,
    stride_kb,
    stride_kt,
    stride_kn,
    stride_vb,
    stride_vt,
    stride_vn,
    scale,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
    RUNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of one block of queries of one head. Grid and arguments as in the forward."""
    i = tl.program_id(0)
    i_m = blocks - 1 - i % blocks
    i_n = (i // blocks) % heads
    i_b = (i // blocks // heads).to(tl.int64)
    p_token += i_b * length
    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_h = tl.arange(0, BLOCK_H)
    stride_field = stride_field.to(tl.int64)
    q = load_tokens(p_token, stride_field, o_m[:, None], (o_m < length)[:, None])
    start = (i_m * BLOCK_M).to(tl.int64)
    p_q += i_b * stride_qb + i_n.to(tl.int64) * stride_qn + start * stride_qt
    p_grad += i_b * stride_gb + i_n.to(tl.int64) * stride_gn + start * stride_gt
    p_k += i_b * stride_kb + (i_n // share).to(tl.int64) * stride_kn
    p_v += i_b * stride_vb + (i_n // share).to(tl.int64) * stride_vn
    o_out = (i_b * length + o_m.to(tl.int64)) * heads + i_n
    b_lse = tl.load(p_lse + o_out, mask=o_m < length, other=float("-inf"))
    b_delta = tl.load(p_delta + o_out, mask=o_m < length, other=0.0)
    is_blind = b_lse == float("-inf")
    b_lse = tl.where(is_blind, 0.0, b_lse) * LOG2E
    m_row = (q[1] >= 0) & (is_blind[:, None] == 0)
    # [BM, BH]
    o_row = tl.arange(0, BLOCK_M)[:, None]
    b_q = load_rows(p_q, o_row, o_h[None, :], stride_qt, q[1] >= 0, H, True)
    b_grad = load_rows(p_grad, o_row, o_h[None, :], stride_gt, m_row, H, True)
    b_grad_q = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    p_runs += (i_b * blocks + i_m) * (2 + 4 * RUNS)
    for sort in tl.static_range(2):
        runs = tl.load(p_runs + sort)
        for r in range(runs):
            first = tl.load(p_runs + 2 + 2 * RUNS * sort + 2 * r)
            stop = tl.load(p_runs + 3 + 2 * RUNS * sort + 2 * r)
            for j in range(first, stop):
                b_grad_q = _visit_keys(
                    b_grad_q, b_q, b_grad, b_lse, b_delta, q, p_k, p_v, p_token, p_parameter,
                    j, length, stride_field, stride_kt, stride_vt, o_h, scale,
                    H, BLOCK_N, CODES, CONDITIONS, sort == 1, PRECISION,
                )  # fmt: skip
    p_block = p_grad_q + o_out[:, None] * H + o_h[None, :]
    m_out = (o_m < length)[:, None] & (o_h < H)[None, :]
    tl.store(p_block, (b_grad_q * scale).to(p_grad_q.dtype.element_ty), mask=m_out)


@triton.jit
def _visit_queries(
    b_grad_k,
    b_grad_v,
    b_k,
    b_v,
    k,
    p_q,
    p_grad,
    p_lse,
    p_delta,
    p_token,
    p_parameter,
    j,
    length,
    heads,
    stride_field,
    stride_qt,
    stride_gt,
    o_h,
    scale,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of queries: the gradients of keys and values [BN, BH] with its share added."""
    start = j * BLOCK_M
    o_m = tl.arange(0, BLOCK_M)
    p_q += start.to(tl.int64) * stride_qt
    p_grad += start.to(tl.int64) * stride_gt
    o_row = (start + o_m).to(tl.int64) * heads
    m_m = start + o_m < length
    m_q = m_m[:, None]
    m_grad = m_m[:, None]
    # [BM]
    b_lse = tl.load(p_lse + o_row, mask=m_m, other=float("-inf"))
    b_delta = tl.load(p_delta + o_row, mask=m_m, other=0.0)
    if MASKED:
        document = tl.load(p_token + stride_field + start + o_m[:, None], mask=m_q, other=-1)
        is_blind = b_lse == float("-inf")
        m_q = document >= 0
        m_grad = m_q & (is_blind[:, None] == 0)
        b_lse = tl.where(is_blind, 0.0, b_lse)
    # [BM, BH]
    b_q = load_rows(p_q, o_m[:, None], o_h[None, :], stride_qt, m_q, H, MASKED)
    b_grad = load_rows(p_grad, o_m[:, None], o_h[None, :], stride_gt, m_grad, H, MASKED)
    # [BN, BM]
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * (scale * LOG2E)
    b_p = tl.exp2(b_s - (b_lse * LOG2E)[None, :])
    if MASKED:
        q = load_tokens(p_token, stride_field, start + o_m[None, :], m_m[None, :])
        b_p = tl.where(visible(q, k, p_parameter, CODES, CONDITIONS), b_p, 0.0)
    b_grad_v = tl.dot(b_p.to(b_grad.dtype), b_grad, b_grad_v, input_precision=PRECISION)
    b_dp = tl.dot(b_v, tl.trans(b_grad), input_precision=PRECISION)
    b_ds = b_p * (b_dp - b_delta[None, :])
    b_grad_k = tl.dot(b_ds.to(b_q.dtype), b_q, b_grad_k, input_precision=PRECISION)
    return b_grad_k, b_grad_v


@triton.jit(do_not_specialize=["length", "blocks", "stride_field"])
def attention_backward_kv(
    p_grad,
    p_q,
    p_k,
    p_v,
    p_lse,
    p_delta,
    p_grad_k,
    p_grad_v,
    p_token,
    p_parameter,
    p_runs,
    length,
    blocks,
    heads,
    share,
    stride_field,
    stride_gb,
    stride_gt,
    stride_gn,
    stride_qb,
    stride_qt,
    stride_qn,
    stride_kb,
    stride_kt,
    stride_kn,
    stride_vb,
    stride_vt,
    stride_vn,
    scale,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
    RUNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of one block of keys and values of one key head.

    Grid: blocks x key heads x rows, flat, blocks fastest; the first blocks of a causal row are seen
    by most queries and go first. `p_runs` lists query tiles; `heads` are query heads.
    """
    i = tl.program_id(0)
    groups = heads // share
    i_j = i % blocks
    i_g = (i // blocks) % groups
    i_b = (i // blocks // groups).to(tl.int64)
    p_token += i_b * length
    o_n = i_j * BLOCK_N + tl.arange(0, BLOCK_N)
    o_h = tl.arange(0, BLOCK_H)
    stride_field = stride_field.to(tl.int64)
    # [BN, 1] each
    k = load_tokens(p_token, stride_field, o_n[:, None], (o_n < length)[:, None])
    start = (i_j * BLOCK_N).to(tl.int64)
    p_k += i_b * stride_kb + i_g.to(tl.int64) * stride_kn + start * stride_kt
    p_v += i_b * stride_vb + i_g.to(tl.int64) * stride_vn + start * stride_vt
    # [BN, BH]
    o_row = tl.arange(0, BLOCK_N)[:, None]
    b_k = load_rows(p_k, o_row, o_h[None, :], stride_kt, k[1] >= 0, H, True)
    b_v = load_rows(p_v, o_row, o_h[None, :], stride_vt, k[1] >= 0, H, True)
    b_grad_k = tl.zeros([BLOCK_N, BLOCK_H], tl.float32)
    b_grad_v = tl.zeros([BLOCK_N, BLOCK_H], tl.float32)
    p_runs += (i_b * blocks + i_j) * (2 + 4 * RUNS)
    for n in range(share):
        i_n = (i_g * share + n).to(tl.int64)
        p_row = i_b * length * heads + i_n
        for sort in tl.static_range(2):
            runs = tl.load(p_runs + sort)
            for r in range(runs):
                first = tl.load(p_runs + 2 + 2 * RUNS * sort + 2 * r)
                stop = tl.load(p_runs + 3 + 2 * RUNS * sort + 2 * r)
                for j in range(first, stop):
                    b_grad_k, b_grad_v = _visit_queries(
                        b_grad_k, b_grad_v, b_k, b_v, k,
                        p_q + i_b * stride_qb + i_n * stride_qn,
                        p_grad + i_b * stride_gb + i_n * stride_gn,
                        p_lse + p_row, p_delta + p_row, p_token, p_parameter,
                        j, length, heads, stride_field, stride_qt, stride_gt, o_h, scale,
                        H, BLOCK_M, CODES, CONDITIONS, sort == 1, PRECISION,
                    )  # fmt: skip
    o_out = (i_b * length + o_n.to(tl.int64)) * groups + i_g
    o_block = o_out[:, None] * H + o_h[None, :]
    m_out = (o_n < length)[:, None] & (o_h < H)[None, :]
    tl.store(p_grad_k + o_block, (b_grad_k * scale).to(p_grad_k.dtype.element_ty), mask=m_out)
    tl.store(p_grad_v + o_block, b_grad_v.to(p_grad_v.dtype.element_ty), mask=m_out)
