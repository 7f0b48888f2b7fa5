"""`unimodal eval`: scores of a run on held-out data, each beside its baseline."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unimodal.cli.console import print_json, print_table
from unimodal.cli.options import add_compute_options, add_run
from unimodal.errors import EXIT_FAILURE, CheckpointError, ConfigError

if TYPE_CHECKING:
    from unimodal.evaluation import Evaluation, Results
    from unimodal.runtime import Model
    from unimodal.tasks import TaskConfig

ABOUT = "Score a run on held-out data; writes results and report beside the model."
QUICK_LIMIT = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `eval`."""
    add_run(parser)
    parser.add_argument("--full", action="store_true", help="all held-out records")
    parser.add_argument(
        "--limit",
        type=int,
        default=None,
        metavar="N",
        help=f"records a task; by default {QUICK_LIMIT}; 0: all",
    )
    parser.add_argument("--split", default="auto", help="auto: test, else validation")
    parser.add_argument("--seed", type=int, default=0, help="draws the records")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for results.json and report.html; by default RUN",
    )
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score, write, print."""
    if arguments.full and arguments.limit is not None:
        raise ConfigError("Give --full or --limit, not both.")
    from unimodal.evaluation import EvaluationConfig
    from unimodal.evaluation.progress import ProgressBar
    from unimodal.model.durable import MANIFEST
    from unimodal.report import score_and_report
    from unimodal.runtime import load
    from unimodal.training.signals import stop_on_signals

    limit = QUICK_LIMIT if arguments.limit is None else arguments.limit
    config = EvaluationConfig(
        split=arguments.split,
        limit=0 if arguments.full else limit,
        seed=arguments.seed,
        command=arguments.typed,
    )
    model = load(arguments.run, arguments.device)
    tasks = chosen_tasks(model, arguments.tasks)
    folder = arguments.out or model.folder or Path(arguments.run)
    if (folder / MANIFEST).is_file():
        raise ConfigError(
            "A model folder is sealed by its manifest: results do not go into it.",
            subject=str(folder),
            remedy="Give --out FOLDER, or name the run folder.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    bar = ProgressBar(quiet=arguments.json)
    with stop_on_signals() as flag, flag.interrupts(), bar as progress:
        found = score_and_report(
            folder, model.decoder, tasks, config, progress=progress, should_stop=lambda: bool(flag)
        )
    code = print_evaluation(found, tasks, as_json=arguments.json)
    if not arguments.json:
        print(f"\n{folder / 'results.json'}\n{folder / 'report.html'}")
    return code


def chosen_tasks(model: "Model", names: list[str] | None) -> "dict[str, TaskConfig]":
    """Configs of the run's tasks, all or some.

    Raises:
        CheckpointError: if the run recorded none.
        ConfigError: if a name is unknown.
    """
    from unimodal.registry import did_you_mean

    configs = {name: task.config for name, task in model.tasks.items()}
    if not configs:
        raise CheckpointError(
            "The run recorded no tasks to score.",
            subject=str(model.folder),
            remedy="Give the folder of a training run, with its experiment.json.",
        )
    for name in names or ():
        if name not in configs:
            raise ConfigError(f"The run has no task `{name}`.", remedy=did_you_mean(name, configs))
    return {name: configs[name] for name in names or configs}


def print_evaluation(found: "Evaluation", tasks: Iterable[str], *, as_json: bool) -> int:
    """Scores, notes, and what is not above its baseline.

    Returns:
        The exit code: 1 if a task has no score.
    """
    if as_json:
        print_json(found.results)
    else:
        print_results(found.results)
    return print_notes(found, tasks, as_json=as_json)


def print_notes(found: "Evaluation", tasks: Iterable[str], *, as_json: bool) -> int:
    """Notes, and what is missing or not above its baseline; beside JSON, to the standard error.

    Returns:
        The exit code: 1 if a task has no score.
    """
    from unimodal.evaluation import missing_scores, not_above

    missing = missing_scores(found.results, tasks)
    notes = [f"note: {note}" for note in found.notes]
    if missing:
        notes.append(f"Without a score: {', '.join(missing)}.")
    if below := not_above(found.results):
        names = ", ".join(below)
        notes.append(f"Not above their strongest baseline by two standard errors: {names}.")
    for note in notes:
        print(note, file=sys.stderr if as_json else sys.stdout)
    return EXIT_FAILURE if missing else 0


def print_results(results: "Results") -> None:
    """The table of scores."""
    from unimodal.evaluation.results import as_text

    rows = []
    for task, entries in results.items():
        for metric, entry in entries.items():
            margin = entry.get("margin")
            rows.append(
                [
                    task,
                    metric.replace("_", " "),
                    as_text(entry["value"], entry["standard_error"]),
                    as_text(entry["baseline"]),
                    entry["baseline_name"],
                    "" if margin is None else f"{margin:+.1f}",
                    entry["n"],
                    entry["split"],
                ]
            )
    names = ["task", "metric", "value", "baseline", "which", "margin (s.e.)", "n", "split"]
    print_table(names, rows)
