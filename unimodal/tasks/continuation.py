"""Continuation: the beginning of a value is given, the rest is learned and asked for.

The two parts are two segments of one modality, so a request needs nothing special: what
`generate --from NAME --to NAME` asks for is what this template trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unimodal.errors import ConfigError
from unimodal.stream import Document, Segment
from unimodal.tasks.base import ConditionOptions, Record, Task, tasks


@dataclass(kw_only=True)
class ContinueOptions(ConditionOptions):
    """Options of `continue`."""

    prefix: int = 64
    """Units of the value (characters, bases, rows of a tensor) that are given; at least 1.
    Training draws 1 to this many."""

    length: int = 64
    """Units of the value that are asked for; at least 1."""

    prefix_weight: float = 1.0
    """Loss weight of the given part, relative to the rest: it is learned, too; at least 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prefix", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if not self.prefix_weight >= 0:
            raise ConfigError(f"`prefix_weight` must be at least 0, but is {self.prefix_weight}.")


@tasks.register("continue")
class ContinueTask(Task):
    """The first units of a value are given, the following ones asked for."""

    options_type = ContinueOptions

    def document(self, record: Record, rng: np.random.Generator) -> Document:
        value = self._value(record, rng)
        o = self.options
        start = int(rng.integers(max(0, len(value) - o.prefix - o.length) + 1))
        split = start + int(rng.integers(1, max(1, min(o.prefix, len(value) - 1)) + 1))
        first, rest = value[start:split], value[split : split + o.length]
        return self.learned(self.dropped(self._document(record, first, rest), rng))

    def scored_documents(self, record: Record) -> list[Document]:
        first, rest = self._parts(record)
        return [self._document(record, first, rest)]

    def request(self, record: Record) -> Document:
        first = Segment(self.config.target, self._parts(record)[0])
        return replace(self._after(first), id=str(record.get("id", "")))

    def request_after(self, given: Sequence[Segment]) -> Document | None:
        fits = [segment.modality for segment in given] == [self.config.target]
        return self._after(given[0]) if fits else None

    def truth(self, record: Record) -> Any:
        return self._parts(record)[1]

    def null(self, document: Document) -> Document:
        """What is asked for alone."""
        return replace(document, segments=tuple(document.segments[-1:]))

    def default_baselines(self) -> Sequence[str]:
        return ("majority",)

    def _after(self, first: Segment) -> Document:
        # As training learns it: one id after the other.
        begun = replace(first, attend=first.attend or "causal")
        return Document((begun, Segment(self.config.target, role="asked")), task=self.name)

    def _value(self, record: Record, rng: np.random.Generator | None) -> Any:
        value = self.one_value(record, self.target_field, self.config.target, rng)
        if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")) or len(value) < 2:
            raise ConfigError(
                "`continue` needs a sequence of at least 2 units.",
                subject=str(record.get("id", "")) or None,
            )
        return value

    def _parts(self, record: Record) -> tuple[Any, Any]:
        value = self._value(record, None)
        split = min(self.options.prefix, len(value) - 1)
        return value[:split], value[split : split + self.options.length]

    def _document(self, record: Record, first: Any, rest: Any) -> Document:
        weight = self.config.loss_weight
        segments = (
            Segment(
                self.config.target,
                first,
                attend="causal",
                objective="next",
                weight=weight * self.options.prefix_weight,
            ),
            Segment(
                self.config.target,
                rest,
                attend="causal",
                objective="next",
                weight=weight,
                role="asked",
            ),
        )
        return Document(segments, id=str(record.get("id", "")), task=self.name)
