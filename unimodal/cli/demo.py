"""`unimodal demo`: the shipped model at work, then a small one that is trained from scratch.

Everything that it needs lies in the package. First the shipped model draws and is scored, then a
model over five modalities is trained, scored and shown. A demo that was stopped goes on where it
was; one that is finished is scored again. `--fresh` begins anew.
"""

import argparse
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimodal.cli import showing
from unimodal.cli.console import print_json
from unimodal.cli.eval import chosen_tasks, print_notes, print_results
from unimodal.cli.options import add_compute_options
from unimodal.errors import CheckpointError, ConfigError
from unimodal.shipped import shipped_names

if TYPE_CHECKING:
    from unimodal.evaluation import Results
    from unimodal.runtime import Model
    from unimodal.tasks import TaskConfig
    from unimodal.training.config import ExperimentConfig

ABOUT = "Show the shipped model; train, score and show a small one from scratch."
RESULTS_FILE = "results-scratch.json"
LIMIT = 300
"""Held-out records of each task: enough for small standard errors, few enough for the clock."""
MAX_ANSWER = 48
"""Longest generated answer, in ids; the longest caption of the embedded data has fewer."""
BASELINE_RECORDS = 8000
"""Training records that baselines see, at most: more than the model reads of any task."""
PARTS = ("shipped", "scratch")
EXPERIMENT_FILE = "experiment.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, by the clock")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"), metavar="FOLDER")
    parser.add_argument("--fresh", action="store_true", help="throw an earlier demo away first")
    parser.add_argument("--only", choices=PARTS, help="one of the two models")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help="records a task; 0: all"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for train, e.g. training.seed=1"
    )
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the one, train the other, score, report, print."""
    if not arguments.minutes > 0:
        raise ConfigError(f"`--minutes` must be above 0, but is {arguments.minutes}.")
    if arguments.limit < 0:
        raise ConfigError(f"`--limit` must be at least 0, but is {arguments.limit}.")
    began = time.monotonic()
    folder: Path = arguments.run_dir
    if arguments.fresh:
        _throw_away(folder)
    from unimodal.training.main import compose

    config = compose(
        [
            "experiment=demo",
            f"training.max_minutes={arguments.minutes}",
            f"device={arguments.device}",
            *arguments.overrides,
        ]
    )
    config.run_dir = str(folder)
    config.progress = config.progress and not arguments.json
    results: dict[str, Results] = {}
    code = 0
    if arguments.only != "scratch" and showing.NAME in shipped_names():
        code = _shipped(folder, config, arguments, results)
    if arguments.only != "shipped":
        stopped = _train(folder, config, arguments)
        if stopped is not None:
            return stopped
        model = _load(folder, arguments)
        tasks = chosen_tasks(model, None)
        code |= _score(
            model, tasks, folder, arguments, results, "scratch", results_file=RESULTS_FILE
        )
    if arguments.json:
        print_json(results)
    whole = (time.monotonic() - began) / 60
    _say(arguments, f"\n{folder / 'report.html'}\n{whole:.1f} minutes")
    return code


def _shipped(
    folder: Path,
    config: "ExperimentConfig",
    arguments: argparse.Namespace,
    results: "dict[str, Results]",
) -> int:
    """Pictures of the shipped model, and its scores on the demo's tasks. Returns the exit code."""
    from unimodal.training.build import task_configs

    model = _load(showing.NAME, arguments)
    _say(arguments, f"The shipped model ({model.decoder.num_parameters():,} parameters) draws ...")
    caption = showing.draw_pictures(model, folder)
    _say(arguments, f"{caption}\n{folder / showing.PICTURES_FILE}\nScoring it ...")
    drawn = showing.score_drawings(model, arguments.limit or LIMIT, arguments.typed)
    part = (showing.PART, showing.TITLE)
    return _score(
        model, task_configs(config), folder, arguments, results, "shipped", part=part, more=drawn
    )


def _train(folder: Path, config: "ExperimentConfig", arguments: argparse.Namespace) -> int | None:
    """Train from scratch. Returns the exit code if it was stopped, else None."""
    from unimodal.training.run import train

    _say(arguments, f"Training for {arguments.minutes:g} minutes on the embedded data ...")
    result = train(config, folder)
    if not result.finished:
        _say(arguments, "Stopped. Run the same command again to go on.")
        return result.exit_code
    minutes = result.progress.seconds / 60
    _say(arguments, f"{result.progress.step:,} steps in {minutes:.1f} minutes. Scoring ...")
    return None


def _load(run: str | Path, arguments: argparse.Namespace) -> "Model":
    from unimodal.runtime import load

    return load(run, arguments.device)


def _score(
    model: "Model",
    tasks: "Mapping[str, TaskConfig]",
    folder: Path,
    arguments: argparse.Namespace,
    results: "dict[str, Results]",
    name: str,
    **where: Any,
) -> int:
    """Score a model, write and print what is found. Returns the exit code."""
    from unimodal.evaluation import EvaluationConfig
    from unimodal.evaluation.progress import ProgressBar
    from unimodal.report import score_and_report
    from unimodal.training.signals import stop_on_signals

    config = EvaluationConfig(
        limit=arguments.limit,
        max_tokens=MAX_ANSWER,
        baseline_records=BASELINE_RECORDS,
        command=arguments.typed,
    )
    bar = ProgressBar(quiet=arguments.json)
    with stop_on_signals() as flag, flag.interrupts(), bar as progress:
        found = score_and_report(
            folder,
            model.decoder,
            tasks,
            config,
            progress=progress,
            should_stop=lambda: bool(flag),
            **where,
        )
    results[name] = found.results
    if not arguments.json:
        print_results(found.results)
    return print_notes(found, tasks, as_json=arguments.json)


def _throw_away(folder: Path) -> None:
    """Remove an earlier demo, and nothing else.

    Raises:
        CheckpointError: if the folder holds something that is no run.
    """
    if not folder.exists():
        return
    is_ours = any((folder / name).is_file() for name in (EXPERIMENT_FILE, showing.PICTURES_FILE))
    if not is_ours and any(folder.iterdir()):
        raise CheckpointError(
            "The folder is not empty, and is no run: it is left alone.",
            subject=str(folder),
            remedy="Choose another with --run-dir.",
        )
    shutil.rmtree(folder)


def _say(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.json:
        print(text, flush=True)
