"""`unimodal bench`, each of its ways of asking once, on small sizes."""

import json
from pathlib import Path

import pytest
import torch

from unimodal.cli.main import main
from unimodal.errors import EXIT_USAGE
from unimodal.kernels.bench import run as bench_run

SMALL = ["bench", "--device", "cpu", "--seq", "24", "--heads", "2", "--head-dim", "8"]
QUICK = [*SMALL, "--seconds", "0"]


@pytest.fixture(autouse=True)
def small_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    roof = bench_run.machine.Roof(1e12, 1e10)
    monkeypatch.setattr(bench_run.machine, "measure_roof", lambda *args, **kwargs: roof)
    monkeypatch.setattr(bench_run.timing, "FLUSH_BYTES", {"cpu": 1024})


def test_json_holds_ours_and_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--op", "swiglu", "--against", "eager", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spec"]["op"] == "swiglu"
    assert {row["contender"] for row in found["results"]} == {"unimodal", "eager"}
    assert found["implementation"].startswith("cpu")


def test_a_pattern_with_profile_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "deep" / "speed.png"
    asked = ["--pattern", "row", "--against", "dense", "--profile", "--plot", str(picture)]
    assert main([*QUICK, *asked]) == 0
    printed = capsys.readouterr().out
    assert "ours runs cpu" in printed
    assert "Self CPU" in printed
    assert "unimodal::attention" in printed
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_operator_without_gradients_can_be_drawn_and_profiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "speed.png"
    asked = ["--op", "decode", "--queries", "3", "--plot", str(picture), "--profile"]
    assert main([*QUICK, *asked]) == 0
    assert "Self CPU" in capsys.readouterr().out
    assert picture.stat().st_size > 1000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_tuning_says_that_it_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--op", "swiglu", "--tune"]) == EXIT_USAGE
    assert "Tuning times Triton kernels on a GPU" in capsys.readouterr().err


def test_another_commit_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"revision": "v1", "now": {"machine": {"commit": "abc"}}, "ratios": {"forward": 1.25}}
    monkeypatch.setattr("unimodal.kernels.bench.revisions.compare", lambda spec, rev: found)
    assert main([*QUICK, "--op", "swiglu", "--base", "v1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "v1 against abc: time there / time here",
        "forward: 1.250",
    ]


def test_a_commit_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--op", "swiglu", "--base", "no-such-revision"]) == EXIT_USAGE
    assert "--base" in capsys.readouterr().err
