"""`unimodal train` as a process: Hydra's own options, exit codes, signals, ranks."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from unimodal.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
# @package _global_
name: mine
modalities:
  dna: {n: 2}
tasks:
  genome: {target: dna, data: {path: DATA}}
model:
  {width: 16, num_heads: 2, num_kv_heads: 1, head_dim: 8, mlp_width: 24, num_layers: 1}
packing: {row_length: 64, look_ahead: 8}
training:
  {max_steps: 2, rows_per_step: 2, rows_per_batch: 1, precision: fp32, final_records: 0,
   evaluation_documents: 0, prefetch: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one's own: a manifest of DNA, and a config folder with an experiment."""
    rows = [{"id": str(i), "dna": "ACGT" * (3 + i % 9)} for i in range(40)]
    (tmp_path / "dna.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = EXPERIMENT.lstrip().replace("DATA", str(tmp_path / "dna.jsonl"))
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    return tmp_path


def command(folder: Path, *overrides: str) -> list[str]:
    own = ["--config-dir", str(folder / "conf"), "experiment=mine", "device=cpu", "threads=1"]
    return [sys.executable, "-m", "unimodal.cli.main", "train", *own, *overrides]


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(folder, *overrides),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_a_config_folder_of_ones_own_trains_and_the_run_folder_holds_everything(
    folder: Path,
) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["conf", "dna.jsonl", "runs"]
    held = {path.name for path in (folder / "runs" / "mine").iterdir()}
    assert {"checkpoints", "experiment.json", "hydra", "metrics.jsonl", "model"} <= held


def test_cfg_job_prints_the_config_and_trains_nothing(folder: Path) -> None:
    done = run(folder, "training.seed=7", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout
    assert "row_length: 64" in done.stdout
    assert not (folder / "runs").exists()


def test_multirun_trains_one_run_a_combination(folder: Path) -> None:
    done = run(folder, "--multirun", "training.seed=1,2")
    assert done.returncode == 0, done.stderr
    runs = sorted((folder / "runs" / "mine" / "sweeps").glob("*/*/experiment.json"))
    seeds = [json.loads(path.read_text())["training"]["seed"] for path in runs]
    assert seeds == [1, 2]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.learning_rat=1", ("learning_rat", "learning_rate")),
        ("data.path=missing.fa", ("missing.fa",)),
    ],
)
def test_mistakes_exit_with_2_and_no_traceback(
    folder: Path, override: str, words: tuple[str, ...]
) -> None:
    done = run(folder, override)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_sigterm_saves_exits_with_85_and_the_run_resumes(folder: Path) -> None:
    overrides = ["training.max_steps=100000", "training.log_every=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(folder, *overrides),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        metrics = folder / "runs" / "mine" / "metrics.jsonl"
        limit = time.monotonic() + 150
        while not metrics.is_file() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 85, errors
    (saved,) = (folder / "runs" / "mine" / "checkpoints").iterdir()
    step = int(saved.name.partition("-")[2])
    assert read_metrics(metrics)[-1]["step"] == step
    done = run(folder, f"training.max_steps={step + 1}", "training.log_every=1")
    assert done.returncode == 0, done.stderr
    assert read_metrics(metrics)[-1]["step"] == step + 1


RANKS = """
    import datetime, sys, torch
    from torch import distributed
    from unimodal.training.main import compose
    from unimodal.training.run import train
    torch.set_num_threads(1)
    store, rank, world, conf, run = sys.argv[1:]
    if int(world) > 1:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank),
            world_size=int(world), timeout=datetime.timedelta(seconds=90))
    config = compose(["experiment=mine", "device=cpu", "training.log_every=1",
        "training.max_steps=4", "training.rows_per_step=4", f"run_dir={run}"], conf)
    train(config)
    if int(world) > 1:
        distributed.destroy_process_group()
"""


@pytest.mark.soak
def test_two_ranks_train_as_one_does(folder: Path) -> None:
    """Same samples, losses within 1e-5."""
    script = folder / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    losses = []
    for world in (1, 2):
        target = folder / f"world-{world}"
        store = folder / f"store-{world}"
        processes = [
            subprocess.Popen(
                [sys.executable, script, store, str(r), str(world), folder / "conf", target],
                env=environment,
                cwd=folder,
                stderr=subprocess.PIPE,
                text=True,
            )
            for r in range(world)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors
        lines = read_metrics(target / "metrics.jsonl")
        losses.append(
            [(line["loss"], line["total_tokens"]) for line in lines if line["kind"] == "train"]
        )
    assert len(losses[0]) == 4
    for (one, tokens), (other, same) in zip(*losses, strict=True):
        assert abs(one - other) < 1e-5
        assert tokens == same
