"""DNA n-grams letter by letter: the rule in plain Python against the reference and the CPU path.

The rule itself, with letters as text, is held in tests/tokenizers/test_dna.py.
"""

import random

import pytest
import torch

from unimodal.errors import ShapeError
from unimodal.kernels.dna_ngrams import cpu, dna_ngrams, first_single

MODES = [(n, o) for n in range(1, 9) for o in (False, True)]


def by_rule(letters: list[int], n: int, overlapping: bool) -> list[int]:
    """The ids, one letter after another."""

    def begins(at: int) -> bool:
        piece = letters[at : at + n]
        return len(piece) == n and max(piece) < 4 and (overlapping or at % n == 0)

    ids = []
    for at, letter in enumerate(letters):
        if begins(at):
            ids.append(sum(x * 4 ** (n - 1 - i) for i, x in enumerate(letters[at : at + n])))
        elif not any(begins(before) for before in range(max(0, at - n + 1), at)):
            ids.append((4**n if n > 1 else 0) + letter)
    return ids


def some_letters(length: int, share: float, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [
        rng.randrange(4, 17) if rng.random() < share else rng.randrange(4) for _ in range(length)
    ]


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize(("n", "overlapping"), MODES)
def test_every_mode_follows_the_rule(impl: str, n: int, overlapping: bool) -> None:
    for share in (0.0, 0.02, 0.3, 1.0):
        for length in (1, 2, n - 1, n, n + 1, 50, 333):
            letters = some_letters(length, share, length)
            given = torch.tensor(letters, dtype=torch.uint8)
            ids = dna_ngrams(given, n, overlapping=overlapping, impl=impl)
            assert ids.tolist() == by_rule(letters, n, overlapping)


@pytest.mark.parametrize(("n", "overlapping"), MODES[2:8])
def test_chunks_and_rare_gaps_do_not_show(
    n: int, overlapping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CHUNK", 16)
    letters = some_letters(400, 0.0)
    letters[250:255] = [5] * 5
    given = torch.tensor(letters, dtype=torch.uint8)
    assert dna_ngrams(given, n, overlapping=overlapping).tolist() == by_rule(
        letters, n, overlapping
    )


@pytest.mark.parametrize(
    ("n", "letters", "dtype"),
    [
        (1, 256, torch.uint8),
        (3, 17, torch.uint8),
        (3, 192, torch.uint8),
        (3, 193, torch.uint16),
        (4, 4, torch.uint16),
        (7, 17, torch.uint16),
        (8, 4, torch.uint32),
    ],
)
def test_the_type_is_the_smallest_that_holds_every_id(
    n: int, letters: int, dtype: torch.dtype
) -> None:
    last = torch.full((1,), letters - 1, dtype=torch.uint8)
    for impl in ("cpu", "reference"):
        ids = dna_ngrams(last, n, num_letters=letters, impl=impl)
        assert ids.dtype == dtype
        assert ids.tolist() == [first_single(n) + letters - 1]


def test_strided_letters_and_none_at_all() -> None:
    letters = torch.tensor(some_letters(80, 0.1), dtype=torch.uint8)
    spread = torch.full((160,), 200, dtype=torch.uint8)
    spread[::2] = letters
    assert torch.equal(dna_ngrams(spread[::2], 3), dna_ngrams(letters, 3))
    empty = dna_ngrams(letters[:0], 4)
    assert empty.shape == (0,)
    assert empty.dtype == torch.uint16


def test_opcheck_and_compiled_without_a_break() -> None:
    letters = torch.tensor(some_letters(40, 0.1), dtype=torch.uint8)
    torch.library.opcheck(torch.ops.unimodal.dna_ngrams.default, (letters, 3, True, 17, "cpu"))
    compiled = torch.compile(dna_ngrams, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(letters, 3), dna_ngrams(letters, 3))


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_a_letter_outside_the_alphabet_is_refused(impl: str) -> None:
    with pytest.raises(ShapeError, match=r"below `num_letters` \(17\), but one is 17"):
        dna_ngrams(torch.tensor([0, 17], dtype=torch.uint8), 3, impl=impl)


def test_wrong_arguments_are_refused() -> None:
    letters = torch.zeros(4, dtype=torch.uint8)
    for wrong in (letters.long(), letters[None]):
        with pytest.raises(ShapeError, match="`letters` must be a uint8 tensor"):
            dna_ngrams(wrong, 3)
    for n in (0, 9):
        with pytest.raises(ShapeError, match="`n` must lie between 1 and 8"):
            dna_ngrams(letters, n)
    for count in (3, 257):
        with pytest.raises(ShapeError, match="`num_letters` must lie"):
            dna_ngrams(letters, 3, num_letters=count)
