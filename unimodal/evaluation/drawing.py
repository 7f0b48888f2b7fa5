"""How well a model draws: pictures from held-out prompts, scored by judges of ours.

Which scores a task gets follows from what its records say: `concept` (nearest among many concepts,
near-copies of training pictures), `label` (the class that a classifier sees), `objects` (what and
where in a composed scene). All get the round trip (the drawing captioned by the model's own reverse
task) and the codec's fidelity. Each score stands beside its baselines and its ceiling: the same for
the true pictures after a trip through the codec, the best that a model of its codes can do.

Pictures are stored as they are drawn, so a stopped evaluation goes on where it was. The command is
`python -m unimodal.benchmarks.pictures RUN`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from unimodal.data.sources import Source, hash_fraction
from unimodal.errors import ConfigError, DataError
from unimodal.evaluation.encoder import Pixels, at_side
from unimodal.evaluation.records import open_held_out
from unimodal.generation import Answer, Engine, Request, Sampling
from unimodal.generation.ranking import best_first, rank_in_reverse, reverse_task
from unimodal.media.values import Image
from unimodal.modality import Modality
from unimodal.stream import Segment
from unimodal.tasks.base import Record, Task

Progress = Callable[[str, int, int], None]
_PLAIN = (str, int, float, list, tuple)


@dataclass(kw_only=True)
class DrawingConfig:
    """How pictures are drawn and scored."""

    limit: int = 400
    """Held-out prompts of each task, at most; of records with a concept one each."""

    seed: int = 0
    """Draws prompts, seeds the samples (one after another) and the bootstrap."""

    batch_size: int = 16
    """Pictures that are drawn at once; each batch is stored."""

    best_of: int = 1
    """Drawings of each prompt, of which the one is kept after which the prompt is likeliest, by the
    model's own task from pictures to prompts; 1 where it has none."""

    max_tokens: int = 1024
    """Ids of a picture, at most."""

    sampling: Sampling = field(default_factory=Sampling)
    """Temperature, guidance and so on; the seed is `seed` plus the number of the drawing."""

    command: str = ""
    """The command that gives these results, recorded beside them."""

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "best_of", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")


@dataclass
class Drawn:
    """The pictures of one task.

    Attributes:
        task: What was asked.
        split: Of the records.
        records: The held-out records, without their pictures.
        pixels: What the model drew, uint8 (n, 32, 32, 3).
        truths: The true pictures.
        coded: The true pictures after a trip through the codec.
    """

    task: Task
    split: str
    records: Sequence[Record]
    pixels: Pixels
    truths: Pixels
    coded: Pixels

    def has(self, *fields: str) -> bool:
        """Whether the records have these fields."""
        return all(name in self.records[0] for name in fields)


@dataclass(frozen=True)
class Relay:
    """Two tasks in the place of one: the first writes down what is given, the second draws that.

    Attributes:
        writing: From what is given, for instance speech to text.
        drawing: From what it writes.

    Raises:
        ConfigError: if the second does not draw from what the first writes.
    """

    writing: Task
    drawing: Task

    def __post_init__(self) -> None:
        if self.drawing.config.source != self.writing.config.target:
            raise ConfigError(
                f"It draws from `{self.drawing.config.source}`, but `{self.writing.name}` writes "
                f"`{self.writing.config.target}`.",
                subject=self.drawing.name,
                remedy="Name a task that draws from what is written.",
            )

    def records(self, engine: Engine, task: Task, records: Sequence[Record]) -> list[Record]:
        """Records of the second task: what the first wrote in the place of what `task` gives.

        Raises:
            ConfigError: if the first reads anything else of them, such as the right answer.
        """
        if self.writing.config.source != task.config.source:
            raise ConfigError(
                f"It reads `{self.writing.config.source}`, but `{task.name}` gives "
                f"`{task.config.source}`.",
                subject=self.writing.name,
                remedy="Name a task that reads what is given.",
            )
        field = str(getattr(self.drawing, "source_field", self.drawing.config.source))
        texts = written(engine, self.writing, records)
        return [{**record, field: text} for record, text in zip(records, texts, strict=True)]


