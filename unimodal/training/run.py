"""A training run from its experiment to its model: the run folder, resuming, and what comes last.

RUN/
  experiment.json     the experiment, with every default
  metrics.jsonl       losses, rates, tokens/s (unimodal.training.metrics)
  bad_samples.jsonl   samples that could not be used
  checkpoints/step-N  to resume from (unimodal.training.checkpoint)
  model/              the trained model (unimodal.model.folder)
  results.json, report.html   scores and what to look at, written when the run ends
"""

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unimodal.errors import EXIT_RESUMABLE, CheckpointError, ConfigError
from unimodal.model.decoder import Decoder
from unimodal.model.folder import (
    CHECKPOINTS,
    MODEL,
    WEIGHTS,
    load_weights,
    read_config,
    read_vocabulary,
    save_model,
    steps_of,
    write_model_files,
)
from unimodal.tasks.base import TaskConfig
from unimodal.training.build import (
    HELD_OUT_SPLIT,
    TRAINING_SPLIT,
    build_streams,
    build_vocabulary,
    decoder_from,
    resolve_tasks,
)
from unimodal.training.checkpoint import Checkpoint, newest_checkpoint, read_checkpoint
from unimodal.training.config import ExperimentConfig, differences, trajectory
from unimodal.training.held_out import HeldOut
from unimodal.training.loop import Loop, Settings
from unimodal.training.metrics import MetricsLog, open_board
from unimodal.training.mixture import BAD_SAMPLES, Mixture, Quarantine
from unimodal.training.progress import Bar
from unimodal.training.ranks import rank, wait_for_all
from unimodal.training.schedule import Progress
from unimodal.training.signals import StopFlag, stop_on_signals
from unimodal.training.trainee import check_compiler, choose_device, choose_precision

