"""The one training loop: for decoders, and for tokenizers that are trained by gradient.

A step: batches of all ranks, loss = sum(weight x nll) / sum(weight) over all of them, gradients
summed over micro-batches and ranks, clipped, optimizer, EMA. Between steps: held-out loss,
checkpoints, metrics, and the question whether somebody asked to stop. Every random choice of a step
depends on (seed, step, rank) alone, so under a budget of steps a resumed run is bitwise equal to an
uninterrupted one; a budget by the clock decides the learning rate as it comes.

Not here: where samples come from (`mixture`, `values`), what a run folder holds besides (`run`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unimodal.errors import EXIT_FAILURE, DataError, UnimodalError
from unimodal.training.checkpoint import Checkpoint, save_best, save_checkpoint
from unimodal.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from unimodal.training.counters import mix
from unimodal.training.draws import Draws
from unimodal.training.ema import Ema
from unimodal.training.feed import Feed, StepData, steps_ahead
from unimodal.training.held_out import HeldOutBatches
from unimodal.training.metrics import Draw, MetricsLog, TaskLosses
from unimodal.training.optimizer import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
)
from unimodal.training.progress import Bar
from unimodal.training.ranks import largest, rank, sum_gradients, wait_for_all, world_size
from unimodal.training.schedule import Progress, rate_factor, spent
from unimodal.training.signals import StopFlag
from unimodal.training.trainee import Precision, Trainee

log = logging.getLogger(__name__)


class DivergenceError(UnimodalError):
    """Training went wrong and does not recover: gradients are not finite, step after step."""

    exit_code = EXIT_FAILURE


@dataclass
class Settings:
    """What a loop is told, beside what it trains on.

    Attributes:
        run: Run folder.
        course: Settings that decide the course of the run, for checkpoints.
        optimizer, schedule, training: Configs.
        device: Where it runs.
        precision: Of matrix products.
        write_model: Writes the trainee's files into a folder of a checkpoint.
        sample: Called every `sample_every` steps, averaged weights in place; it returns what writes
            its samples to a TensorBoard, and may raise KeyboardInterrupt when it sees the flag.
        flag: Set by who wants the run to stop.
    """

    run: Path
    course: Mapping[str, Any]
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    device: torch.device
    precision: Precision
    write_model: Callable[[Path], None]
    sample: Callable[[], Draw | None] | None = None
    flag: StopFlag = field(default_factory=StopFlag)


class Loop:
    """Trains until the budget is spent or somebody asks to stop.

    Args:
        trainee: What is trained.
        mixture: What it is trained on.
        held_out: What it is measured on.
        settings: How.
        metrics: Where numbers go.
        bar: What the terminal shows.

    Raises:
        DataError: if `rows_per_step` is not a multiple of the number of ranks.
    """

    def __init__(
        self,
        trainee: Trainee,
        mixture: Draws[Any, Any],
        held_out: HeldOutBatches,
        settings: Settings,
        metrics: MetricsLog,
        bar: Bar,
    ):
        self.trainee, self.mixture, self.held_out = trainee, mixture, held_out
        self.settings, self.metrics, self.bar = settings, metrics, bar
        self.config = settings.training
        if self.config.rows_per_step % world_size():
            raise DataError(
                f"`training.rows_per_step` must be a multiple of the number of ranks "
                f"({world_size()}), but is {self.config.rows_per_step}.",
                remedy="Change it, or the number of processes.",
            )
        self.parameters = [(n, p) for n, p in trainee.named_parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, settings.optimizer)
        decay = self.config.ema_decay
        self.ema = Ema(trainee.state_dict(keep_vars=True), decay) if decay else None
        self.progress = Progress()
        self.data = mixture.state()
        self._recent = TaskLosses(list(mixture.sources), settings.device)
        self._window = _Window()
        self._saved_at = 0.0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the trainee's own weights are loaded by the caller."""
        load_optimizer_state(self.optimizer, self.parameters, checkpoint.optimizer)
        if self.ema is not None and checkpoint.average is not None:
            self.ema.load(checkpoint.average)
        self.progress = replace(checkpoint.progress)
        self.data = checkpoint.data
        self.mixture.restore(checkpoint.data)
        self._saved_at = self.progress.seconds

    def run(self) -> bool:
        """Train. Returns whether the budget is spent; False: asked to stop, saved, resumable.

        Raises:
            DivergenceError: after too many steps without a finite gradient.
            DataError: if the data cannot go on.
            CheckpointError: if a save fails.
        """
        config, flag = self.config, self.settings.flag
        began = time.monotonic() - self.progress.seconds
        self.trainee.train(True)
        ahead = steps_ahead(config.prefetch, self.settings.device)
        feed = Feed(self.mixture, config.rows_per_step, config.rows_per_batch, ahead)
        if spent(config, self.progress) >= 1 or self._is_flat():
            return True
        with feed:
            waiting = time.perf_counter()
            for data in feed:
                self._window.waited += time.perf_counter() - waiting
                self._step(data)
                seconds, stop = largest(
                    [time.monotonic() - began, float(bool(flag))], self.settings.device
                )
                self.progress.seconds = seconds
                is_last = self._after_step(spent(config, self.progress), bool(stop))
                if is_last or stop:
                    return is_last
                waiting = time.perf_counter()
        raise AssertionError("a feed has no end")

    def _step(self, data: StepData) -> None:
        settings, progress = self.settings, self.progress
        torch.manual_seed(mix(self.config.seed, progress.step, rank()) >> 1)
        if not data.weight > 0:
            raise DataError(
                f"No position of step {progress.step} carries loss.",
                subject=", ".join(data.sample_ids()[:5]),
                remedy="Give a task a positive loss weight, or raise `rows_per_step`.",
            )
        losses = TaskLosses(self._recent.tasks, settings.device)
        for batch in data.batches:
            moved = batch.to(settings.device)
            with settings.precision.autocast(settings.device):
                output = self.trainee.loss(moved)
            (output.total / data.weight).backward()
            losses.add(moved, output.nll)
        weights = [p for _, p in self.parameters]
        sum_gradients(weights)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, settings.optimizer.clip_norm))
        finite = norm == norm and norm != float("inf")
        share = spent(self.config, progress)
        rate = settings.optimizer.learning_rate * rate_factor(
            settings.schedule, progress.step, share
        )
        if finite:
            self.optimizer.set_learning_rate(rate)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(progress.step)
            self._recent.add_sums(losses)
            progress.skipped_in_row = 0
        self.optimizer.zero_grad()
        progress.step += 1
        progress.tokens += data.tokens
        self.data = data.state
        self._window.add(data, rate, norm if finite else None)
        if not finite:
            self._skipped(data, norm)

    def _skipped(self, data: StepData, norm: float) -> None:
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_row += 1
        samples = data.sample_ids()
        self.metrics.write(progress.step, "skipped", {"grad_norm": norm, "samples": samples})
        log.warning("Step %d is skipped: the gradient is not finite.", progress.step)
        if progress.skipped_in_row > self.config.max_skipped_steps:
            raise DivergenceError(
                f"The gradient was not finite in {progress.skipped_in_row} steps in a row; "
                f"`training.max_skipped_steps` is {self.config.max_skipped_steps}.",
                subject=f"step {progress.step}, samples {', '.join(samples[:8])}",
                remedy="Lower `optimizer.learning_rate`, or look at these samples; the newest "
                "checkpoint is from before.",
            )

    def _after_step(self, share: float, stop: bool) -> bool:
        """Log, measure, show and save as it is time to. Returns whether the run is at its end."""
        config, step = self.config, self.progress.step
        is_last = share >= 1
        if step % config.log_every == 0 or is_last or stop:
            self._log(share)
        every = config.evaluate_every
        if (is_last or (every and step % every == 0)) and not stop:
            self._evaluate()
            is_last = is_last or self._is_flat()
        every = config.sample_every
        if every and step % every == 0 and not is_last and not stop:
            self._sample()
        late = self.progress.seconds - self._saved_at >= 60 * config.save_every_minutes
        if step % config.save_every == 0 or late or is_last or stop:
            self.save()
        return is_last

    def save(self) -> None:
        """Save a checkpoint of the step that was done last; all ranks wait for it."""
        if rank() == 0:
            save_checkpoint(
                self.settings.run,
                self.settings.write_model,
                self.progress,
                self.data,
                self.settings.course,
                optimizer_state(self.optimizer, self.parameters),
                self.ema.average if self.ema else None,
                world=world_size(),
                keep=self.config.keep,
            )
        self._saved_at = self.progress.seconds
        wait_for_all()

    def _evaluate(self) -> None:
        averaged = contextlib.nullcontext() if self.ema is None else self.ema.applied()
        with averaged:
            measured = self._measure()
            if measured and self.config.patience is not None:
                self._compare(measured["loss"])
        if measured:
            self.metrics.write(self.progress.step, "held_out", measured)
            log.info("step %d: held-out %s", self.progress.step, _brief(measured))

    def _compare(self, loss: float) -> None:
        """Keep the weights, averaged ones if there are any, if no held-out loss was lower."""
        progress = self.progress
        progress.since_lowest += 1
        if progress.lowest is None or loss < progress.lowest:
            progress.lowest, progress.since_lowest = loss, 0
            if rank() == 0:
                save_best(self.settings.run, self.trainee.state_dict(keep_vars=False))

    def _is_flat(self) -> bool:
        patience, since = self.config.patience, self.progress.since_lowest
        if patience is None or since < patience:
            return False
        log.info("The held-out loss was lowest %d measurements ago: the run ends.", since)
        return True

    def _measure(self) -> dict[str, Any]:
        return self.held_out.measure(self.trainee, self.settings.device, self.settings.precision)

    def _sample(self) -> None:
        if self.settings.sample is None or rank() != 0:
            return
        self.trainee.train(False)
        averaged = contextlib.nullcontext() if self.ema is None else self.ema.applied()
        try:
            with averaged:
                self.metrics.draw(self.progress.step, self.settings.sample())
        except KeyboardInterrupt:
            if not self.settings.flag:
                raise
        self.trainee.train(True)

    def _log(self, share: float) -> None:
        window, progress = self._window, self.progress
        losses = self._recent.reduced()
        values = {
            **losses,
            **window.summary(),
            "total_tokens": progress.tokens,
            "minutes": progress.seconds / 60,
            "skipped": progress.skipped,
            "bad_samples": len(self.data.bad),
        }
        self.metrics.write(progress.step, "train", values)
        self.bar.show(share, progress.step, values["tokens_per_second"], losses["loss"])
        self._recent.clear()
        self._window = _Window()


