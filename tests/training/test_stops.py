"""Signals outside the loop end a command within seconds, with the code that asks for another go."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from unimodal.cli.main import main
from unimodal.training.config import ExperimentConfig
from unimodal.training.run import train


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_scoring_a_run_is_interrupted_and_exits_with_85(
    experiment: Callable[..., ExperimentConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """Wherever scoring is at that moment: it polls between batches alone."""
    run = train(experiment({"training.max_steps": 1, "training.evaluation_documents": 0})).folder

    def slow(*given: Any, **named: Any) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(30)

    monkeypatch.setattr("unimodal.report.score_and_report", slow)
    start = time.monotonic()
    assert main(["eval", str(run), "--device", "cpu"]) == 85
    assert time.monotonic() - start < 20
    assert "Run the same command again" in capsys.readouterr().err
    assert not (run / "results.json").exists()
