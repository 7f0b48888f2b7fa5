"""Generation: requests of any mix of modalities answered in batches, and scoring."""

from unimodal.generation.engine import Engine, generate
from unimodal.generation.requests import Answer, Request, Sampling, Written

__all__ = ["Answer", "Engine", "Request", "Sampling", "Written", "generate"]
