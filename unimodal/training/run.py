"""A training run from its experiment to its model: the run folder, resuming, and what comes last.

RUN/
  experiment.json     the experiment, with every default
  metrics.jsonl       losses, rates, tokens/s (unimodal.training.metrics)
  bad_samples.jsonl   samples that could not be used
  checkpoints/step-N  to resume from (unimodal.training.checkpoint)
  model/              the trained model (unimodal.model.folder), or tokenizer (tokenizer_folder)
  results.json, report.html   scores and what to look at, written when the run ends
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unimodal.data.sources import content_hash
from unimodal.errors import EXIT_RESUMABLE, CheckpointError, ConfigError
from unimodal.model.durable import read_tensors
from unimodal.model.folder import CHECKPOINTS, EXPERIMENT, MODEL, steps_of
from unimodal.tasks.base import TaskConfig
from unimodal.training.checkpoint import (
    BEST,
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    step_folder,
)
from unimodal.training.config import ExperimentConfig, differences, trajectory
from unimodal.training.draws import BAD_SAMPLES, Quarantine
from unimodal.training.lock import locked_folder
from unimodal.training.loop import Loop, Settings
from unimodal.training.metrics import Draw, MetricsLog, open_board
from unimodal.training.progress import Bar
from unimodal.training.ranks import (
    first_rank_alone,
    joined_ranks,
    largest,
    rank,
    wait_for_all,
    world_size,
)
from unimodal.training.schedule import Progress
from unimodal.training.signals import StopFlag, stop_on_signals
from unimodal.training.subject import Subject, Trained, build_subject
from unimodal.training.trainee import choose_precision

log = logging.getLogger(__name__)
RECORDS = "records"
CONTENT = "content"
"""Parts of a run's course: the number of training records of each task, and a hash of them."""
Score = Callable[[Path, Trained, dict[str, TaskConfig], StopFlag], Draw | None]
"""Scores and reports what was trained: (run folder, decoder or modality, tasks, who wants to stop).

It returns what writes its samples to a TensorBoard, and raises KeyboardInterrupt when it sees the
flag; `unimodal.training.finish.scorer` makes one.
"""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: Run folder.
        progress: Steps, tokens, seconds.
        finished: Whether the budget was spent; otherwise it was asked to stop, and can be resumed.
        stopped_by: The signal that asked.
    """

    folder: Path
    progress: Progress
    finished: bool
    stopped_by: str | None = None

    @property
    def exit_code(self) -> int:
        """0, or 85 for a run that was asked to stop."""
        return 0 if self.finished else EXIT_RESUMABLE


def train(
    config: ExperimentConfig,
    run: Path | None = None,
    *,
    finish: Score | None = None,
    sample: Score | None = None,
) -> RunResult:
    """Train an experiment, or go on with it.

    Args:
        config: The experiment.
        run: Run folder; by default the config's.
        finish: Scores and reports the finished model.
        sample: The same in short, every `training.sample_every` steps.

    Raises:
        UnimodalError: for everything that the user can put right; see the modules that are used.
    """
    run = Path(config.folder) if run is None else run
    progress = Progress()
    with joined_ranks(config.device) as device, stop_on_signals() as flag, ExitStack() as held:
        try:
            with flag.interrupts():  # nothing is lost until the loop runs
                checkpoint = _open_run(config, run, device, held)
                progress = progress if checkpoint is None else checkpoint.progress
                job = _prepare(config, run, checkpoint, device, flag, sample, held)
        except KeyboardInterrupt:
            if not flag:
                raise
            return RunResult(run, progress, finished=False, stopped_by=flag.reason)
        with job.loop.bar:
            finished = job.loop.run()
        if finished:
            finished = _finish(job, run, finish)
    return RunResult(run, job.loop.progress, finished, flag.reason)


@dataclass(frozen=True)
class _Job:
    """A run that can begin: its loop, what it trains, and the experiment as it is written down."""

    loop: Loop
    subject: Subject
    described: bytes


def _open_run(
    config: ExperimentConfig, run: Path, device: torch.device, held: ExitStack
) -> Checkpoint | None:
    """The checkpoint to go on from, of a folder that nobody else writes into."""

    def pick() -> int:
        held.enter_context(locked_folder(run))
        return _pick_step(config, run)

    step = first_rank_alone(pick, device)
    if step < 0:
        return None
    checkpoint = read_checkpoint(step_folder(run, step))
    seen = {
        name: value for name, value in checkpoint.course.items() if name not in (RECORDS, CONTENT)
    }
    _check_course(seen, trajectory(config), run)
    log.info("Resuming from %s.", checkpoint.folder)
    return checkpoint


def _prepare(
    config: ExperimentConfig,
    run: Path,
    checkpoint: Checkpoint | None,
    device: torch.device,
    flag: StopFlag,
    sample: Score | None,
    held: ExitStack,
) -> _Job:
    precision = choose_precision(config.training.precision, device)
    if config.threads:
        torch.set_num_threads(config.threads)
    log.info("Training on %s in %s: %s.", device, precision.name, precision.reason)
    if world_size() > 1:
        log.info("%d ranks.", world_size())
    subject = build_subject(config, checkpoint, device)
    described = _written(config, subject.tasks)
    log.info("%s.", subject.about())
    path = run / BAD_SAMPLES if rank() == 0 else None
    mixture = subject.mixture(Quarantine(path, config.training.max_bad_samples))
    sizes = {name: len(source) for name, source in mixture.sources.items()}
    hashes = {name: content_hash(source) for name, source in mixture.sources.items()}
    course = {**trajectory(config), RECORDS: sizes, CONTENT: hashes}
    if checkpoint is not None:
        _check_course({CONTENT: hashes, **checkpoint.course}, course, run)
    if rank() == 0:
        (run / EXPERIMENT).write_bytes(described)
    settings = Settings(
        run=run,
        course=course,
        optimizer=config.optimizer,
        schedule=config.schedule,
        training=config.training,
        device=device,
        precision=precision,
        write_model=subject.write_files,
        sample=None if sample is None else lambda: _score(sample, run, subject, flag),
        flag=flag,
    )
    held_out = subject.held_out()
    metrics = _open_metrics(run, checkpoint)
    held.callback(metrics.close)
    bar = Bar(config.name, config.progress and rank() == 0)
    loop = Loop(subject.trainee, mixture, held_out, settings, metrics, bar)
    if checkpoint is not None:
        loop.restore(checkpoint)
    return _Job(loop, subject, described)


def _score(score: Score, run: Path, subject: Subject, flag: StopFlag) -> Draw | None:
    with flag.interrupts():
        return score(run, subject.trained, subject.tasks, flag)


def _finish(job: _Job, run: Path, finish: Score | None) -> bool:
    """Save what was trained and score it, on rank 0. Returns whether scoring came to its end."""
    loop, subject, flag = job.loop, job.subject, job.loop.settings.flag
    wait_for_all()  # the first rank may still write the best weights
    best = run / BEST
    if loop.config.patience is not None and best.is_file():
        subject.finish(read_tensors(best))
    else:
        subject.finish(None if loop.ema is None else loop.ema.average)
    stopped = False
    if rank() == 0:
        subject.save(run / MODEL, {EXPERIMENT: job.described})
        try:
            if finish is not None:
                drawn = _score(finish, run, subject, flag)
                loop.metrics.draw(loop.progress.step, drawn)
        except KeyboardInterrupt:
            if not flag:
                raise
            stopped = True
    (stopped_anywhere,) = largest([stopped], loop.settings.device)
    return not stopped_anywhere


def _written(config: ExperimentConfig, tasks: dict[str, TaskConfig]) -> bytes:
    """The experiment as JSON, with the tasks and data that it reads in the end."""
    values = dataclasses.asdict(config)
    values["tasks"] = {name: dataclasses.asdict(task) for name, task in tasks.items()}
    return (json.dumps(values, indent=1) + "\n").encode()


def _pick_step(config: ExperimentConfig, run: Path) -> int:
    """The step to go on from; -1 without one. Damaged checkpoints are set aside."""
    if config.resume == "never":
        if steps_of(run / CHECKPOINTS):
            raise ConfigError(
                "`resume` is never, but the run folder has checkpoints.",
                subject=str(run),
                remedy="Choose another `run_dir`, or move the folder away.",
            )
        return -1
    newest = newest_checkpoint(run)
    if newest is None:
        if config.resume == "must":
            raise CheckpointError(
                "`resume` is must, but no checkpoint in the run folder verifies.",
                subject=str(run),
                remedy="Start it with `resume=auto`, or name another `run_dir`.",
            )
        return -1
    return read_checkpoint(newest).progress.step


def _check_course(old: Mapping[str, Any], new: Mapping[str, Any], run: Path) -> None:
    """Check that a checkpoint is of this experiment.

    Raises:
        ConfigError: naming the first setting, or task of other data, that is not the same.
    """
    if changed := differences(dict(old), dict(new)):
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise ConfigError(
            "The run folder holds a run of other settings or data: "
            f"{', '.join(changed[:3])}{more}.",
            subject=str(run),
            remedy=f"Choose another `run_dir`; to start from its weights, add `init_from={run}`.",
        )


def _open_metrics(run: Path, checkpoint: Checkpoint | None) -> MetricsLog:
    if rank() != 0:
        return MetricsLog(None, 0)
    step = checkpoint.progress.step if checkpoint is not None else 0
    return MetricsLog(run, step, open_board(run, step))


def read_experiment(run: Path) -> dict[str, Any]:
    """The experiment of a run folder, as plain values.

    Raises:
        CheckpointError: if it is missing or not JSON.
    """
    try:
        values: dict[str, Any] = json.loads((run / EXPERIMENT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"It has no readable `{EXPERIMENT}` ({type(error).__name__}).",
            subject=str(run),
            remedy="Name the folder of a run, as `unimodal train` writes it.",
        ) from None
    return values
