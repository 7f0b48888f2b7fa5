"""The fake modalities do what their docstrings say, beyond the laws of the contract."""

import re
from pathlib import Path

import numpy as np
import torch

import unimodal.testing
from unimodal.grammar import IdRange
from unimodal.modality import NoConfig, modalities
from unimodal.testing.fixtures import (
    FAKES,
    FakeEvents,
    FakeMasked,
    FakeResidual,
    FakeResidualConfig,
    FakeWords,
    NonDecreasing,
)
from unimodal.testing.walks import END, draw, standalone_grammar


def test_fakes_are_named_so_and_nothing_but_tests_imports_them() -> None:
    assert all((modalities.name_of(kind) or "").startswith("fake_") for kind in FAKES)
    package = Path(unimodal.testing.__file__).parents[1]
    sources = [p for p in package.rglob("*.py") if p.name != "fixtures.py"]
    assert len(sources) > 10
    line = re.compile(r"^\s*(from|import) .*testing.*fixtures", re.MULTILINE)
    assert [p for p in sources if line.search(p.read_text(encoding="utf-8"))] == []


def test_residual_codes_are_frame_major_with_equal_time() -> None:
    tokens = FakeResidual(FakeResidualConfig(levels=3)).encode(np.array([0.5, 0.999]))
    assert tokens.ids is not None
    assert tokens.seconds is not None
    assert tokens.spans().tolist() == [0, 1, 2, 0, 1, 2]
    assert tokens.ids.tolist() == [4, 0, 0, 7, 7, 7]
    assert tokens.grid[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert tokens.seconds[0] == tokens.seconds[2]


def test_the_masked_fake_has_ids_and_features_at_the_same_positions() -> None:
    value = torch.eye(4)[[0, 3, 2, 1, 1, 0]]
    tokens = FakeMasked(NoConfig()).encode(value)
    assert tokens.ids is not None
    assert tokens.features is not None
    assert tokens.ids.tolist() == [0, 3, 2, 1, 1, 0]
    assert torch.equal(tokens.features, value)


def test_constrained_walks_write_times_that_never_fall() -> None:
    modality = FakeEvents(NoConfig())
    grammar, ranges = standalone_grammar(modality)
    rule = NonDecreasing(ranges["letter"][0], ranges["tick"][0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        cursor, written, budget = grammar.cursor(), [], 40
        while not cursor.done:
            ids = torch.cat([torch.arange(*r) for r in cursor.legal(budget)])
            kept = ids[rule.keep(written, ids)]
            if not len(kept):  # only the budget's last id can clash with the pairs
                kept = torch.tensor([END])
            token = draw([_single(i) for i in kept.tolist()], rng)
            cursor.push(token)
            written.append(token)
            budget -= 1
        ticks = [i for i in written if ranges["tick"][0] <= i < ranges["tick"][1]]
        assert ticks == sorted(ticks)
        codes = written[:-1]
        first_tick = ranges["tick"][0]
        assert all((i >= first_tick) == (place % 2 == 0) for place, i in enumerate(codes))


def _single(token: int) -> IdRange:
    return token, token + 1


def test_a_fitted_fake_spells_what_it_does_not_know() -> None:
    words = FakeWords(NoConfig())
    words.fit(["red red apple"])
    tokens = words.encode("red pear")
    assert tokens.spans().tolist() == [1, 0, 0, 0, 0, 0]
    assert words.decode(tokens) == "red pear"
