"""Metrics: how far answers are from truths, each with its standard error.

A metric turns one example into (numerator, denominator); the score is the ratio of the sums, so a
long text weighs more in an error rate than a short one. Where several truths are right, the one
nearest to the answer counts.

Standard errors: of a share of yes and no, the binomial one with one success and one failure added
(so that 100 % of 20 is not "certain"); of everything else, a bootstrap over examples.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.modality import Modality
from unimodal.registry import Registry

Pairs = NDArray[np.float64]
"""(n, 2): numerator and denominator of each example."""
Compare = Callable[[Any, Any, Modality[Any, Any]], tuple[float, float]]

RESAMPLES = 400
"""Bootstrap resamples: the standard error itself is then known to about 4 %."""


@dataclass(frozen=True)
class Metric:
    """One way to score answers.

    Attributes:
        name: Registered name, the key in results.
        better: Whether higher or lower is better.
        compare: (answer, truth, modality of both) to (numerator, denominator).
        is_share: Whether every example counts 0 or 1 out of 1.
    """

    name: str
    better: Literal["higher", "lower"]
    compare: Compare
    is_share: bool = False

    def pairs(
        self, answers: Sequence[Any], truths: Sequence[Any], modality: Modality[Any, Any]
    ) -> Pairs:
        """Numerator and denominator of each example, float64 (n, 2)."""
        rows = [self._nearest(a, t, modality) for a, t in zip(answers, truths, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def _nearest(
        self, answer: Any, truth: Any, modality: Modality[Any, Any]
    ) -> tuple[float, float]:
        several = isinstance(truth, tuple) and modality.value_type is str
        results = [self.compare(answer, one, modality) for one in (truth if several else (truth,))]
        best = max if self.better == "higher" else min
        return best(results, key=lambda pair: pair[0] / max(pair[1], 1e-12))


def ratio(pairs: Pairs) -> float:
    """The score: sum of numerators over sum of denominators."""
    total = float(pairs[:, 1].sum())
    return float(pairs[:, 0].sum()) / total if total > 0 else float("nan")


def standard_error(pairs: Pairs, *, is_share: bool = False, seed: int = 0) -> float:
    """Standard error of `ratio(pairs)`; nan for fewer than two examples."""
    n = len(pairs)
    if n < 2:
        return float("nan")
    if is_share:
        share = (float(pairs[:, 0].sum()) + 1) / (n + 2)
        return float(np.sqrt(share * (1 - share) / n))
    sums = _resampled(pairs, seed)
    return float(np.std(sums[:, 0] / np.maximum(sums[:, 1], 1e-12), ddof=1))


def margin_error(mine: Pairs, other: Pairs, *, is_share: bool = False, seed: int = 0) -> float:
    """Standard error of the difference of two scores on the same examples (paired bootstrap).

    For shares it is at least the error of one that is wrong once, so that it is never zero.
    """
    if len(mine) != len(other) or len(mine) < 2:
        return float("nan")
    first, second = _resampled(mine, seed), _resampled(other, seed)
    differences = first[:, 0] / np.maximum(first[:, 1], 1e-12)
    differences = differences - second[:, 0] / np.maximum(second[:, 1], 1e-12)
    spread = float(np.std(differences, ddof=1))
    return max(spread, 1 / (len(mine) + 2)) if is_share else spread


def _resampled(pairs: Pairs, seed: int) -> Pairs:
    """Sums over bootstrap resamples, (RESAMPLES, 2); the draw depends on n and the seed alone."""
    n = len(pairs)
    rng = np.random.default_rng((seed, n))
    counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return np.asarray(counts @ pairs, dtype=np.float64)


metrics: Registry[Metric] = Registry("metric", group="unimodal.metrics")


def metric(
    name: str, better: Literal["higher", "lower"], *, is_share: bool = False
) -> Callable[[Compare], Compare]:
    """Decorator: registers `(answer, truth, modality) -> (numerator, denominator)`."""

    def add(compare: Compare) -> Compare:
        metrics.register(name)(Metric(name, better, compare, is_share))
        return compare

    return add


@metric("exact_match", "higher", is_share=True)
def _exact_match(answer: Any, truth: Any, modality: Modality[Any, Any]) -> tuple[float, float]:
    return float(modality.distance(answer, truth) == 0.0 if answer is not None else False), 1.0


@metric("distance", "lower")
def _distance(answer: Any, truth: Any, modality: Modality[Any, Any]) -> tuple[float, float]:
    return float(modality.distance(answer, truth)), 1.0


@metric("token_f1", "higher")
def _token_f1(answer: Any, truth: Any, modality: Modality[Any, Any]) -> tuple[float, float]:
    mine, right = Counter(_text(answer).split()), Counter(_text(truth).split())
    shared = sum((mine & right).values())
    total = sum(mine.values()) + sum(right.values())
    return (2 * shared / total if total else 1.0), 1.0


@metric("character_error_rate", "lower")
def _character_error_rate(
    answer: Any, truth: Any, modality: Modality[Any, Any]
) -> tuple[float, float]:
    return _edits(answer, truth, "process_characters", len(_text(truth)))


@metric("word_error_rate", "lower")
def _word_error_rate(answer: Any, truth: Any, modality: Modality[Any, Any]) -> tuple[float, float]:
    return _edits(answer, truth, "process_words", len(_text(truth).split()))


@metric("chrf", "higher")
def _chrf(answer: Any, truth: Any, modality: Modality[Any, Any]) -> tuple[float, float]:
    """chrF of each sentence, 0 to 100, averaged (Popovic 2015)."""
    try:
        import sacrebleu
    except ModuleNotFoundError as error:
        raise _missing("chrf", "sacrebleu", error) from None
    return float(sacrebleu.sentence_chrf(_text(answer), [_text(truth)]).score), 1.0


def _edits(answer: Any, truth: Any, function: str, length: int) -> tuple[float, float]:
    mine, right = _text(answer), _text(truth)
    if not right.strip():  # jiwer refuses an empty reference: every written unit is an insertion
        return float(len(mine.split()) if function == "process_words" else len(mine)), 0.0
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise _missing("error rates", "jiwer", error) from None
    found = getattr(jiwer, function)(right, mine)
    return float(found.substitutions + found.deletions + found.insertions), float(length)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"This metric compares strings, but the answer or truth is a {type(value).__name__}.",
            remedy="Use `distance` or `exact_match` for other values.",
        )
    return value


def _missing(what: str, package: str, error: ModuleNotFoundError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"`{what}` needs the package `{package}` ({error}).",
        remedy="Install the extra: pip install 'unimodal[eval]'.",
    )
