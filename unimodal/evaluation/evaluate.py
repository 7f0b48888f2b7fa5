"""Evaluation: every task of a model on held-out records, each score beside its best baseline.

How a task is scored follows from its mode: answers are generated and compared (`generate`), chosen
by likelihood among the labels (`choose`), or the value itself is measured in bits a raw unit
(`likelihood`). All scores of a task, the baselines' too, are over the same records.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import BackendUnavailableError, ConfigError, DataError
from unimodal.evaluation.baselines import Outcome, baselines
from unimodal.evaluation.evidence import Evidence
from unimodal.evaluation.metrics import (
    Metric,
    Pairs,
    margin_error,
    metrics,
    ratio,
    standard_error,
)
from unimodal.evaluation.records import UsableRecords, drawn, open_held_out
from unimodal.evaluation.results import ENOUGH, Results
from unimodal.generation import Request, Sampling, generate
from unimodal.generation.scoring import classify, score
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment, StreamConfig, encode_document
from unimodal.tasks.base import Example, Record, Task

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EvaluationConfig:
    """How tasks are scored."""

    split: str = "auto"
    """Split of the data; `auto`: `test` where the data has one, else `validation`."""

    limit: int = 400
    """Records of each task, at most; drawn by `seed`. 0: all."""

    seed: int = 0
    """Draws records, and seeds the bootstrap and the baselines."""

    batch_size: int = 32
    """Requests that are generated at once."""

    max_tokens: int = 128
    """Longest generated answer, in ids."""

    baseline_records: int = 0
    """Training records that baselines see, at most, drawn by `seed`; 0: all. Their names tell."""

    num_examples: int = 12
    """Examples of each task that are kept for the report."""

    command: str = ""
    """The command that gives these results, recorded beside them."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        for name in ("limit", "baseline_records"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must be at least 0, but is {getattr(self, name)}.")


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        results: Scores in the one form.
        examples: Some examples of each task, for the report.
        notes: What could not be computed, and why.
    """

    results: Results = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate(
    decoder: Decoder,
    tasks: Mapping[str, Task],
    config: EvaluationConfig | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Score tasks. One without held-out records is left out, with a note.

    Args:
        decoder: The model.
        tasks: Tasks by name.
        config: Split, limits, seed.
        progress: Called with (task, records done, records in all).
        should_stop: Polled between records and batches; True raises KeyboardInterrupt.

    Raises:
        ConfigError: if a task lacks the split that is named.
        BackendUnavailableError: if a metric needs a package that is not installed.
    """
    config = config or EvaluationConfig()
    evaluation = Evaluation()
    for name, task in tasks.items():
        try:
            scored = _score(decoder, task, config, _Step(name, progress, should_stop), evaluation)
        except DataError as error:
            evaluation.notes.append(f"{name}: not scored: {error}")
            continue
        evaluation.results[name] = scored
    return evaluation


def _score(
    decoder: Decoder,
    task: Task,
    config: EvaluationConfig,
    step: "_Step",
    evaluation: Evaluation,
) -> dict[str, dict[str, Any]]:
    """The scores of one task.

    Raises:
        DataError: if it has no held-out record that can be used.
    """
    split, source = open_held_out(task, config.split)
    numbers = drawn(len(source), config.limit, config.seed)
    held_out = UsableRecords(source, numbers, step.should_stop)
    test = [record for _, record in held_out.read(lambda record: _checked(task, record))]
    if not test:
        raise DataError(
            f"None of its {len(held_out.bad)} records in `{split}` can be used. The first: "
            f"{next(iter(held_out.bad.values()))}",
            remedy="Correct them: `unimodal data validate PATH` names every error.",
        )
    training = task.open("train")
    order = np.random.default_rng(config.seed).permutation(len(training)).tolist()
    labelled = UsableRecords(training, order, step.should_stop)
    train = UsableRecords(training, order[: config.baseline_records or None], step.should_stop)
    evidence = Evidence(task, train, test, config.seed)
    task.observe(record for _, record in labelled.read(evidence.labelled))
    score = _score_bits if task.mode == "likelihood" else _score_answers
    step.total = len(test)
    scored = score(decoder, evidence, config, step, evaluation)
    evaluation.notes += [note for part in (held_out, train) if (note := part.note(step.name))]
    for entry in scored.values():
        entry |= {
            "n": len(test),
            "split": split,
            "seed": config.seed,
            "limit": config.limit,
            "max_tokens": config.max_tokens,
            "command": config.command,
        }
    return scored


def _checked(task: Task, record: Record) -> Record:
    """The record, if it can be encoded."""
    for document in task.scored_documents(record):
        encode_document(document, task.vocabulary, StreamConfig())
    return record


@dataclass
class _Step:
    """Progress of one task."""

    name: str
    progress: Callable[[str, int, int], None] | None
    should_stop: Callable[[], bool]
    total: int = 0

    def batches(self, items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
        """Slices of `items`, with the progress told before and after each."""
        for start in range(0, len(items), size):
            self.tell(start)
            if self.should_stop():
                raise KeyboardInterrupt(f"asked to stop while scoring `{self.name}`")
            yield [items[i] for i in range(start, min(start + size, len(items)))]
        self.tell(len(items))

    def tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.name, done, self.total)


# Answers


