"""DNA n-grams: checks, dispatch, the operator.

    ids = dna_ngrams(letters, 3)                    # A C G T T N G to [ACG, T, T, N, G]
    ids = dna_ngrams(letters, 3, overlapping=True)  # A C G T T N G to [ACG, CGT, GTT, N, G]

`letters` are numbers: 0 to 3 for A, C, G, T, and any from 4 up for letters that are written alone
(N, other IUPAC codes, gaps). An n-gram is the number of its letters in base 4, the first highest;
letter `c` alone is `first_single(n) + c`.

Not here: the alphabet, and the way back (`unimodal.tokenizers.dna`). Tested letter by letter in
tests/kernels/test_dna_ngrams.py.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.dna_ngrams import cpu, reference
from unimodal.kernels.dna_ngrams.layout import MAX_N, NUM_BASES, NUM_LETTERS, id_dtype

dispatch.register("dna_ngrams", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define(
    "dna_ngrams(Tensor letters, int n, bool overlapping, int num_letters, str impl) -> Tensor"
)


def dna_ngrams(
    letters: Tensor,
    n: int,
    *,
    overlapping: bool = False,
    num_letters: int = NUM_LETTERS,
    impl: str | None = None,
) -> Tensor:
    """The ids of a sequence: n-grams where there are bases alone, else letter by letter.

    - Not overlapping: blocks of `n` letters from the start. A block of bases is one id; a block
      that holds another letter, and the remainder at the end, are written letter by letter.
    - Overlapping: one id a start within each run of bases; runs shorter than `n`, and all other
      letters, letter by letter.

    Args:
        letters: uint8 [T], each below `num_letters`: 0 to 3 are A, C, G, T.
        n: Letters of an n-gram, 1 to 8.
        overlapping: Whether an n-gram begins at every base instead of every `n` letters.
        num_letters: Size of the alphabet, 4 to 256, which sets the type of the result; by default
            that of IUPAC's codes with U and the gap.
        impl: As `dispatch.choose` takes it.

    Returns:
        The ids [1 to T, 0 for no letters], in the smallest of uint8, uint16 and uint32 that holds
        `first_single(n) + num_letters - 1`.

    Raises:
        ShapeError: if `letters` is not uint8 [T], holds a letter outside the alphabet, or a number
            is out of range.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    if letters.ndim != 1 or letters.dtype != torch.uint8:
        raise ShapeError(
            f"`letters` must be a uint8 tensor of shape (T,), but is {letters.dtype} of shape "
            f"{tuple(letters.shape)}."
        )
    if not 1 <= n <= MAX_N:
        raise ShapeError(f"`n` must lie between 1 and {MAX_N}, but is {n}.")
    if not NUM_BASES <= num_letters <= 256:
        raise ShapeError(
            f"`num_letters` must lie between {NUM_BASES} and 256, but is {num_letters}."
        )
    chosen = dispatch.choose("dna_ngrams", letters, impl=impl)
    # Without a compiler the CPU saves itself the operator, which costs more than a short sequence.
    is_direct = chosen != "triton" and not torch.compiler.is_compiling()
    step = _dna_ngrams if is_direct else torch.ops.unimodal.dna_ngrams.default
    ids: Tensor = step(letters, n, overlapping, num_letters, chosen)
    return ids


def _module(impl: str) -> Any:
    if impl == "triton":
        return importlib.import_module("unimodal.kernels.dna_ngrams.triton")
    return cpu if impl == "cpu" else reference


@dispatch.on_own_device
def _dna_ngrams(letters: Tensor, n: int, overlapping: bool, num_letters: int, impl: str) -> Tensor:
    if not len(letters):
        return letters.new_empty(0, dtype=id_dtype(n, num_letters))
    ids: Tensor = _module(impl).dna_ngrams(letters, n, overlapping, num_letters)
    return ids


def _fake(letters: Tensor, n: int, overlapping: bool, num_letters: int, impl: str) -> Tensor:
    # How many ids there are turns on what the letters are.
    count = torch.library.get_ctx().new_dynamic_size()
    return letters.new_empty(count, dtype=id_dtype(n, num_letters))


_library.impl("dna_ngrams", _dna_ngrams, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::dna_ngrams", _fake, lib=_library)
