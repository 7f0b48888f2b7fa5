"""`unimodal eval`: scores of a run on held-out data, each beside its baseline."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unimodal.cli.console import print_json, print_table
from unimodal.cli.options import add_compute_options, add_run
from unimodal.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from unimodal.evaluation import Results
    from unimodal.runtime import Model
    from unimodal.tasks import TaskConfig

ABOUT = "Score a run on held-out data; writes results and report beside the model."
QUICK_LIMIT = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `eval`."""
    add_run(parser)
    parser.add_argument("--full", action="store_true", help="all held-out records")
    parser.add_argument(
        "--limit", type=int, default=None, metavar="N", help=f"records a task; {QUICK_LIMIT}"
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
    from unimodal.model.durable import MANIFEST
    from unimodal.report import score_and_report
    from unimodal.runtime import load

    limit = 0 if arguments.full else (arguments.limit or QUICK_LIMIT)
    config = EvaluationConfig(
        split=arguments.split,
        limit=limit,
        seed=arguments.seed,
        command=_command(arguments, limit),
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
    with ProgressBar(quiet=arguments.json) as progress:
        found = score_and_report(folder, model.decoder, tasks, config, progress=progress)
    if arguments.json:
        print_json(found.results)
        return 0
    print_results(found.results)
    for note in found.notes:
        print(f"note: {note}")
    print(f"\n{folder / 'results.json'}\n{folder / 'report.html'}")
    return 0


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


def print_results(results: "Results") -> None:
    """The table of scores."""
    rows = []
    for task, entries in results.items():
        for metric, entry in entries.items():
            margin = entry.get("margin")
            spread = entry["standard_error"]
            rows.append(
                [
                    task,
                    metric.replace("_", " "),
                    f"{entry['value']:.3f} \u00b1 {spread:.3f}",
                    "" if entry["baseline"] is None else f"{entry['baseline']:.3f}",
                    entry["baseline_name"],
                    "" if margin is None else f"{margin:+.1f}",
                    entry["n"],
                    entry["split"],
                ]
            )
    names = ["task", "metric", "value", "baseline", "which", "margin (s.e.)", "n", "split"]
    print_table(names, rows)


class ProgressBar:
    """A progress bar of evaluation on standard error, where that is a terminal."""

    def __init__(self, *, quiet: bool = False):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        hidden = quiet or not console.is_terminal
        self._progress = Progress(*columns, console=console, disable=hidden)
        self._known: dict[str, object] = {}

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        if name not in self._known:
            self._known[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._known[name], completed=done)  # type: ignore[arg-type]


def _command(arguments: argparse.Namespace, limit: int) -> str:
    """The command that gives these results again."""
    words = ["unimodal", "eval", str(arguments.run)]
    words += ["--full"] if limit == 0 else ["--limit", str(limit)]
    words += ["--split", arguments.split] if arguments.split != "auto" else []
    words += ["--seed", str(arguments.seed)] if arguments.seed else []
    words += ["--tasks", *arguments.tasks] if arguments.tasks else []
    return " ".join(words)
