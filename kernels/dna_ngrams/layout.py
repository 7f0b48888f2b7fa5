"""What the numbers mean: n-grams first, single letters after them, in the smallest type."""

import torch

from unimodal.errors import ShapeError

NUM_BASES = 4
"""Letters 0 to 3 are A, C, G, T; all above are written one by one."""

NUM_LETTERS = 17
"""Letters of an alphabet of A, C, G, T, U, the gap, and IUPAC's eleven other codes."""

MAX_N = 8
"""Letters of the longest n-gram."""


def first_single(n: int) -> int:
    """The id of letter 0 written alone. At n = 1 a base and its n-gram are the same id."""
    return NUM_BASES**n if n > 1 else 0


def id_dtype(n: int, num_letters: int) -> torch.dtype:
    """The smallest unsigned type of all ids."""
    largest = first_single(n) + num_letters - 1
    if largest < 1 << 8:
        return torch.uint8
    return torch.uint16 if largest < 1 << 16 else torch.uint32


def check_largest(largest: int, num_letters: int) -> None:
    """Hold the letters to the alphabet.

    Raises:
        ShapeError: if the largest is outside.
    """
    if largest >= num_letters:
        raise ShapeError(
            f"`letters` must be below `num_letters` ({num_letters}), but one is {largest}."
        )
