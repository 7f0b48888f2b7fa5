"""What comes after the last step, and now and then before it: the scores and the report."""

import json
import logging
from pathlib import Path

from unimodal.evaluation import EvaluationConfig
from unimodal.model.decoder import Decoder
from unimodal.report import score_and_report
from unimodal.report.board import write_samples
from unimodal.report.page import DATA_FILE, RESULTS_FILE
from unimodal.report.tokenizer import report_tokenizer
from unimodal.tasks.base import TaskConfig
from unimodal.training.metrics import Draw
from unimodal.training.run import Score
from unimodal.training.signals import StopFlag
from unimodal.training.subject import Trained

log = logging.getLogger(__name__)
SAMPLE_RESULTS = "results-validation.json"
"""Scores on the way, which choices may be made by: never on the test split."""


def scorer(
    records: int, command: str, *, split: str = "auto", results_file: str = RESULTS_FILE
) -> Score:
    """A function that scores every task on held-out records, and writes results and report.

    It returns what writes the samples of the report to a TensorBoard.

    Args:
        records: Records of each task, at most; -1: all.
        command: The command that gives these results, recorded beside them.
        split: Split that is scored.
        results_file: Name of the results in the run folder.
    """
    config = EvaluationConfig(limit=max(0, records), command=command, split=split)

    def score(run: Path, trained: Trained, tasks: dict[str, TaskConfig], flag: StopFlag) -> Draw:
        report = score_and_report if isinstance(trained, Decoder) else report_tokenizer
        found = report(
            run,
            trained,  # type: ignore[arg-type]
            tasks,
            config,
            results_file=results_file,
            should_stop=lambda: bool(flag),
        )
        for note in found.notes:
            log.warning("%s", note)
        shown = json.loads((run / DATA_FILE).read_text("utf-8"))
        return lambda board, step: write_samples(board, shown.get("samples", {}), step)

    return score


def sampler(records: int, command: str) -> Score:
    """`scorer` for the time of training: on the validation split, in a file of its own."""
    return scorer(records, command, split="validation", results_file=SAMPLE_RESULTS)
