"""Which tiles a block visits: runs of tile numbers, worked out from a few integers a block.

`summarise` reduces each block of tokens to sixteen integers; `schedule` compares those of one block
with those of all others by interval arithmetic. A block gets up to `RUNS` runs of tiles that are
wholly visible and as many of tiles on a boundary, where kernels evaluate the predicate. Nothing
grows with pairs; a tile that is visited in vain costs time, never a wrong result.
"""

from collections.abc import MutableMapping

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from unimodal.kernels.attention.tokens import compile_time_code
from unimodal.kernels.attention.triton_predicate import load_tokens, relation
from unimodal.kernels.dispatch import GateCase, launch

RUNS = 8
"""Runs of each sort a block. Where there are more, one run swallows the gaps."""

RUN_FIELDS = 2 + 4 * RUNS
"""Integers of one block: number of whole runs, of boundary runs, then (start, stop) of each."""

SUMMARY_FIELDS = 16

ROWS, CHUNK = 16, 64
"""Blocks of a schedule program, and the tiles that it compares them with at a time."""

FAR = tl.constexpr(1 << 29)

_schedules: MutableMapping[Tensor, dict[tuple[int, int, bool, int], Tensor]] = WeakIdKeyDictionary()
"""Runs by the plan's own token table, tile sizes, direction and version: once for all layers."""


def schedule_of(plan: list[Tensor], block_q: int, block_k: int, by_key: bool) -> Tensor:
    """Runs of key tiles for each query block, or of query tiles for each key block.

    Args:
        plan: Tensors of a `TokenPlan`.
        block_q, block_k: Tokens of a tile.
        by_key: Runs of query tiles for each key block.

    Returns:
        int32 [B, blocks, RUN_FIELDS].
    """
    tokens, parameters, codes = plan
    if tokens.is_cuda and torch.cuda.is_current_stream_capturing():
        # A graph is replayed over other tokens: the schedule is part of it.
        return _schedule(tokens, parameters, codes, block_q, block_k, by_key)
    made = _schedules.setdefault(tokens, {})
    # Inference tensors cannot be written to in place outside of inference, and count no versions.
    version = 0 if tokens.is_inference() else tokens._version
    key = (block_q, block_k, by_key, version)
    if key not in made:
        made[key] = _schedule(tokens, parameters, codes, block_q, block_k, by_key)
    return made[key]


def count_tiles(runs: Tensor) -> tuple[int, int]:
    """Wholly visible tiles and boundary tiles of a schedule."""
    rows = runs.flatten(0, 1).tolist()
    counts = [0, 0]
    for row in rows:
        for sort in range(2):
            start = 2 + 2 * RUNS * sort
            pairs = row[start : start + 2 * row[sort]]
            counts[sort] += sum(pairs[1::2]) - sum(pairs[::2])
    return counts[0], counts[1]


def schedule_cases(plan: list[Tensor]) -> list[GateCase]:
    """The kernels of this file, as they are launched for a plan."""
    tokens, parameters, codes = plan
    summary = torch.zeros(1, 1, SUMMARY_FIELDS, dtype=torch.int32)
    runs = torch.zeros(1, 1, RUN_FIELDS, dtype=torch.int32)
    cases = [_schedule_case(summary, summary, parameters, runs, codes, by_key=True)]
    return cases if len(codes) else [_summary_case(tokens, summary, 64), *cases]


def _schedule(
    tokens: Tensor, parameters: Tensor, codes: Tensor, block_q: int, block_k: int, by_key: bool
) -> Tensor:
    batch = tokens.shape[1]
    q_summary, k_summary = (_summarise(tokens, block) for block in (block_q, block_k))
    rows, columns = (k_summary, q_summary) if by_key else (q_summary, k_summary)
    runs = torch.empty(batch, rows.shape[1], RUN_FIELDS, dtype=torch.int32, device=tokens.device)
    if runs.numel():
        launch(_schedule_case(rows, columns, parameters, runs, codes, by_key))
    return runs