log = logging.getLogger(__name__)
EXPERIMENT = "experiment.json"
Score = Callable[[Path, Decoder, dict[str, TaskConfig], StopFlag], None]
"""Scores and reports a model: (run folder, decoder, tasks, who wants to stop).

It raises KeyboardInterrupt when it sees the flag; `unimodal.training.finish.scorer` makes one.
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
    device = choose_device(config.device)
    precision = choose_precision(config.training.precision, device)
    if config.threads:
        torch.set_num_threads(config.threads)
    log.info("Training on %s in %s: %s.", device, precision.name, precision.reason)
    with stop_on_signals() as flag:
        _open_folder(run)
        checkpoint = _pick_checkpoint(config, run)
        decoder = _build_decoder(config, checkpoint)
        tasks = resolve_tasks(config, decoder.vocabulary)
        decoder = decoder.to(device)
        if config.training.compile:
            check_compiler(device)
            decoder.compile_layers()
        log.info("%d parameters, %d ids.", decoder.num_parameters(), decoder.vocabulary.size)
        metrics = _open_metrics(run, checkpoint)
        settings = Settings(
            run=run,
            course=trajectory(config),
            optimizer=config.optimizer,
            schedule=config.schedule,
            training=config.training,
            device=device,
            precision=precision,
            write_model=lambda folder: write_model_files(folder, decoder),
            sample=None if sample is None else lambda: sample(run, decoder, tasks, flag),
            flag=flag,
        )
        if rank() == 0:
            (run / EXPERIMENT).write_bytes(_written(config, tasks))
        try:
            with Bar(config.name, config.progress and rank() == 0) as bar:
                mixture = _build_mixture(config, tasks, decoder, run)
                held_out = _build_held_out(config, tasks, decoder)
                loop = Loop(decoder, mixture, held_out, settings, metrics, bar)
                if checkpoint is not None:
                    loop.restore(checkpoint)
                finished = loop.run()
        finally:
            metrics.close()
        if finished:
            finished = _finish(loop, decoder, run, tasks, _written(config, tasks), finish)
    return RunResult(run, loop.progress, finished, flag.reason)


def _finish(
    loop: Loop,
    decoder: Decoder,
    run: Path,
    tasks: dict[str, TaskConfig],
    described: bytes,
    finish: Score | None,
) -> bool:
    """Save the model and score it. Returns whether scoring came to its end."""
    if loop.ema is not None:
        decoder.load_state_dict(loop.ema.average)
    decoder.eval()
    if rank() == 0:
        save_model(run / MODEL, decoder, {EXPERIMENT: described}, replace=True)
        try:
            if finish is not None:
                finish(run, decoder, tasks, loop.settings.flag)
        except KeyboardInterrupt:
            if not loop.settings.flag:
                raise
            return False
    wait_for_all()
    return True


def _written(config: ExperimentConfig, tasks: dict[str, TaskConfig]) -> bytes:
    """The experiment as JSON, with the tasks and data that it reads in the end."""
    values = dataclasses.asdict(config)
    values["tasks"] = {name: dataclasses.asdict(task) for name, task in tasks.items()}
    return (json.dumps(values, indent=1) + "\n").encode()


def _open_folder(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"The run folder cannot be written to ({error.strerror}).",
            subject=str(run),
            remedy="Choose another with `run_dir=FOLDER`.",
        ) from None


def _pick_checkpoint(config: ExperimentConfig, run: Path) -> Checkpoint | None:
    """The checkpoint to go on from, after checking that it is of this experiment."""
    if config.resume == "never":
        if steps_of(run / CHECKPOINTS):
            raise ConfigError(
                "`resume` is never, but the run folder has checkpoints.",
                subject=str(run),
                remedy="Choose another `run_dir`, or move the folder away.",
            )
        return None
    newest = newest_checkpoint(run)
    if newest is None:
        if config.resume == "must":
            raise CheckpointError(
                "`resume` is must, but no checkpoint in the run folder verifies.", subject=str(run)
            )
        return None
    checkpoint = read_checkpoint(newest)
    if changed := differences(checkpoint.course, trajectory(config)):
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ConfigError(
            f"The run folder holds a run of other settings: {changed[0]}{more}.",
            subject=str(run),
            remedy=f"Choose another `run_dir`; to start from its weights, add `init_from={run}`.",
        )
    log.info("Resuming from %s.", newest)
    return checkpoint


def _build_decoder(config: ExperimentConfig, checkpoint: Checkpoint | None) -> Decoder:
    if checkpoint is not None:
        folder = checkpoint.folder
        decoder = Decoder(read_config(folder), read_vocabulary(folder))
        load_weights(decoder, folder / WEIGHTS)
        return decoder
    if config.init_from is not None:
        return decoder_from(Path(config.init_from), config)
    return Decoder(config.model, build_vocabulary(config))


def _build_mixture(
    config: ExperimentConfig, tasks: dict[str, TaskConfig], decoder: Decoder, run: Path
) -> Mixture:
    path = run / BAD_SAMPLES if rank() == 0 else None
    return Mixture(
        build_streams(tasks, decoder.vocabulary, TRAINING_SPLIT),
        decoder.vocabulary,
        decoder.stream,
        config.packing,
        config.training.seed,
        Quarantine(path, config.training.max_bad_samples),
    )


def _build_held_out(
    config: ExperimentConfig, tasks: dict[str, TaskConfig], decoder: Decoder
) -> HeldOut:
    documents = config.training.evaluation_documents
    streams = build_streams(tasks, decoder.vocabulary, HELD_OUT_SPLIT) if documents else {}
    return HeldOut(
        streams,
        decoder.vocabulary,
        decoder.stream,
        config.packing,
        documents=documents,
        rows_per_batch=config.training.rows_per_batch,
        seed=config.training.seed,
    )


def _open_metrics(run: Path, checkpoint: Checkpoint | None) -> MetricsLog:
    if rank() != 0:
        return MetricsLog(None, 0)
    step = checkpoint.progress.step if checkpoint is not None else 0
    return MetricsLog(run, step, open_board(run))


def read_experiment(run: Path) -> dict[str, Any]:
    """The experiment of a run folder, as plain values.

    Raises:
        CheckpointError: if it is missing or not JSON.
    """
    try:
        values: dict[str, Any] = json.loads((run / EXPERIMENT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"It has no readable `{EXPERIMENT}` ({type(error).__name__}).", subject=str(run)
        ) from None
    return values
