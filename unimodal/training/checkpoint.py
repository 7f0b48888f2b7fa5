"""Checkpoints: everything that a run needs to go on bitwise, complete and verified, or invisible.

`RUN/checkpoints/step-N/` is a model folder (`unimodal.model.folder`) with more files:

    optimizer.safetensors   its tensors, `KIND:PARAMETER`
    ema.safetensors         averaged weights, if there are any
    state.json              progress, data state, what decides the course of the run

Random choices are functions of (seed, step) and of counters, so there is no generator to save. A
step is never overwritten; the newest that verifies wins; a damaged one is named and set aside.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unimodal.errors import CheckpointError
from unimodal.model.durable import (
    durable_folder,
    reached,
    read_tensors,
    remove_folder,
    remove_leftovers,
    verify_folder,
    write_json,
    write_tensors,
)
from unimodal.model.folder import AVERAGE, CHECKPOINTS, steps_of
from unimodal.training.draws import DataState
from unimodal.training.schedule import Progress

log = logging.getLogger(__name__)
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
BEST = "best.safetensors"
"""Weights of the lowest held-out loss, in a run folder."""


@dataclass
class Checkpoint:
    """What a checkpoint holds beside the model.

    Attributes:
        folder: Where it was read.
        progress: Steps, tokens, time.
        data: Where the data stands.
        course: What decides the course of the run (`unimodal.training.config.trajectory`).
        optimizer: Tensors of the optimizer.
        average: Averaged weights, or None.
    """

    folder: Path
    progress: Progress
    data: DataState
    course: dict[str, Any]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] | None


def save_checkpoint(
    run: Path,
    write_model: Callable[[Path], None],
    progress: Progress,
    data: DataState,
    course: Mapping[str, Any],
    optimizer: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    *,
    world: int = 1,
    keep: int = 2,
) -> Path:
    """Save a step, then drop old ones.

    Args:
        run: Run folder.
        write_model: Writes the model's files into a folder.
        progress, data, course, optimizer, average: See `Checkpoint`.
        world: Number of ranks, written into the manifest; a run may go on with another.
        keep: Steps that stay, at least 2.

    Raises:
        CheckpointError: if the disk refuses; earlier steps are untouched.
    """
    target = step_folder(run, progress.step)
    if target.exists() and not set_aside_if_damaged(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, "step-*")
    facts = {
        "kind": "checkpoint",
        "step": progress.step,
        "world": world,
        "config_hash": course_hash(course),
    }
    with durable_folder(target, facts) as work:
        write_model(work)
        reached("model")
        write_tensors(work / OPTIMIZER, optimizer)
        if average is not None:
            write_tensors(work / AVERAGE, average)
        reached("optimizer")
        state = {"progress": asdict(progress), "data": asdict(data), "course": course}
        write_json(work / STATE, state)
    for _, old in steps_of(target.parent)[max(keep, 2) :]:
        reached("dropping")
        remove_folder(old)
    return target


def save_best(run: Path, weights: Mapping[str, Tensor]) -> None:
    """Keep the weights of the lowest held-out loss beside the checkpoints; the last ones go."""
    fresh = run / f"{BEST}.next"
    write_tensors(fresh, weights)
    fresh.replace(run / BEST)


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones on the way are named and set aside."""
    for _, path in steps_of(run / CHECKPOINTS):
        if not set_aside_if_damaged(path):
            return path
    return None


def set_aside_if_damaged(folder: Path) -> bool:
    """Whether a checkpoint does not verify; if so it is renamed, with a warning that says why."""
    try:
        verify_folder(folder)
        return False
    except CheckpointError as error:
        number = 0
        while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
            number += 1
        folder.rename(aside)
        log.warning("%s It was set aside as `%s`.", error, aside.name)
        return True


def read_checkpoint(folder: Path) -> Checkpoint:
    """The state in a verified checkpoint.

    Raises:
        CheckpointError: if it is not one that we wrote.
    """
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        progress = Progress(**state["progress"])
        data = DataState.from_dict(state["data"])
        course = dict(state["course"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Its `{STATE}` cannot be read ({type(error).__name__}: {error}).",
            subject=str(folder),
            remedy="Give a checkpoint of a run: a folder `checkpoints/step-N`.",
        ) from None
    average = read_tensors(folder / AVERAGE) if (folder / AVERAGE).is_file() else None
    optimizer = read_tensors(folder / OPTIMIZER)
    return Checkpoint(folder, progress, data, course, optimizer, average)


def course_hash(course: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that decide the course of a run."""
    return hashlib.sha256(json.dumps(course, sort_keys=True).encode()).hexdigest()
