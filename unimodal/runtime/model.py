"""The handle itself: a decoder with the experiment that made it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    OnProgress,
    Request,
    Sampling,
    Score,
    classify,
    embed,
    score,
)
from unimodal.generation.matrices import matrix_class
from unimodal.generation.ranking import best_first, rank_in_reverse, reverse_task
from unimodal.media import Audio
from unimodal.modality import config_from_dict
from unimodal.model.decoder import Decoder
from unimodal.model.folder import EXPERIMENT, find_model, load_model
from unimodal.runtime.prompts import AUTO, Prompt, Prompts
from unimodal.runtime.results import Choice, Transcript, TranscriptSegment
from unimodal.runtime.schema import describe
from unimodal.shipped import shipped_folder
from unimodal.stream import Document, Segment
from unimodal.tasks import DataConfig, Task, TaskConfig, build_task

RANKS = ("likelihood", "reverse")
"""Ways to choose among several answers."""
RUNS = Path("runs")
"""Where a run that is given by name is looked up."""


def load(run: str | Path, device: str = "auto", *, dtype: str = "float32") -> "Model":
    """Load a trained model.

    Args:
        run: A run folder (its finished model, else its newest checkpoint that verifies), a model
            folder, a Qwen3 folder of Hugging Face, the name of a shipped model, or that of a run
            under `runs/`.
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
    if not folder.exists():
        folder = shipped_folder(str(run)) or (RUNS / folder if (RUNS / folder).is_dir() else folder)
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

    @cached_property
    def prompts(self) -> Prompts:
        """What turns values into requests."""
        return Prompts(self.vocabulary, self.tasks)

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
        guidance: float = 1.0,
        max_tokens: int = 256,
        prefix: Any = None,
        prefix_cells: int | None = None,
        rank: str = "likelihood",
        task: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Answer:
        """Answer one prompt.

        Args:
            prompt: What is given: segments, or a string of the first modality of strings.
            to: Modality to write: by default the target of `task`, else text; None for free
                switching.
            n: Answers to draw; all are the `alternatives` of the one that is returned: the best of
                those that `max_tokens` did not cut, if there are any.
            temperature: Divides the logits; 0 takes the likeliest id.
            top_k, top_p: See `Sampling`.
            seed: Of the first answer; the next have the numbers after it.
            guidance, max_tokens: See `Sampling` (a task with null conditions is needed), `Request`.
            prefix, prefix_cells: What the answer begins with, a value or a path; see `Request`.
            rank: Which of `n` answers is best: the one of most `likelihood` given the prompt, or,
                in `reverse`, the one given which the prompt is likeliest, by a recorded task from
                what is written to what is given.
            task: Name of the recorded task whose template to use; by default the one that turns
                what is given into what is asked for, if there is one, else none.
            on_progress: See `Engine.generate`.

        Raises:
            UnimodalError: if the request cannot be answered.
        """
        given = self.prompts.segments(prompt)
        template = self.prompts.template(given, to, task)
        document = self.prompts.document(given, to, template)
        asked = None if to is None else document.asked()
        if prefix is not None:
            prefix = self.prompts.read(Segment(_first(asked), prefix)).value
        drawn = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, guidance=guidance
        )
        request = Request(
            document,
            asked,
            drawn,
            max_tokens=max_tokens,
            prefix=prefix,
            prefix_cells=prefix_cells,
            null=self.prompts.null(document, template) if drawn.is_guided else None,
        )
        return self._best_of(n, request, rank, given, template, on_progress)

    def generate_many(
        self,
        requests: Sequence[Request],
        batch_size: int = 16,
        on_progress: OnProgress | None = None,
    ) -> list[Answer]:
        """Answer requests in batches; see `Engine.generate`.

        Raises:
            UnimodalError: that of the first request that cannot be answered.
        """
        answers = self.engine.generate(requests, batch_size=batch_size, on_progress=on_progress)
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        return answers

    def _best_of(
        self,
        n: int,
        request: Request,
        rank: str,
        given: Sequence[Segment],
        template: Task | None,
        on_progress: OnProgress | None,
    ) -> Answer:
        """The best of n answers; see `generate`."""
        if n < 1:
            raise ConfigError(f"`n` must be at least 1, but is {n}.")
        if rank not in RANKS:
            raise ConfigError(f"`rank` must be one of {', '.join(RANKS)}, but is {rank!r}.")
        reverse = None
        if rank == "reverse":
            written = _first(request.wanted())
            data = None if template is None else template.config.data.name
            reverse = reverse_task(self.tasks, self.vocabulary, given, written, data)
        requests = [_numbered(request, number) for number in range(n)]
        answers = self.generate_many(requests, on_progress=on_progress)
        if reverse is not None:
            answers = rank_in_reverse(self.decoder, reverse, [given[0]] * n, answers)
        chosen = best_first(answers)[0]
        return replace(chosen, alternatives=tuple(answers)) if n > 1 else chosen

    def save(self, answer: Answer, path: str | Path) -> Path:
        """Write the first value of an answer into a file, as its modality does.

        Raises:
            UnimodalError: if the request failed.
            MediaError: if the modality writes no such file.
        """
        value, path = answer.value, Path(path)
        self.vocabulary.modality(answer.segments[0].modality).write(value, path)
        return path

    def document(self, prompt: Prompt, to: str | None = AUTO, task: str | None = None) -> Document:
        """The request of a prompt, by the template of a recorded task if one fits.

        Args:
            prompt, to, task: See `generate`.

        Returns:
            What is given, then the segment that is asked for, unless `to` is None.

        Raises:
            ConfigError: if there is no task of that name, or it does not fit the prompt or `to`.
        """
        given = self.prompts.segments(prompt)
        return self.prompts.document(given, to, self.prompts.template(given, to, task))

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
        name = self.prompts.listener(to)
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
        segments = self.prompts.segments(values)
        documents = [Document((replace(s, objective="next", attend="causal"),)) for s in segments]
        return score(self.decoder, documents)

    def embed(self, values: Prompt) -> Float[Tensor, "n D"]:
        """A vector of each value: the mean of the last hidden states over its content."""
        return embed(self.decoder, [Document((s,)) for s in self.prompts.segments(values)])

    # Description

    def schema(self) -> dict[str, Any]:
        """Spans, modalities with their grammar, and tasks, as plain values."""
        return describe(self.decoder, self.tasks)


def _numbered(request: Request, number: int) -> Request:
    """The request with the seed of its answer `number`."""
    seed = request.sampling.seed
    own = None if seed is None else seed + number
    return replace(request, sampling=replace(request.sampling, seed=own))


def _first(asked: Sequence[str] | None) -> str:
    """The modality that an answer begins with.

    Raises:
        ConfigError: in free switching, where it is not known.
    """
    if not asked:
        raise ConfigError(
            "In free switching, it is not known what an answer begins with, so it takes no "
            "`prefix` and no rank `reverse`.",
            remedy="Say what to write, in `to`.",
        )
    return asked[0]


def _experiment(folder: Path) -> dict[str, Any]:
    """The experiment of a run folder, or of the run that a model folder or checkpoint is in."""
    found = find_model(folder).resolve()
    for place in (folder.resolve(), *found.parents[:2]):
        path = place / EXPERIMENT
        if path.is_file():
            try:
                written = json.loads(path.read_text("utf-8"))
            except ValueError as error:
                raise CheckpointError(
                    f"It is not JSON ({error}).",
                    subject=str(path),
                    remedy="Restore it from a copy; the run wrote it when it began.",
                ) from None
            if isinstance(written, dict):
                return written
    return {}
