"""From what a caller gives to a request's document, by the tasks that the run recorded.

A segment's value may be a path (a `Path`, or a string where the modality's values are no strings),
which the modality reads. Where a recorded task turns the one into the other, its template (prompt,
attention) is used: a request then looks as in training; a task that is named must take all that is
given.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimodal.errors import ConfigError
from unimodal.media import Audio, FileRef
from unimodal.stream import Document, Segment
from unimodal.tasks import Task
from unimodal.vocabulary import Vocabulary

Prompt = str | Segment | Sequence[Segment]
AUTO = "auto"
"""As what to write: the target of the named task, else text."""


class Prompts:
    """Makes requests' documents.

    Args:
        vocabulary: Of the model; its modalities read files.
        tasks: Recorded by the run, by name.
    """

    def __init__(self, vocabulary: Vocabulary, tasks: Mapping[str, Task]):
        self.vocabulary, self.tasks = vocabulary, tasks

    def segments(self, prompt: Prompt) -> list[Segment]:
        """What is given as segments, files read, plain strings of the first modality of strings."""
        parts = [prompt] if isinstance(prompt, str | Segment) else prompt
        strings = [Segment(self._of_type(str), p) if isinstance(p, str) else p for p in parts]
        return [self.read(segment) for segment in strings]

    def template(self, given: Sequence[Segment], to: str | None, task: str | None) -> Task | None:
        """The task whose template a request uses: the named one, else one that fits, if any.

        Raises:
            ConfigError: if there is no task of that name.
            VocabularyError: if `to` is unknown or cannot be written.
        """
        if task is not None:
            return self._task(task)
        if to is None:
            return None
        target = self._target(to)
        self.vocabulary.grammar(target)
        for found in self._translations():
            if ([found.config.source], found.config.target) == (
                [s.modality for s in given],
                target,
            ):
                return found
        return None

    def document(self, given: Sequence[Segment], to: str | None, template: Task | None) -> Document:
        """What is given, then the segment that is asked for, unless `to` is None.

        Raises:
            ConfigError: if the template does not fit.
        """
        if template is not None:
            return _of_task(template, given, to)
        if to is None:
            return Document(tuple(given))
        target = self._target(to)
        return Document((*given, Segment(target, role="asked")))

    def _target(self, to: str) -> str:
        """What is written: text, or the only modality that can be, where nothing is asked for."""
        grammars = self.vocabulary.grammars
        if to != AUTO:
            return to
        return next(iter(grammars)) if len(grammars) == 1 else "text"

    def null(self, document: Document, template: Task | None) -> Document:
        """The null condition of a request, for guidance.

        Raises:
            ConfigError: if its task has none, or was trained without.
        """
        if template is None:
            raise ConfigError(
                "Guidance needs a recorded task that turns what is given into what is asked for, "
                "trained with null conditions.",
                remedy="Name it as `task`, or set `guidance` to 1.",
            )
        null = template.null(document)
        if not template.learns_null:
            raise ConfigError(
                "It was trained without null conditions (`null_rate` is 0), so there is nothing "
                "that guidance could push away from.",
                subject=f"task `{template.name}`",
                remedy="Train with the option `null_rate`, e.g. 0.1, or set `guidance` to 1.",
            )
        return null

    def read(self, segment: Segment) -> Segment:
        """The segment with its file read, where its value is a path and not a value."""
        modality = self.vocabulary.modality(segment.modality)
        value = segment.value
        is_name = isinstance(value, str) and modality.value_type is not str
        if is_name or isinstance(value, Path):
            return replace(segment, value=modality.read(Path(value)))
        if isinstance(value, FileRef):
            return replace(segment, value=modality.read(value.path))
        return segment

    def _of_type(self, kind: type) -> str:
        for name, modality in self.vocabulary.modalities.items():
            if modality.value_type is kind:
                return name
        raise ConfigError(
            f"No modality of this model takes {kind.__name__} values.",
            remedy="It has: " + ", ".join(self.vocabulary.modalities) + ".",
        )

    def listener(self, to: str) -> str:
        """The modality that hears: the source of a task into `to`, else the first of sound."""
        for task in self.tasks.values():
            source = task.config.source
            if task.config.target == to and source in self.vocabulary.modalities:
                if self.vocabulary.modality(source).value_type is Audio:
                    return source
        return self._of_type(Audio)

    def _task(self, name: str) -> Task:
        if name not in self.tasks:
            raise ConfigError(
                f"The run has no task `{name}`.", remedy=f"It has: {', '.join(self.tasks)}."
            )
        return self.tasks[name]

    def _translations(self) -> Iterator[Task]:
        for task in self.tasks.values():
            if hasattr(task, "source_field") and not getattr(task.options, "context", None):
                yield task


def _of_task(task: Task, given: Sequence[Segment], to: str | None) -> Document:
    """The request of a task's template with what is given in its places.

    Raises:
        ConfigError: if the task has another target, or does not take what is given as it is.
    """
    subject = f"task `{task.name}`"
    target = task.config.target
    if to not in (AUTO, target):
        raise ConfigError(
            f"It writes `{target}`, but `to` is {to!r}.",
            subject=subject,
            remedy="Leave out `to`, or name another task.",
        )
    after = task.request_after(given)
    if after is not None:
        return after
    fields: dict[str, Any] = {task.target_field: target}
    if hasattr(task, "source_field"):
        fields = {task.source_field: task.config.source, **getattr(task.options, "context", {})}
        if [s.modality for s in given] != list(fields.values()):
            raise ConfigError(
                f"It takes {_listed(fields.values())}, but given is "
                f"{_listed(s.modality for s in given)}.",
                subject=subject,
                remedy="Give what it takes, or leave out `task`.",
            )
    request = task.request({"id": "", **{f: s.value for f, s in zip(fields, given, strict=False)}})
    segments = list(request.segments)
    for segment in given:
        same = [n for n, s in enumerate(segments) if s.value is segment.value]
        if not same:
            raise ConfigError(
                f"Its template does not take the given `{segment.modality}` as it is.",
                subject=subject,
                remedy="Leave out `task`: the prompt is then all that is given.",
            )
        own = segments[same[-1]]
        segments[same[-1]] = replace(own, attend=segment.attend or own.attend)
    return replace(request, segments=tuple(segments))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
