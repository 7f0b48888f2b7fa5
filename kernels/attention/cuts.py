"""How a bucket of documents with a sparse mask is cut into calls of attention on the CPU.

A picture that follows its text sees the text in full and little of itself. So first queries that
see just their past, as the text does, become one causal call; keys that come first and that every
query of some blocks sees become one call without a mask; what is left of each block, some keys
under a mask, goes into a few calls of many blocks of equal size. Where these keys move along with
the queries, as those of a row do, each block has a window of keys, and nothing is gathered.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

QUERY_BLOCK = 32
"""Queries of one block.

Two threads of an EPYC (Zen 5), two documents of 256 + 32 x 32 positions, 5 heads of 64, forward and
backward, milliseconds in float32 with 32, 64 and 128: row 25, 27, 30; column 27, 28, 32;
conv(size=11) 33, 34, 37.
"""

LEAST_LENGTH = 128
"""Shorter documents are not cut, and shorter causal leads are no call of their own."""

SPARSE_SHARE = 0.5
"""A bucket is cut if the cuts visit at most this share of all pairs."""

LEAST_SHARED = 1 << 14
"""Pairs of a document that are worth a call without a mask."""

MOST_PADDING = 1.25
"""Keys that are visited in a call of several blocks, over those that their queries see, at most."""


@dataclass(frozen=True)
class Cut:
    """Some queries against some keys of every document of a bucket.

    Attributes:
        q_start, q_stop: The queries, in `groups` equal groups.
        keys: The range of the first group, and of each other as far behind the one before as its
            queries; or the keys of each group: int64 (groups, keys).
        mask: bool (documents, groups, queries, keys), or (documents, queries, keys) of one group;
            None: every query sees every key.
        groups: Groups of queries.
        merged: Whether an earlier cut has these queries, too.
        causal: Whether each query sees the keys up to its own place alone; then there is no mask.
    """

    q_start: int
    q_stop: int
    keys: slice | Tensor
    mask: Tensor | None = None
    groups: int = 1
    merged: bool = False
    causal: bool = False

    @property
    def num_keys(self) -> int:
        """Keys of each group."""
        return (
            self.keys.stop - self.keys.start if isinstance(self.keys, slice) else self.keys.shape[1]
        )

    @property
    def pairs(self) -> int:
        """Pairs of a document that are visited."""
        return (self.q_stop - self.q_start) * self.num_keys // (1 + self.causal)


@dataclass
class _Block:
    """A block of queries.

    Attributes:
        start, stop: Its queries.
        seen: Keys that a query of a document sees, bool (length,).
        shared: How many keys, from the first on, every query of every document sees.
        done: How many of them are in a cut.
        left: Keys that are in no cut, int64 (keys,); known once all cuts without a mask are.
    """

    start: int
    stop: int
    seen: Tensor
    shared: int
    done: int = 0
    left: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


def cut(mask: Tensor, silent: Tensor) -> list[Cut] | None:
    """Cuts that together hold every pair of a mask once, or None if cutting does not pay.

    Every query sees a key of each of its cuts: torch's flash attention gives one that sees none the
    log-sum 0 instead of minus infinity.

    Args:
        mask: Who sees whom in each document, bool (documents, length, length).
        silent: Queries whose result is not used, bool (documents, length): they may see anything.
    """
    length = mask.shape[-1]
    if length < LEAST_LENGTH:
        return None
    cuts: list[Cut] = []
    lead = _causal_lead(mask, silent)
    if lead:
        cuts.append(Cut(0, lead, slice(0, lead), causal=True))
    blocks = _blocks(mask, silent, lead)
    while (found := _widest(blocks)) is not None:
        run, done, shared = found
        if _has_idle_query(run, shared, mask, silent):
            shared -= 1
        cuts.append(Cut(run[0].start, run[-1].stop, slice(done, shared), merged=done > 0))
        for block in run:
            block.done = shared
    for block in blocks:
        keys = block.seen.nonzero().flatten()
        block.left = keys[keys >= block.done]
    for run in _runs(blocks):
        cuts.append(_masked(run, mask))
    return cuts if sum(one.pairs for one in cuts) <= SPARSE_SHARE * length**2 else None


def _causal_lead(mask: Tensor, silent: Tensor) -> int:
    """How many first queries see the keys up to their own place and no others; 0 if too few.

    Blocks start behind them: of a picture then, as its first row sees all of its past.
    """
    past = torch.ones(mask.shape[1:], dtype=torch.bool, device=mask.device).tril()
    others = ((mask != past) & ~silent[..., None]).any(dim=-1).any(dim=0).nonzero()
    lead = int(others[0]) if len(others) else mask.shape[-1]
    return lead if lead >= LEAST_LENGTH else 0


def _blocks(mask: Tensor, silent: Tensor, first: int) -> list[_Block]:
    length = mask.shape[-1]
    seen, all_see = mask.any(dim=0), (mask | silent[..., None]).all(dim=0)
    blocks = []
    for start in range(first, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        missed = (~all_see[start:stop].all(dim=0)).nonzero()
        shared = int(missed[0]) if len(missed) else length
        blocks.append(_Block(start, stop, seen[start:stop].any(dim=0), shared))
    return blocks


def _widest(blocks: list[_Block]) -> tuple[list[_Block], int, int] | None:
    """The run of blocks that shares most pairs of no cut yet, and its keys; None: too few."""
    best, most = None, LEAST_SHARED - 1
    for first, block in enumerate(blocks):
        shared = block.shared
        for last in range(first, len(blocks)):
            if blocks[last].done != block.done:
                break
            shared = min(shared, blocks[last].shared)
            pairs = (shared - block.done) * (blocks[last].stop - block.start)
            if pairs > most and shared - block.done > 1:
                best, most = (blocks[first : last + 1], block.done, shared), pairs
    return best


def _has_idle_query(run: list[_Block], shared: int, mask: Tensor, silent: Tensor) -> bool:
    """Whether a block keeps keys from `shared` on, but one of its queries sees none of them."""
    for block in run:
        rows = slice(block.start, block.stop)
        sees = mask[:, rows, shared:].any(dim=-1)
        if sees.any() and not (sees | silent[:, rows]).all():
            return True
    return False


def _runs(blocks: list[_Block]) -> list[list[_Block]]:
    """Blocks with keys left, in runs of equal size, alike enough for one call."""
    runs: list[list[_Block]] = []
    for block in blocks:
        if not len(block.left):
            continue
        if runs and _fits(runs[-1], block):
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _fits(run: list[_Block], block: _Block) -> bool:
    last = run[-1]
    alike = (
        last.stop == block.start
        and last.stop - last.start == block.stop - block.start
        and (last.done > 0) == (block.done > 0)
    )
    counts = [len(one.left) for one in (*run, block)]
    return alike and len(counts) * max(counts) <= MOST_PADDING * sum(counts)


def _masked(run: list[_Block], mask: Tensor) -> Cut:
    """One call of several blocks. Keys that fill up a block are seen by nobody."""
    left = [block.left for block in run]
    count = max(map(len, left))
    keys: slice | Tensor = torch.stack([pad(own, (0, count - len(own))) for own in left])
    starts = [0] * len(run)
    window = _window(run, mask.shape[-1])
    if window is not None:
        keys, count = window, window.stop - window.start
        starts = [window.start + block.start - run[0].start for block in run]
    seen = mask.new_zeros(len(mask), len(run), run[0].stop - run[0].start, count)
    for number, (block, own, start) in enumerate(zip(run, left, starts, strict=True)):
        places = slice(0, len(own)) if window is None else own - start
        seen[:, number, :, places] = mask[:, block.start : block.stop][..., own]
    merged = run[0].done > 0
    return Cut(run[0].start, run[-1].stop, keys, seen, len(run), merged)


def _window(run: list[_Block], length: int) -> slice | None:
    """The first block's keys, if those of all lie in windows that move along with the queries."""
    behind = [block.start - run[0].start for block in run]
    start = min(int(block.left[0]) - moved for block, moved in zip(run, behind, strict=True))
    stop = max(int(block.left[-1]) + 1 - moved for block, moved in zip(run, behind, strict=True))
    if start < 0 or stop + behind[-1] > length:
        return None
    visited = len(run) * (stop - start)
    fits = visited <= MOST_PADDING * sum(len(block.left) for block in run)
    return slice(start, stop) if fits else None
