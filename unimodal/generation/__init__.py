"""Generation: requests of any mix of modalities answered in batches, and scoring."""

from unimodal.generation.engine import Engine, OnProgress, generate
from unimodal.generation.requests import Answer, Request, Sampling, Written
from unimodal.generation.scoring import Score, SegmentScore, classify, embed, score

__all__ = [
    "Answer",
    "Engine",
    "OnProgress",
    "Request",
    "Sampling",
    "Score",
    "SegmentScore",
    "Written",
    "classify",
    "embed",
    "generate",
    "score",
]
