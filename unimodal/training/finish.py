"""What comes after the last step: the scores of the tasks, and the report."""

from pathlib import Path

from unimodal.model.decoder import Decoder
from unimodal.tasks.base import TaskConfig


def finish_run(run: Path, decoder: Decoder, tasks: dict[str, TaskConfig]) -> None:
    """Score every task on held-out records and write the report."""


def sample_run(run: Path, decoder: Decoder, tasks: dict[str, TaskConfig]) -> None:
    """Score a few held-out records while training goes on."""
