"""Baselines: what a score must beat to mean anything. None of them sees the test answers.

Two kinds: those that answer (the majority answer, the answer of the nearest training example,
linear models of the whole answer or of each word, chance), scored by the task's own metrics; and
those that give bits (a Markov chain, a uniform choice among the legal ids), for modelling. Each
sees all training records that the model may see (`Evidence`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import BackendUnavailableError
from unimodal.evaluation.evidence import Evidence
from unimodal.evaluation.features import Matrix
from unimodal.evaluation.markov import Symbols, best_chain
from unimodal.registry import Registry
from unimodal.stream import StreamConfig, encode_document

MAX_SYMBOLS = 30_000_000
"""Units of training strings that a Markov chain counts at most."""
MAX_CLASSES = 1000
"""Distinct answers that a linear model tells apart, at most."""
MAX_WORDS = 32
"""Words of an answer that are predicted one by one, at most."""


@dataclass(frozen=True)
class Outcome:
    """What a baseline gives for the test records.

    Attributes:
        kind: What it is ("order-6 Markov chain").
        answers: One answer a record; or None.
        bits: Bits of each record; or None.
        seen: Training records that it saw; 0 if it needs none.
    """

    kind: str
    answers: Sequence[Any] | None = None
    bits: NDArray[np.float64] | None = None
    seen: int = 0

    @property
    def name(self) -> str:
        """As results name it: "linear model (6,000 records)"."""
        return f"{self.kind} ({self.seen:,} records)" if self.seen else self.kind


Baseline = Callable[[Evidence], Outcome | None]
"""Gives None where it does not apply."""

baselines: Registry[Baseline] = Registry("baseline", group="unimodal.baselines")


@baselines.register("majority")
def majority(evidence: Evidence) -> Outcome | None:
    """The most frequent answer of the training records; among equals, the first by letters."""
    counts = Counter(evidence.seen.answers)
    if not counts:
        return None
    most = min(counts, key=lambda answer: (-counts[answer], answer))
    return Outcome("majority answer", [most] * len(evidence.test), seen=counts.total())


@baselines.register("chance")
def chance(evidence: Evidence) -> Outcome | None:
    """Any of the task's choices, drawn at random."""
    choices = evidence.task.choices()
    drawn = np.random.default_rng(evidence.seed).integers(len(choices), size=len(evidence.test))
    return Outcome("chance", [choices[i] for i in drawn])


@baselines.register("nearest")
def nearest(evidence: Evidence) -> Outcome | None:
    """The answer of the nearest training example in raw features (Euclidean)."""
    seen = evidence.seen
    if seen.nearest is None:
        return None
    answers = [evidence.answer_at(place) for place in seen.nearest.tolist()]
    return Outcome("nearest training example", answers, seen=len(seen.numbers))


@baselines.register("linear")
def linear(evidence: Evidence) -> Outcome | None:
    """Logistic regression of the whole answer on raw features, where answers repeat."""
    seen = evidence.seen
    distinct = len(set(seen.answers))
    most = min(MAX_CLASSES, len(seen.answers) // 2)
    if seen.known is None or seen.asked is None or not 2 <= distinct <= most:
        return None
    if find_spec("sklearn") is None:
        raise BackendUnavailableError(
            "The linear baseline needs scikit-learn.",
            remedy="Install the extra: pip install 'unimodal[eval]'.",
        )
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=0.03, max_iter=1000)  # this C suits Fashion-MNIST best
    model.fit(seen.known, seen.answers)
    answers = list(model.predict(seen.asked))
    return Outcome("linear model", answers, seen=len(seen.answers))


@baselines.register("words")
def words(evidence: Evidence) -> Outcome | None:
    """A linear model of each word of the answer, at its place: it can compose new answers."""
    seen = evidence.seen
    if seen.known is None or seen.asked is None or len(seen.known) < 2:
        return None
    split = [answer.split() for answer in seen.answers]
    length = min(MAX_WORDS, max(map(len, split), default=0))
    if length < 2:
        return None
    places = [
        _discriminant(seen.known, [row[i] if i < len(row) else "" for row in split], seen.asked)
        for i in range(length)
    ]
    # An answer ends at its first empty word.
    answers = [" ".join(row[: [*row, ""].index("")]) for row in zip(*places, strict=True)]
    return Outcome("linear model of each word", answers, seen=len(split))


def _discriminant(known: Matrix, labels: Sequence[str], asked: Matrix) -> list[str]:
    """Linear discriminant analysis: classes of one shared spread, and their frequencies."""
    classes, numbers = np.unique(np.array(labels), return_inverse=True)
    if len(classes) == 1:
        return [str(classes[0])] * len(asked)
    counts = np.bincount(numbers).astype(np.float64)
    order = np.argsort(numbers, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts[:-1])]).astype(np.int64)
    means = np.add.reduceat(known[order], starts, axis=0) / counts[:, None]
    spread = (known.T @ known - (means.T * counts) @ means) / len(known)
    spread += 1e-2 * np.trace(spread) / len(spread) * np.eye(len(spread))
    axes = np.linalg.solve(spread, means.T)
    offsets = np.log(counts / counts.sum()) - 0.5 * (means.T * axes).sum(axis=0)
    return [str(classes[i]) for i in (asked @ axes + offsets).argmax(axis=1)]


@baselines.register("markov")
def markov(evidence: Evidence) -> Outcome | None:
    """A Markov chain over bytes or letters, its order chosen on training data."""
    task = evidence.task
    if task.target.value_type is not str:
        return None
    texts, total = [], 0
    num_records = 0
    for _, several in evidence.train.read(evidence.texts):
        texts += several
        num_records += 1
        total += sum(map(len, several))
        if total > MAX_SYMBOLS:
            break
    asked = [evidence.text(record) for record in evidence.test]
    known, num_symbols, asked_symbols = _symbols(texts, asked, task.target.raw_unit)
    chain = best_chain(known, num_symbols)
    bits = np.array([chain.bits(string) for string in asked_symbols])
    return Outcome(f"order-{chain.order} Markov chain", bits=bits, seen=num_records)


@baselines.register("uniform")
def uniform(evidence: Evidence) -> Outcome | None:
    """Every legal id equally likely, at every position that is predicted."""
    task = evidence.task
    sizes = np.array([len(head.ids) for head in task.vocabulary.head_sets])
    bits = []
    for record in evidence.test:
        total = 0.0
        for document in task.scored_documents(record):
            heads = encode_document(document, task.vocabulary, StreamConfig()).head_set
            total += float(np.log2(sizes[heads[heads >= 0].numpy()]).sum())
        bits.append(total)
    return Outcome("uniform choice", bits=np.array(bits))


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
