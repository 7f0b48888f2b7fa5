"""Requests and answers of generation: plain values, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unimodal.constraints import Constraint
from unimodal.errors import ConfigError, UnimodalError
from unimodal.stream import Document
from unimodal.types import Tokens

MAX_DOCUMENT_POSITIONS = 1 << 17
"""Longest document that a model reads at once: attention over more takes minutes and gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How ids are drawn.

    Attributes:
        temperature: Divides the logits, at least 0; 0 takes the likeliest id.
        top_k: Draw among this many likeliest ids, at least 1. None: all.
        top_p: Draw among the likeliest ids that hold this share of the probability, in (0, 1].
        seed: Of this request alone, at least 0. None: drawn from torch's global generator.
        guidance: How far codes are pushed from what the request's null condition says to what its
            document says, at least 0: their logits are null + guidance x (document - null). 1: not
            at all; 0: as if nothing had been given. Headers, openers and the chance of an end
            stay those of the document.

    References:
        Ho and Salimans, Classifier-free diffusion guidance, 2022. Differs: on the logits of codes
        alone, as Make-A-Scene does (Gafni et al., 2022); an end keeps its chance.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.temperature < float("inf")):
            raise ConfigError(f"`temperature` must be at least 0, but is {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"`top_k` must be at least 1, but is {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must lie in (0, 1], but is {self.top_p}.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"`seed` must lie in [0, 2**63), but is {self.seed}.")
        if not (self.guidance >= 0 and self.guidance < float("inf")):
            raise ConfigError(f"`guidance` must be at least 0, but is {self.guidance}.")

    @property
    def is_guided(self) -> bool:
        """Whether the null condition has a say."""
        return self.guidance != 1.0


@dataclass(frozen=True)
class Request:
    """What is given, and what is asked for.

    Attributes:
        document: The given segments, each with a value. Segments from the first asked one on are
            left out.
        asked: Modalities to write, in order, or the name of one. None: free switching, which the
            checkpoint must list openers for. By default what the document's roles ask for.
        sampling: How ids are drawn.
        max_tokens: Ids that the answer may have in all: openers, headers, ends and a prefix
            included. The answer is always whole: ids that could not be finished within are never
            drawn.
        constraints: Decode constraints, by modality that is asked for.
        prefix: A value that the first asked segment begins with: whole where the layout has an end,
            else with `prefix_cells`. Of a layout of one size also the first codes, as `Tokens`.
        prefix_cells: How many of the prefix's cells are given, in raster order; a header is that of
            the whole value. None: all.
        null: The document with what guidance pushes away from left out (`Task.null`); needed where
            `sampling` is guided.
    """

    document: Document
    asked: Sequence[str] | str | None = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    constraints: Mapping[str, Sequence[Constraint]] = field(default_factory=dict)
    prefix: Any = None
    prefix_cells: int | None = None
    null: Document | None = None

    def wanted(self) -> list[str] | None:
        """Modalities to write; None for free switching."""
        if self.asked is None:
            return None
        if isinstance(self.asked, str):
            return [self.asked]
        return list(self.asked) or self.document.asked()

    def constraints_of(self, name: str) -> tuple[Constraint, ...]:
        """The request's constraints on a modality, with those of the document's asked segments."""
        of_document = [
            constraint
            for segment in self.document.segments
            if segment.role == "asked" and segment.modality == name
            for constraint in segment.constraints
        ]
        return (*self.constraints.get(name, ()), *of_document)


@dataclass(frozen=True)
class Written:
    """One generated segment.

    Attributes:
        modality: Ledger name.
        value: The decoded value.
        ids: Global ids after the opener: header, content, end.
        logprobs: Log-probability of each id under the softmax of its head set, given the document
            alone: before guidance, temperature and masks, in nats; 0 for forced ids.
        forced: Which ids had no alternative and were appended, not drawn.
        guided_logprobs: As `logprobs`, but after guidance; the same where nothing guides.
        tokens: What the value was decoded from.
    """

    modality: str
    value: Any
    ids: list[int]
    logprobs: list[float]
    forced: list[bool]
    guided_logprobs: list[float] = field(default_factory=list)
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to one request.

    Attributes:
        segments: What was written, in order; empty if the request failed.
        ids, logprobs, forced, guided_logprobs: Of the whole answer, openers included.
        is_truncated: Whether `max_tokens` chose an id: it left one where the layout allows several,
            e.g. the end of a text.
        error: Why the request failed; it failed alone.
        alternatives: All answers, where several were drawn for one prompt.
        reverse_logprob: Log-probability of what was given, after this answer, in nats; None unless
            answers were ranked by it.
    """

    segments: list[Written] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    is_truncated: bool = False
    error: UnimodalError | None = None
    alternatives: tuple["Answer", ...] = ()
    guided_logprobs: list[float] = field(default_factory=list)
    reverse_logprob: float | None = None

    @property
    def value(self) -> Any:
        """The first written value.

        Raises:
            UnimodalError: the request's error, if it failed.
        """
        if self.error is not None:
            raise self.error
        if not self.segments:
            raise ConfigError("The answer has no segment.", remedy="Ask for a modality.")
        return self.segments[0].value

    @property
    def values(self) -> list[Any]:
        """All written values."""
        return [segment.value for segment in self.segments]

    @property
    def logprob(self) -> float:
        """Log-probability of the whole answer given the document, in nats."""
        return sum(self.logprobs)
