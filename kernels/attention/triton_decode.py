"""Decoding kernels: a few queries against a long cache, split over its positions.

One program holds the queries of all heads that share a key head, so that a key is read once for
them, and a part of the cache; a second kernel joins the parts by their log-sums. Who sees what is
evaluated from the integers of queries and slots; keys that no query sees are not loaded. The number
of parts follows from shapes alone, so that a CUDA graph may hold the launches; how long they are,
from the slots in use.
"""

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.attention.tokens import SLOT_FIELDS, compile_time_code
from unimodal.kernels.attention.triton_forward import load_rows
from unimodal.kernels.attention.triton_predicate import visible
from unimodal.kernels.attention.triton_tiles import tiles_of
from unimodal.kernels.dispatch import GateCase, launch

if TYPE_CHECKING:
    from unimodal.kernels.attention.cached import SlotPlan

MAX_ROWS = 64
"""Queries times heads of a group that a program holds at most."""

MAX_SPLITS = 128
"""Parts of the cache at most."""

PROGRAMS_PER_SM = 4
"""Programs that a cache is split into, at least, for each multiprocessor."""

LOG2E = 1.4426950408889634


def attend_cached(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: "SlotPlan", block_table: Tensor | None
) -> Tensor:
    """See `cached.attend_cached`."""
    batch, length, heads, size = q.shape
    groups, share = k_cache.shape[2], heads // k_cache.shape[2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q, k_cache, v_cache = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k_cache, v_cache)
    )
    row_blocks = triton.cdiv(length * share, _block_m(length * share))
    config = tiles_of("decode", size, q.dtype)
    splits = split_of(
        plan.keys.shape[1], config["BLOCK_N"], batch * groups * row_blocks, _processors(q.device)
    )
    parts = torch.empty(batch, length, heads, splits, size, dtype=torch.float32, device=q.device)
    lse = torch.empty(batch, length, heads, splits, dtype=torch.float32, device=q.device)
    launch(_decode_case(q, k_cache, v_cache, plan, block_table, parts, lse))
    launch(_join_case(parts, lse, out))
    return out


def decode_cases(
    head_dim: int, dtype: torch.dtype, parameters: Tensor, codes: Tensor
) -> list[GateCase]:
    """The kernels of this file, as they are launched, static and paged.

    Args:
        parameters, codes: Of the patterns' conditions, as in a plan.
    """
    from unimodal.kernels.attention.cached import SlotPlan

    q = torch.empty(1, 1, 4, head_dim, dtype=dtype)
    parts, lse = torch.empty(1, 1, 4, 2, head_dim), torch.empty(1, 1, 4, 2)
    integers = torch.zeros(1, 128, SLOT_FIELDS, dtype=torch.int32)
    table = torch.zeros(1, 2, dtype=torch.int32)
    cases = [] if len(codes) else [_join_case(parts, lse, q)]
    for lengths, pages in ((None, None), (table[0, :1], table)):
        cache = torch.empty(1, 128 if pages is None else 64, 2, head_dim, dtype=dtype)
        plan = SlotPlan(integers[:, :1], integers, lengths, parameters, table[0], codes)
        cases.append(_decode_case(q, cache, cache, plan, pages, parts, lse))
    return cases


