"""What comes after the last step, and now and then before it: the scores and the report."""

from collections.abc import Callable
from pathlib import Path

from unimodal.evaluation import EvaluationConfig
from unimodal.model.decoder import Decoder
from unimodal.report import score_and_report
from unimodal.tasks.base import TaskConfig
from unimodal.training.signals import StopFlag

Score = Callable[[Path, Decoder, dict[str, TaskConfig], StopFlag], None]
"""Scores a model: (run folder, decoder, tasks, who wants to stop)."""


def scorer(records: int, command: str) -> Score:
    """A function that scores every task on held-out records, and writes results and report.

    Args:
        records: Records of each task, at most.
        command: The command that gives these results, recorded beside them.
    """
    config = EvaluationConfig(limit=records, command=command)

    def score(run: Path, decoder: Decoder, tasks: dict[str, TaskConfig], flag: StopFlag) -> None:
        score_and_report(run, decoder, tasks, config, should_stop=lambda: bool(flag))

    return score
