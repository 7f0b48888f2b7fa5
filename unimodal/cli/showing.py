"""Pictures by the shipped model, for `unimodal demo`: drawn from words, in every design it knows.

They stand in the report before anything else is computed. Later, drawings of held-out emoji are
scored in pixels; `python -m unimodal.benchmarks.pictures` has the judges for more.
"""

import base64
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimodal.evaluation import Results
    from unimodal.runtime import Model
    from unimodal.tasks import Task

NAME = "demo"
PART, TITLE = "shipped", "The shipped model"
PICTURES_FILE = "pictures.png"
SAMPLES = 6
BEST_OF = 4
"""Drawings for each picture that is shown; the model's own captions choose."""
SCORED_BEST_OF = 2
"""The same for each one that is scored, for the demo's ten minutes."""
SAMPLING: Mapping[str, Any] = {"temperature": 0.8, "guidance": 2.5}


def draw_pictures(model: "Model", folder: Path) -> str:
    """Draw a sheet of pictures from words, as `pictures.png` and at the head of the report.

    Returns:
        What the sheet shows, and how long it took.
    """
    from PIL import Image as Picture

    from unimodal.benchmarks.gallery import PROMPTS, draw_prompts, sheet
    from unimodal.generation import Sampling
    from unimodal.report import write_report
    from unimodal.report.page import write_part

    began = time.monotonic()
    rows = draw_prompts(model, PROMPTS, SAMPLES, Sampling(**SAMPLING), 0, BEST_OF)
    seconds = time.monotonic() - began
    page = Picture.fromarray(sheet(PROMPTS, rows, scale=3))
    folder.mkdir(parents=True, exist_ok=True)
    page.save(folder / PICTURES_FILE, optimize=True)
    coded = io.BytesIO()
    page.save(coded, format="png", optimize=True)
    count = sum(map(len, rows))
    caption = (
        f"{count * BEST_OF} pictures drawn from words in {seconds:.1f} s: for each prompt the "
        f"{SAMPLES} that the model's own captions choose."
    )
    source = f"data:image/png;base64,{base64.b64encode(coded.getvalue()).decode()}"
    write_part(folder, PART, TITLE, {"pictures": {caption: source}})
    write_report(folder)
    return caption


def drawing_task(model: "Model") -> "Task":
    """Drawing an emoji of the embedded data by its name and design."""
    from unimodal.tasks import DataConfig, TaskConfig, build_task

    config = TaskConfig(
        template="translate",
        source="text",
        target="image_codes",
        data=DataConfig(name="embedded/emoji", options={"captions": "styled"}),
        options={"target_field": "image", "null_rate": 0.1},
    )
    return build_task("draw", config, model.vocabulary)


def score_drawings(model: "Model", limit: int, command: str) -> "Results":
    """Whether drawn emoji, of designs and subjects never seen together, are the nearest to the true
    ones; among at most `limit` of them, in pixels.
    """
    from unimodal.evaluation.drawing import DrawingConfig, copied, draw, reverse_of
    from unimodal.evaluation.drawing_scores import described, retrieval
    from unimodal.generation import Sampling

    task = drawing_task(model)
    sampling = Sampling(**SAMPLING)
    config = DrawingConfig(limit=limit, best_of=SCORED_BEST_OF, sampling=sampling, command=command)
    reverse = reverse_of(task, model.tasks, str(task.config.source))
    drawn = draw(model.engine, task, config, reverse=reverse)
    scores = retrieval(drawn, copied(task, drawn.records), None, config)
    return {"draw": described(scores, drawn, config)}
