"""Baselines: what a score must beat to mean anything. None of them sees the test answers.

Two kinds: those that answer (the majority answer, the answer of the nearest training neighbour, a
linear model, chance), scored by the task's own metrics; and those that give bits (a Markov chain,
a uniform choice among the legal ids), for modelling.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import BackendUnavailableError
from unimodal.evaluation.features import raw_features
from unimodal.evaluation.markov import Symbols, best_chain
from unimodal.registry import Registry
from unimodal.stream import StreamConfig, encode_document
from unimodal.tasks.base import Record, Task

log = logging.getLogger(__name__)

MAX_SYMBOLS = 30_000_000
"""Units of training strings that a Markov chain counts at most."""
ASCII = 128


@dataclass(frozen=True)
class Outcome:
    """What a baseline gives for the test records.

    Attributes:
        name: What it is, as results name it ("order-6 Markov chain").
        answers: One answer a record; or None.
        bits: Bits of each record; or None.
    """

    name: str
    answers: Sequence[Any] | None = None
    bits: NDArray[np.float64] | None = None


Baseline = Callable[[Task, Sequence[Record], Sequence[Record], int], Outcome | None]
"""(task, training records, test records, seed) to the outcome; None where it does not apply."""

baselines: Registry[Baseline] = Registry("baseline", group="unimodal.baselines")


@baselines.register("majority")
def majority(
    task: Task, train: Sequence[Record], test: Sequence[Record], seed: int
) -> Outcome | None:
    """The most frequent answer of the training records; among equals, the first."""
    answers = [_answer(task, record) for record in train]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        return None
    most = Counter(answers).most_common(1)[0][0]
    return Outcome("majority answer", answers=[most] * len(test))


@baselines.register("chance")
def chance(
    task: Task, train: Sequence[Record], test: Sequence[Record], seed: int
) -> Outcome | None:
    """Any of the task's choices, drawn at random."""
    choices = task.choices()
    drawn = np.random.default_rng(seed).integers(len(choices), size=len(test))
    return Outcome("chance", answers=[choices[i] for i in drawn])


@baselines.register("nearest")
def nearest(
    task: Task, train: Sequence[Record], test: Sequence[Record], seed: int
) -> Outcome | None:
    """The answer of the nearest training example in raw features (Euclidean)."""
    found = _source_features(task, train, test)
    if found is None:
        return None
    known, asked = found
    answers = [_answer(task, record) for record in train]
    squares = (known.astype(np.float64) ** 2).sum(axis=1)
    chosen: list[Any] = []
    for start in range(0, len(asked), 256):
        distance = squares - 2.0 * (asked[start : start + 256] @ known.T)
        chosen += [answers[i] for i in distance.argmin(axis=1)]
    return Outcome("nearest training example", answers=chosen)


@baselines.register("linear")
def linear(
    task: Task, train: Sequence[Record], test: Sequence[Record], seed: int
) -> Outcome | None:
    """Logistic regression on raw features."""
    answers = [_answer(task, record) for record in train]
    if len(set(map(str, answers))) < 2:
        return None
    if find_spec("sklearn") is None:
        raise BackendUnavailableError(
            "The linear baseline needs scikit-learn.",
            remedy="Install the extra: pip install 'unimodal[eval]'.",
        )
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found = _source_features(task, train, test)
    if found is None:
        return None
    known, asked = found
    center, scale = known.mean(axis=0), known.std() + 1e-6
    # Whitened components keep the solver to a few dozen steps; C suits Fashion-MNIST best.
    parts = min(96, known.shape[1], len(known) - 1)
    model = make_pipeline(
        PCA(parts, whiten=True, random_state=seed), LogisticRegression(C=0.03, max_iter=1000)
    )
    model.fit((known - center) / scale, answers)
    return Outcome("linear model", answers=list(model.predict((asked - center) / scale)))


@baselines.register("markov")
def markov(
    task: Task, train: Sequence[Record], test: Sequence[Record], seed: int
) -> Outcome | None:
    """A Markov chain over bytes or letters, its order chosen on training data."""
    if task.target.value_type is not str:
        return None
    texts, total = [], 0
    for record in train:
        if total > MAX_SYMBOLS:
            break
        texts.append(_value(task, record))
        total += len(texts[-1])
    asked = [_value(task, record) for record in test]
    known, num_symbols, asked_symbols = _symbols(texts, asked, task.target.raw_unit)
    chain = best_chain(known, num_symbols)
    bits = np.array([chain.bits(string) for string in asked_symbols])
    return Outcome(f"order-{chain.order} Markov chain", bits=bits)


@baselines.register("uniform")
def uniform(
    task: Task, train: Sequence[Record], test: Sequence[Record], seed: int
) -> Outcome | None:
    """Every legal id equally likely, at every position that is predicted."""
    sizes = np.array([len(head.ids) for head in task.vocabulary.head_sets])
    bits = []
    for record in test:
        total = 0.0
        for document in task.scored_documents(record):
            heads = encode_document(document, task.vocabulary, StreamConfig()).head_set
            total += float(np.log2(sizes[heads[heads >= 0].numpy()]).sum())
        bits.append(total)
    return Outcome("uniform choice", bits=np.array(bits))


def _answer(task: Task, record: Record) -> Any:
    truth = task.truth(record)
    if isinstance(truth, tuple) and task.target.value_type is str:
        return truth[0]
    return truth


def _value(task: Task, record: Record) -> str:
    return str(task.one_value(record, task.target_field, task.config.target))


def _source_features(
    task: Task, train: Sequence[Record], test: Sequence[Record]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    name = task.config.source
    if name is None or not train:
        return None
    field = str(getattr(task, "source_field", name))
    groups = [[task.one_value(record, field, name) for record in part] for part in (train, test)]
    known, asked = raw_features(groups, task.vocabulary.modality(name))
    return known, asked


def _symbols(
    train: Sequence[str], test: Sequence[str], raw_unit: str
) -> tuple[list[Symbols], int, list[Symbols]]:
    """Strings as symbol numbers: bytes where the raw unit is one, else letters, case ignored."""
    if raw_unit == "byte":
        groups = [
            [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in part]
            for part in (train, test)
        ]
        return groups[0], 256, groups[1]
    groups = [
        [
            np.frombuffer(text.upper().encode("utf-32-le"), np.uint32).astype(np.int64)
            for text in part
        ]
        for part in (train, test)
    ]
    letters = np.unique(np.concatenate([*groups[0], np.arange(0)]))
    # Letters that training never saw share one symbol after the known ones.
    numbered = [
        [
            np.where(
                letters[np.searchsorted(letters, s).clip(max=len(letters) - 1)] == s,
                np.searchsorted(letters, s),
                len(letters),
            )
            for s in part
        ]
        for part in groups
    ]
    has_unseen = any(bool((s == len(letters)).any()) for s in numbered[1])
    return numbered[0], len(letters) + int(has_unseen), numbered[1]
