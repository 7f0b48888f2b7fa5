"""How well a run draws, on held-out prompts: results and a table (speed: `draw`).

    python -m unimodal.benchmarks.pictures RUN [--out docs/results/image.json] [--limit N]
        [--tasks NAME ...] [--known TASK [--through TASK]] [--guidance 3] [--temperature 1]
        [--top-k N] [--best-of N]

Every task of the run that draws pictures is scored (see `unimodal.evaluation.drawing_scores`). The
judges are trained on the task's own training pictures (of another task: `--known`) when they are
first needed (minutes on a CPU), and kept in `--judges`; drawn batches are kept in `--store`. With
`--through` one task writes down what is given, and the known task draws what was written.
Stopped, the same command goes on. `--out` gets the results and a table beside it (`image.md`).
"""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimodal.benchmarks.gallery import BEST_OF
from unimodal.errors import ConfigError, DataError, run_module
from unimodal.evaluation.drawing import (
    DrawingConfig,
    Relay,
    codec_of,
    draw,
    drawing_tasks,
    in_another_style,
    reverse_of,
    training_library,
)
from unimodal.evaluation.drawing_scores import (
    Scores,
    audit,
    codec,
    described,
    garments,
    retrieval,
    round_trip,
    scenes,
)
from unimodal.evaluation.encoder import CODEC_SHARE, STEPS, Judge, load_judge, train_judge
from unimodal.evaluation.progress import ProgressBar
from unimodal.evaluation.results import Results, as_text, read_results, write_results
from unimodal.generation import Sampling
from unimodal.model.durable import MANIFEST
from unimodal.model.folder import find_model
from unimodal.registry import did_you_mean
from unimodal.runtime import Model, load
from unimodal.tasks import Task
from unimodal.training.signals import stop_on_signals

LIBRARY = 12_000
"""Training pictures that are compared with, at most: the first ones of the source."""
EXIT_STOPPED = 85
Progress = Callable[[str, int, int], None]


