"""The contract of a task: one template from a record to a document, with what scores it.

A task says which fields of a record become which segments, what carries loss and with which
weight, what a request supplies and asks for, and how an answer is scored. Training, evaluation,
generation and the command line all read the same template.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from unimodal.data.sources import Source, open_source
from unimodal.errors import ConfigError
from unimodal.media import FileRef
from unimodal.modality import Modality, config_from_dict
from unimodal.registry import Registry
from unimodal.stream import Document, Segment
from unimodal.vocabulary import Vocabulary

Record = Mapping[str, Any]
"""`id`, and a value or a `FileRef` a field."""

Mode = Literal["generate", "choose", "likelihood"]
"""How a task is scored: its answers are generated, chosen among `Task.choices` by likelihood, or
there is no answer and the bits of the value itself count."""


@dataclass(kw_only=True)
class DataConfig:
    """Where a task's records come from."""

    name: str | None = None
    """A registered source, e.g. `embedded/emoji` or `e_coli`."""

    path: str | None = None
    """A manifest, folder or file of one's own."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of the source, e.g. `window: 768`."""

    def __post_init__(self) -> None:
        if self.name and self.path:
            raise ConfigError(f"Give `name` or `path`, not both: {self.name}, {self.path}.")


@dataclass(kw_only=True)
class TaskConfig:
    """One task of a mixture, as YAML holds it."""

    template: str = "model"
    """Registered template: `model`, `translate`, `classify`, `continue`, or one of an outside
    package."""

    data: DataConfig = field(default_factory=DataConfig)
    """Records."""

    source: str | None = None
    """Modality that is given (`translate`, `classify`)."""

    target: str = "text"
    """Modality that is learned and asked for."""

    weight: float = 1.0
    """Share of documents drawn from this task, relative to the others; above 0."""

    loss_weight: float = 1.0
    """Weight of its target positions in the loss; at least 0."""

    vary: bool = True
    """Whether training varies its values as the configs of their modalities say."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of the template."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"`weight` must be above 0, but is {self.weight}.")
        if not self.loss_weight >= 0:
            raise ConfigError(f"`loss_weight` must be at least 0, but is {self.loss_weight}.")


@dataclass(kw_only=True)
class TaskOptions:
    """Options that every template has."""

    target_field: str | None = None
    """Field of the record that holds the target; by default the name of its modality, without
    `@2`."""

    metrics: tuple[str, ...] = ()
    """Metrics of `unimodal.evaluation.metrics`, the headline first; by default the template's."""

    baselines: tuple[str, ...] = ()
    """Baselines of `unimodal.evaluation.baselines`; by default those that fit the values."""

    objective: str = "next"
    """How training learns the target: `next`, or `masked`, which hides ids of a target that attends
    in full. Scores and answers go from left to right all the same: for them, mix in a task with
    `next`."""

    mask_ratio: float = 0.5
    """Share of the target's ids that `masked` hides, in (0, 1]."""

    free: bool = False
    """Whether training also predicts which modality follows, and the stop (free switching): needs
    `openers` in the experiment."""

    def __post_init__(self) -> None:
        if self.objective not in ("next", "masked"):
            raise ConfigError(f"`objective` must be next or masked, but is {self.objective!r}.")
        if not 0 < self.mask_ratio <= 1:
            raise ConfigError(f"`mask_ratio` must lie in (0, 1], but is {self.mask_ratio}.")


