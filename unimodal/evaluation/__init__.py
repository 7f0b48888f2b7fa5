"""Evaluation: metrics with standard errors, baselines, and results in one form."""

from unimodal.evaluation.evaluate import Evaluation, EvaluationConfig, evaluate
from unimodal.evaluation.results import (
    Results,
    is_better,
    missing_scores,
    not_above,
    read_results,
    write_results,
)

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "Results",
    "evaluate",
    "is_better",
    "missing_scores",
    "not_above",
    "read_results",
    "write_results",
]
