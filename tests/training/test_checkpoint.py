"""Checkpoints under faults: killed at any point, damaged, refused by the disk."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unimodal.errors import CheckpointError
from unimodal.model import durable
from unimodal.model.durable import write_tensors
from unimodal.training import checkpoint
from unimodal.training.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint
from unimodal.training.draws import DataState
from unimodal.training.schedule import Progress

POINTS = ("made", "model", "optimizer", "filled", "manifest", "synced", "renamed", "dropping")


def save(run: Path, step: int, **changes: Any) -> Path:
    def write_model(folder: Path) -> None:
        write_tensors(folder / "model.safetensors", {"w": torch.full((64,), float(step))})

    settings: dict[str, Any] = {
        "write_model": write_model,
        "progress": Progress(step=step, tokens=10 * step),
        "data": DataState(draws=step, pending=[("a", step)]),
        "course": {"seed": 0},
        "optimizer": {"step:w": torch.tensor(float(step))},
        "average": {"w": torch.zeros(64)},
        "world": 1,
    }
    return save_checkpoint(run, **{**settings, **changes})


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    found = read_checkpoint(newest)
    assert found.progress == Progress(step=7, tokens=70)
    assert found.data == DataState(draws=7, pending=[("a", 7)])
    assert found.optimizer["step:w"].item() == 7
    assert found.average is not None
    manifest = json.loads((newest / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert manifest["world"] == 1
    assert len(manifest["config_hash"]) == 64
    assert {"model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"} == set(
        manifest["files"]
    )


def test_at_least_two_are_kept_and_none_is_overwritten(tmp_path: Path) -> None:
    for step in range(1, 5):
        save(tmp_path, step, keep=1)
    assert steps(tmp_path) == ["step-00000003", "step-00000004"]
    manifest = tmp_path / "checkpoints" / "step-00000004" / "manifest.json"
    before = manifest.read_bytes()
    save(tmp_path, 4)
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[-3] ^= 4
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-5])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000001"
    assert name in caplog.text
    assert "step-00000002" in caplog.text
    # The step can be saved again.
    assert newest_checkpoint(tmp_path) == newest
    save(tmp_path, 2)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000002"


def test_a_kill_at_any_point_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """In a process of its own, which forks before any thread runs (see the end of this file)."""
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(POINTS, True)
    for point in POINTS:
        run = tmp_path / point
        newest = newest_checkpoint(run)
        assert newest is not None
        durable.verify_folder(newest)
        wanted = 3 if point in ("renamed", "dropping") else 2
        assert read_checkpoint(newest).progress.step == wanted
        save(run, 4)
        assert not [name for name in steps(run) if ".tmp-" in name]


@pytest.mark.parametrize("error", [28, 30])
def test_a_disk_that_refuses_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    save(tmp_path, 1)

    def refuse(path: Path, tensors: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("unimodal.training.checkpoint.write_tensors", refuse)
    with pytest.raises(CheckpointError, match=os.strerror(error)) as caught:
        save(tmp_path, 2)
    assert caught.value.remedy
    assert steps(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path) is not None


def test_no_pickle_is_ever_opened(tmp_path: Path) -> None:
    """A checkpoint that was built with a pickle in the place of its weights is refused unread."""
    canary = tmp_path / "canary"
    payload = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."

    def write_model(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(payload)

    save(tmp_path, 1, write_model=write_model)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        durable.read_tensors(newest / "model.safetensors")
    assert not canary.exists()


def killed_at(run: Path, point: str) -> bool:
    """Save a step in a fork that kills itself at `point`; whether it came to that."""
    pid = os.fork()
    if pid == 0:

        def die(reached: str) -> None:
            if reached == point:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.reached = checkpoint.reached = die
        save(run, 3)
        os._exit(9)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for name in POINTS:
        for number in (1, 2):
            save(Path(sys.argv[1]) / name, number)
        found[name] = killed_at(Path(sys.argv[1]) / name, name)
    print(json.dumps(found))
