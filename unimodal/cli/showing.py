"""Pictures by the shipped model, for `unimodal demo`: drawn from words, in every design it knows.

They stand in the report before anything else is computed.
"""

import base64
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimodal.runtime import Model

NAME = "demo"
PART, TITLE = "shipped", "The shipped model"
PICTURES_FILE = "pictures.png"
SAMPLES = 8
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
    rows = draw_prompts(model, PROMPTS, SAMPLES, Sampling(**SAMPLING), seed=0)
    seconds = time.monotonic() - began
    page = Picture.fromarray(sheet(PROMPTS, rows, scale=3))
    folder.mkdir(parents=True, exist_ok=True)
    page.save(folder / PICTURES_FILE, optimize=True)
    coded = io.BytesIO()
    page.save(coded, format="png", optimize=True)
    count = sum(map(len, rows))
    caption = f"{count} pictures drawn from words in {seconds:.1f} s, none chosen."
    source = f"data:image/png;base64,{base64.b64encode(coded.getvalue()).decode()}"
    write_part(folder, PART, TITLE, {"pictures": {caption: source}})
    write_report(folder)
    return caption