def _decode_case(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: "SlotPlan",
    block_table: Tensor | None,
    parts: Tensor,
    lse: Tensor,
) -> GateCase:
    batch, length, heads, size = q.shape
    groups, splits = k.shape[2], parts.shape[3]
    rows = length * (heads // groups)
    config = tiles_of("decode", size, q.dtype)
    integers = [x if x.stride(-1) == 1 else x.contiguous() for x in (plan.queries, plan.keys)]
    strides = [stride for x in (q, k, v) for stride in x.stride()[:3]]
    strides += [stride for x in integers for stride in x.stride()[:2]]
    paged: dict[str, Any] = {"PAGE": 0}
    if block_table is not None:
        block_table = block_table if block_table.stride(-1) == 1 else block_table.contiguous()
        paged["PAGE"] = k.shape[1]
    sort = ("sparse" if len(plan.codes) else "dense") + " paged" * (block_table is not None)
    return GateCase(
        name=f"decode {sort} {size} {str(q.dtype).removeprefix('torch.')}",
        kernel=attention_decode,
        args=(
            *(q, k, v, *integers, plan.lengths, plan.of_kind, plan.parameters, block_table),
            *(parts, lse),
            *(plan.keys.shape[1], len(plan.of_kind), k.shape[0]),
            *(length, heads, heads // groups, splits),
            *strides,
            0 if block_table is None else block_table.stride(0),
            size**-0.5 * LOG2E,
        ),
        constexprs={
            "H": size,
            "BLOCK_H": max(16, triton.next_power_of_2(size)),
            "BLOCK_M": _block_m(rows),
            "BLOCK_N": config["BLOCK_N"],
            "CODES": compile_time_code(plan.codes.tolist()),
            "CONDITIONS": len(plan.codes),
            "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
            **paged,
        },
        grid=(splits * triton.cdiv(rows, _block_m(rows)), groups, batch),
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )


def _join_case(parts: Tensor, lse: Tensor, out: Tensor) -> GateCase:
    batch, length, heads, splits, size = parts.shape
    config = tiles_of("join", size, out.dtype)
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


def split_of(length: int, block: int, programs: int, processors: int) -> int:
    """Parts that a cache is cut into. The kernel deals the tiles in use of each row among them.

    Args:
        length: Positions of the cache.
        block: Positions of a tile.
        programs: Programs that there are without a cut.
        processors: Multiprocessors of the device.

    Returns:
        At least one part; enough to fill the device where the cache is long enough.
    """
    tiles = max(1, -(-length // block))
    wanted = -(-PROGRAMS_PER_SM * processors // max(programs, 1))
    return max(1, min(wanted, tiles, MAX_SPLITS))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit
def _load_slots(p, o, m, p_of_kind, kinds, IS_QUERY: tl.constexpr):
    """The seven integers that `visible` takes, of slots; keys need no code.

    Args:
        p: int32, `SLOT_FIELDS` numbers each.
        o: Where each slot's numbers begin; document -1 where `m` is false.
    """
    index = tl.load(p + o, mask=m, other=0)
    document = tl.load(p + o + 1, mask=m, other=-1)
    segment = tl.load(p + o + 2, mask=m, other=-1)
    t = tl.load(p + o + 5, mask=m, other=-1)
    h = tl.load(p + o + 6, mask=m, other=-1)
    w = tl.load(p + o + 7, mask=m, other=-1)
    code = document
    if IS_QUERY:
        kind = tl.load(p + o + 3, mask=m, other=-1)
        full = tl.load(p + o + 4, mask=m, other=0)
        known = m & (kind >= 0) & (kind < kinds) & (t >= 0)
        code = tl.load(p_of_kind + kind, mask=known, other=0) + 256 * full
    return index, document, segment, code, t, h, w


@triton.jit(
    do_not_specialize=[
        *("slots", "kinds", "pages", "splits", "tiles"),
        *("stride_ib", "stride_it", "stride_jb", "stride_jt", "stride_table"),
    ]
)
def attention_decode(
    p_q,
    p_k,
    p_v,
    p_query,
    p_key,
    p_length,
    p_of_kind,
    p_parameter,
    p_table,
    p_part,
    p_lse,
    slots,
    kinds,
    pages,
    queries,
    heads,
    share,
    splits,
    stride_qb,
    stride_qt,
    stride_qn,
    stride_kb,
    stride_kt,
    stride_kn,
    stride_vb,
    stride_vt,
    stride_vn,
    stride_ib,
    stride_it,
    stride_jb,
    stride_jt,
    stride_table,
    scale,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
    PRECISION: tl.constexpr,
    PAGE: tl.constexpr,
):
    """Some queries of a group of heads against one part of the cache.

    Grid: (parts x blocks of queries, key heads, rows).

    Args:
        p_q: [B, queries, heads, H]; p_k, p_v: [B, slots, key heads, H], or [pages, PAGE, key heads,
            H] if PAGE is not 0; last axes contiguous.
        p_query, p_key: int32 [B, queries, 8] and [B, slots, 8], strides i and j.
        p_length: int32 [B], or None if all slots are in use.
        p_of_kind: int32 [kinds]; p_parameter: int32 [CONDITIONS, 4].
        p_table: int32 [B, at least slots / PAGE], or None.
        p_part: float32 [B, queries, heads, splits, H]; p_lse: without H, to base 2.
        share: Query heads of one key head.
    """
    i_s = tl.program_id(0) % splits
    i_g = tl.program_id(1).to(tl.int64)
    i_b = tl.program_id(2).to(tl.int64)
    # Rows are (query, head of the group), heads fastest.
    o_r = tl.program_id(0) // splits * BLOCK_M + tl.arange(0, BLOCK_M)
    o_t = (o_r // share).to(tl.int64)
    o_n = i_g * share + o_r % share
    m_r = o_r < queries * share
    o_h = tl.arange(0, BLOCK_H)
    p_row = p_q + i_b * stride_qb + o_t * stride_qt + o_n * stride_qn
    # [BM, BH], and the queries' integers [BM, 1]
    b_q = tl.load(p_row[:, None] + o_h, mask=m_r[:, None] & (o_h < H), other=0.0)
    o_query = (o_t * stride_it)[:, None]
    q = _load_slots(p_query + i_b * stride_ib, o_query, m_r[:, None], p_of_kind, kinds, True)
    p_key += i_b * stride_jb
    p_k += i_g * stride_kn
    p_v += i_g * stride_vn
    if PAGE == 0:
        p_k += i_b * stride_kb
        p_v += i_b * stride_vb
    else:
        p_table += i_b * stride_table
    length = slots
    if p_length is not None:
        length = tl.minimum(length, tl.load(p_length + i_b))
    b_out = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    b_peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    # Dealt by what is in use, so that a long cache with little in it keeps all parts busy.
    tiles = tl.cdiv(length, BLOCK_N)
    first = i_s * tl.cdiv(tiles, splits)
    for j in range(first, tl.minimum(first + tl.cdiv(tiles, splits), tiles)):
        # [BN]
        o_s = j * BLOCK_N + tl.arange(0, BLOCK_N)
        m_s = o_s < length
        o_s = o_s.to(tl.int64)
        o_k = o_s * stride_kt
        o_v = o_s * stride_vt
        if PAGE != 0:
            page = tl.load(p_table + o_s // PAGE, mask=m_s, other=-1).to(tl.int64)
            m_s = m_s & (page >= 0) & (page < pages)
            o_k = page * stride_kb + o_s % PAGE * stride_kt
            o_v = page * stride_vb + o_s % PAGE * stride_vt
        o_key = (o_s * stride_jt)[None, :]
        k = _load_slots(p_key, o_key, m_s[None, :], p_of_kind, kinds, False)
        # [BM, BN]
        b_seen = visible(q, k, p_parameter, CODES, CONDITIONS)
        m_load = (tl.max(b_seen.to(tl.int32), 0) > 0)[:, None]
        b_k = load_rows(p_k, o_k[:, None], o_h[None, :], 1, m_load, H, True).to(b_q.dtype)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        b_s = tl.where(b_seen, b_s, float("-inf"))
        b_new = tl.maximum(b_peak, tl.max(b_s, 1))
        b_shift = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_p = tl.exp2(b_s - b_shift[:, None])
        b_keep = tl.exp2(b_peak - b_shift)
        b_sum = b_sum * b_keep + tl.sum(b_p, 1)
        b_v = load_rows(p_v, o_v[:, None], o_h[None, :], 1, m_load, H, True).to(b_q.dtype)
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
