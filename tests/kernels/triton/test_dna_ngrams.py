"""DNA n-grams on interpreted Triton: bit for bit what the reference gives."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.dispatch import tables
from unimodal.kernels.dna_ngrams import dna_ngrams
from unimodal.kernels.interpreter import guarded, guarded_allocations

pytestmark = pytest.mark.gates


@pytest.fixture(autouse=True)
def _small_blocks() -> Iterator[None]:
    # Several blocks even for short sequences; a mutated copy is overridden as well.
    with tables.overriding("dna_ngrams.pack", {"BLOCK": 64, "num_warps": 4, "num_stages": 1}):
        yield


def some_letters(length: int, share: float) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    bases = torch.randint(4, (length,), generator=generator)
    others = torch.randint(4, 17, (length,), generator=generator)
    is_other = torch.rand(length, generator=generator) < share
    return torch.where(is_other, others, bases).to(torch.uint8)


def check(letters: Tensor, n: int, overlapping: bool) -> None:
    right = dna_ngrams(letters, n, overlapping=overlapping, impl="reference")
    inside = guarded(letters)
    with guarded_allocations():
        ids = dna_ngrams(inside, n, overlapping=overlapping, impl="triton")
    assert ids.dtype == right.dtype
    assert ids.tolist() == right.tolist()


def check_all() -> None:
    for overlapping in (False, True):
        # The second ends a letter before a block does.
        for letters in (some_letters(200, 0.1), some_letters(127, 0.0)):
            check(letters, 3, overlapping)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_every_mode_gives_the_references_ids(n: int, overlapping: bool) -> None:
    for length, share in ((1, 0.0), (63, 0.0), (64, 0.05), (65, 0.3), (200, 0.02)):
        check(some_letters(length, share), n, overlapping)


def test_strided_and_empty_letters_and_an_alphabet() -> None:
    letters = some_letters(90, 0.1)
    right = dna_ngrams(letters, 3, impl="reference")
    spread = torch.full((180,), 200, dtype=torch.uint8)
    spread[::2] = letters
    assert torch.equal(dna_ngrams(spread[::2], 3, impl="triton"), right)
    assert dna_ngrams(letters[:0], 3, impl="triton").shape == (0,)
    with pytest.raises(ShapeError, match="below `num_letters`"):
        dna_ngrams(letters + 17, 3, impl="triton")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b_letter >= BASES", "b_letter > BASES"),
        ("(N - 1 - BACK)) &", "(N - 2 - BACK)) &"),
        ("(o_at - BACK) % N", "o_at % N"),
        ("tl.static_range(1, N)", "tl.static_range(1, N - 1)"),
        ("b_gram * BASES + b_letter", "b_gram + BASES * b_letter"),
        ("b_letter + first_letter", "b_letter + first_letter - 1"),
        ("ends - counts", "ends - counts[0]"),
        ("mask=m_letter, other=255", "mask=m_letter, other=0"),
        ("(b_held == 0)) & (o_at < length)", "(b_held == 0)) & (o_at <= length)"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("dna_ngrams", old, new)
    with pytest.raises(AssertionError):
        check_all()


def test_the_operator_keeps_torchs_rules() -> None:
    letters = some_letters(40, 0.1)
    torch.library.opcheck(torch.ops.unimodal.dna_ngrams.default, (letters, 3, False, 17, "triton"))