def _schedule_case(
    rows: Tensor, columns: Tensor, parameters: Tensor, runs: Tensor, codes: Tensor, by_key: bool
) -> GateCase:
    sort = "sparse" if len(codes) else "dense"
    return GateCase(
        name=f"schedule {sort}",
        kernel=schedule,
        args=(rows, columns, parameters, runs, rows.shape[1], columns.shape[1]),
        constexprs={
            "BY_KEY": by_key,
            "CODES": compile_time_code(codes.tolist()),
            "CONDITIONS": len(codes),
            "RUNS": RUNS,
            "ROWS": ROWS,
            "CHUNK": CHUNK,
        },
        grid=(triton.cdiv(rows.shape[1], ROWS), rows.shape[0]),
        num_warps=4,
        num_stages=1,
    )


def _summarise(tokens: Tensor, block: int) -> Tensor:
    """int32 [B, blocks, SUMMARY_FIELDS]."""
    _, batch, length = tokens.shape
    shape = (batch, triton.cdiv(length, block), SUMMARY_FIELDS)
    summary = torch.empty(shape, dtype=torch.int32, device=tokens.device)
    if summary.numel():
        launch(_summary_case(tokens, summary, block))
    return summary


def _summary_case(tokens: Tensor, summary: Tensor, block: int) -> GateCase:
    batch, blocks, _ = summary.shape
    length = tokens.shape[2]
    return GateCase(
        name=f"summarise {block}",
        kernel=summarise,
        args=(tokens, summary, length, blocks, batch * length),
        constexprs={"ROWS": ROWS, "BLOCK": block},
        grid=(triton.cdiv(blocks, ROWS), batch),
        num_warps=4,
        num_stages=1,
    )


