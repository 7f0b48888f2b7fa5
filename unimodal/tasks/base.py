"""The contract of a task: one template from a record to a document, with what scores it.

A task says which fields of a record become which segments, what carries loss and with which
weight, what a request supplies and asks for, and how an answer is scored. Training, evaluation,
generation and the command line all read the same template.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from unimodal.errors import ConfigError
from unimodal.media import FileRef
from unimodal.registry import Registry
from unimodal.stream import Document
from unimodal.vocabulary import Vocabulary

Record = Mapping[str, Any]
"""`id`, and a value or a `FileRef` a field."""


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
    """Registered template: `model`, `translate`, `classify`, or one of an outside package."""

    data: DataConfig = field(default_factory=DataConfig)
    """Records."""

    source: str | None = None
    """Field and modality that is given (`translate`, `classify`)."""

    target: str = "text"
    """Field and modality that is learned and asked for."""

    weight: float = 1.0
    """Share of documents drawn from this task, relative to the others; above 0."""

    loss_weight: float = 1.0
    """Weight of its target positions in the loss."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of the template."""


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
    """

    metrics: ClassVar[Sequence[str]] = ()
    """Names of `unimodal.evaluation.metrics` that score its answers, the headline first."""

    def __init__(self, name: str, config: TaskConfig, vocabulary: Vocabulary):
        self.name = name
        self.config = config
        self.vocabulary = vocabulary

    @abstractmethod
    def document(self, record: Record, rng: np.random.Generator) -> Document:
        """The training document of a record. `rng` draws crops, prompts and the like."""

    @abstractmethod
    def request(self, record: Record) -> Document:
        """The same with its asked segments lacking a value: what generation starts from."""

    def null(self, document: Document) -> Document:
        """The null condition of a document, for training dropout and guidance."""
        raise ConfigError(f"Task `{self.name}` has no null condition.")

    def truth(self, record: Record) -> Any:
        """The value that an answer is compared with."""
        return self.value(record, self.config.target)

    def value(self, record: Record, name: str) -> Any:
        """A field's value; a file is read by the modality of that name."""
        if name not in record:
            raise ConfigError(
                f"Task `{self.name}` needs the field `{name}`, but the record has "
                f"{sorted(k for k in record if k != 'id')}.",
                subject=str(record.get("id", "")) or None,
            )
        found = record[name]
        if isinstance(found, FileRef):
            return self.vocabulary.modality(name).read(found.path)
        return found


tasks: Registry[type[Task]] = Registry("task", package="unimodal.tasks")


def build_task(name: str, config: TaskConfig, vocabulary: Vocabulary) -> Task:
    """The task `name` of a mixture.

    Raises:
        ConfigError: if its template is unknown.
    """
    return tasks.get(config.template)(name, config, vocabulary)
