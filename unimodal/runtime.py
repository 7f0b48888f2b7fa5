"""The user's handle on a trained model: generate, transcribe, classify, embed, score, describe.

    model = um.load("runs/emoji")
    model.generate(um.Image(picture)).value

What is given may be segments or plain strings. A segment's value may be a path (a `Path`, or a
string where the modality's values are no strings), which the modality reads. Where the run recorded
a task that turns the one into the other, its template (prompt, attention) is used: a request then
looks as in training; a task that is named must take all that is given.
Not here: the command line, evaluation over data sets.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unimodal.devices import choose_device
from unimodal.errors import CheckpointError, ConfigError
from unimodal.generation import (
    Answer,
    Engine,
    Request,
    Sampling,
    Score,
    classify,
    embed,
    score,
)
from unimodal.generation.matrices import matrix_class
from unimodal.grammar import SegmentGrammar, header_axes
from unimodal.media import Audio, FileRef
from unimodal.modality import Modality, config_from_dict, config_to_dict
from unimodal.model.decoder import Decoder
from unimodal.model.folder import EXPERIMENT, find_model, load_model
from unimodal.stream import Document, Segment
from unimodal.tasks import DataConfig, Task, TaskConfig, build_task

RUNS = Path("runs")
"""Where a run that is given by name is looked up."""
Prompt = str | Segment | Sequence[Segment]
AUTO = "auto"
"""As what to write: the target of the named task, else text."""


@dataclass(frozen=True)
class TranscriptSegment:
    """A piece of a transcript.

    Attributes:
        start, end: Seconds.
        text: What was said.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        text: All of it.
        segments: By time.
    """

    text: str
    segments: list[TranscriptSegment]


@dataclass(frozen=True)
class Choice:
    """One candidate of a classification.

    Attributes:
        value: The candidate.
        probability: Its likelihood over that of all candidates.
        nats: Its log-likelihood.
    """

    value: Any
    probability: float
    nats: float


def load(run: str | Path, device: str = "auto", *, dtype: str = "float32") -> "Model":
    """Load a trained model.

    Args:
        run: A run folder (its finished model, else its newest checkpoint that verifies), a model
            folder, or the name of a run under `runs/`.
        device: `cpu`, `cuda`, `cuda:1`; `auto` takes cuda, then cpu.
        dtype: Of generation; see `Model`.

    Raises:
        ConfigError: if the dtype is not offered.
        CheckpointError: if there is none, or it does not verify.
        VocabularyError: if a tokenizer means other things by its ids.
        BackendUnavailableError: if the device is not there.
    """
    chosen = choose_device(device)
    folder = Path(run)
    if not folder.exists() and (RUNS / folder).is_dir():
        folder = RUNS / folder
    decoder = load_model(folder, chosen)
    return Model(decoder, folder=folder, experiment=_experiment(folder), dtype=dtype)


class Model:
    """A trained model.

    Args:
        decoder: Its network and ledger.
        folder: Where it was loaded from.
        experiment: The experiment that made it, as plain values; its tasks are used as templates.
        dtype: In which `generate` and `transcribe` decode: `float32`, `bfloat16` or `int8`, which
            are faster, but where an answer may depend on what else is in its batch (see `Engine`).
            Likelihoods and embeddings are float32.

    Raises:
        ConfigError: if the dtype is not offered.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        folder: Path | None = None,
        experiment: Mapping[str, Any] | None = None,
        dtype: str = "float32",
    ):
        matrix_class(dtype)
        self.dtype = dtype
        self.decoder = decoder.eval()
        self.vocabulary = decoder.vocabulary
        self.folder = folder
        self.experiment = dict(experiment or {})

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks that the run recorded, by name."""
        built = {}
        for name, written in self.experiment.get("tasks", {}).items():
            data = config_from_dict(DataConfig, written.get("data", {}), f"task `{name}`")
            rest = {key: value for key, value in written.items() if key != "data"}
            config = config_from_dict(TaskConfig, rest, f"task `{name}`")
            built[name] = build_task(name, replace(config, data=data), self.vocabulary)
        return built

    @cached_property
    def engine(self) -> Engine:
        """The generation engine; made once, so weights must not change afterwards."""
        return Engine(self.decoder, self.dtype)

    # Generation

    def generate(
        self,
        prompt: Prompt = (),
        to: str | None = AUTO,
        n: int = 1,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int | None = None,
        max_tokens: int = 256,
        task: str | None = None,
    ) -> Answer:
        """Answer one prompt.

        Args:
            prompt: What is given: segments, or a string of the first modality of strings.
            to: Modality to write: by default the target of `task`, else text; None for free
                switching.
            n: Answers to draw; all are the `alternatives` of the one that is returned: the
                likeliest of those that `max_tokens` did not cut, if there are any.
            temperature: Divides the logits; 0 takes the likeliest id.
            top_k, top_p: See `Sampling`.
            seed: Of the first answer; the next have the numbers after it.
            max_tokens: Ids of an answer, at most.
            task: Name of the recorded task whose template to use; by default the one that turns
                what is given into what is asked for, if there is one, else none.

        Raises:
            UnimodalError: if the request cannot be answered.
        """
        if n < 1:
            raise ConfigError(f"`n` must be at least 1, but is {n}.")
        document = self.document(prompt, to, task)
        asked = None if to is None else document.asked()
        requests = []
        for number in range(n):
            own = None if seed is None else seed + number
            drawn = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=own)
            requests.append(Request(document, asked, drawn, max_tokens=max_tokens))
        answers = self.generate_many(requests)
        best = max(answers, key=lambda answer: (not answer.is_truncated, answer.logprob))
        return replace(best, alternatives=tuple(answers)) if n > 1 else best

    def generate_many(self, requests: Sequence[Request], batch_size: int = 16) -> list[Answer]:
        """Answer requests in batches.

        Raises:
            UnimodalError: that of the first request that cannot be answered.
        """
        answers = self.engine.generate(requests, batch_size=batch_size)
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        return answers

    def document(self, prompt: Prompt, to: str | None = AUTO, task: str | None = None) -> Document:
        """The request of a prompt, by the template of a recorded task if one fits.

        Args:
            prompt, to, task: See `generate`.

        Returns:
            What is given, then the segment that is asked for, unless `to` is None.

        Raises:
            ConfigError: if there is no task of that name, or it does not fit the prompt or `to`.
        """
        given = self._segments(prompt)
        if task is not None:
            return _of_task(self._task(task), given, to)
        if to is None:
            return Document(tuple(given))
        target = "text" if to == AUTO else to
        self.vocabulary.grammar(target)
        template = self._template(given, target)
        if template is not None:
            return _of_task(template, given, target)
        return Document((*given, Segment(target, role="asked")))

    def transcribe(
        self,
        source: str | Path | Audio,
        to: str = "text",
        *,
        window_seconds: float = 30.0,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Transcript:
        """What is said in a recording, window by window.

        Args:
            source: A file, or sound.
            to: Modality to write.
            window_seconds: Longest piece that the model hears at once, above 0.
            max_tokens, temperature, seed: Of each window; see `generate`.

        Raises:
            ConfigError: if the model hears no sound.
            MediaError: if the file cannot be read.
        """
        if not window_seconds > 0:
            raise ConfigError(f"`window_seconds` must be above 0, but is {window_seconds}.")
        name = self._listener(to)
        audio = source
        if not isinstance(audio, Audio):
            audio = self.vocabulary.modality(name).read(Path(audio))
        size = max(1, int(window_seconds * audio.sample_rate_hz))
        sampling = Sampling(temperature=temperature, seed=seed)
        requests, times = [], []
        for start in range(0, len(audio.samples), size):
            piece = Audio(audio.samples[start : start + size], audio.sample_rate_hz)
            document = self.document(Segment(name, piece), to)
            requests.append(Request(document, [to], sampling, max_tokens=max_tokens))
            begin = start / audio.sample_rate_hz
            times.append((begin, begin + piece.seconds))
        answers = self.generate_many(requests)
        segments = [
            TranscriptSegment(start, end, str(answer.value))
            for (start, end), answer in zip(times, answers, strict=True)
        ]
        return Transcript(" ".join(s.text.strip() for s in segments).strip(), segments)

    # Likelihoods

    def classify(
        self, prompt: Prompt, candidates: Sequence[Any], to: str = AUTO, task: str | None = None
    ) -> list[Choice]:
        """Candidates by likelihood, the likeliest first.

        Args:
            prompt: What is given.
            candidates: Values of the modality `to`, or segments.
            to: Modality of candidates that are no segments; see `generate`.
            task: See `generate`.

        Raises:
            ConfigError: without candidates.
        """
        document = self.document(prompt, to, task)
        (name,) = document.asked()
        segments = [c if isinstance(c, Segment) else Segment(name, c) for c in candidates]
        found = classify(self.decoder, [document], segments)[0]
        shares = torch.softmax(found.double(), dim=0)
        order = found.argsort(descending=True).tolist()
        return [Choice(segments[i].value, float(shares[i]), float(found[i])) for i in order]

    def score(self, values: Prompt) -> list[Score]:
        """Likelihood of values, each as a document of its own.

        Args:
            values: A segment or a string, or several segments.
        """
        segments = self._segments(values)
        documents = [Document((replace(s, objective="next", attend="causal"),)) for s in segments]
        return score(self.decoder, documents)

    def embed(self, values: Prompt) -> Float[Tensor, "n D"]:
        """A vector of each value: the mean of the last hidden states over its content."""
        return embed(self.decoder, [Document((s,)) for s in self._segments(values)])

    # Description

    def schema(self) -> dict[str, Any]:
        """Spans, modalities with their grammar, and tasks, as plain values."""
        vocabulary = self.vocabulary
        modalities = {}
        for name, modality in vocabulary.modalities.items():
            described = _describe(modality)
            described["config"] = vocabulary.entries[name].config
            described["fingerprint"] = vocabulary.entries[name].fingerprint
            if name in vocabulary.grammars:
                described["grammar"] = _describe_grammar(vocabulary.grammars[name])
            modalities[name] = described
        spans = [
            {"name": s.name, "start": s.start, "stop": s.stop, "owner": s.owner}
            for s in vocabulary.spans
        ]
        return {
            "num_parameters": self.decoder.num_parameters(),
            "model": config_to_dict(self.decoder.config),
            "vocabulary_size": vocabulary.size,
            "spans": spans,
            "modalities": modalities,
            "openers": list(vocabulary.openers_listed),
            "tasks": {
                name: {
                    "template": task.config.template,
                    "source": task.config.source,
                    "target": task.config.target,
                    "metrics": list(task.metrics),
                }
                for name, task in self.tasks.items()
            },
        }

    def _segments(self, prompt: Prompt) -> list[Segment]:
        parts = [prompt] if isinstance(prompt, str | Segment) else prompt
        strings = [Segment(self._of_type(str), p) if isinstance(p, str) else p for p in parts]
        return [self._read(segment) for segment in strings]

    def _read(self, segment: Segment) -> Segment:
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

    def _listener(self, to: str) -> str:
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

    def _template(self, given: Sequence[Segment], to: str) -> Task | None:
        for task in self._translations():
            if ([task.config.source], task.config.target) == ([s.modality for s in given], to):
                return task
        return None

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


def _describe(modality: Modality[Any, Any]) -> dict[str, Any]:
    return {
        "value_type": modality.value_type.__name__,
        "raw_unit": modality.raw_unit,
        "spans": dict(modality.spans),
        "feature_shape": list(modality.feature_shape),
        "attend": modality.attend,
        "pattern": repr(modality.pattern),
        "lossless": modality.is_lossless,
        "decoded_by": modality.decoded_by,
        "sizes": {} if modality.layout is None else header_axes(modality.layout),
    }


def _describe_grammar(grammar: SegmentGrammar) -> dict[str, Any]:
    return {
        "opener": grammar.opener,
        "end": grammar.end,
        "headers": [
            {"axis": "thw"[h.axis], "first_id": h.first_id, "sizes": [h.low, h.high]}
            for h in grammar.headers
        ],
        "cycle": [
            {"head_set": s.head_set, "ids": [list(r) for r in s.ranges]} for s in grammar.slots
        ],
        "cells": [grammar.min_cells, grammar.max_cells],
        "shortest": grammar.shortest(),
    }


def _experiment(folder: Path) -> dict[str, Any]:
    """The experiment of a run folder, or of the run that a model folder or checkpoint is in."""
    found = find_model(folder).resolve()
    for place in (folder.resolve(), *found.parents[:2]):
        path = place / EXPERIMENT
        if path.is_file():
            try:
                written = json.loads(path.read_text("utf-8"))
            except ValueError as error:
                raise CheckpointError(f"It is not JSON ({error}).", subject=str(path)) from None
            if isinstance(written, dict):
                return written
    return {}
