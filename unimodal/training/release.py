"""Prepares a trained run for shipping: a model folder in bfloat16 with a card beside it.

    python -m unimodal.training.release RUN --out unimodal/shipped/demo

It takes the finished model, or the averaged weights of the newest checkpoint that verifies. Paths
stay behind; tokens and hours come from the run's own metrics. `--machine` and `--about` are words
for the card.
"""

import argparse
import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import CheckpointError, run_module
from unimodal.model.decoder import Decoder
from unimodal.model.durable import files_of, hash_file
from unimodal.model.folder import EXPERIMENT, find_model, load_model, save_model
from unimodal.shipped import CARD, shipped_folder
from unimodal.tasks.base import DataConfig
from unimodal.training.metrics import METRICS, read_metrics

COURSE = "course.json"
"""What a shipped model's training came to, for the card of one that starts from it."""
LARGEST_FILE = 15 * 1024 * 1024
LARGEST = 30 * 1024 * 1024
"""Bytes of a shipped model: one file, and all of them."""


@dataclasses.dataclass(frozen=True)
class Course:
    """What a training came to, with the runs from whose weights it started.

    Attributes:
        start: What the first run started from.
        runs: How many they were.
        steps, tokens: Optimizer steps, and positions without padding.
        hours: By the clock, over all its parts.
        loss: Held-out nats of each task, of the last evaluation.
        first, best: Held-out loss of the last run, at its first evaluation and at best. Runs may
            weigh tasks differently, so those of earlier ones are not compared.
    """

    start: str
    runs: int
    steps: int
    tokens: int
    hours: float
    loss: Mapping[str, float]
    first: float
    best: float


def read_course(run: Path) -> Course:
    """What the metrics of a run say, and of those that it started from (`init_from`).

    A shipped model that it started from says what it came to itself.

    Raises:
        CheckpointError: if the run has no step or no evaluation.
    """
    before = _experiment(run).get("init_from")
    own = _own_course(run)
    if before is None:
        return own
    folder = shipped_folder(str(before)) or Path(before)
    if (folder / COURSE).is_file():
        earlier = Course(**json.loads((folder / COURSE).read_text("utf-8")))
    elif (folder / METRICS).is_file():
        earlier = read_course(folder)
    else:
        return dataclasses.replace(own, start=f"the weights of `{folder.name}`")
    return dataclasses.replace(
        own,
        start=earlier.start,
        runs=earlier.runs + 1,
        steps=earlier.steps + own.steps,
        tokens=earlier.tokens + own.tokens,
        hours=earlier.hours + own.hours,
    )


def _experiment(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / EXPERIMENT).read_text("utf-8"))
    return found


def _own_course(run: Path) -> Course:
    path = run / METRICS
    lines = read_metrics(path) if path.is_file() else []
    trained = [line for line in lines if line.get("kind") == "train"]
    held_out = [line for line in lines if line.get("kind") == "held_out"]
    if not trained or not held_out:
        raise CheckpointError(
            "Its metrics hold no step or no evaluation.",
            subject=str(path),
            remedy="Train it with evaluation, at least to the first one.",
        )
    last = trained[-1]
    losses = [line["loss"] for line in held_out]
    return Course(
        start="scratch",
        runs=1,
        steps=last["step"],
        tokens=last["total_tokens"],
        hours=last["minutes"] / 60,
        loss=held_out[-1]["tasks"],
        first=losses[0],
        best=min(losses),
    )


def in_bfloat16(decoder: Decoder) -> dict[str, Tensor]:
    """The weights, floats in bfloat16."""
    return {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in decoder.state_dict().items()
    }


