"""DNA n-grams as Triton kernels: count what each block keeps, then write it where it belongs.

A place begins an n-gram, is held by an earlier one, or is written alone; that turns on n - 1
letters on either side, which lie in the cache. Blocks are counted first, since how many ids come
before a block turns on all letters before it. Nothing but counts lies in memory between the two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.dispatch import GateCase, tables
from unimodal.kernels.dna_ngrams.layout import NUM_BASES, check_largest, first_single, id_dtype

tables.declare(
    "dna_ngrams.pack",
    {"BLOCK": 1024, "num_warps": 4, "num_stages": 1},
    candidates=tables.grid(BLOCK=(512, 1024, 2048, 4096), num_warps=(4, 8), num_stages=(1,)),
)


@triton.jit
def _begins(b_other, o_at, BACK: tl.constexpr, N: tl.constexpr, OVERLAPPING: tl.constexpr):
    """Whether an n-gram begins BACK places before. [B]"""
    b_begins = ((b_other >> (N - 1 - BACK)) & ((1 << N) - 1)) == 0
    if not OVERLAPPING:
        b_begins = b_begins & ((o_at - BACK) % N == 0)
    return b_begins


@triton.jit
def _places(
    p_letters,
    o_at,
    length,
    BASES: tl.constexpr,
    N: tl.constexpr,
    OVERLAPPING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Which places begin an n-gram, and which write an id. 2 x [B]"""
    # Bit N - 1 + d: whether the letter d places on, -N < d < N, is no base (or is not there).
    b_other = tl.zeros([BLOCK], dtype=tl.int32)
    for bit in tl.static_range(2 * N - 1):
        o_letter = o_at + bit - (N - 1)
        m_letter = (o_letter >= 0) & (o_letter < length)
        b_letter = tl.load(p_letters + o_letter, mask=m_letter, other=255)  # [B]
        b_other |= (b_letter >= BASES).to(tl.int32) << bit
    b_begins = _begins(b_other, o_at, 0, N, OVERLAPPING)
    b_held = tl.zeros([BLOCK], dtype=tl.int1)
    for back in tl.static_range(1, N):
        b_held = b_held | _begins(b_other, o_at, back, N, OVERLAPPING)
    return b_begins, (b_begins | (b_held == 0)) & (o_at < length)


@triton.jit
def count_kernel(
    p_letters,
    p_counts,
    length,
    BASES: tl.constexpr,
    N: tl.constexpr,
    OVERLAPPING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How many ids each block of places writes."""
    i_block = tl.program_id(0).to(tl.int64)
    o_at = i_block * BLOCK + tl.arange(0, BLOCK)  # [B]
    _, b_keep = _places(p_letters, o_at, length, BASES, N, OVERLAPPING, BLOCK)
    tl.store(p_counts + i_block, tl.sum(b_keep.to(tl.int32), 0).to(tl.int64))


@triton.jit
def write_kernel(
    p_letters,
    p_first,
    p_ids,
    length,
    first_letter,
    BASES: tl.constexpr,
    N: tl.constexpr,
    OVERLAPPING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The ids of each block, from place `p_first[block]` of the result on."""
    i_block = tl.program_id(0).to(tl.int64)
    o_at = i_block * BLOCK + tl.arange(0, BLOCK)  # [B]
    b_begins, b_keep = _places(p_letters, o_at, length, BASES, N, OVERLAPPING, BLOCK)
    b_gram = tl.zeros([BLOCK], dtype=tl.int32)
    for place in tl.static_range(N):
        o_letter = o_at + place
        b_letter = tl.load(p_letters + o_letter, mask=o_letter < length, other=0)
        b_gram = b_gram * BASES + b_letter.to(tl.int32)
    b_letter = tl.load(p_letters + o_at, mask=o_at < length, other=0).to(tl.int32)
    b_id = tl.where(b_begins, b_gram, b_letter + first_letter)
    o_id = tl.load(p_first + i_block) + tl.cumsum(b_keep.to(tl.int32), 0) - 1
    tl.store(p_ids + o_id, b_id.to(p_ids.dtype.element_ty), mask=b_keep)


def dna_ngrams(letters: Tensor, n: int, overlapping: bool, num_letters: int) -> Tensor:
    """The ids of letters uint8 [T], T at least 1; see `api.dna_ngrams`."""
    check_largest(int(letters.max()), num_letters)
    letters = letters.contiguous()
    config = tables.lookup("dna_ngrams.pack", 0, letters.dtype)
    blocks = triton.cdiv(len(letters), config["BLOCK"])
    counts = torch.empty(blocks, dtype=torch.int64, device=letters.device)
    constants = {"BASES": NUM_BASES, "N": n, "OVERLAPPING": overlapping, **config}
    count_kernel[(blocks,)](letters, counts, len(letters), **constants)
    ends = counts.cumsum(0)
    ids = torch.empty(int(ends[-1]), dtype=id_dtype(n, num_letters), device=letters.device)
    write_kernel[(blocks,)](letters, ends - counts, ids, len(letters), first_single(n), **constants)
    return ids


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """Both kernels for common and for the longest n-grams, for the compile gate."""
    letters, counts = torch.zeros(64, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    config = tables.lookup("dna_ngrams.pack", 0, letters.dtype)
    cases = []
    for n, kind, overlapping in (
        (3, torch.uint8, False),
        (6, torch.uint16, True),
        (8, torch.uint32, False),
    ):
        ids = torch.zeros(64, dtype=kind)
        what = f"{n}-grams" + (", overlapping" * overlapping)
        launches = (
            (f"count {what}", count_kernel, (letters, counts, 64)),
            (f"write {what}", write_kernel, (letters, counts, ids, 64, first_single(n))),
        )
        cases += [
            GateCase(
                name=name,
                kernel=kernel,
                args=args,
                constexprs={
                    "BASES": NUM_BASES,
                    "N": n,
                    "OVERLAPPING": overlapping,
                    "BLOCK": config["BLOCK"],
                },
                num_warps=config["num_warps"],
                num_stages=config["num_stages"],
            )
            for name, kernel, args in launches
        ]
    return cases
