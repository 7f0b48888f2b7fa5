"""The test of the design: three strangers' classes, installed from outside, with nothing else.

They train together with text, pack with it, are scored above a baseline, generate, and appear in
schema and report. One process does it all, as a stranger would from the command line.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = Path(__file__).parent / "outside_package"
MODULES = ("board", "pulse", "tune")
MAX_LINES = 40

EXPERIMENT = """# @package _global_
name: outside
modalities:
  text: {vocab_size: 280}
  board: {}
  pulse: {}
  tune: {}
data: {name: outside/examples}
model: {width: 64, num_layers: 2, num_heads: 1, num_kv_heads: 1, head_dim: 64, mlp_width: 128}
packing: {row_length: 256, look_ahead: 64}
optimizer: {learning_rate: 5e-3}
schedule: {warmup_steps: 10}
training: {max_steps: 120, rows_per_step: 2, rows_per_batch: 2, evaluate_every: 0, log_every: 20,
  evaluation_documents: 6, final_records: 0}
device: cpu
progress: false
"""

SCRIPT = """
import contextlib, io, json, sys
import torch
torch.set_num_threads(1)
from unimodal.cli.main import main

found = {}
def run(name, *argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    found[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}

run("train", "train", "--config-dir", "conf", "experiment=outside", "run_dir=run")
run("schema", "schema", "run", "--json")
run("eval", "eval", "run", "--limit", "30", "--json")
run("board", "generate", "run", "brisk", "--to", "board", "--temperature", "0", "--json")
run("tune", "generate", "run", "wild", "--to", "tune", "--out", "out.tune", "--json")
run("back", "generate", "run", "out.tune", "--to", "text", "--temperature", "0", "--json")
run("score", "score", "run", "out.tune", "--json")
run("embed", "embed", "run", "out.tune", "--json")
for name in ("board", "pulse", "tune"):
    run(f"check {name}", "modality", "check", name, "--json")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "package"
    source.mkdir()
    (source / "outside_modalities").mkdir()
    for path in [PACKAGE / "pyproject.toml", *PACKAGE.glob("outside_modalities/*.py")]:
        (source / path.relative_to(PACKAGE)).write_bytes(path.read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    subprocess.run([str(word) for word in command], check=True, timeout=180, capture_output=True)
    return target


@pytest.fixture(scope="module")
def work(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which it was trained, scored and used, and how each command ended."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "outside.yaml").write_text(EXPERIMENT)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env={"PYTHONPATH": f"{installed}:{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    failed = {name: end for name, end in found.items() if end["code"]}
    assert not failed, failed
    return folder, found


def test_each_class_is_one_short_file() -> None:
    for name in MODULES:
        lines = (PACKAGE / "outside_modalities" / f"{name}.py").read_text().splitlines()
        assert len(lines) <= MAX_LINES, name


def test_they_hold_the_contract(work: tuple[Path, dict[str, Any]]) -> None:
    for name in MODULES:
        assert json.loads(work[1][f"check {name}"]["out"])["findings"] == []


def test_they_train_together_in_shared_rows(work: tuple[Path, dict[str, Any]]) -> None:
    text = (work[0] / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert set(train[-1]["tasks"]) == {
        "model_board",
        "board_to_text",
        "text_to_board",
        "pulse_to_text",
        "model_tune",
        "tune_to_text",
        "text_to_tune",
    }
    assert train[-1]["loss"] < 0.5 * train[0]["loss"]
    # A row of 256 positions holds about a dozen documents of all tasks.
    assert train[-1]["fill"] > 0.95


def test_they_are_scored_above_a_baseline(work: tuple[Path, dict[str, Any]]) -> None:
    results = json.loads(work[1]["eval"]["out"])
    for task in ("board_to_text", "pulse_to_text", "tune_to_text"):
        entry = results[task]["exact_match"]
        baselines = entry["baselines"]
        majority = next(v for name, v in baselines.items() if name.startswith("majority answer"))
        assert entry["value"] > majority + 0.2, task
    for task, unit in (("model_board", "square"), ("model_tune", "note")):
        entry = results[task][f"bits_per_{unit}"]
        assert entry["baseline_name"].startswith("uniform choice")
        assert entry["value"] < entry["baseline"] - 2 * entry["standard_error"]


def test_they_generate_and_go_through_files(work: tuple[Path, dict[str, Any]]) -> None:
    folder, found = work
    lines = (folder / "out.tune").read_text().splitlines()
    assert lines[0] == "TUNE"
    assert all(len(line.split()) == 2 for line in lines[1:])
    assert json.loads(found["back"]["out"])["value"] in ("calm", "brisk", "wild")
    assert json.loads(found["score"]["out"])["scores"][0]["modality"] == "tune"
    assert json.loads(found["embed"]["out"])["shape"] == [1, 64]
    assert "array" in json.loads(found["board"]["out"])["value"]


def test_they_appear_in_schema_and_report(work: tuple[Path, dict[str, Any]]) -> None:
    folder, found = work
    schema = json.loads(found["schema"]["out"])
    assert set(schema["modalities"]) == {"text", *MODULES}
    headers = schema["modalities"]["board"]["grammar"]["headers"]
    assert [h["sizes"] for h in headers] == [[2, 4], [2, 4]]
    page = (folder / "run" / "report.html").read_text()
    assert "\U0001f7e9" in page  # a green square: the stranger's own `show`
    assert all(name in page for name in MODULES)
    assert "http://" not in page.replace("http://www.w3.org", "")
