"""Documents: an ordered list of segments, one training example or one request.

Values only; ids, coordinates and targets come from `encoding`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from unimodal.constraints import Constraint
from unimodal.errors import ConfigError
from unimodal.modality import Attend, modalities

Objective = Literal["none", "next", "masked"]
Role = Literal["given", "asked"]


@dataclass(frozen=True)
class Segment:
    """A value of a modality, and what training does with it.

    Attributes:
        modality: Ledger name of the modality.
        value: The raw value, or its `Tokens`; None in a request that asks for it.
        attend: "causal" or "full"; None takes the modality's own, which must be causal for the
            objective "next".
        objective: "none": no loss; "next": predict each id from those before; "masked": predict
            hidden ids at their own positions. Where a value has ids and features, "next" is fed the
            ids, the others the features.
        weight: Loss weight of its positions, at least 0.
        role: What a request supplies ("given") or wants ("asked"). Says nothing about training.
        mask_ratio: Share of content positions hidden by the "masked" objective, in (0, 1].
        constraints: Decode constraints of an asked segment.
    """

    modality: str
    value: Any = None
    attend: Attend | None = None
    objective: Objective = "none"
    weight: float = 1.0
    role: Role = "given"
    mask_ratio: float = 0.5
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if self.attend not in (None, "causal", "full"):
            raise ConfigError(f"`attend` must be causal or full, but is {self.attend!r}.")
        if self.objective not in ("none", "next", "masked"):
            raise ConfigError(
                f"`objective` must be none, next or masked, but is {self.objective!r}."
            )
        if self.attend == "full" and self.objective == "next":
            raise ConfigError(
                f"A segment of `{self.modality}` attends in full and has the objective `next`: it "
                "would see the ids that it must predict.",
                remedy="Set attend=causal, or objective=masked.",
            )
        if not self.weight >= 0:
            raise ConfigError(f"`weight` must be at least 0, but is {self.weight}.")
        if not 0 < self.mask_ratio <= 1:
            raise ConfigError(f"`mask_ratio` must lie in (0, 1], but is {self.mask_ratio}.")


@dataclass(frozen=True)
class Document:
    """One training example, or one request.

    Attributes:
        segments: In stream order.
        id: Names the sample in messages.
        task: The task that made it.
        free: Whether openers after the first, and the stop, are predicted (free switching).
    """

    segments: Sequence[Segment]
    id: str = ""
    task: str = ""
    free: bool = False

    def given(self) -> "Document":
        """The request: everything that is supplied, up to the first asked segment."""
        kept = []
        for segment in self.segments:
            if segment.role == "asked":
                break
            kept.append(replace(segment, objective="none"))
        return replace(self, segments=tuple(kept))

    def asked(self) -> list[str]:
        """Modalities of the asked segments, in order."""
        return [s.modality for s in self.segments if s.role == "asked"]


def segment_factory(name: str) -> Callable[..., Segment]:
    """A function `value -> Segment` for a registered modality, e.g. `um.Text`.

    Raises:
        ConfigError: if no modality has the name.
    """
    modalities.get(name)

    def make(value: Any = None, **options: Any) -> Segment:
        return Segment(name, value, **options)

    make.__name__ = name
    make.__doc__ = f"A segment of modality `{name}`."
    return make
