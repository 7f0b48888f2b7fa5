"""What baselines see: the training records in one pass, each read and encoded once a task.

Memory does not grow with the training set beyond `NUM_COMPONENTS` numbers and one answer a record:
raw features come in blocks, from which the neighbours are found and principal components taken.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimodal.evaluation.features import MAX_NUMBERS, Matrix, RawFeatures
from unimodal.evaluation.records import UsableRecords
from unimodal.kernels.nearest_code import nearest_code
from unimodal.tasks.base import Record, Task
from unimodal.types import Tokens

NUM_COMPONENTS = 96
"""Principal components that linear models see."""
ITERATIONS = 4
"""Of the search for principal components."""
BLOCK_RECORDS, BLOCK_NUMBERS = 2048, 2**25
"""Records, and numbers of float32 (128 MiB), of one block."""
ASKED_NUMBERS = 2**27
"""Numbers of float32 (512 MiB) that describe the test records, at most."""


@dataclass
class Seen:
    """What one pass over the training records leaves.

    Attributes:
        numbers: Which record each is.
        answers: Their answers; empty where those are no strings.
        nearest: For each test record, the place of its nearest training record; None without an
            input.
        known: Whitened principal components of the training inputs, (n, components).
        asked: The same of the test inputs.
    """

    numbers: list[int] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    nearest: NDArray[np.int64] | None = None
    known: Matrix | None = None
    asked: Matrix | None = None


class Evidence:
    """Training records, test records and the task, for a baseline.

    Args:
        task: What is scored.
        train: Training records, in an order that is not the file's (a data set may be sorted).
        test: Test records, all sound.
        seed: For what is drawn.
    """

    def __init__(self, task: Task, train: UsableRecords, test: Sequence[Record], seed: int):
        self.task, self.train, self.test, self.seed = task, train, test, seed

    @cached_property
    def seen(self) -> Seen:
        """The pass over the training records, made when it is first asked for."""
        seen = Seen()
        answers_are_text = self.task.target.value_type is str
        pairs = self._pairs(seen, answers_are_text)
        if self.task.config.source is None:
            for _ in pairs:
                pass
        else:
            _look_at(pairs, self._encode, self.task, self.test, self.seed, seen)
        return seen

    def _pairs(self, seen: Seen, answers_are_text: bool) -> Iterator[Tokens | None]:
        """Encoded inputs; numbers and answers are kept on the way."""
        for number, (answer, tokens) in self.train.read(self._pair):
            seen.numbers.append(number)
            if answers_are_text:
                seen.answers.append(answer)
            yield tokens

    def _pair(self, record: Record) -> tuple[Any, Tokens | None]:
        has_source = self.task.config.source is not None
        return self.answer(record), self._encode(record) if has_source else None

    def _encode(self, record: Record) -> Tokens:
        name = str(self.task.config.source)
        value = self.task.one_value(record, str(getattr(self.task, "source_field", name)), name)
        return self.task.vocabulary.modality(name).encode(value)

    def answer(self, record: Record) -> Any:
        """The record's answer; the first where several are right."""
        truth = self.task.truth(record)
        if isinstance(truth, tuple) and self.task.target.value_type is str:
            return truth[0]
        return truth

    def labelled(self, record: Record) -> Record:
        """The record, if its answer can be read."""
        self.answer(record)
        return record

    def answer_at(self, place: int) -> Any:
        """The answer of the training record at a place of `seen`."""
        if self.seen.answers:
            return self.seen.answers[place]
        return self.answer(self.train.source[self.seen.numbers[place]])

    def text(self, record: Record) -> str:
        """The target of a record, where that is a string."""
        return str(self.task.one_value(record, self.task.target_field, self.task.config.target))

    def texts(self, record: Record) -> list[str]:
        """All that training may take for the target of a record, where that is a string."""
        return list(self.task.target.variants(self.text(record)))


def _look_at(
    inputs: Iterable[Tokens | None],
    encode: Callable[[Record], Tokens],
    task: Task,
    test: Sequence[Record],
    seed: int,
    seen: Seen,
) -> None:
    """Neighbours and components, block by block."""
    modality = task.vocabulary.modality(str(task.config.source))
    room = min(MAX_NUMBERS, ASKED_NUMBERS // max(1, len(test)))
    features: RawFeatures | None = None
    known = []
    start = 0
    for block in _blocks(inputs):
        if features is None or seen.nearest is None:
            features = RawFeatures(modality, block, room)
            rows = features.rows(block)
            asked = np.concatenate([features.rows([encode(record)]) for record in test])
            center = rows.mean(axis=0)
            asked -= center
            rows -= center
            whiten = _components(rows, seed)
            best = np.full(len(test), np.inf, dtype=np.float32)
            seen.nearest = np.zeros(len(test), dtype=np.int64)
        else:
            rows = features.rows(block)
            rows -= center
        known.append(rows @ whiten)
        place = nearest_code(torch.from_numpy(asked), torch.from_numpy(rows)).numpy()
        found = np.square(asked - rows[place]).sum(axis=1)
        is_nearer = found < best
        seen.nearest[is_nearer] = start + place[is_nearer]
        best = np.minimum(best, found)
        start += len(block)
    if known:
        seen.known, seen.asked = np.concatenate(known), asked @ whiten


def _blocks(inputs: Iterable[Tokens | None]) -> Iterator[list[Tokens]]:
    block: list[Tokens] = []
    numbers = 0
    for tokens in inputs:
        assert tokens is not None
        block.append(tokens)
        numbers += tokens.features.numel() if tokens.features is not None else len(tokens)
        if len(block) >= BLOCK_RECORDS or numbers >= BLOCK_NUMBERS:
            yield block
            block, numbers = [], 0
    if block:
        yield block


def _components(rows: Matrix, seed: int) -> Matrix:
    """(features, components): principal axes of centred rows, scaled to unit variance.

    By subspace iteration from `seed`, which costs a few products of the rows.
    """
    count, width = rows.shape
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((width, min(NUM_COMPONENTS + 16, *rows.shape)), dtype=np.float32)
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    _, values, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    num_kept = min(NUM_COMPONENTS, int((values > 1e-3 * values[0]).sum()))
    axes = basis @ turned[:num_kept].T * (np.sqrt(count) / values[:num_kept])
    return np.asarray(axes, dtype=np.float32)
