"""Thirty seeded faults over three hundred steps leave the final weights as without any."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.model import durable
from unimodal.model.durable import read_tensors
from unimodal.training import checkpoint
from unimodal.training.config import ExperimentConfig
from unimodal.training.loop import Loop
from unimodal.training.metrics import read_metrics
from unimodal.training.run import train

Make = Callable[..., ExperimentConfig]
POINTS = ("made", "model", "optimizer", "filled", "manifest", "synced", "renamed", "dropping")
KINDS = ("kill in a step", "kill in a save", "kill and damage", "disk full", "ask to stop")
NUM_FAULTS = 30
NUM_STEPS = 300


class Killed(BaseException):
    """Stands for SIGKILL: nothing above the test catches it."""


def damage_newest(run: Path, rng: np.random.Generator) -> None:
    """Flip one bit of one file of the newest checkpoint."""
    folders = sorted((run / "checkpoints").glob("step-????????"))
    if folders:
        files = sorted(path for path in folders[-1].rglob("*") if path.is_file())
        path = files[int(rng.integers(len(files)))]
        data = bytearray(path.read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)


def run_with_fault(config: ExperimentConfig, kind: str, rng: np.random.Generator) -> bool:
    """Train until the fault, or to the end; whether the run finished."""
    steps_left, point = int(rng.integers(2, 24)), POINTS[int(rng.integers(len(POINTS)))]
    one_step = Loop._step

    def step(self: Loop, data: Any) -> None:
        nonlocal steps_left
        one_step(self, data)
        steps_left -= 1
        if steps_left == 0 and kind == "ask to stop":
            self.settings.flag.set("test")
        elif steps_left == 0 and kind.startswith("kill") and kind != "kill in a save":
            raise Killed

    def reached(name: str) -> None:
        if kind == "kill in a save" and name == point:
            raise Killed
        if kind == "disk full" and name == "filled":
            raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        patch.setattr(durable, "reached", reached)
        patch.setattr(checkpoint, "reached", reached)
        try:
            return train(config).finished
        except Killed:
            return False
        except durable.CheckpointError as error:
            if "No space left" not in str(error):
                raise
            return False


@pytest.mark.soak
def test_faults_do_not_change_where_a_run_ends(experiment: Make, tmp_path: Path) -> None:
    changes = {
        "training.max_steps": NUM_STEPS,
        "training.save_every": 10,
        "training.evaluation_documents": 0,
        "training.prefetch": 1,
    }
    whole = train(experiment({**changes, "run_dir": str(tmp_path / "whole")}))
    config = experiment({**changes, "run_dir": str(tmp_path / "chaos")})
    rng = np.random.default_rng(20260101)
    for number in range(NUM_FAULTS):
        kind = KINDS[number % len(KINDS)]
        if run_with_fault(config, kind, rng):
            break
        if kind == "kill and damage":
            damage_newest(Path(config.folder), rng)
    assert number >= 20, "the run ended before enough faults"
    assert train(config).finished
    mine = read_tensors(tmp_path / "chaos" / "model" / "model.safetensors")
    reference = read_tensors(whole.folder / "model" / "model.safetensors")
    assert all(torch.equal(mine[name], tensor) for name, tensor in reference.items())
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (whole.folder, tmp_path / "chaos")
    ]
    assert losses[0] == losses[1]