@dataclass(kw_only=True)
class ConditionOptions(TaskOptions):
    """Options of templates that give something to the model."""

    null_rate: float = 0.0
    """Share of training documents that lose what is given, so that guidance can push away from
    what the model writes without it; 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.null_rate <= 1:
            raise ConfigError(f"`null_rate` must lie between 0 and 1, but is {self.null_rate}.")


@dataclass(frozen=True)
class Example:
    """One scored example.

    Attributes:
        record: What it was made of.
        answer: The generated or chosen value.
        truth: The right value.
    """

    record: Record
    answer: Any
    truth: Any


class Task(ABC):
    """A template applied to a data set.

    Args:
        name: Its name in the mixture.
        config: Its settings.
        vocabulary: Modalities read files and say what they are.

    Raises:
        ConfigError: on an option that the template lacks.
        VocabularyError: if the target is unknown to the vocabulary or cannot be generated.
    """

    mode: ClassVar[Mode] = "generate"
    options_type: ClassVar[type[TaskOptions]] = TaskOptions

    def __init__(self, name: str, config: TaskConfig, vocabulary: Vocabulary):
        self.name = name
        self.config = config
        self.vocabulary = vocabulary
        self.options: Any = config_from_dict(
            self.options_type, config.options, f"options of task `{name}`"
        )
        vocabulary.grammar(config.target)
        if self.options.free and vocabulary.switch is None:
            raise ConfigError(
                "The option `free` needs openers that the vocabulary lists.",
                subject=f"task `{name}`",
                remedy="Name modalities in the experiment's `openers`.",
            )

    @abstractmethod
    def document(self, record: Record, rng: np.random.Generator) -> Document:
        """The training document of a record. `rng` draws crops, prompts and the like."""

    @abstractmethod
    def request(self, record: Record) -> Document:
        """The same with its asked segments lacking a value: what generation starts from."""

    def request_after(self, given: Sequence[Segment]) -> Document | None:
        """The request that goes on after given segments as they are, where the template is that."""
        return None

    def learned(self, document: Document) -> Document:
        """A document as training sees it: with the options `objective` and `free`."""
        o = self.options
        segments = document.segments
        if o.objective == "masked":
            masked = {"objective": "masked", "attend": "full", "mask_ratio": o.mask_ratio}
            segments = [replace(s, **masked) if s.role == "asked" else s for s in segments]
        return replace(document, segments=tuple(segments), free=o.free)

    def null(self, document: Document) -> Document:
        """The null condition of a document or request, for training dropout and guidance.

        Raises:
            ConfigError: if the template gives nothing that could be left out.
        """
        raise ConfigError(
            f"Task `{self.name}` has no null condition: its template `{self.config.template}` "
            "gives nothing that could be left out.",
            remedy="Guide a task that gives something, e.g. one of the template `translate`.",
        )

    def dropped(self, document: Document, rng: np.random.Generator) -> Document:
        """A training document, or its null condition at the rate of the options."""
        if self.options.null_rate and rng.random() < self.options.null_rate:
            return self.null(document)
        return document

    @property
    def learns_null(self) -> bool:
        """Whether training saw null conditions, without which guidance means nothing."""
        return getattr(self.options, "null_rate", 0.0) > 0

    def scored_documents(self, record: Record) -> list[Document]:
        """Documents whose likelihood scores a record: no crops drawn, no null condition."""
        return [self.document(record, np.random.default_rng(0))]

    def observe(self, records: Iterable[Record]) -> None:
        """Look at training records once, before scoring; `classify` collects its labels here."""
        return

    def choices(self) -> Sequence[Any]:
        """Answers to choose among, for the mode `choose`."""
        raise ConfigError(f"Task `{self.name}` has no fixed answers to choose among.")

    @property
    def metrics(self) -> Sequence[str]:
        """Names of `unimodal.evaluation.metrics` that score its answers, the headline first."""
        if self.options.metrics:
            return tuple(self.options.metrics)
        return self.default_metrics()

    def default_metrics(self) -> Sequence[str]:
        """Metrics that fit the target, unless the options name others."""
        if self.target.value_type is str:
            return ("exact_match", "character_error_rate")
        graded = type(self.target).distance is not Modality.distance
        return ("distance",) if graded else ("exact_match",)  # the default is 0 or infinity

    @property
    def baselines(self) -> Sequence[str]:
        """Names of `unimodal.evaluation.baselines` to score beside the model."""
        return tuple(self.options.baselines) or self.default_baselines()

    def default_baselines(self) -> Sequence[str]:
        """Baselines that fit the values, unless the options name others."""
        return ("majority", "nearest", "linear", "words")

    @property
    def target(self) -> Modality[Any, Any]:
        """The modality that is asked for."""
        return self.vocabulary.modality(self.config.target)

    @property
    def target_field(self) -> str:
        """The field of a record that holds the right answer."""
        return self.options.target_field or field_of(self.config.target)

    def truth(self, record: Record) -> Any:
        """The value that an answer is compared with; a tuple where several are right."""
        return self.value(record, self.target_field, self.config.target)

    def value(self, record: Record, name: str, modality: str) -> Any:
        """A field's value; a file is read by the modality.

        Raises:
            ConfigError: if the record lacks the field.
        """
        if name not in record:
            raise ConfigError(
                f"Task `{self.name}` needs the field `{name}`, but the record has "
                f"{sorted(k for k in record if k != 'id')}.",
                subject=str(record.get("id", "")) or None,
                remedy=f"Set the option `target_field` (or `source_field`) of task `{self.name}`.",
            )
        found = record[name]
        if isinstance(found, FileRef):
            return self.vocabulary.modality(modality).read(found.path)
        if isinstance(found, list) and self.vocabulary.modality(modality).value_type is str:
            return tuple(found)
        return found

    def one_value(
        self, record: Record, name: str, modality: str, rng: np.random.Generator | None = None
    ) -> Any:
        """`value`, of which `rng` draws a variant (`Modality.variants`); without it, as it stands.

        A tuple of equally right strings gives one of them: drawn, too, or its first.

        Raises:
            ConfigError: if the tuple is empty.
        """
        found = self.value(record, name, modality)
        kind = self.vocabulary.modality(modality)
        if isinstance(found, tuple) and kind.value_type is str:
            if not found:
                raise ConfigError(
                    f"The field `{name}` is empty.", subject=str(record.get("id", ""))
                )
            found = found[0 if rng is None else int(rng.integers(len(found)))]
        return found if rng is None else kind.draw_variant(found, rng)

    def open(self, split: str) -> Source:
        """The task's records of one split."""
        return open_data(self.config.data, split, f"task `{self.name}`")


tasks: Registry[type[Task]] = Registry("task", package="unimodal.tasks", group="unimodal.tasks")


def build_task(name: str, config: TaskConfig, vocabulary: Vocabulary) -> Task:
    """The task `name` of a mixture.

    Raises:
        ConfigError: if its template is unknown.
    """
    return tasks.get(config.template)(name, config, vocabulary)


def open_data(config: DataConfig, split: str, subject: str = "data") -> Source:
    """Open the records that a config names.

    Raises:
        ConfigError: if it names none, or one that is unknown.
        DataError: if the data are not there or break a rule.
    """
    chosen = config.path or config.name
    if not chosen:
        raise ConfigError(
            "No data set is named.", subject=subject, remedy="Set `data.name` or `data.path`."
        )
    if config.path and not config.path.startswith((".", "/", "~")):
        chosen = f"./{config.path}"
    return open_source(chosen, split=split, **config.options)


def field_of(modality: str) -> str:
    """Field of a record that holds values of a modality by default: `image@2` reads `image`."""
    return modality.partition("@")[0]
