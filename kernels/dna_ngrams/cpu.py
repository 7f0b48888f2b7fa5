"""The CPU path: whole columns of letters at a time, in chunks that stay in the processor's cache.

NumPy's shifts and comparisons of small unsigned integers are what torch lacks or does more slowly.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimodal.kernels.dna_ngrams.layout import NUM_BASES, check_largest, first_single, id_dtype

CHUNK = 16_384
"""N-grams that are built at once."""

_KINDS: dict[torch.dtype, np.dtype[np.unsignedinteger]] = {
    torch.uint8: np.dtype(np.uint8),
    torch.uint16: np.dtype(np.uint16),
    torch.uint32: np.dtype(np.uint32),
}

Letters = NDArray[np.uint8]
Ids = NDArray[np.unsignedinteger]


def dna_ngrams(letters: Tensor, n: int, overlapping: bool, num_letters: int) -> Tensor:
    """The ids of letters uint8 [T], T at least 1; see `api.dna_ngrams`."""
    codes: Letters = letters.numpy()
    largest = int(codes.max())
    check_largest(largest, num_letters)
    plain = largest < NUM_BASES
    kind = _KINDS[id_dtype(n, num_letters)]
    pack = _overlapping if overlapping else _blocks
    return torch.from_numpy(codes.astype(kind) if n == 1 else pack(codes, n, kind, plain))


def _blocks(codes: Letters, n: int, kind: np.dtype[np.unsignedinteger], plain: bool) -> Ids:
    """Not overlapping."""
    whole = len(codes) // n * n
    parts = []
    for start in range(0, whole, n * CHUNK):
        chunk = codes[start : min(start + n * CHUNK, whole)].reshape(-1, n)
        grams = _combine([chunk[:, place] for place in range(n)], kind)
        is_plain = plain or int(chunk.max()) < NUM_BASES
        parts.append(grams if is_plain else _mixed_blocks(chunk, grams))
    return np.concatenate([*parts, _singles(codes[whole:], n, kind)])


def _mixed_blocks(blocks: Letters, grams: Ids) -> Ids:
    """Blocks [., n] of which some hold letters that are no bases."""
    n = blocks.shape[1]
    mixed = blocks[:, 0] >= NUM_BASES
    for place in range(1, n):
        mixed |= blocks[:, place] >= NUM_BASES
    sizes = np.where(mixed, n, 1)
    starts = np.cumsum(sizes) - sizes
    ids = np.empty(int(sizes.sum()), dtype=grams.dtype)
    ids[starts] = grams
    ids[starts[mixed][:, None] + np.arange(n)] = _singles(blocks[mixed], n, grams.dtype)
    return ids


def _overlapping(codes: Letters, n: int, kind: np.dtype[np.unsignedinteger], plain: bool) -> Ids:
    run, singles = (partial(f, n=n, kind=kind) for f in (_run, _singles))
    if plain:
        return run(codes)
    other = codes >= NUM_BASES
    edges = np.flatnonzero(other[1:] != other[:-1]) + 1
    if len(edges) * CHUNK < len(codes):
        runs = np.split(codes, edges)
        return np.concatenate([run(r) if r[0] < NUM_BASES else singles(r) for r in runs])
    count = len(codes) - n + 1
    ids = singles(codes)
    if count < 1:
        return ids
    bad = np.concatenate([[0], np.cumsum(other)])
    starts = bad[n:] == bad[:-n]
    # Letters inside an n-gram are written by it, except where the next one begins.
    keep = np.ones(len(codes), dtype=bool)
    for place in range(1, n):
        keep[place : place + count] &= ~starts
    keep[:count] |= starts
    grams = _combine([codes[place : place + count] for place in range(n)], kind)
    ids[:count][starts] = grams[starts]
    return ids[keep]


def _run(codes: Letters, n: int, kind: np.dtype[np.unsignedinteger]) -> Ids:
    """Overlapping n-grams of a run of bases; single letters if it is too short."""
    count = len(codes) - n + 1
    if count < 1:
        return _singles(codes, n, kind)
    grams = np.empty(count, dtype=kind)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        columns = [codes[start + place : stop + place] for place in range(n)]
        grams[start:stop] = _combine(columns, kind)
    return grams


def _singles(codes: Letters, n: int, kind: np.dtype[np.unsignedinteger]) -> Ids:
    return codes.astype(kind) + kind.type(first_single(n))


def _combine(columns: list[Letters], kind: np.dtype[np.unsignedinteger]) -> Ids:
    """Letters of each n-gram to its number, first letter highest."""
    grams = columns[0].astype(kind)
    for column in columns[1:]:
        grams <<= 2
        grams |= column
    return grams
