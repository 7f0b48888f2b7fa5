"""A sheet of pictures that a run draws: a line a prompt, a column a sample.

python -m unimodal.benchmarks.gallery RUN --out docs/gallery.png [--prompts "a red apple" ...]
    [--samples 8] [--best-of 4] [--guidance 3] [--temperature 1] [--scale 3] [--seed 0]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import ConfigError, run_module
from unimodal.evaluation.drawing import drawing_tasks, reverse_of
from unimodal.evaluation.encoder import at_side
from unimodal.generation import Request, Sampling
from unimodal.generation.ranking import best_first, rank_in_reverse
from unimodal.runtime import Model, load
from unimodal.stream import Segment
from unimodal.tasks import Task

PROMPTS = (
    "a red apple, flat design",
    "a banana, noto design",
    "a dog face, twemoji design",
    "an octopus, fluent design",
    "a house, emojione design",
    "a red circle left of a blue star",
    "a green square above an apple",
    "a fish inside a yellow circle",
    "two orange hearts",
    "sneaker",
)
SIDE = 32
MARGIN = 4
BEST_OF = "drawings for each picture, of which the model's own captions choose"
LINE = 14
"""Height of a line of text in pixels."""


def draw_prompts(
    model: Model,
    prompts: Sequence[str],
    samples: int,
    sampling: Sampling,
    seed: int,
    best_of: int = 1,
) -> list[list[NDArray[np.uint8]]]:
    """Pictures uint8 [32, 32, 3] of each prompt; drawing i of a prompt has the seed `seed` + i.

    Args:
        model: With a task that draws.
        prompts: What is drawn.
        samples: Pictures of each prompt.
        sampling: Of each drawing, but for its seed.
        seed: Of each prompt's first drawing.
        best_of: Drawings for each picture that is kept: the ones after which the prompt is
            likeliest, by the run's own task from pictures to text, the likeliest first.

    Raises:
        ConfigError: if the run has no task that draws pictures of text, or none to choose by.
    """
    task = _text_task(model)
    source = str(task.config.source)
    if min(samples, best_of) < 1:
        raise ConfigError(f"`samples` and `best_of` must be at least 1, not {samples}, {best_of}.")
    reverse = None if best_of == 1 else reverse_of(task, model.tasks, source)
    if best_of > 1 and reverse is None:
        raise ConfigError("The run has no task that chooses among drawings: one that names them.")
    drawn = samples * best_of
    requests = []
    for prompt in prompts:
        given = model.prompts.segments(prompt)
        document = model.prompts.document(given, task.config.target, task)
        for number in range(drawn):
            own = Sampling(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                guidance=sampling.guidance,
                seed=seed + number,
            )
            null = task.null(document) if own.is_guided else None
            requests.append(Request(document, sampling=own, max_tokens=4096, null=null))
    answers = model.generate_many(requests)
    if reverse is not None:
        given = [Segment(source, prompt) for prompt in prompts for _ in range(drawn)]
        answers = rank_in_reverse(model.decoder, reverse, given, answers)
    lines = []
    for first in range(0, len(answers), drawn):
        line = answers[first : first + drawn]
        if reverse is not None:
            line = best_first(line)[:samples]
        lines.append([at_side(answer.value.pixels.numpy(), SIDE) for answer in line])
    return lines


def sheet(
    prompts: Sequence[str], rows: Sequence[Sequence[NDArray[np.uint8]]], scale: int
) -> NDArray[np.uint8]:
    """One picture: each prompt above its line of pictures, which are enlarged `scale` times."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    cell = SIDE * scale + MARGIN
    width = cell * max(len(row) for row in rows) + MARGIN
    page = Picture.new("RGB", (width, (cell + LINE) * len(rows) + MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for line, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        top = MARGIN + line * (cell + LINE)
        pen.text((MARGIN, top), prompt, fill=(70, 74, 80))
        for column, pixels in enumerate(row):
            large = np.kron(pixels, np.ones((scale, scale, 1), np.uint8))
            page.paste(Picture.fromarray(large), (MARGIN + column * cell, top + LINE))
    return np.asarray(page)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the head of this module."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.benchmarks.gallery")
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--best-of", type=int, default=1, metavar="N", help=BEST_OF)
    parser.add_argument("--scale", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    from PIL import Image as Picture

    model = load(given.run, given.device)
    sampling = Sampling(
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        guidance=given.guidance,
    )
    rows = draw_prompts(model, given.prompts, given.samples, sampling, given.seed, given.best_of)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(sheet(given.prompts, rows, given.scale)).save(given.out, optimize=True)
    print(given.out)
    return 0


def _text_task(model: Model) -> Task:
    for task in drawing_tasks(model.tasks).values():
        source = task.config.source
        if source is not None and model.vocabulary.modality(source).value_type is str:
            return task
    raise ConfigError("The run has no task that draws pictures of text.")


if __name__ == "__main__":
    run_module(main)
