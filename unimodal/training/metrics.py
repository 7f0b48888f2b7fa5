"""What a run writes down: `metrics.jsonl` always, TensorBoard where it is installed."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unimodal.training.ranks import sum_over_ranks
from unimodal.training.trainee import StepBatch

log = logging.getLogger(__name__)
METRICS = "metrics.jsonl"


class TaskLosses:
    """Sums of losses by task, over micro-batches, steps and ranks.

    Args:
        tasks: Names; the order of the sums.
        device: Where they are summed, in float64.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device):
        self.tasks = list(tasks)
        # Rows: weight x nll, weight, nll, positions.
        self._sums = torch.zeros(4, len(self.tasks), dtype=torch.float64, device=device)
        self._numbers = {name: number for number, name in enumerate(self.tasks)}

    @torch.no_grad()
    def add(self, batch: StepBatch, losses: Sequence[Tensor]) -> None:
        """Add the losses of a batch: `LossOutput.nll`."""
        for names, place, nll, weight in batch.placed(losses):
            task_of = torch.tensor([self._numbers[name] for name in names], device=place.device)
            tasks = task_of[place]
            counted = (weight > 0).to(self._sums.dtype)
            nll, weight = nll.to(self._sums.dtype), weight.to(self._sums.dtype)
            values = torch.stack([weight * nll, weight, counted * nll, counted])
            self._sums.index_add_(1, tasks, values)

    def add_sums(self, other: "TaskLosses") -> None:
        """Add the sums of another step."""
        self._sums += other._sums

    def clear(self) -> None:
        """Start again from zero."""
        self._sums.zero_()

    def reduced(self) -> dict[str, Any]:
        """`loss` (weighted, over all tasks) and `tasks` (nats a predicted id), over all ranks."""
        sums = sum_over_ranks(self._sums.clone()).cpu().double()
        weighted, weight, nll, count = sums.tolist()
        total = sum(weight)
        return {
            "loss": sum(weighted) / total if total else None,
            "tasks": {
                name: nll[number] / count[number]
                for number, name in enumerate(self.tasks)
                if count[number]
            },
        }

    def reduced_nats(self) -> dict[str, float]:
        """Total nats of each task, over all ranks."""
        nats = sum_over_ranks(self._sums[2].clone())
        return dict(zip(self.tasks, nats.tolist(), strict=True))


class Board(Protocol):
    """The part of a TensorBoard writer that is used."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Record one number."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


Draw = Callable[[Any, int], None]
"""Writes samples to a TensorBoard writer: (writer, step)."""


class MetricsLog:
    """Writes metrics of a run; on ranks other than 0, nothing.

    Args:
        folder: The run folder; None writes nothing.
        step: Lines after this step, left by a run that was killed later, are dropped.
        board: A TensorBoard writer, if there is one.
    """

    def __init__(self, folder: Path | None, step: int, board: Board | None = None):
        self.path = folder / METRICS if folder is not None else None
        self._board = board
        if self.path is not None and self.path.is_file():
            keep = [line for line in read_metrics(self.path) if line["step"] <= step]
            text = "".join(json.dumps(line) + "\n" for line in keep)
            fresh = self.path.with_suffix(".next")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self.path)

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Write one line: `train`, `held_out` or `skipped`. NaN and infinity become null."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            line = {"step": step, "kind": kind, **_finite(values)}
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._board is not None:
            try:
                for name, value in _flat(values, kind):
                    self._board.add_scalar(name, value, step)
            except OSError as error:
                self._give_up(error)

    def draw(self, step: int, draw: Draw | None) -> None:
        """Let samples write themselves to the board, if there is one."""
        if draw is not None and self._board is not None:
            try:
                draw(self._board, step)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("TensorBoard is off from here on: %s", error)
        self._board = None

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file; a last line that a killed run cut is left out."""
    lines = []
    for text in path.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def open_board(folder: Path, step: int) -> Board | None:
    """A TensorBoard writer below the run folder, or None where it is not installed.

    Args:
        folder: The run folder.
        step: What a killed run drew after this step is hidden.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed (extra `report`): only %s is written.", METRICS)
        return None
    board: Board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
    return board


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}/{key}", float(value)))
    return found