def _score_answers(
    decoder: Decoder,
    evidence: Evidence,
    config: EvaluationConfig,
    step: _Step,
    evaluation: Evaluation,
) -> dict[str, dict[str, Any]]:
    task, test = evidence.task, evidence.test
    answer = _choose if task.mode == "choose" else _generate
    answers = [
        a
        for part in step.batches(test, config.batch_size)
        for a in answer(decoder, task, part, config)
    ]
    truths = [task.truth(record) for record in test]
    failed = sum(value is None for value in answers)
    if failed:
        evaluation.notes.append(f"{step.name}: {failed} of {len(test)} requests failed.")
    evaluation.examples[step.name] = [
        Example(test[i], answers[i], truths[i]) for i in range(min(config.num_examples, len(test)))
    ]
    outcomes = _outcomes(evidence, evaluation, "answers")
    scored = {}
    for number, metric_name in enumerate(task.metrics):
        metric = metrics.get(metric_name)
        mine = metric.pairs(_written(answers, task), truths, task.target)
        others = {o.name: metric.pairs(o.answers or [], truths, task.target) for o in outcomes}
        scored[metric_name] = score_entry(metric, mine, others, config.seed)
        scored[metric_name]["headline"] = number == 0
    return scored


def _generate(
    decoder: Decoder, task: Task, records: Sequence[Record], config: EvaluationConfig
) -> list[Any]:
    sampling = Sampling(temperature=0.0)
    requests = [
        Request(task.request(record), sampling=sampling, max_tokens=config.max_tokens)
        for record in records
    ]
    answers = generate(decoder, requests, batch_size=config.batch_size)
    return [None if answer.error is not None else answer.value for answer in answers]


def _choose(
    decoder: Decoder, task: Task, records: Sequence[Record], config: EvaluationConfig
) -> list[Any]:
    choices = task.choices()
    requests = [task.request(record) for record in records]
    candidates = [Segment(task.config.target, choice) for choice in choices]
    likelihoods = classify(decoder, requests, candidates, batch_size=config.batch_size)
    return [choices[i] for i in likelihoods.argmax(dim=1).tolist()]


def _written(answers: Sequence[Any], task: Task) -> list[Any]:
    """A request that failed counts as an empty string where strings are compared."""
    if task.target.value_type is str:
        return ["" if answer is None else answer for answer in answers]
    return list(answers)


# Bits


def _score_bits(
    decoder: Decoder,
    evidence: Evidence,
    config: EvaluationConfig,
    step: _Step,
    evaluation: Evaluation,
) -> dict[str, dict[str, Any]]:
    task, test = evidence.task, evidence.test
    bits: list[float] = []
    units: list[float] = []
    for part in step.batches(test, config.batch_size):
        documents = [task.scored_documents(record) for record in part]
        scores = iter(score(decoder, [d for several in documents for d in several]))
        for several in documents:
            bits.append(sum(next(scores).nats for _ in several) / math.log(2))
            units.append(sum(_raw_units(document, task) for document in several))
    count = min(config.num_examples, len(test))
    evaluation.examples[step.name] = [
        Example(test[i], None, task.truth(test[i])) for i in range(count)
    ]
    metric = Metric(f"bits_per_{task.target.raw_unit}", "lower", _no_answer)
    mine = np.stack([np.array(bits), np.array(units)], axis=1)
    outcomes = _outcomes(evidence, evaluation, "bits")
    others = {o.name: np.stack([_as_array(o.bits), mine[:, 1]], axis=1) for o in outcomes}
    entry = score_entry(metric, mine, others, config.seed)
    if not task.target.is_lossless:
        entry["note"] = "the modality is lossy: bits of its codes, not of the value"
    return {metric.name: {**entry, "headline": True}}


def _raw_units(document: Document, task: Task) -> float:
    return sum(
        task.vocabulary.modality(segment.modality).raw_units(segment.value)
        for segment in document.segments
        if segment.objective != "none"
    )


def _no_answer(answer: Any, truth: Any, modality: Any) -> tuple[float, float]:
    raise ConfigError("Bits are measured on values, not on answers.")


def _as_array(bits: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert bits is not None
    return bits


# Both


def _outcomes(evidence: Evidence, evaluation: Evaluation, kind: str) -> list[Outcome]:
    found = []
    for name in evidence.task.baselines:
        if evidence.train.should_stop():
            raise KeyboardInterrupt(f"asked to stop while scoring `{evidence.task.name}`")
        try:
            outcome = baselines.get(name)(evidence)
        except (BackendUnavailableError, DataError) as error:
            evaluation.notes.append(f"{evidence.task.name}: no `{name}` baseline: {error}")
            continue
        if outcome is not None and getattr(outcome, kind) is not None:
            found.append(outcome)
    return found


def score_entry(
    metric: Metric, mine: Pairs, others: Mapping[str, Pairs], seed: int
) -> dict[str, Any]:
    """A score beside its baselines, in the one form but for what is common to a task."""
    value = ratio(mine)
    scores = {name: ratio(pairs) for name, pairs in others.items()}
    best = (max if metric.better == "higher" else min)(
        scores, key=lambda n: scores[n], default=None
    )
    entry: dict[str, Any] = {
        "value": value,
        "baseline": scores[best] if best else None,
        "baseline_name": best,
        "better": metric.better,
        "standard_error": standard_error(mine, is_share=metric.is_share, seed=seed),
        "baselines": scores,
        "above_baseline": None,
    }
    if best is not None:
        error = margin_error(mine, others[best], is_share=metric.is_share, seed=seed)
        sign = 1 if metric.better == "higher" else -1
        gained = sign * (value - scores[best])
        entry["margin"] = gained / error if error and math.isfinite(error) else None
        entry["above_baseline"] = bool(gained > ENOUGH * error)
    return entry
