"""`unimodal demo`: trains one small model over five modalities, scores it, and shows it.

Everything that it needs lies in the package. A demo that was stopped goes on where it was; one
that is finished is scored again. `--fresh` begins anew.
"""

import argparse
import shutil
import time
from pathlib import Path

from unimodal.cli.options import add_compute_options
from unimodal.errors import CheckpointError, ConfigError

ABOUT = "Train, score and show a small model over pictures, speech, video, DNA and text."
RESULTS_FILE = "results-scratch.json"
LIMIT = 300
"""Held-out records of each task: enough for small standard errors, few enough for the clock."""
MAX_ANSWER = 48
"""Longest generated answer, in ids; the longest caption of the embedded data has fewer."""
BASELINE_RECORDS = 8000
"""Training records that baselines see, at most: more than the model reads of any task."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, by the clock")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"), metavar="FOLDER")
    parser.add_argument("--fresh", action="store_true", help="throw an earlier demo away first")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help="records a task; 0: all"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for train, e.g. training.seed=1"
    )
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, score, report, print."""
    if not arguments.minutes > 0:
        raise ConfigError(f"`--minutes` must be above 0, but is {arguments.minutes}.")
    if arguments.limit < 0:
        raise ConfigError(f"`--limit` must be at least 0, but is {arguments.limit}.")
    began = time.monotonic()
    folder: Path = arguments.run_dir
    if arguments.fresh:
        _throw_away(folder)
    _say(arguments, f"Training for {arguments.minutes:g} minutes on the embedded data ...")
    from unimodal.training.main import compose
    from unimodal.training.run import train

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
    result = train(config, folder)
    if not result.finished:
        _say(arguments, "Stopped. Run the same command again to go on.")
        return result.exit_code
    minutes = result.progress.seconds / 60
    _say(arguments, f"{result.progress.step:,} steps in {minutes:.1f} minutes. Scoring ...")
    code = _score(folder, arguments)
    whole = (time.monotonic() - began) / 60
    _say(arguments, f"\n{folder / 'report.html'}\n{folder / RESULTS_FILE}\n{whole:.1f} minutes")
    return code


def _score(folder: Path, arguments: argparse.Namespace) -> int:
    from unimodal.cli.eval import chosen_tasks, print_evaluation
    from unimodal.evaluation import EvaluationConfig
    from unimodal.evaluation.progress import ProgressBar
    from unimodal.report import score_and_report
    from unimodal.runtime import load
    from unimodal.training.signals import stop_on_signals

    model = load(folder, arguments.device)
    config = EvaluationConfig(
        limit=arguments.limit,
        max_tokens=MAX_ANSWER,
        baseline_records=BASELINE_RECORDS,
        command=arguments.typed,
    )
    tasks = chosen_tasks(model, None)
    bar = ProgressBar(quiet=arguments.json)
    with stop_on_signals() as flag, flag.interrupts(), bar as progress:
        found = score_and_report(
            folder,
            model.decoder,
            tasks,
            config,
            results_file=RESULTS_FILE,
            progress=progress,
            should_stop=lambda: bool(flag),
        )
    return print_evaluation(found, tasks, as_json=arguments.json)


def _throw_away(folder: Path) -> None:
    """Remove an earlier demo, and nothing else.

    Raises:
        CheckpointError: if the folder holds something that is no run.
    """
    if not folder.exists():
        return
    if not (folder / "experiment.json").is_file() and any(folder.iterdir()):
        raise CheckpointError(
            "The folder is not empty, and is no run: it is left alone.",
            subject=str(folder),
            remedy="Choose another with --run-dir.",
        )
    shutil.rmtree(folder)


def _say(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.json:
        print(text, flush=True)