def drawing_tasks(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The tasks that draw a picture of something given."""
    return {
        name: task
        for name, task in tasks.items()
        if task.mode == "generate"
        and task.config.source is not None
        and task.target.value_type is Image
    }


def draw(
    engine: Engine,
    task: Task,
    config: DrawingConfig,
    store: Path | None = None,
    *,
    relay: Relay | None = None,
    reverse: Task | None = None,
    weights: str = "",
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Drawn:
    """Draw the held-out prompts of a task.

    Args:
        engine: Of the model.
        task: One of `drawing_tasks`.
        config: How many, and how they are sampled.
        store: Folder in which batches are kept; those that are there are not drawn again.
        relay: Tasks that draw in its place.
        reverse: What ranks the drawings of a prompt, if there are several; see `reverse_of`.
        weights: What tells the model from others, in the name of the stored batches.
        progress: Called with (task, pictures done, pictures in all).
        should_stop: Polled between batches; True raises KeyboardInterrupt.

    Raises:
        DataError: if there is no held-out record.
    """
    split, source = open_held_out(task, "auto")
    numbers = chosen(source, config.limit, config.seed)
    records = [dict(source[number]) for number in numbers]
    truths = [task.value(record, task.target_field, task.config.target) for record in records]
    key = _key(task, relay, config, [record.get("id") for record in records], weights)
    parts = []
    for start in range(0, len(records), config.batch_size):
        if progress is not None:
            progress(task.name, start, len(records))
        if should_stop():
            raise KeyboardInterrupt(f"asked to stop while drawing `{task.name}`")
        file = None if store is None else store / f"{key}-{start:05d}.safetensors"
        if file is not None and file.is_file():
            parts.append(load_file(file)["pixels"])
            continue
        part: Sequence[Record] = records[start : start + config.batch_size]
        asked = task
        if relay is not None:
            asked, part = relay.drawing, relay.records(engine, task, part)
        answers = _drawings(engine, asked, part, start, config, reverse)
        parts.append(as_pixels([answer.value for answer in answers]))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".part")
            save_file({"pixels": parts[-1]}, partial)
            partial.replace(file)
    if progress is not None:
        progress(task.name, len(records), len(records))
    kept = [{k: v for k, v in r.items() if not isinstance(v, Image)} for r in records]
    coded = as_pixels(through_codec(task.target, truths))
    return Drawn(task, split, kept, np.concatenate(parts), as_pixels(truths), coded)


def chosen(source: Source, limit: int, seed: int) -> list[int]:
    """Numbers of records, drawn by `seed`: of those with a concept at most one of each.

    Raises:
        DataError: if there is none.
    """
    found: list[int] = []
    seen: set[str] = set()
    for number in np.random.default_rng(seed).permutation(len(source)).tolist():
        concept = source[number].get("concept") if len(found) < limit else None
        if len(found) >= limit:
            break
        if concept is not None:
            if str(concept) in seen:
                continue
            seen.add(str(concept))
        found.append(number)
    if not found:
        raise DataError(
            "It has no held-out record to draw.",
            subject=source.name,
            remedy="Name another `split`, or data with records that are held out.",
        )
    return found


def through_codec(modality: Modality[Any, Any], values: Sequence[Any]) -> list[Any]:
    """What is left of values after encoding and decoding."""
    return modality.decode_batch(modality.encode_batch(values))


def codec_of(task: Task) -> Callable[[Pixels], Pixels]:
    """`through_codec` of a task's target, for arrays of pictures."""

    def through(pixels: Pixels) -> Pixels:
        return as_pixels(through_codec(task.target, [as_image(one) for one in pixels]))

    return through


def as_pixels(values: Sequence[Image]) -> Pixels:
    """Pictures as one array uint8 (n, 32, 32, 3)."""
    return np.stack([at_side(value.pixels.numpy()) for value in values])


def as_image(pixels: NDArray[np.uint8]) -> Image:
    """One picture of an array."""
    return Image(torch.from_numpy(np.array(pixels)))


@dataclass
class Library:
    """The training pictures of a task, as its codec shows them.

    Attributes:
        pixels: uint8 (n, 32, 32, 3).
        records: Their plain facts: no pictures, no sound.
    """

    pixels: Pixels
    records: Sequence[Record]


def in_another_style(records: Sequence[Record], wanted: Sequence[Record]) -> list[int]:
    """For each wanted record the place of one of the same concept; of several drawn by hash."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(str(record["concept"]), []).append(place)
    everything = list(range(len(records)))
    return [
        min(
            places.get(str(record["concept"]), everything),
            key=lambda place: hash_fraction("copy", record["id"], place),
        )
        for record in wanted
    ]


def copied(task: Task, wanted: Sequence[Record]) -> Pixels:
    """A training picture of each wanted concept, after a trip through the codec."""
    source = task.open("train")
    records = [{k: source[i].get(k) for k in ("id", "concept")} for i in range(len(source))]
    chosen = [source[place] for place in in_another_style(records, wanted)]
    values = [task.value(record, task.target_field, task.config.target) for record in chosen]
    return as_pixels(through_codec(task.target, values))


def training_library(
    task: Task, limit: int, store: Path | None = None, *, progress: Progress | None = None
) -> Library:
    """The training pictures of a task after a trip through its codec; stored once made.

    Args:
        task: Whose pictures.
        limit: Pictures at most, the first ones.
        store: Where they are kept.
        progress: Called with (name, done, in all).
    """
    source = task.open("train")
    count = min(limit, len(source))
    described = [dataclasses.asdict(task.config.data), count, task.target.fingerprint()]
    file = None if store is None else store / f"training-{_digest(described)}.safetensors"
    records, parts = [], []
    known = load_file(file)["pixels"] if file is not None and file.is_file() else None
    for start in range(0, count, 64):
        rows = [dict(source[number]) for number in range(start, min(start + 64, count))]
        if known is None:
            values = [task.value(row, task.target_field, task.config.target) for row in rows]
            parts.append(as_pixels(through_codec(task.target, values)))
        records += [{k: v for k, v in row.items() if isinstance(v, _PLAIN)} for row in rows]
        if progress is not None:
            progress(f"{task.name}: training", min(start + 64, count), count)
    pixels = known if known is not None else np.concatenate(parts)
    if file is not None and known is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"pixels": pixels}, file)
    return Library(pixels, records)


def reverse_of(task: Task, tasks: Mapping[str, Task], given: str) -> Task | None:
    """The task from what `task` draws to modality `given`: of the same data if there is one."""
    writing = {name: other for name, other in tasks.items() if other.mode == "generate"}
    data = task.config.data.name
    try:
        return reverse_task(writing, task.vocabulary, [Segment(given)], task.config.target, data)
    except ConfigError:
        return None


def captions(engine: Engine, task: Task, records: Sequence[Record], pixels: Pixels) -> list[str]:
    """What a captioning task says of pictures, in the place of those of its records."""
    where = str(getattr(task, "source_field", task.config.source))
    pairs = zip(records, pixels, strict=True)
    return written(engine, task, [{**record, where: as_image(one)} for record, one in pairs])


def written(engine: Engine, task: Task, records: Sequence[Record]) -> list[str]:
    """What a task writes of its records, the likeliest id at each step; "" where it fails."""
    sampling = Sampling(temperature=0.0)
    requests = [Request(task.request(one), sampling=sampling, max_tokens=64) for one in records]
    answers = engine.generate(requests, batch_size=32)
    return ["" if answer.error is not None else str(answer.value) for answer in answers]


def _drawings(
    engine: Engine,
    task: Task,
    records: Sequence[Record],
    start: int,
    config: DrawingConfig,
    reverse: Task | None,
) -> list[Answer]:
    """The best drawing of each record, the first of which has place `start` of all."""
    n = config.best_of
    requests = [
        _request(task, record, config, (start + place) * n + number)
        for place, record in enumerate(records)
        for number in range(n)
    ]
    answers = engine.generate(requests, batch_size=config.batch_size)
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    if n == 1:
        return answers
    if reverse is None:
        raise ConfigError(f"`best_of` is {n}, but nothing ranks drawings.", subject=task.name)
    given = [
        next(s for s in request.document.given().segments if s.modality == task.config.source)
        for request in requests
    ]
    ranked = rank_in_reverse(engine.decoder, reverse, given, answers)
    return [best_first(ranked[first : first + n])[0] for first in range(0, len(ranked), n)]


def _request(task: Task, record: Record, config: DrawingConfig, number: int) -> Request:
    sampling = dataclasses.replace(config.sampling, seed=config.seed + number)
    document = task.request(record)
    null = task.null(document) if sampling.is_guided else None
    return Request(document, sampling=sampling, max_tokens=config.max_tokens, null=null)


def _key(
    task: Task, relay: Relay | None, config: DrawingConfig, ids: Sequence[Any], weights: str
) -> str:
    described = [task.name, dataclasses.asdict(task.config), dataclasses.asdict(config.sampling)]
    rest = [config.seed, config.batch_size, config.max_tokens, list(map(str, ids)), weights]
    rest += [config.best_of] if config.best_of > 1 else []
    rest += [] if relay is None else [relay.writing.name, relay.drawing.name]
    return f"{task.name}-{_digest([*described, *rest])}"


def _digest(described: Any) -> str:
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
