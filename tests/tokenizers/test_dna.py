"""DNA: one encoding a string, every sequence of ids has a string, both in the smallest type."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimodal.errors import ConfigError, MediaError
from unimodal.modality import build_modality
from unimodal.testing import check_modality
from unimodal.tokenizers.dna import LETTERS, Dna, DnaConfig, reverse_complement
from unimodal.types import Tokens, line_grid

ALL = [DnaConfig(n=n, overlapping=o) for n in range(1, 9) for o in (False, True)]
sequences = st.text(st.sampled_from("ACGT" * 6 + LETTERS), min_size=1, max_size=60)


def ids_of(dna: Dna, bases: str) -> list[int]:
    tokens = dna.encode(bases)
    assert tokens.ids is not None
    return tokens.ids.tolist()


def decoded(dna: Dna, ids: list[int]) -> str:
    return dna.decode(Tokens(grid=line_grid(len(ids)), ids=torch.tensor(ids)))


@pytest.mark.parametrize("config", [*ALL[::3], DnaConfig(both_strands=True)], ids=str)
def test_every_setting_holds_the_contract(config: DnaConfig) -> None:
    assert check_modality(Dna(config), num_examples=6).ok


@pytest.mark.parametrize("config", ALL, ids=str)
def test_any_sequence_comes_back_and_any_ids_are_one(config: DnaConfig) -> None:
    dna = Dna(config)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(sequences, st.lists(st.integers(0, dna.size - 1), min_size=1, max_size=20))
    def check(bases: str, ids: list[int]) -> None:
        assert decoded(dna, ids_of(dna, bases)) == bases
        assert dna.length(bases) == len(ids_of(dna, bases))
        value = decoded(dna, ids)
        assert decoded(dna, ids_of(dna, value)) == value

    check()


@pytest.mark.parametrize("config", [DnaConfig(n=2), DnaConfig(n=2, overlapping=True)], ids=str)
def test_different_strings_have_different_encodings(config: DnaConfig) -> None:
    dna = Dna(config)
    strings = ["".join(s) for k in range(1, 6) for s in itertools.product("ACN", repeat=k)]
    assert len({tuple(ids_of(dna, s)) for s in strings}) == len(strings)


def plain_encoding(bases: str, config: DnaConfig) -> list[int]:
    """The rule of the module's docstring, letter by letter."""
    n, grams = config.n, 4**config.n
    single = {x: grams - (4 if n == 1 else 0) + i for i, x in enumerate(LETTERS)}

    def gram(at: int) -> int | None:
        piece = bases[at : at + n]
        if len(piece) < n or set(piece) - set("ACGT"):
            return None
        return sum("ACGT".index(x) * 4 ** (n - 1 - i) for i, x in enumerate(piece))

    ids: list[int] = []
    if not config.overlapping:
        for start in range(0, len(bases), n):
            found = gram(start)
            piece = bases[start : start + n]
            ids += [single[x] for x in piece] if found is None else [found]
        return ids
    for at in range(len(bases)):
        found = gram(at)
        covered = any(gram(b) is not None for b in range(max(0, at - n + 1), at))
        if found is not None:
            ids.append(found)
        elif not covered:
            ids.append(single[bases[at]])
    return ids


@pytest.mark.parametrize("config", ALL, ids=str)
def test_the_vectorised_encoding_is_the_plain_one(config: DnaConfig) -> None:
    rng = random.Random(config.n)
    dna = Dna(config)
    for share in (0.0, 0.05, 0.5):
        for length in (1, 2, 3, 7, 8, 9, 50, 51):
            bases = "".join(
                rng.choice(LETTERS[4:]) if rng.random() < share else rng.choice("ACGT")
                for _ in range(length)
            )
            assert ids_of(dna, bases) == plain_encoding(bases, config)


@pytest.mark.parametrize("config", ALL, ids=str)
def test_chunks_and_rare_gaps_do_not_show(
    config: DnaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.kernels.dna_ngrams.cpu.CHUNK", 16)
    rng = random.Random(0)
    dna = Dna(config)
    for gaps in ([], [99], [100, 101, 150], [0, 199]):
        letters = rng.choices("ACGT", k=200)
        for place in gaps:
            letters[place] = "N"
        bases = "".join(letters)
        assert ids_of(dna, bases) == plain_encoding(bases, config)
        assert len(dna.encode_ids(bases)) == dna.length(bases)


@pytest.mark.parametrize(
    ("n", "dtype"), [(1, "uint8"), (3, "uint8"), (4, "uint16"), (7, "uint16"), (8, "uint32")]
)
def test_ids_come_in_the_smallest_type_that_holds_the_span(n: int, dtype: str) -> None:
    dna = Dna(DnaConfig(n=n))
    ids = dna.encode_ids("ACGTNACGTTTACGAA")
    assert ids.dtype == np.dtype(dtype)
    assert int(ids.max()) < dna.spans["dna"] <= np.iinfo(dtype).max + 1


def test_lower_case_is_folded_and_that_is_its_only_loss() -> None:
    dna = Dna(DnaConfig())
    assert decoded(dna, ids_of(dna, "acgtnRy")) == "ACGTNRY"
    assert dna.distance("acgt", "ACGT") == 0
    assert dna.distance("acgt", "ACGA") == 0.25
    assert dna.distance("acgt", "ACG") == float("inf")


def test_ambiguous_letters_become_n_where_asked() -> None:
    dna = Dna(DnaConfig(n=2, ambiguity="n"))
    assert decoded(dna, ids_of(dna, "ACRYGT")) == "ACNNGT"
    assert not dna.is_lossless
    assert dna.distance("ACRYGT", "ACNNGT") == pytest.approx(2 / 6)
    assert check_modality(dna).ok


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "at least one base"),
        ("ACGTE", "letter 5 is 'E'"),
        ("MKVLAAGIVG", "letter 4 is 'L'"),
        ("ACG T", "letter 4 is ' '"),
        ("AC\u212aG", "letter 3"),
        ("ACG\n", "letter 4"),
    ],
)
def test_what_is_no_nucleotide_is_named_with_its_place(value: str, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        Dna(DnaConfig()).encode(value)


@pytest.mark.parametrize("values", [{"n": 0}, {"n": 9}, {"ambiguity": "drop"}])
def test_a_config_out_of_bounds_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        build_modality("dna", values)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(sequences)
def test_the_reverse_complement_twice_is_the_sequence(bases: str) -> None:
    without_u = bases.replace("U", "T")
    assert reverse_complement(reverse_complement(without_u)) == without_u


def test_the_reverse_complement_keeps_case_and_codes() -> None:
    assert reverse_complement("AacgtRN-") == "-NYacgtT"


def test_a_fasta_of_two_records_is_not_one_sequence(tmp_path) -> None:
    path = tmp_path / "two.fa"
    path.write_text(">a\nACGT\n>b\nGG\n")
    with pytest.raises(MediaError, match="second record `b`"):
        Dna(DnaConfig()).read(path)


@pytest.mark.parametrize("config", ALL[:6], ids=str)
def test_uniform_bases_cost_two_bits_under_the_best_model_of_these_ids(config: DnaConfig) -> None:
    """No two strings share an encoding, and no encoding begins another one with its end."""
    dna = Dna(config)
    length = config.n + 2
    encodings = {tuple(ids_of(dna, "".join(s))) for s in itertools.product("ACGT", repeat=length)}
    assert np.log2(len(encodings)) / length == 2.0
