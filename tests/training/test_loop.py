"""The loop: a run learns, ends by its budget, resumes bitwise, skips what is not finite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unimodal.model.durable import read_tensors
from unimodal.training.config import ExperimentConfig
from unimodal.training.metrics import read_metrics
from unimodal.training.run import train

Make = Callable[..., ExperimentConfig]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "model" / "model.safetensors")


def test_a_run_learns_and_leaves_model_metrics_and_checkpoint(
    experiment: Make, tmp_path: Path
) -> None:
    result = train(experiment({"training.max_steps": 60, "training.evaluate_every": 30}))
    lines = read_metrics(result.folder / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    held = [line for line in lines if line["kind"] == "held_out"]
    assert result.finished
    assert result.exit_code == 0
    assert len(losses) == 60
    assert losses[-1] < 0.6 * losses[0]
    assert [line["step"] for line in held] == [30, 60]
    assert held[-1]["tasks"]["letters"] < held[0]["tasks"]["letters"]
    assert held[-1]["bits"]["letters_per_byte"] > 0
    assert (result.folder / "model" / "manifest.json").is_file()
    assert (result.folder / "checkpoints" / "step-00000060" / "optimizer.safetensors").is_file()


def test_a_run_resumes_bitwise_at_every_step(experiment: Make, tmp_path: Path) -> None:
    steps = 8
    whole = train(experiment({"training.max_steps": steps, "run_dir": str(tmp_path / "whole")}))
    reference = final_weights(whole.folder)
    for stop in range(1, steps):
        folder = str(tmp_path / f"stop-{stop}")
        # The schedule follows the budget, so the first part has the same one and is stopped.
        first = experiment({"training.max_steps": steps, "run_dir": folder})
        assert not train_until(first, stop).finished
        second = train(experiment({"training.max_steps": steps, "run_dir": folder}))
        assert second.progress.step == steps
        found = final_weights(second.folder)
        assert all(torch.equal(found[name], reference[name]) for name in reference)


def train_until(config: ExperimentConfig, step: int) -> Any:
    """Train, and ask to stop when `step` steps are done."""
    from unimodal.training.loop import Loop

    one_step = Loop._step

    def stop_there(self: Loop, data: Any) -> None:
        one_step(self, data)
        if self.progress.step == step:
            self.settings.flag.set("test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", stop_there)
        return train(config)
