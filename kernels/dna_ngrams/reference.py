"""DNA n-grams in plain torch, place by place: what is right."""

import torch
from torch import Tensor

from unimodal.kernels.dna_ngrams.layout import NUM_BASES, check_largest, first_single, id_dtype


def dna_ngrams(letters: Tensor, n: int, overlapping: bool, num_letters: int) -> Tensor:
    """The ids of letters uint8 [T], T at least 1; see `api.dna_ngrams`.

    An n-gram begins where `n` bases follow (and, without overlap, the place is a multiple of `n`).
    A letter that no earlier n-gram holds and that begins none is written alone.
    """
    check_largest(int(letters.max()), num_letters)
    length = len(letters)
    place = torch.arange(length, device=letters.device)
    padded = torch.nn.functional.pad(letters.long(), (0, n - 1), value=NUM_BASES)
    grams = torch.zeros_like(place)
    begins = torch.ones_like(place, dtype=torch.bool)
    for step in range(n):
        letter = padded[step : step + length]
        begins &= letter < NUM_BASES
        grams = grams * NUM_BASES + letter
    if not overlapping:
        begins &= place % n == 0
    held = torch.zeros_like(begins)
    for step in range(1, min(n, length)):
        held[step:] |= begins[:-step]
    ids = torch.where(begins, grams, first_single(n) + letters.long())
    return ids[begins | ~held].to(id_dtype(n, num_letters))
