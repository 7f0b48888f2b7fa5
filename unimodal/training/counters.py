"""Random choices that are functions of their counters: nothing to save, nothing to replay.

A mixer of 64 bits (SplitMix64, Steele et al. 2014) turns a seed, a purpose and counters into a
uniform number, a permutation of any size (a Feistel network with cycle walking, Black and Rogaway
2002), or the seed of a NumPy generator. Not for secrets.
"""

import hashlib
from functools import lru_cache

import numpy as np

MASK = (1 << 64) - 1
ROUNDS = 6


def mix(*words: int) -> int:
    """64 well-mixed bits of any number of integers."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = (state ^ (word & MASK)) & MASK
        state = (state + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


@lru_cache(maxsize=4096)
def key_of(name: str) -> int:
    """64 bits of a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def uniform(*words: int) -> float:
    """A number in [0, 1)."""
    return (mix(*words) >> 11) / (1 << 53)


def generator(*words: int) -> np.random.Generator:
    """A NumPy generator that depends on the words alone."""
    return np.random.default_rng([word & MASK for word in words])


def permuted(index: int, size: int, key: int) -> int:
    """Where a keyed permutation of range(size) sends `index`.

    A balanced Feistel network permutes the next power of four; what falls outside is walked on.
    """
    if size < 2:
        return index
    half = ((size - 1).bit_length() + 1) // 2
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for number in range(ROUNDS):
            left, right = right, left ^ (mix(key, number, right) & low)
        index = (left << half) | right
        if index < size:
            return index
