import sys

import numpy as np
import pytest

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.evaluation.metrics import margin_error, metrics, ratio, standard_error
from unimodal.modality import Modality, NoConfig
from unimodal.types import Tokens, line_grid


class Words(Modality[str, NoConfig]):
    value_type = str
    raw_unit = "byte"

    def encode(self, value: str) -> Tokens:
        raise NotImplementedError

    def example(self, rng: np.random.Generator) -> str:
        return ""


class Numbers(Modality[float, NoConfig]):
    value_type = float
    raw_unit = "step"

    def encode(self, value: float) -> Tokens:
        return Tokens(line_grid(1))

    def distance(self, a: float, b: float) -> float:
        return abs(a - b)

    def example(self, rng: np.random.Generator) -> float:
        return 0.0


WORDS = Words(NoConfig())


def score(name: str, answers: list[object], truths: list[object]) -> float:
    return ratio(metrics.get(name).pairs(answers, truths, WORDS))


@pytest.mark.parametrize(
    ("name", "answer", "truth", "expected"),
    [
        ("exact_match", "a cat", "a cat", 1.0),
        ("exact_match", "a cat", "a dog", 0.0),
        ("exact_match", "cat", ("dog", "cat"), 1.0),
        ("character_error_rate", "abxd", "abcd", 0.25),
        ("character_error_rate", "", "abcd", 1.0),
        ("word_error_rate", "the cat sat", "the cat sat down", 0.25),
        ("word_error_rate", "so so so so", "so", 3.0),
        ("word_error_rate", "dog", ("a dog ran", "dog"), 0.0),
        ("token_f1", "a red apple", "a green apple", 2 / 3),
        ("token_f1", "x", "y", 0.0),
        ("chrf", "a red apple", "a red apple", 100.0),
    ],
)
def test_metrics_by_hand(name: str, answer: object, truth: object, expected: float) -> None:
    assert score(name, [answer], [truth]) == pytest.approx(expected)


def test_error_rates_weigh_by_length() -> None:
    assert score("character_error_rate", ["x", "abcdefghi"], ["y", "abcdefghi"]) == 0.1


def test_an_empty_truth_counts_what_was_written() -> None:
    pairs = metrics.get("character_error_rate").pairs(["ab", "cd"], ["", "cd"], WORDS)
    assert ratio(pairs) == 1.0


def test_distance_is_the_modality_s_own() -> None:
    pairs = metrics.get("distance").pairs([1.0, 5.0], [2.0, 2.0], Numbers(NoConfig()))
    assert ratio(pairs) == 2.0


def test_a_share_has_the_binomial_error_and_is_never_certain() -> None:
    pairs = np.stack([np.arange(100) < 30, np.ones(100)], axis=1).astype(float)
    assert standard_error(pairs, is_share=True) == pytest.approx(0.0459, abs=0.002)
    all_right = np.ones((20, 2))
    assert standard_error(all_right, is_share=True) > 0.04


def test_the_bootstrap_agrees_with_the_known_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    pairs = np.stack([values, np.ones(400)], axis=1)
    assert standard_error(pairs) == pytest.approx(0.1, rel=0.15)
    assert standard_error(pairs, seed=1) == standard_error(pairs, seed=1)


def test_a_paired_difference_is_tighter_than_two_single_errors() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 200)
    mine = np.stack([values, np.ones(200)], axis=1)
    other = mine + np.array([0.1, 0.0])
    assert margin_error(mine, other) < 1e-6 < standard_error(mine)


def test_strings_are_required_where_they_are_compared() -> None:
    with pytest.raises(ConfigError, match="compares strings"):
        score("token_f1", [3], ["x"])


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(BackendUnavailableError, match=r"unimodal\[eval\]"):
        score("word_error_rate", ["a"], ["b"])


def test_an_unknown_metric_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="`word_error_rate`"):
        metrics.get("word_error")
