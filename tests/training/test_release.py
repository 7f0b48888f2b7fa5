"""Shipping: bfloat16, averaged weights, no path of a machine, a card, a bound on the bytes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import unimodal.shipped
from unimodal.errors import CheckpointError
from unimodal.model.durable import read_tensors
from unimodal.model.folder import AVERAGE, CHECKPOINTS, MODEL, WEIGHTS, find_model, load_model
from unimodal.runtime import load
from unimodal.training import release
from unimodal.training.config import ExperimentConfig
from unimodal.training.run import train

Make = Callable[..., ExperimentConfig]


@pytest.fixture
def run(experiment: Make, tmp_path: Path) -> Path:
    config = experiment({"training.ema_decay": 0.5, "training.evaluate_every": 3})
    folder = tmp_path / "machine" / "run"
    config.run_dir = str(folder)
    train(config, folder)
    return folder


def test_a_release_is_small_and_draws_on_no_path(run: Path, tmp_path: Path) -> None:
    out = release.release(run, tmp_path / "tiny", machine="two cores", about="A tiny one.")
    weights = read_tensors(out / WEIGHTS)
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    whole = load_model(run).state_dict()
    assert all(torch.equal(weights[name], whole[name].bfloat16()) for name in whole)
    written = (out / "experiment.json").read_text("utf-8")
    assert str(tmp_path) not in written
    assert json.loads(written)["run_dir"] == "runs/tiny"
    card = (out / unimodal.shipped.CARD).read_text("utf-8")
    for words in ("A tiny one.", "two cores", "6 steps", "CC0-1.0", "test/pictures"):
        assert words in card
    assert release.release(run, out, machine="m", about="Again.") == out


def test_a_card_counts_the_runs_that_it_started_from(
    run: Path, experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "machine" / "later"
    train(experiment({"init_from": str(run), "run_dir": str(later)}), later)
    both, first = release.read_course(later), release.read_course(run)
    assert (both.runs, both.steps, both.start) == (2, 12, "scratch")
    assert both.tokens > first.tokens
    assert (both.first, both.best) != (first.first, first.best)
    out = release.release(later, tmp_path / "tiny", machine="", about="")
    assert "12 steps" in (card := (out / unimodal.shipped.CARD).read_text("utf-8"))
    assert "in 2 runs, each from the weights of the one before" in card
    assert json.loads((out / "experiment.json").read_text("utf-8"))["init_from"] is None
    monkeypatch.setattr(unimodal.shipped, "__file__", str(tmp_path / "__init__.py"))
    third = tmp_path / "machine" / "third"
    train(experiment({"init_from": "tiny", "run_dir": str(third)}), third)
    three = release.read_course(third)
    assert (three.runs, three.steps) == (3, 18)
    (run / "metrics.jsonl").unlink()
    assert release.read_course(later).start == "the weights of `run`"


def test_a_run_under_way_gives_its_averaged_weights(run: Path) -> None:
    (run / MODEL).rename(run / "gone")
    checkpoint = find_model(run)
    assert checkpoint.parent.name == CHECKPOINTS
    mine = load_model(run).state_dict()
    averaged, live = (read_tensors(checkpoint / name) for name in (AVERAGE, WEIGHTS))
    assert all(torch.equal(mine[name], averaged[name]) for name in mine)
    assert any(not torch.equal(mine[name], live[name]) for name in mine)


def test_a_model_that_is_too_large_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "LARGEST", 1000)
    with pytest.raises(CheckpointError, match="smaller model"):
        release.release(run, tmp_path / "tiny", machine="", about="")


def test_a_run_without_metrics_is_refused(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match="no step or no evaluation"):
        release.read_course(run)


def test_a_shipped_name_loads_before_a_run_of_that_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.release(run, tmp_path / "shipped" / "tiny", machine="", about="")
    monkeypatch.setattr(unimodal.shipped, "__file__", str(tmp_path / "shipped" / "__init__.py"))
    assert unimodal.shipped.shipped_names() == ["tiny"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    assert load("tiny", "cpu").folder == tmp_path / "shipped" / "tiny"
    assert find_model(Path("tiny")) == tmp_path / "shipped" / "tiny"
    with pytest.raises(CheckpointError, match="a shipped name"):
        load("nothing", "cpu")
