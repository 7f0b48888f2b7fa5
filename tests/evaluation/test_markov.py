import numpy as np
import pytest

from unimodal.errors import DataError
from unimodal.evaluation.markov import MarkovChain, best_chain


def sample(order: int, length: int, seed: int, num_symbols: int = 4) -> np.ndarray:
    """A string in which each unit follows from the `order` units before, with 10 % noise."""
    rng = np.random.default_rng(seed)
    string = list(rng.integers(num_symbols, size=order))
    while len(string) < length:
        known = (sum((i + 1) * s for i, s in enumerate(string[-order:])) + 1) % num_symbols
        string.append(known if rng.random() < 0.9 else rng.integers(num_symbols))
    return np.array(string, dtype=np.int64)


def test_uniform_strings_cost_log2_of_the_alphabet() -> None:
    strings = [np.random.default_rng(i).integers(4, size=2000) for i in range(20)]
    chain = best_chain(strings, 4)
    asked = np.random.default_rng(99).integers(4, size=5000)
    assert chain.order == 0
    assert chain.bits(asked) / 5000 == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_is_found_and_the_entropy_reached(order: int) -> None:
    strings = [sample(order, 3000, seed) for seed in range(20)]
    chain = best_chain(strings, 4)
    share = np.array([0.925, 0.025, 0.025, 0.025])
    entropy = float(-(share * np.log2(share)).sum())
    asked = sample(order, 20_000, 1234)
    assert chain.order == order
    assert chain.bits(asked) / len(asked) == pytest.approx(entropy, abs=0.03)


def test_probabilities_sum_to_one() -> None:
    chain = MarkovChain([np.array([0, 1, 2, 0, 1])], 3, order=2, smoothing=0.1)
    for context in ([], [0], [0, 1], [2, 2]):
        base = chain.bits(np.array(context, dtype=np.int64)) if context else 0.0
        costs = [chain.bits(np.array([*context, s], dtype=np.int64)) - base for s in range(3)]
        assert sum(2.0**-cost for cost in costs) == pytest.approx(1.0)


def test_one_long_string_is_enough() -> None:
    assert best_chain([sample(1, 4000, 0)], 4).order == 1


def test_no_string_is_an_error() -> None:
    with pytest.raises(DataError, match="training strings"):
        best_chain([np.zeros(0, dtype=np.int64)], 4)
