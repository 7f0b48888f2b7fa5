"""Early stopping: the run ends when the held-out loss is flat, and its model is the best one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_loop import train_until
from unimodal.errors import ConfigError
from unimodal.model.durable import read_tensors
from unimodal.model.folder import AVERAGE, CHECKPOINTS
from unimodal.training.config import ExperimentConfig
from unimodal.training.held_out import HeldOut
from unimodal.training.metrics import read_metrics
from unimodal.training.run import train

Make = Callable[..., ExperimentConfig]
SETTINGS = {
    "training.max_steps": 20,
    "training.evaluate_every": 2,
    "training.save_every": 2,
    "training.keep": 20,
    "training.patience": 2,
}


def measuring(losses: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out losses as they are told; the last one for ever."""
    told = iter(losses)

    def measure(self: HeldOut, *given: Any) -> dict[str, Any]:
        return {"loss": next(told, losses[-1]), "tasks": {}}

    monkeypatch.setattr(HeldOut, "measure", measure)


def held_out_steps(run: Path) -> list[int]:
    lines = read_metrics(run / "metrics.jsonl")
    return [line["step"] for line in lines if line["kind"] == "held_out"]


@pytest.mark.parametrize("stop_at", [None, 5])
def test_a_flat_run_ends_with_its_best_weights(
    experiment: Make, monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> None:
    measuring([3.0, 2.0, 2.5, 2.25, 1.0], monkeypatch)
    config = experiment(SETTINGS)
    if stop_at is not None:
        assert not train_until(config, stop_at).finished
    result = train(config)
    assert result.finished
    assert result.progress.step == 8
    assert result.progress.lowest == 2.0
    assert held_out_steps(result.folder) == [2, 4, 6, 8]
    model = read_tensors(result.folder / "model" / "model.safetensors")
    best = read_tensors(result.folder / CHECKPOINTS / "step-00000004" / AVERAGE)
    last = read_tensors(result.folder / CHECKPOINTS / "step-00000008" / AVERAGE)
    assert all(torch.equal(model[name], best[name]) for name in best)
    assert any(not torch.equal(model[name], last[name]) for name in last)
    again = train(config)
    assert again.progress.step == 8


def test_a_run_that_gets_better_uses_its_budget(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring([3.0, 3.5, 2.0, 2.5, 1.5, 1.75, 1.0, 1.0], monkeypatch)
    result = train(experiment({**SETTINGS, "training.max_steps": 16}))
    assert result.progress.step == 16


@pytest.mark.parametrize(
    "wrong",
    [{"patience": 0}, {"evaluate_every": 0}, {"evaluation_documents": 0}],
    ids=["none", "unmeasured", "no documents"],
)
def test_patience_needs_measurements(experiment: Make, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="patience"):
        experiment(SETTINGS | {f"training.{name}": value for name, value in wrong.items()})