def score_task(
    model: Model,
    task: Task,
    config: DrawingConfig,
    *,
    store: Path,
    judges: Path,
    weights: str,
    known: Task | None = None,
    relay: Relay | None = None,
    judge_steps: int | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """All scores of one drawing task, in the one form of results.

    Args:
        model: Of a run.
        task: That is scored.
        config: How many pictures, and how they are drawn.
        store, judges: Folders of what is drawn and of judges.
        weights: What tells the model from others.
        known: The task whose training pictures the judge learns from and drawings are compared
            with, by default the same.
        relay: Tasks that draw in its place.
        judge_steps: Of a judge that is trained now.
        progress, should_stop: See `draw`.
    """
    known = known or task
    asked = task if relay is None else relay.drawing
    reverse = reverse_of(asked, model.tasks, str(asked.config.source))
    if reverse is None:
        config = replace(config, best_of=1)
    drawn = draw(
        model.engine, task, config, store, relay=relay, reverse=reverse, weights=weights,
        progress=progress, should_stop=should_stop,
    )  # fmt: skip
    scores: Scores = {}

    def judge(kind: str) -> Judge:
        return _judge(kind, known, judges, judge_steps, progress)

    if drawn.has("concept"):
        library = training_library(known, LIBRARY, store, progress=progress)
        encoder = judge("pictures")
        copies = library.pixels[in_another_style(library.records, drawn.records)]
        scores |= retrieval(drawn, copies, encoder, config)
        scores |= audit(drawn, library, encoder, config)
    elif drawn.has("label", "text"):
        scores |= garments(drawn, judge("classes"), config)
    if drawn.has("objects", "relation"):
        scores |= scenes(drawn, judge("scenes"), config)
    scores |= round_trip(drawn, model.tasks, model.engine, config)
    scores |= codec(drawn, config)
    return described(scores, drawn, config)


def write_table(results: Results, path: Path) -> Path:
    """The results as a Markdown table, with the command that made them."""
    lines = [
        "# Pictures",
        "",
        "Scores of drawings on held-out prompts. The baseline is the strongest; the ceiling is the "
        "same score of the true pictures after a trip through the codec. Judges of classes and "
        "scenes are trained on true pictures, a quarter of them after that trip.",
        "",
        "| task | score | value | baseline | which | ceiling | n | split |",
        "|---|---|---|---|---|---|---|---|",
    ]
    commands = []
    for task, entries in results.items():
        for name, entry in entries.items():
            cells = [task, name.replace("_", " "), as_text(entry["value"], entry["standard_error"])]
            cells += [as_text(entry["baseline"]), str(entry["baseline_name"] or "")]
            cells += [as_text(entry.get("ceiling")), str(entry["n"]), str(entry["split"])]
            lines.append(f"| {' | '.join(cells)} |")
            commands.append(entry["command"])
    lines += ["", "Made by:", ""] + [f"    {command}" for command in dict.fromkeys(commands)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the head of this module."""
    given = _parser().parse_args(arguments)
    model = load(given.run, given.device)
    drawing = drawing_tasks(model.tasks)
    tasks = _chosen(drawing, given.tasks, given.run)
    known = next(iter(_chosen(drawing, [given.known], given.run).values())) if given.known else None
    relay = _relay(model.tasks, given.through, known)
    typed = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "unimodal.benchmarks.pictures", *typed])
    sampling = Sampling(
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        guidance=given.guidance,
    )
    config = DrawingConfig(
        limit=given.limit,
        seed=given.seed,
        batch_size=given.batch_size,
        best_of=given.best_of,
        sampling=sampling,
        command=command,
    )
    weights = _weights(model)
    results = read_results(given.out) if given.out.is_file() else {}
    with stop_on_signals() as flag, ProgressBar() as bar:
        for name, task in tasks.items():
            try:
                results[name if relay is None else f"{name} through {given.through}"] = score_task(
                    model, task, config, store=given.store, judges=given.judges, weights=weights,
                    known=known, relay=relay, judge_steps=given.judge_steps, progress=bar,
                    should_stop=lambda: bool(flag),
                )  # fmt: skip
            except KeyboardInterrupt:
                print("Stopped; the same command goes on from here.", file=sys.stderr)
                return EXIT_STOPPED
            except DataError as error:
                print(f"note: {name} is not scored: {error}", file=sys.stderr)
                continue
            write_results(results, given.out)
            write_table(results, given.out.with_suffix(".md"))
    print(given.out.with_suffix(".md").read_text("utf-8") if results else "nothing was scored")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m unimodal.benchmarks.pictures", description="Score what a run draws."
    )
    parser.add_argument("run", help="a run folder, a model folder, or the name of a run")
    parser.add_argument("--out", type=Path, default=Path("docs/results/image.json"))
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--limit", type=int, default=400, help="prompts a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--best-of", type=int, default=1, metavar="N", help=BEST_OF)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none")
    parser.add_argument("--store", type=Path, default=Path("runs/drawn"), metavar="FOLDER")
    parser.add_argument("--judges", type=Path, default=Path("runs/judges"), metavar="FOLDER")
    parser.add_argument("--judge-steps", type=int, help="steps of a judge that is trained now")
    parser.add_argument("--known", metavar="TASK", help="its judge, and its training pictures")
    parser.add_argument(
        "--through", metavar="TASK", help="what writes down, for `--known` to draw, what is given"
    )
    parser.add_argument("--device", default="auto")
    return parser


def _chosen(tasks: Mapping[str, Task], names: Sequence[str] | None, run: str) -> dict[str, Task]:
    if not tasks:
        raise ConfigError("The run has no task that draws pictures.", subject=run)
    for name in names or ():
        if name not in tasks:
            raise ConfigError(f"`{name}` draws no pictures.", remedy=did_you_mean(name, tasks))
    return {name: tasks[name] for name in names or tasks}


def _relay(tasks: Mapping[str, Task], writing: str | None, drawing: Task | None) -> Relay | None:
    if writing is None:
        return None
    if drawing is None:
        raise ConfigError("`--through` needs a task that draws.", remedy="Name it by `--known`.")
    if writing not in tasks:
        raise ConfigError(f"The run has no task `{writing}`.", remedy=did_you_mean(writing, tasks))
    return Relay(tasks[writing], drawing)


def _judge(
    kind: str, task: Task, folder: Path, steps: int | None, progress: Progress | None
) -> Judge:
    """The judge of a task's own training pictures: stored, or trained and stored now."""
    data = task.config.data
    described: list[Any] = [
        data.name,
        data.path,
        data.options,
        STEPS[kind] if steps is None else steps,
    ]
    codec_name = task.target.fingerprint() if CODEC_SHARE[kind] else None
    described += [codec_name, CODEC_SHARE[kind]] if codec_name else []
    text = json.dumps(described, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = folder / f"{kind}-{digest}.safetensors"
    if not path.is_file():
        trained = train_judge(
            kind, task.open("train"), task.open("validation"), steps=steps,
            through=codec_of(task), progress=progress,
        )  # fmt: skip
        trained.card["codec"] = codec_name
        trained.save(path)
    return load_judge(path)


def _weights(model: Model) -> str:
    """What tells a model from others: its manifest holds the hash of every file."""
    assert model.folder is not None
    return hashlib.sha256((find_model(model.folder) / MANIFEST).read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    run_module(main)