@triton.jit(do_not_specialize=["length", "blocks", "stride_field"])
def summarise(
    p_token, p_summary, length, blocks, stride_field, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Least and greatest of the integers of `ROWS` blocks of tokens of one row of the batch."""
    i_b = tl.program_id(1).to(tl.int64)
    o_block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_block = o_block < blocks
    o = o_block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    index, document, segment, code, t, h, w = load_tokens(
        p_token, stride_field.to(tl.int64), i_b * length + o, o < length
    )
    # [ROWS, BLOCK]
    m = document >= 0
    m_cell = m & (t >= 0)
    program = code & 255
    is_full = m & (code >= 256)
    p = p_summary + (i_b * blocks + o_block) * 16
    tl.store(p + 0, tl.min(tl.where(m, index, FAR), 1), mask=m_block)
    tl.store(p + 1, tl.max(tl.where(m, index, -FAR), 1), mask=m_block)
    tl.store(p + 2, tl.min(tl.where(m, document, FAR), 1), mask=m_block)
    tl.store(p + 3, tl.max(tl.where(m, document, -FAR), 1), mask=m_block)
    tl.store(p + 4, tl.min(tl.where(m, segment, FAR), 1), mask=m_block)
    tl.store(p + 5, tl.max(tl.where(m, segment, -FAR), 1), mask=m_block)
    tl.store(p + 6, tl.min(tl.where(m_cell, t, FAR), 1), mask=m_block)
    tl.store(p + 7, tl.max(tl.where(m_cell, t, -FAR), 1), mask=m_block)
    tl.store(p + 8, tl.min(tl.where(m_cell, h, FAR), 1), mask=m_block)
    tl.store(p + 9, tl.max(tl.where(m_cell, h, -FAR), 1), mask=m_block)
    tl.store(p + 10, tl.min(tl.where(m_cell, w, FAR), 1), mask=m_block)
    tl.store(p + 11, tl.max(tl.where(m_cell, w, -FAR), 1), mask=m_block)
    tl.store(p + 12, tl.min(tl.where(m, program, FAR), 1), mask=m_block)
    tl.store(p + 13, tl.max(tl.where(m, program, 0), 1), mask=m_block)
    some_full = tl.max(is_full.to(tl.int32), 1)
    all_full = tl.min(tl.where(m, is_full, True).to(tl.int32), 1)
    tl.store(p + 14, some_full + 2 * all_full, mask=m_block)
    some_padding = tl.max((document < 0).to(tl.int32), 1)
    all_padding = tl.min((document < 0).to(tl.int32), 1)
    some_control = tl.max((m & (t < 0)).to(tl.int32), 1)
    tl.store(p + 15, some_padding + 2 * all_padding + 4 * some_control, mask=m_block)


@triton.jit
def load_summary(p, m):
    """Sixteen integers of blocks; those masked out are empty."""
    return (
        tl.load(p + 0, mask=m, other=0),
        tl.load(p + 1, mask=m, other=0),
        tl.load(p + 2, mask=m, other=0),
        tl.load(p + 3, mask=m, other=0),
        tl.load(p + 4, mask=m, other=0),
        tl.load(p + 5, mask=m, other=0),
        tl.load(p + 6, mask=m, other=0),
        tl.load(p + 7, mask=m, other=0),
        tl.load(p + 8, mask=m, other=0),
        tl.load(p + 9, mask=m, other=0),
        tl.load(p + 10, mask=m, other=0),
        tl.load(p + 11, mask=m, other=0),
        tl.load(p + 12, mask=m, other=0),
        tl.load(p + 13, mask=m, other=0),
        tl.load(p + 14, mask=m, other=0),
        tl.load(p + 15, mask=m, other=3),
    )


@triton.jit
def _relations(
    row,
    p_columns,
    o,
    columns,
    p_parameter,
    BY_KEY: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
):
    """Relations of some blocks (`row`) with the blocks `o` of the other side."""
    other = load_summary(p_columns + o * 16, (o >= 0) & (o < columns))
    if BY_KEY:
        found = relation(other, row, p_parameter, CODES, CONDITIONS)
    else:
        found = relation(row, other, p_parameter, CODES, CONDITIONS)
    return found


@triton.jit
def _write_runs(p_run, o, before, here, done, SORT: tl.constexpr, RUNS: tl.constexpr):
    """Starts and stops of the runs of tiles of one relation; returns how many begin here."""
    is_start = (here == SORT) & (before != SORT)
    is_stop = (here != SORT) & (before == SORT)
    # [ROWS, CHUNK]
    number = done + tl.cumsum(is_start.to(tl.int32), 1) - 1
    m = number < RUNS
    tl.store(p_run + 2 * number, o, mask=is_start & m)
    tl.store(p_run + 2 * number + 1, o, mask=is_stop & m)
    return tl.sum(is_start.to(tl.int32), 1, keep_dims=True)


@triton.jit(do_not_specialize=["rows", "columns"])
def schedule(
    p_rows,
    p_columns,
    p_parameter,
    p_runs,
    rows,
    columns,
    BY_KEY: tl.constexpr,
    CODES: tl.constexpr,
    CONDITIONS: tl.constexpr,
    RUNS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Runs of `ROWS` blocks of one row of the batch.

    If a block has more than RUNS runs of either sort, it gets a single boundary run from the first
    to the last of its tiles.
    """
    i_b = tl.program_id(1).to(tl.int64)
    # [ROWS, 1]
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    m_row = o_row < rows
    p_columns += i_b * columns * 16
    p_out = p_runs + (i_b * rows + o_row) * (2 + 4 * RUNS)
    row = load_summary(p_rows + (i_b * rows + o_row) * 16, m_row)
    whole = tl.zeros([ROWS, 1], tl.int32)
    edge = tl.zeros([ROWS, 1], tl.int32)
    first = tl.zeros([ROWS, 1], tl.int32) + columns
    last = tl.zeros([ROWS, 1], tl.int32)
    # One past the end, where the last run stops.
    for start in range(0, columns + 1, CHUNK):
        # [1, CHUNK]
        o = start + tl.arange(0, CHUNK)[None, :]
        before = _relations(row, p_columns, o - 1, columns, p_parameter, BY_KEY, CODES, CONDITIONS)
        here = _relations(row, p_columns, o, columns, p_parameter, BY_KEY, CODES, CONDITIONS)
        whole += _write_runs(p_out + 2, o, before, here, whole, 2, RUNS)
        edge += _write_runs(p_out + 2 + 2 * RUNS, o, before, here, edge, 1, RUNS)
        first = tl.minimum(first, tl.min(tl.where(here > 0, o, columns), 1, keep_dims=True))
        last = tl.maximum(last, tl.max(tl.where(here > 0, o + 1, 0), 1, keep_dims=True))
    merged = (whole > RUNS) | (edge > RUNS)
    tl.store(p_out, tl.where(merged, 0, whole), mask=m_row)
    tl.store(p_out + 1, tl.where(merged, 1, edge), mask=m_row)
    # The stores of other threads to the same place come first.
    tl.debug_barrier()
    tl.store(p_out + 2 + 2 * RUNS, first, mask=merged)
    tl.store(p_out + 3 + 2 * RUNS, last, mask=merged)
