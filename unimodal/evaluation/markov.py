"""A Markov chain over the units of strings: the baseline of sequence modelling.

Plain counts with additive smoothing, one chain; its order and smoothing are chosen on a part of
the training strings that the counts have not seen, then all are counted. Each string begins with
`order` boundary signs, so a string pays for its first units, too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import DataError

SMOOTHINGS = (1.0, 0.1, 0.01)
MAX_ORDER = 10
PATIENCE = 3
"""Longer chains are tried until this many in a row are no better."""
HELD_OUT = 10
"""One training string of this many chooses the order."""
MAX_CODE = 2**62

Symbols = NDArray[np.int64]


class MarkovChain:
    """P(next | the `order` units before), with additive smoothing.

    Args:
        strings: Training strings as symbol numbers below `num_symbols`.
        num_symbols: Size of the alphabet.
        order: Units of context, at least 0.
        smoothing: Added to every count, above 0.
    """

    def __init__(self, strings: Sequence[Symbols], num_symbols: int, order: int, smoothing: float):
        self.order, self.smoothing, self.num_symbols = order, smoothing, num_symbols
        codes = self._codes(strings)
        self._pairs, self._pair_counts = np.unique(codes, return_counts=True)
        self._contexts, first = np.unique(self._pairs // (num_symbols + 1), return_index=True)
        self._context_counts = np.add.reduceat(self._pair_counts, first)

    def bits(self, string: Symbols) -> float:
        """Bits of one string."""
        codes = self._codes([string])
        seen = _look_up(self._pairs, self._pair_counts, codes)
        context = _look_up(self._contexts, self._context_counts, codes // (self.num_symbols + 1))
        probability = (seen + self.smoothing) / (context + self.smoothing * self.num_symbols)
        return float(-np.log2(probability).sum())

    def _codes(self, strings: Sequence[Symbols]) -> Symbols:
        """(context, unit) of every position as one number in base `num_symbols + 1`."""
        base = self.num_symbols + 1
        parts = []
        for string in strings:
            padded = np.concatenate([np.full(self.order, self.num_symbols), string])
            code = np.zeros(len(string), dtype=np.int64)
            for offset in range(self.order + 1):
                code = code * base + padded[offset : offset + len(string)]
            parts.append(code)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _look_up(keys: Symbols, counts: Symbols, wanted: Symbols) -> NDArray[np.float64]:
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, counts[place], 0).astype(np.float64)


def best_chain(
    strings: Sequence[Symbols], num_symbols: int, max_order: int = MAX_ORDER
) -> MarkovChain:
    """The chain whose order and smoothing suit held-out training strings best.

    Raises:
        DataError: if there is no string to count.
    """
    kept = [string for string in strings if len(string)]
    if not kept:
        raise DataError(
            "A Markov chain needs training strings, but there are none.",
            remedy="Give at least one that is not empty.",
        )
    if len(kept) == 1:
        cut = max(1, len(kept[0]) * (HELD_OUT - 1) // HELD_OUT)
        counted, held = [kept[0][:cut]], [kept[0][cut:]]
    else:
        held = kept[::HELD_OUT]
        counted = [s for i, s in enumerate(kept) if i % HELD_OUT] or kept
    best: tuple[float, int, float] = (np.inf, 0, 1.0)
    for order in range(max_order + 1):
        if (num_symbols + 1) ** (order + 1) > MAX_CODE:
            break
        chain = MarkovChain(counted, num_symbols, order, SMOOTHINGS[0])
        found = []
        for smoothing in SMOOTHINGS:
            chain.smoothing = smoothing
            found.append((sum(map(chain.bits, held)), order, smoothing))
        best = min(best, *found)
        if order >= best[1] + PATIENCE:
            break
    return MarkovChain(kept, num_symbols, best[1], best[2])