class _Window:
    """Sums since the last line of metrics."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.steps = self.tokens = 0
        self.fill = self.waited = self.prepared = 0.0
        self.rate = 0.0
        self.norms: list[float] = []

    def add(self, data: StepData, rate: float, norm: float | None) -> None:
        """Count a step."""
        self.steps += 1
        self.tokens += data.tokens
        self.fill += data.fill
        self.prepared += data.seconds
        self.rate = rate
        if norm is not None:
            self.norms.append(norm)

    def summary(self) -> dict[str, Any]:
        """Means since the last line. `data_wait` is the share of time spent waiting for data."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        steps = max(self.steps, 1)
        return {
            "learning_rate": self.rate,
            "grad_norm": sum(self.norms) / len(self.norms) if self.norms else None,
            "tokens_per_second": self.tokens / seconds,
            "fill": self.fill / steps,
            "data_wait": self.waited / seconds,
            "data_seconds": self.prepared / steps,
            "step_seconds": seconds / steps,
        }


def _brief(measured: Mapping[str, Any]) -> str:
    parts = [f"{name} {nats:.3f}" for name, nats in measured["tasks"].items()]
    parts += [f"{name} {bits:.3f} bits" for name, bits in measured.get("bits", {}).items()]
    parts += [f"{name} {number:.3f}" for name, number in measured.get("fidelity", {}).items()]
    return ", ".join(parts)
