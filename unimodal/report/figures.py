"""Figures of the report: SVG and PNG as data addresses, by matplotlib (extra `report`).

Backgrounds are transparent and lines of a middle grey, so that they read on light and dark pages.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unimodal.stream import EncodedDocument

INK = "#7a7f87"
COLOURS = ("#2f7ed8", "#e0662b", "#3c9d5d", "#a855c7", "#d13f6c", "#1aa3a3", "#b08a1e", "#6b7cff")
SMOOTHING = 0.8
"""Weight of the past in the drawn mean of training losses."""


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    return find_spec("matplotlib") is not None


def loss_svg(lines: Sequence[Mapping[str, Any]], unit: str = "nats an id") -> str:
    """Loss of each task over the steps: training as lines, held-out as points. A data address."""
    train = [line for line in lines if line.get("kind") == "train"]
    held = [line for line in lines if line.get("kind") == "held_out"]
    names = list(dict.fromkeys(n for line in [*train, *held] for n in line.get("tasks", {})))
    figure, axes = _canvas(8.6, 3.6)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        steps, values = _series(train, name)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=colour, linewidth=1.6, label=name)
        steps, values = _series(held, name)
        axes.plot(steps, values, color=colour, marker="o", markersize=4, linestyle="none")
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(f"{unit} (points: held out)", color=INK)
    if names:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2)
    return _svg(figure)


def speed_svg(lines: Sequence[Mapping[str, Any]], counted: str = "positions") -> str:
    """What is counted, a second, over the steps. A data address."""
    train = [line for line in lines if line.get("kind") == "train"]
    figure, axes = _canvas(8.6, 2.2)
    pairs = [(x["step"], x["tokens_per_second"]) for x in train if x.get("tokens_per_second")]
    axes.plot([p[0] for p in pairs], [p[1] for p in pairs], color=COLOURS[0], linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{counted} a second", color=INK)
    axes.set_xlabel("step", color=INK)
    return _svg(figure)


def usage_svg(counts: Mapping[str, NDArray[np.int64]]) -> str:
    """Share of each code by rank, both axes logarithmic; the line of equal use. A data address."""
    figure, axes = _canvas(8.6, 2.6)
    for number, (name, own) in enumerate(counts.items()):
        colour = COLOURS[number % len(COLOURS)]
        used = np.sort(own[own > 0])[::-1] / max(1, own.sum())
        axes.plot(np.arange(1, len(used) + 1), used, color=colour, linewidth=1.4, label=name)
        axes.axhline(1 / len(own), color=colour, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("code by rank", color=INK)
    axes.set_ylabel("share (dots: equal use)", color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _svg(figure)


def attention_png(maps: Sequence[Tensor], document: EncodedDocument) -> str:
    """Attention matrices side by side with the borders of segments. A data address."""
    figure, grid = _canvas(5.2 * len(maps), 5.2, columns=len(maps))
    starts = [span.start for span in document.spans]
    middles = [(span.start + span.stop - 1) / 2 for span in document.spans]
    names = [span.segment.modality for span in document.spans]
    places = grid if len(maps) > 1 else [grid]
    for number, (axes, weights) in enumerate(zip(places, maps, strict=True)):
        axes.imshow(weights.sqrt().numpy(), cmap="magma", vmin=0, interpolation="nearest")
        for start in starts[1:]:
            axes.axhline(start - 0.5, color="#ffffff", linewidth=0.7, alpha=0.7)
            axes.axvline(start - 0.5, color="#ffffff", linewidth=0.7, alpha=0.7)
        axes.set_xticks(middles, names)
        axes.set_yticks(middles, names, rotation=90, va="center")
        from_end = len(maps) - number
        title = "last layer" if from_end == 1 else f"{from_end} layers from the end"
        axes.set_title(title, color=INK, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _canvas(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.tick_params(colors=INK, labelsize=8)
        for side, spine in one.spines.items():
            spine.set_color(INK)
            spine.set_linewidth(0.6)
            spine.set_visible(columns > 1 or side in ("left", "bottom"))
    return figure, axes if columns > 1 else axes[0]


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "unimodal", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _series(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line.get("tasks", {}).get(name)) for line in lines]
    kept = [(step, value) for step, value in found if isinstance(value, int | float)]
    return [step for step, _ in kept], [float(value) for _, value in kept]


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean, corrected for its start."""
    smoothed, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        smoothed.append(mean / weight)
    return smoothed
