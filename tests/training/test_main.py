"""`unimodal train` as a process: Hydra's own options, exit codes, signals, ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser

from unimodal.errors import ConfigError
from unimodal.model.durable import read_tensors
from unimodal.training.main import OTHER_OPTIONS, VALUE_OPTIONS, compose, options_first
from unimodal.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
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
    return subprocess.run(
        command(folder, *overrides),
        cwd=folder,
        env=ENVIRONMENT,
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
    assert "Error executing job" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\nname: x\ntasks: {a: [\n", r"mine\.yaml, line 4: This is not YAML"),
        ("# @package _global_\nname: x\nname: y\n", r"mine\.yaml, line 3: .*duplicate key name"),
        ("name: x\n", r"Unknown key `experiment`.*first line must be `# @package _global_`"),
    ],
)
def test_a_broken_experiment_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "conf" / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        compose(["experiment=mine"], str(folder / "conf"))


def test_a_broken_file_is_one_message_on_the_command_line(folder: Path) -> None:
    (folder / "conf" / "experiment" / "mine.yaml").write_text("name: [\n")
    done = run(folder)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2, done.stderr


def test_sigterm_saves_exits_with_85_and_the_run_resumes(folder: Path) -> None:
    overrides = ["training.max_steps=100000", "training.log_every=1"]
    process = subprocess.Popen(
        command(folder, *overrides),
        cwd=folder,
        env=ENVIRONMENT,
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


def test_two_ranks_of_a_launcher_train_as_one_process_does(folder: Path) -> None:
    """Same samples, losses and weights within 1e-5; one rank alone writes."""
    settings = ["training.log_every=1", "training.max_steps=4", "training.rows_per_step=4"]
    settings += ["training.evaluation_documents=2"]  # one batch: less than there are ranks
    alone = run(folder, *settings, "run_dir=alone")
    assert alone.returncode == 0, alone.stderr
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = command(folder, *settings, "run_dir=together")[1:]
    together = subprocess.run(
        [sys.executable, *launcher, *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert together.returncode == 0, together.stderr
    one, two = (read_metrics(folder / name / "metrics.jsonl") for name in ("alone", "together"))
    assert [(line["step"], line["kind"]) for line in two] == [
        *((step, "train") for step in (1, 2, 3, 4)),
        (4, "held_out"),
    ]
    assert abs(one[-1]["bits"]["genome_per_base"] - two[-1]["bits"]["genome_per_base"]) < 1e-5
    for mine, theirs in zip(one, two, strict=True):
        assert abs(mine["loss"] - theirs["loss"]) < 1e-5
        assert mine.get("total_tokens") == theirs.get("total_tokens")
    weights = [
        read_tensors(folder / name / "model" / "model.safetensors")
        for name in ("alone", "together")
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-5)
    (saved,) = (folder / "together" / "checkpoints").iterdir()
    assert json.loads((saved / "manifest.json").read_text())["world"] == 2


def test_json_gives_the_result_or_the_error_and_nothing_else(folder: Path) -> None:
    done = run(folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["folder"] == "runs/mine"
    assert (result["finished"], result["steps"], result["results"]) == (True, 2, None)
    failed = run(folder, "--json", "data.path=missing.fa", "run_dir=other")
    assert failed.returncode == 2
    assert "missing.fa" in json.loads(failed.stdout)["subject"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--multirn", "seed=1"], r"no option `--multirn`.*`--multirun`"),
        (["experiment=mine", "--cfg"], "`--cfg` needs a value"),
    ],
)
def test_a_mistaken_option_is_one_clear_error(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_first(words)


def test_all_options_of_hydra_are_known() -> None:
    found = {word for action in get_args_parser()._actions for word in action.option_strings}
    assert found == VALUE_OPTIONS | OTHER_OPTIONS
