"""The picture of a benchmark: bars of time, and the roofline of the machine it ran on."""

from pathlib import Path
from typing import Any

from unimodal.errors import BackendUnavailableError

OURS_COLOUR = "#c0392b"
OTHER_COLOURS = ("#34495e", "#7f8c8d", "#2980b9", "#16a085", "#8e44ad", "#b7950b", "#5d6d7e")


def draw(found: dict[str, Any], path: Path) -> None:
    """Write a PNG of what `unimodal.kernels.bench.bench` returned.

    Left: median times by direction, with the span from a tenth to nine tenths. Right: operations a
    second over operations a byte, under the roof that was measured in the same run.

    Raises:
        BackendUnavailableError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendUnavailableError(
            "Drawing needs matplotlib, which is not installed.",
            subject="--plot",
            remedy="pip install 'unimodal[report]'",
        ) from None
    rows = found["results"]
    names = list(dict.fromkeys(row["contender"] for row in rows))
    colours = {
        name: OURS_COLOUR if name == "unimodal" else OTHER_COLOURS[n % len(OTHER_COLOURS)]
        for n, name in enumerate(names)
    }
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    bars, roof = figure.subplots(1, 2)
    _bars(bars, rows, names, colours)
    _roofline(roof, found, rows, colours)
    spec = found["spec"]
    what = (
        f"{spec['op']} {spec['pattern']}" if spec["op"] in ("attention", "decode") else spec["op"]
    )
    size = f"batch {spec['batch']}, {spec['seq']} positions, {spec['heads']} x {spec['head_dim']}"
    figure.suptitle(f"{what}: {size}, {spec['dtype']}, {found['machine']['card']}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _bars(axes: Any, rows: list[dict[str, Any]], names: list[str], colours: dict[str, str]) -> None:
    directions = list(dict.fromkeys(row["direction"] for row in rows))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        own = {row["direction"]: row for row in rows if row["contender"] == name}
        places = [n + (number - (len(names) - 1) / 2) * width for n in range(len(directions))]
        held = [(p, own[d]) for p, d in zip(places, directions, strict=True) if d in own]
        low = [max(0.0, row["ms"] - row["low_ms"]) for _, row in held]
        high = [max(0.0, row["high_ms"] - row["ms"]) for _, row in held]
        axes.bar(
            [p for p, _ in held],
            [row["ms"] for _, row in held],
            width * 0.92,
            yerr=[low, high],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
            color=colours[name],
            label=name,
        )
    axes.set_xticks(range(len(directions)), directions)
    axes.set_ylabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _roofline(
    axes: Any, found: dict[str, Any], rows: list[dict[str, Any]], colours: dict[str, str]
) -> None:
    top, bandwidth = found["roof"]["tflops"], found["roof"]["gbs"]
    ridge = 1e3 * top / bandwidth
    own = [row["flops_per_byte"] for row in rows]
    left, right = min([ridge / 8, *own]) / 2, max([ridge * 8, *own]) * 2
    axes.plot([left, ridge, right], [left * bandwidth / 1e3, top, top], color="black", linewidth=1)
    markers = {"forward": "o", "backward": "s", "both": "^"}
    for row in rows:
        axes.plot(
            row["flops_per_byte"],
            row["tflops"],
            markers[row["direction"]],
            color=colours[row["contender"]],
            markersize=7,
            alpha=0.85,
        )
    for direction, marker in markers.items():
        if any(row["direction"] == direction for row in rows):
            axes.plot([], [], marker, color="#555555", label=direction)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte (least traffic)")
    axes.set_ylabel("TFLOP/s")
    axes.annotate(
        f"{top:.3g} TFLOP/s, {bandwidth:.3g} GB/s",
        (ridge, top),
        textcoords="offset points",
        xytext=(0, 5),
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
