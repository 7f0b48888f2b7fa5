"""What the handle returns beside answers, scores and vectors: plain values."""

from dataclasses import dataclass
from typing import Any


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
