"""The forward kernel: softmax(scale * q k^T over visible keys) v by tiles, and its log-sums.

A program holds `BLOCK_M` queries of one head and visits the runs of key tiles that
`triton_schedule` found: whole tiles without a look at any token, boundary tiles with the predicate.
Scores and sums are float32; the exponential is taken to base 2, its factor folded into the scale.
Values of padding are not loaded, and its keys' scores not used.

With `TMA` (a row of the config tables: NVIDIA's from sm90 on) keys, and the values of whole tiles,
come by tensor descriptors, one of each a program; boundary tiles may hold padding, whose values
must not be touched, and load theirs by pointers.
"""

import triton
import triton.language as tl

from unimodal.kernels.attention.triton_predicate import load_tokens, visible

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_rows(p, o_row, o_head, stride, m_row, H: tl.constexpr, MASKED: tl.constexpr):
    """A block of rows [rows, BLOCK_H] at `p`; zeros where masked and beyond the head size.

    Args:
        o_row: Row numbers [rows, 1].
        o_head: Numbers in the head [1, BLOCK_H].
        m_row: Which rows to load, looked at if MASKED.
    """
    p_block = p + o_row * stride + o_head
    if o_head.shape[1] == H:
        if MASKED:
            b = tl.load(p_block, mask=m_row, other=0.0)
        else:
            b = tl.load(p_block)
    else:
        if MASKED:
            b = tl.load(p_block, mask=m_row & (o_head < H), other=0.0)
        else:
            b = tl.load(p_block, mask=o_head < H, other=0.0)
    return b


@triton.jit
def _visit(
    b_out,
    b_peak,
    b_sum,
    b_q,
    q,
    p_k,
    p_v,
    d_k,
    d_v,
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
    TMA: tl.constexpr,
):
    """One tile of keys: the running output [BM, BH], peak [BM] and sum [BM] with it added.

    Args:
        d_k, d_v: Descriptors of this head's keys and values if TMA, else anything.
    """
    start = j * BLOCK_N
    o_n = tl.arange(0, BLOCK_N)
    p_k += start.to(tl.int64) * stride_kt
    p_v += start.to(tl.int64) * stride_vt
    # [BN, 1], and the keys' integers [1, BN]
    m_keys = (start + o_n < length)[None, :]
    m_n = (start + o_n < length)[:, None]
    if MASKED:
        document = tl.load(p_token + stride_field + start + o_n[:, None], mask=m_n, other=-1)
        m_n = document >= 0
    # [BN, BH]
    if TMA:
        b_k = d_k.load([start, 0])
    else:
        b_k = load_rows(p_k, o_n[:, None], o_h[None, :], stride_kt, m_n, H, MASKED)
    # [BM, BN]
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
    if MASKED:
        k = load_tokens(p_token, stride_field, start + o_n[None, :], m_keys)
        b_s = tl.where(visible(q, k, p_parameter, CODES, CONDITIONS), b_s, float("-inf"))
    b_new = tl.maximum(b_peak, tl.max(b_s, 1))
    b_shift = b_new
    if MASKED:
        # Rows that have seen nothing yet: their sums stay zero.
        b_shift = tl.where(b_new == float("-inf"), 0.0, b_new)
    b_p = tl.exp2(b_s - b_shift[:, None])
    b_keep = tl.exp2(b_peak - b_shift)
    b_sum = b_sum * b_keep + tl.sum(b_p, 1)
    if TMA and not MASKED:
        b_v = d_v.load([start, 0])
    else:
        b_v = load_rows(p_v, o_n[:, None], o_h[None, :], stride_vt, m_n, H, MASKED)
    b_out = b_out * b_keep[:, None]
    b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out, input_precision=PRECISION)
    return b_out, b_new, b_sum


@triton.jit(do_not_specialize=["length", "blocks", "stride_field"])
def attention_forward(
    p_q,
    p_k,
    p_v,
    p_out,
    p_lse,
    p_token,
    p_parameter,
    p_runs,
    length,
    blocks,
    heads,
    share,
    stride_field,
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
    TMA: tl.constexpr,
):
    """One block of queries of one head. Grid: blocks x heads x rows, flat, blocks fastest.

    Args:
        p_q, p_k, p_v: [B, T, heads, H], last axis contiguous.
        p_out: [B, T, N, H] contiguous.
        p_lse: float32 [B, T, N].
        p_token: int32 [7, B, T]; `stride_field` = B * T.
        p_runs: int32 [B, blocks, 2 + 4 * RUNS].
        share: Query heads of one key head.
        scale: Times log2(e).
    """
    i = tl.program_id(0)
    # The last blocks of a causal row have the most to do: they go first.
    i_m = blocks - 1 - i % blocks
    i_n = (i // blocks) % heads
    i_b = (i // blocks // heads).to(tl.int64)
    p_token += i_b * length
    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_h = tl.arange(0, BLOCK_H)
    stride_field = stride_field.to(tl.int64)
    q = load_tokens(p_token, stride_field, o_m[:, None], (o_m < length)[:, None])
    p_q += i_b * stride_qb + i_n.to(tl.int64) * stride_qn
    p_q += (i_m * BLOCK_M).to(tl.int64) * stride_qt
    p_k += i_b * stride_kb + (i_n // share).to(tl.int64) * stride_kn
    p_v += i_b * stride_vb + (i_n // share).to(tl.int64) * stride_vn
    d_k = p_k
    d_v = p_v
    if TMA:
        # Rows beyond the end and columns beyond the head size come as zeros.
        d_k = tl.make_tensor_descriptor(p_k, [length, H], [stride_kt, 1], [BLOCK_N, BLOCK_H])
        d_v = tl.make_tensor_descriptor(p_v, [length, H], [stride_vt, 1], [BLOCK_N, BLOCK_H])
    # [BM, BH]
    o_row = tl.arange(0, BLOCK_M)[:, None]
    b_q = load_rows(p_q, o_row, o_h[None, :], stride_qt, q[1] >= 0, H, True)
    b_out = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    b_peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    p_runs += (i_b * blocks + i_m) * (2 + 4 * RUNS)
    for sort in tl.static_range(2):
        runs = tl.load(p_runs + sort)
        for r in range(runs):
            first = tl.load(p_runs + 2 + 2 * RUNS * sort + 2 * r)
            stop = tl.load(p_runs + 3 + 2 * RUNS * sort + 2 * r)
            for j in range(first, stop):
                b_out, b_peak, b_sum = _visit(
                    b_out, b_peak, b_sum, b_q, q, p_k, p_v, d_k, d_v, p_token, p_parameter,
                    j, length, stride_field, stride_kt, stride_vt, o_h, scale,
                    H, BLOCK_N, CODES, CONDITIONS, sort == 1, PRECISION, TMA,
                )  # fmt: skip
    # A query that sees nothing gives zeros, and minus infinity for its log-sum.
    b_sum = tl.where(b_sum == 0.0, 1.0, b_sum)
    b_out = b_out / b_sum[:, None]
    b_lse = (b_peak + tl.log2(b_sum)) * LN2
    o_out = (i_b * length + o_m.to(tl.int64)) * heads + i_n
    tl.store(p_lse + o_out, b_lse, mask=o_m < length)
    p_block = p_out + o_out[:, None] * H + o_h[None, :]
    m_out = (o_m < length)[:, None] & (o_h < H)[None, :]
    tl.store(p_block, b_out.to(p_out.dtype.element_ty), mask=m_out)
