"""Decoding kernels: a few queries against a long cache, split over its positions.

One program holds the queries of all heads that share a key head, so that a key is read once for
them, and a part of the cache; a second kernel joins the parts by their log-sums. Keys that no query
sees are not loaded. Number and size of the parts follow from shapes alone, so that a CUDA graph may
hold the launches.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.attention.triton_forward import load_rows
from unimodal.kernels.dispatch import GateCase, launch, tables

MAX_ROWS = 64
"""Queries times heads of a group that a program holds at most."""

MAX_SPLITS = 128
"""Parts of the cache at most."""

PROGRAMS_PER_SM = 4
"""Programs that a cache is split into, at least, for each multiprocessor."""

LOG2E = 1.4426950408889634

tables.declare("attention.decode", {"BLOCK_N": 64, "num_warps": 4, "num_stages": 2})
tables.declare("attention.join", {"CHUNK": 32, "num_warps": 2, "num_stages": 1})


def attend_cached(q: Tensor, k_cache: Tensor, v_cache: Tensor, visible: Tensor) -> Tensor:
    """See `api.attend_cached`."""
    batch, length, heads, size = q.shape
    groups, share = k_cache.shape[2], heads // k_cache.shape[2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q, k_cache, v_cache, visible = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k_cache, v_cache, visible)
    )
    row_blocks = triton.cdiv(length * share, _block_m(length * share))
    config = tables.lookup("attention.decode", size, q.dtype)
    splits, tiles = split_of(
        k_cache.shape[1], config["BLOCK_N"], batch * groups * row_blocks, _processors(q.device)
    )
    parts = torch.empty(batch, length, heads, splits, size, dtype=torch.float32, device=q.device)
    lse = torch.empty(batch, length, heads, splits, dtype=torch.float32, device=q.device)
    launch(_decode_case(q, k_cache, v_cache, visible.view(torch.uint8), parts, lse, tiles))
    launch(_join_case(parts, lse, out))
    return out


def decode_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """The kernels of this file, as they are launched."""
    q = torch.empty(1, 1, 4, head_dim, dtype=dtype)
    cache = torch.empty(1, 128, 2, head_dim, dtype=dtype)
    visible = torch.empty(1, 1, 128, dtype=torch.uint8)
    parts, lse = torch.empty(1, 1, 4, 2, head_dim), torch.empty(1, 1, 4, 2)
    return [_decode_case(q, cache, cache, visible, parts, lse, 1), _join_case(parts, lse, q)]


def _decode_case(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, parts: Tensor, lse: Tensor, tiles: int
) -> GateCase:
    batch, length, heads, size = q.shape
    groups, splits = k.shape[2], parts.shape[3]
    rows = length * (heads // groups)
    config = tables.lookup("attention.decode", size, q.dtype)
    return GateCase(
        name=f"decode {size} {str(q.dtype).removeprefix('torch.')}",
        kernel=attention_decode,
        args=(
            *(q, k, v, visible, parts, lse),
            *(k.shape[1], length, heads, heads // groups, splits, tiles),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *visible.stride()[:2]),
            size**-0.5 * LOG2E,
        ),
        constexprs={
            "H": size,
            "BLOCK_H": max(16, triton.next_power_of_2(size)),
            "BLOCK_M": _block_m(rows),
            "BLOCK_N": config["BLOCK_N"],
            "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        },
        grid=(splits * triton.cdiv(rows, _block_m(rows)), groups, batch),
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )


def _join_case(parts: Tensor, lse: Tensor, out: Tensor) -> GateCase:
    batch, length, heads, splits, size = parts.shape
    config = tables.lookup("attention.join", size, out.dtype)
    return GateCase(
        name=f"join {size} {str(out.dtype).removeprefix('torch.')}",
        kernel=attention_join,
        args=(parts, lse, out, splits),
        constexprs={
            "H": size,
            "BLOCK_H": max(16, triton.next_power_of_2(size)),
            "CHUNK": config["CHUNK"],
        },
        grid=(batch * length * heads,),
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )


def _block_m(rows: int) -> int:
    return min(MAX_ROWS, max(16, int(triton.next_power_of_2(rows))))


def split_of(length: int, block: int, programs: int, processors: int) -> tuple[int, int]:
    """Parts that a cache is cut into, and the tiles of each.

    Args:
        length: Positions of the cache.
        block: Positions of a tile.
        programs: Programs that there are without a cut.
        processors: Multiprocessors of the device.

    Returns:
        At least one part; enough to fill the device where the cache is long enough; no empty one
        but the last few of an uneven cut.
    """
    tiles = max(1, -(-length // block))
    wanted = -(-PROGRAMS_PER_SM * processors // max(programs, 1))
    each = -(-tiles // max(1, min(wanted, tiles, MAX_SPLITS)))
    return -(-tiles // each), each


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit(do_not_specialize=["length", "splits", "tiles", "stride_mb", "stride_mt"])
def attention_decode(
    p_q,
    p_k,
    p_v,
    p_visible,
    p_part,
    p_lse,
    length,
    queries,
    heads,
    share,
    splits,
    tiles,
    stride_qb,
    stride_qt,
    stride_qn,
    stride_kb,
    stride_kt,
    stride_kn,
    stride_vb,
    stride_vt,
    stride_vn,
    stride_mb,
    stride_mt,
    scale,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Some queries of a group of heads against one part of the cache.

    Grid: (parts x blocks of queries, key heads, rows).

    Args:
        p_q: [B, queries, heads, H]; p_k, p_v: [B, length, key heads, H]; last axes contiguous.
        p_visible: uint8 [B, queries, length].
        p_part: float32 [B, queries, heads, splits, H]; p_lse: without H, to base 2.
        share: Query heads of one key head.
        tiles: Tiles of one part.
    """
    i_s = tl.program_id(0) % splits
    i_g = tl.program_id(1)
    i_b = tl.program_id(2).to(tl.int64)
    # Rows are (query, head of the group), heads fastest.
    o_r = tl.program_id(0) // splits * BLOCK_M + tl.arange(0, BLOCK_M)
    o_t = (o_r // share).to(tl.int64)
    o_n = (i_g * share + o_r % share).to(tl.int64)
    m_r = o_r < queries * share
    o_h = tl.arange(0, BLOCK_H)
    p_row = p_q + i_b * stride_qb + o_t * stride_qt + o_n * stride_qn
    # [BM, BH]
    b_q = tl.load(p_row[:, None] + o_h, mask=m_r[:, None] & (o_h < H), other=0.0)
    p_k += i_b * stride_kb + i_g.to(tl.int64) * stride_kn
    p_v += i_b * stride_vb + i_g.to(tl.int64) * stride_vn
    p_visible += i_b * stride_mb
    b_out = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    b_peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    first = i_s * tiles
    for j in range(first, tl.minimum(first + tiles, tl.cdiv(length, BLOCK_N))):
        start = tl.cast(j, tl.int64) * BLOCK_N
        o_s = tl.arange(0, BLOCK_N)
        m_s = start + o_s < length
        # [BM, BN]
        p_mask = p_visible + o_t[:, None] * stride_mt + (start + o_s)[None, :]
        b_seen = tl.load(p_mask, mask=m_r[:, None] & m_s[None, :], other=0).to(tl.int32)
        m_load = (tl.max(b_seen, 0) > 0)[:, None]
        b_k = load_rows(
            p_k + start * stride_kt, o_s[:, None], o_h[None, :], stride_kt, m_load, H, True
        ).to(b_q.dtype)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        b_s = tl.where(b_seen > 0, b_s, float("-inf"))
        b_new = tl.maximum(b_peak, tl.max(b_s, 1))
        b_shift = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_p = tl.exp2(b_s - b_shift[:, None])
        b_keep = tl.exp2(b_peak - b_shift)
        b_sum = b_sum * b_keep + tl.sum(b_p, 1)
        b_v = load_rows(
            p_v + start * stride_vt, o_s[:, None], o_h[None, :], stride_vt, m_load, H, True
        ).to(b_q.dtype)
        b_out = b_out * b_keep[:, None]
        b_out = tl.dot(b_p.to(b_q.dtype), b_v, b_out, input_precision=PRECISION)
        b_peak = b_new
    b_sum = tl.where(b_sum == 0.0, 1.0, b_sum)
    o_part = ((i_b * queries + o_t) * heads + o_n) * splits + i_s
    tl.store(p_lse + o_part, b_peak + tl.log2(b_sum), mask=m_r)
    m_out = m_r[:, None] & (o_h < H)
    tl.store(p_part + o_part[:, None] * H + o_h, b_out / b_sum[:, None], mask=m_out)


@triton.jit(do_not_specialize=["splits"])
def attention_join(
    p_part,
    p_lse,
    p_out,
    splits,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """The parts of one query of one head, weighted by their sums of exponentials."""
    i = tl.program_id(0).to(tl.int64)
    o_h = tl.arange(0, BLOCK_H)[None, :]
    peak = float("-inf")
    for start in range(0, splits, CHUNK):
        o = start + tl.arange(0, CHUNK)
        b_lse = tl.load(p_lse + i * splits + o, mask=o < splits, other=float("-inf"))
        peak = tl.maximum(peak, tl.max(b_lse, 0))
    # A query that sees nothing: all weights are zero.
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    b_out = tl.zeros([BLOCK_H], tl.float32)
    total = 0.0
    for start in range(0, splits, CHUNK):
        o = start + tl.arange(0, CHUNK)
        b_lse = tl.load(p_lse + i * splits + o, mask=o < splits, other=float("-inf"))
        # [CHUNK]
        b_weight = tl.exp2(b_lse - shift)
        m = (o < splits)[:, None] & (o_h < H)
        b_part = tl.load(p_part + (i * splits + o)[:, None] * H + o_h, mask=m, other=0.0)
        b_out += tl.sum(b_part * b_weight[:, None], 0)
        total += tl.sum(b_weight, 0)
    b_out = b_out / tl.where(total == 0.0, 1.0, total)
    o_h = tl.arange(0, BLOCK_H)
    tl.store(p_out + i * H + o_h, b_out.to(p_out.dtype.element_ty), mask=o_h < H)
