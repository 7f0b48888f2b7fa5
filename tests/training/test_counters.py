"""Counter-based choices: permutations are permutations, draws are even, all by counters alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimodal.training.counters import generator, key_of, mix, permuted, uniform


@given(size=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
@settings(max_examples=25, deadline=None)
def test_every_index_appears_once(size: int, key: int) -> None:
    assert sorted(permuted(i, size, key) for i in range(size)) == list(range(size))


def test_orders_differ_by_key_and_are_not_the_identity() -> None:
    orders = {tuple(permuted(i, 50, key) for i in range(50)) for key in range(20)}
    assert len(orders) == 20
    assert tuple(range(50)) not in orders


def test_places_are_even() -> None:
    """Where index 0 of ten goes, over many keys: chi-square with 9 degrees, 99.9 % below 27.9."""
    counts = np.bincount([permuted(0, 10, key) for key in range(4000)], minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


def test_uniform_numbers_are_even() -> None:
    drawn = np.array([uniform(7, 1, n) for n in range(20_000)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01
    counts, _ = np.histogram(drawn, 20, (0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@pytest.mark.parametrize(("one", "other"), [((1, 2), (2, 1)), ((0,), (0, 0)), ((1,), (-1,))])
def test_words_and_their_order_matter(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert mix(*one) != mix(*other)


def test_values_are_the_same_on_every_machine() -> None:
    assert key_of("letters") == 0xCD0DEDDBE5DBD87A
    assert mix(1, 2, 3) == 0x48CF5028B6DF10DB
    assert [permuted(i, 10, 5) for i in range(10)] == [1, 0, 3, 2, 6, 9, 7, 5, 8, 4]
    assert generator(1, 2).integers(1 << 30) == generator(1, 2).integers(1 << 30)
