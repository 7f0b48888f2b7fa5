"""Modelling: the next id of one value, and how many bits a raw unit it costs.

Long values (a genome, a book) are cut into windows: at random places in training, one after the
other when they are scored. A source that cuts by itself is told the length of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unimodal.data.sources import Source, Windowed
from unimodal.errors import ConfigError
from unimodal.stream import Document, Segment
from unimodal.tasks.base import Mode, Record, Task, TaskOptions, tasks


@dataclass(kw_only=True)
class ModelOptions(TaskOptions):
    """Options of `model`."""

    window: int | None = None
    """Longest piece of a value, in its own units (characters, bases, rows of a tensor); None takes
    the values of the data whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and self.window < 1:
            raise ConfigError(f"`window` must be at least 1, but is {self.window}.")


@tasks.register("model")
class ModelTask(Task):
    """One segment of the target modality, learned whole."""

    mode: ClassVar[Mode] = "likelihood"
    options_type = ModelOptions

    def open(self, split: str) -> Source:
        source = super().open(split)
        if self.options.window is not None and isinstance(source, Windowed):
            return source.windows(self.options.window)
        return source

    def document(self, record: Record, rng: np.random.Generator) -> Document:
        value = self.one_value(record, self.target_field, self.config.target, rng)
        room = self._room(value)
        if room:
            start = int(rng.integers(room + 1))
            value = value[start : start + self.options.window]
        return self.learned(self._document(record, value))

    def request(self, record: Record) -> Document:
        segment = Segment(self.config.target, role="asked")
        return Document((segment,), id=str(record.get("id", "")), task=self.name)

    def scored_documents(self, record: Record) -> list[Document]:
        value = self.one_value(record, self.target_field, self.config.target)
        if not self._room(value):
            return [self._document(record, value)]
        step = self.options.window
        return [self._document(record, value[i : i + step]) for i in range(0, len(value), step)]

    def default_metrics(self) -> Sequence[str]:
        return ("bits",)

    def default_baselines(self) -> Sequence[str]:
        return ("markov", "uniform") if self.target.value_type is str else ("uniform",)

    def _room(self, value: Any) -> int:
        """How far a window may move inside the value; 0 if there is nothing to cut."""
        if self.options.window is None:
            return 0
        if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
            raise ConfigError(
                f"`window` cuts sequences, but a value of `{self.config.target}` is a "
                f"{type(value).__name__}.",
                subject=f"options of task `{self.name}`",
                remedy="Leave `window` out, and let the data source cut.",
            )
        return max(0, len(value) - int(self.options.window))

    def _document(self, record: Record, value: Any) -> Document:
        segment = Segment(
            self.config.target,
            value,
            attend="causal",
            objective="next",
            weight=self.config.loss_weight,
            role="asked",
        )
        return Document((segment,), id=str(record.get("id", "")), task=self.name)
