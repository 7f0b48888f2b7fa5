import json
import math
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unimodal.evaluation import Evaluation, read_results
from unimodal.training.run import RunResult
from unimodal.training.schedule import Progress

Run = Callable[..., Any]
TASKS = {"caption", "transcribe", "describe", "garments", "genome"}


def test_a_stopped_demo_is_85_and_says_how_to_go_on(
    unimodal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def stop(config: Any, run: Path) -> RunResult:
        asked.append(config)
        return RunResult(run, Progress(), finished=False, stopped_by="SIGTERM")

    monkeypatch.setattr("unimodal.training.run.train", stop)
    folder = tmp_path / "demo"
    done = unimodal(
        "demo", "--only", "scratch", "--minutes", "2.5", "--run-dir", folder, "training.seed=7"
    )
    assert done.code == 85
    assert "Run the same command again" in done.out
    [config] = asked
    assert config.training.max_minutes == 2.5
    assert config.training.seed == 7
    assert config.folder == str(folder)
    assert set(config.tasks) == TASKS


def test_fresh_removes_an_earlier_run_and_nothing_else(
    unimodal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "unimodal.training.run.train", lambda config, run: RunResult(run, Progress(), False)
    )
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.png").write_text("x")
    done = unimodal("demo", "--fresh", "--run-dir", other)
    assert done.code == 2
    assert "left alone" in done.err
    assert (other / "holiday.png").exists()
    run = tmp_path / "demo"
    run.mkdir()
    (run / "experiment.json").write_text("{}")
    assert unimodal("demo", "--only", "scratch", "--fresh", "--run-dir", run).code == 85
    assert not run.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limit", "-1"], "`--limit` must be"),
        (["training.max_stps=3"], "max_stps"),
        (["--device", "tpu"], "device"),
    ],
)
def test_wrong_settings_are_2(unimodal: Run, tmp_path: Path, argv: list[str], message: str) -> None:
    done = unimodal("demo", "--run-dir", tmp_path / "x", *argv)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(("value", "code"), [(0.5, 0), (math.nan, 1), (None, 1)])
def test_a_low_score_is_0_and_named_and_a_missing_one_is_1(
    unimodal: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float | None,
    code: int,
) -> None:
    entry = {"value": 0.5, "baseline": 0.5, "baseline_name": "majority answer", "better": "higher"}
    entry |= {
        "standard_error": 0.1,
        "margin": 0.0,
        "above_baseline": False,
        "n": 4,
        "split": "test",
    }
    results = {name: {"exact_match": dict(entry)} for name in TASKS}
    if value is None:
        del results["genome"]
    else:
        results["genome"]["exact_match"]["value"] = value
    asked: list[Any] = []

    def score(*given: Any, **named: Any) -> Evaluation:
        asked.append(given[3])
        return Evaluation(results)

    monkeypatch.setattr(
        "unimodal.training.run.train", lambda c, run: RunResult(run, Progress(), True)
    )
    monkeypatch.setattr("unimodal.runtime.load", lambda *given: SimpleNamespace(decoder=None))
    tasks = lambda model, names: dict.fromkeys(sorted(TASKS))  # noqa: E731
    monkeypatch.setattr("unimodal.cli.demo.chosen_tasks", tasks)
    monkeypatch.setattr("unimodal.report.score_and_report", score)
    folder = tmp_path / "my run, 2"
    done = unimodal("demo", "--only", "scratch", "--run-dir", folder, "--limit", "0")
    assert done.code == code, done.err
    assert "Not above their strongest baseline by two standard errors: " in done.out
    assert "caption exact match" in done.out
    assert ("Without a score: genome." in done.out) is (code == 1)
    assert asked[0].limit == 0
    assert shlex.split(asked[0].command) == [
        "unimodal",
        "demo",
        "--only",
        "scratch",
        "--run-dir",
        str(folder),
        "--limit",
        "0",
    ]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_scoring_at_once_with_85(
    unimodal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reached = []

    def score(*given: Any, **named: Any) -> Evaluation:
        os.kill(os.getpid(), getattr(signal, name))
        reached.append("a long computation that polls nothing")
        return Evaluation({})

    monkeypatch.setattr(
        "unimodal.training.run.train", lambda c, run: RunResult(run, Progress(), True)
    )
    monkeypatch.setattr("unimodal.runtime.load", lambda *given: SimpleNamespace(decoder=None))
    monkeypatch.setattr("unimodal.cli.demo.chosen_tasks", lambda model, names: {})
    monkeypatch.setattr("unimodal.report.score_and_report", score)
    assert unimodal("demo", "--only", "scratch", "--run-dir", tmp_path / "demo").code == 85
    assert not reached


@pytest.mark.soak
def test_the_demo_trains_scores_and_shows_all_tasks(unimodal: Run, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    words = ["demo", "--only", "scratch", "--minutes", "0.1", "--limit", "6", "--json"]
    words += ["--run-dir", folder]
    done = unimodal(*words)
    assert done.code == 0
    results = read_results(folder / "results-scratch.json")
    assert set(results) == TASKS
    assert json.loads(done.out) == {"scratch": results}
    assert not (folder / "results.json").exists()
    page = (folder / "report.html").read_text()
    assert all(f"<h3>{task}</h3>" in page for task in TASKS)
    assert "<audio" in page
    again = unimodal(*words)  # trained already: only scored
    assert again.code == 0