def release(run: Path, out: Path, *, machine: str, about: str) -> Path:
    """Write a model for shipping.

    Args:
        run: A run folder.
        out: Where it goes; its name is that of the model. An older one is replaced.
        machine: What it was trained on, for the card.
        about: A sentence for the card.

    Raises:
        CheckpointError: if the run has no model or no metrics, or the model is too large.
    """
    experiment = _experiment(run)
    course = read_course(run)
    decoder = load_model(run)
    experiment |= {"run_dir": f"runs/{experiment['name']}", "init_from": None}
    experiment["tokenizers"] = {name: f"runs/{name}" for name in experiment.get("tokenizers") or {}}
    card = _card(out.name, decoder, experiment, course, machine, about)
    save_model(
        out,
        decoder,
        {
            EXPERIMENT: json.dumps(experiment, indent=1).encode(),
            CARD: card.encode(),
            COURSE: json.dumps(dataclasses.asdict(course), indent=1).encode(),
        },
        weights=in_bfloat16(decoder),
        replace=True,
    )
    sizes = {name: (out / name).stat().st_size for name in files_of(out)}
    largest = max(sizes, key=sizes.__getitem__)
    if sizes[largest] > LARGEST_FILE or sum(sizes.values()) > LARGEST:
        raise CheckpointError(
            f"It has {sum(sizes.values()):,} bytes, {sizes[largest]:,} of them in `{largest}`; "
            f"{LARGEST:,} and {LARGEST_FILE:,} are the most.",
            subject=str(out),
            remedy="Train a smaller model.",
        )
    return out


def _card(
    name: str,
    decoder: Decoder,
    experiment: Mapping[str, Any],
    course: Course,
    machine: str,
    about: str,
) -> str:
    config, vocabulary = decoder.config, decoder.vocabulary
    losses = "\n".join(f"| {task} | {nats:.3f} |" for task, nats in course.loss.items())
    data = "\n".join(
        f"| {task} | {source} | {terms} |" for task, source, terms in _data(experiment)
    )
    tokenizers = ", ".join(f"`{kind}`" for kind in vocabulary.modalities)
    in_runs = of_last = ""
    if course.runs > 1:
        of_last = " of the last run"
        in_runs = f", in {course.runs} runs, each from the weights of the one before"
    return f"""# `{name}`

{about}

    import unimodal as um
    model = um.load("{name}")

- {decoder.num_parameters():,} parameters: {config.num_layers} layers of {config.width}, \
{vocabulary.size:,} ids, in bfloat16. Modalities with their tokenizers: {tokenizers}.
- Trained from {course.start} by `unimodal train experiment={experiment["name"]}` on {machine}: \
{course.steps:,} steps, {course.tokens:,} tokens, {course.hours:.1f} hours{in_runs}. Averaged \
weights.
- Held-out loss over all tasks{of_last}: {course.first:.3f} at its first evaluation, \
{course.best:.3f} at best. Nats an id of the last evaluation:

| task | nats |
|---|---|
{losses}

## Data

| task | source | licence |
|---|---|---|
{data}

Speech is synthetic. Splits keep held-out concepts in a design, voices, pairs of digit and motion,
and the last tenth of the genome out of training.

## Limits

A small model for showing the mechanism. Pictures have 32 x 32 pixels. It knows the words of its
captions, not language; it was trained on nothing that it could be asked about. Do not use it for
decisions about people, or on DNA for anything but measuring.
"""


def _data(experiment: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Task, source and licence."""
    from unimodal.tasks.base import open_data

    found = []
    for task, written in experiment["tasks"].items():
        config = DataConfig(**written["data"])
        source = open_data(config, "train")
        found.append((task, source.name, source.license))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the head of this module."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.training.release")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--machine", default=f"one {platform.machine()} machine")
    parser.add_argument("--about", default="One decoder over several modalities.")
    given = parser.parse_args(arguments)
    out = release(given.run, given.out, machine=given.machine, about=given.about)
    for name in files_of(out):
        path = out / name
        print(f"{path}  {path.stat().st_size:,} bytes  {hash_file(path)[:12]}")
    print(f"{find_model(out)}")
    return 0


if __name__ == "__main__":
    run_module(main)
