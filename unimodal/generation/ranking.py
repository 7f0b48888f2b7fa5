"""Answers ranked by how well what was given follows from them: the model's own reverse direction.

A recorded task from what was written to what was given says how likely the given value is after
each answer. A modality that is only read and its discrete partner (`decoded_by`) count as one: a
picture that was drawn as codes may be captioned by the task that reads pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from unimodal.errors import ConfigError
from unimodal.generation.requests import Answer
from unimodal.generation.scoring import score
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment
from unimodal.tasks import Task
from unimodal.vocabulary import Vocabulary


def reverse_task(
    tasks: Mapping[str, Task],
    vocabulary: Vocabulary,
    given: Sequence[Segment],
    written: str,
    data: str | None = None,
) -> Task:
    """The recorded task from what is written to what is given.

    Args:
        tasks: Those of the mixture.
        vocabulary: Of the model.
        given: What was given; its values are not looked at.
        written: Modality of the answer.
        data: Name of the data set whose tasks are preferred.

    Raises:
        ConfigError: if there is none, or not one segment is given.
    """
    if len(given) != 1:
        raise ConfigError(
            f"`rank` reverse asks how likely the one given value is after each answer, but "
            f"{len(given)} are given.",
            remedy="Use rank `likelihood`.",
        )
    name = given[0].modality
    fitting = [
        task
        for task in tasks.values()
        if hasattr(task, "source_field")
        and not getattr(task.options, "context", None)
        and _same(vocabulary, str(task.config.source), written)
        and _same(vocabulary, task.config.target, name)
    ]
    if not fitting:
        raise ConfigError(
            f"Answers cannot be ranked in reverse: the run's mixture has no task from `{written}` "
            f"to `{name}`.",
            remedy="Train with one, or use rank `likelihood`.",
        )

    def distance(task: Task) -> tuple[bool, bool]:
        is_exact = (task.config.source, task.config.target) == (written, name)
        return data is not None and task.config.data.name != data, not is_exact

    return min(fitting, key=distance)


def rank_in_reverse(
    decoder: Decoder, task: Task, given: Sequence[Segment], answers: Sequence[Answer]
) -> list[Answer]:
    """The answers with their `reverse_logprob`.

    Args:
        decoder: The model.
        task: From `reverse_task`.
        given: What was given for each answer.
        answers: Each with a segment of the task's source.
    """
    documents = [_document(task, *pair) for pair in zip(given, answers, strict=True)]
    return [
        replace(answer, reverse_logprob=-found.segments[-1].nats)
        for answer, found in zip(answers, score(decoder, documents), strict=True)
    ]


def best_first(answers: Sequence[Answer]) -> list[Answer]:
    """Those that no budget cut before others; then by how likely the given is after them, where
    they were ranked in reverse, else by how likely they are."""
    return sorted(answers, key=_rank, reverse=True)


def _rank(answer: Answer) -> tuple[bool, float]:
    reverse = answer.reverse_logprob
    return not answer.is_truncated, answer.logprob if reverse is None else reverse


def _document(task: Task, given: Segment, answer: Answer) -> Document:
    written = answer.segments[0]
    # The ids that were written, where the task reads ids: a value may encode to others.
    is_same = written.modality == task.config.source
    value = written.tokens if is_same else written.value
    record = {"id": "", str(task.source_field): value, task.target_field: given.value}  # type: ignore[attr-defined]
    return task.scored_documents(record)[0]


def _same(vocabulary: Vocabulary, a: str, b: str) -> bool:
    first, second = vocabulary.modality(a), vocabulary.modality(b)
    are_partners = first.decoded_by == b or second.decoded_by == a
    return a == b or (are_partners and first.value_type is second.value_type)
