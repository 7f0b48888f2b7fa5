"""Draws docs/kernel_patterns.svg: what patterns show of a document, and which tiles kernels visit.

python -m unimodal.kernels.bench.picture docs/kernel_patterns.svg
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from unimodal.kernels.bench import layouts
from unimodal.kernels.bench.spec import Spec

SIDE, WORDS, CELL, TILE, GAP = 4, 8, 9, 4, 44
BY_COLUMN = "column, by column"
PANELS = ("causal", "window(size=3)", "row", "conv(size=3)", "column", BY_COLUMN)
COLUMNS = 3
WHOLE, SEEN, HIDDEN, LINE = "#2c5f8a", "#e08e45", "#f7e7d6", "#c8ccd2"


def draw() -> str:
    """The picture as SVG text."""
    length = WORDS + SIDE * SIDE
    panel = length * CELL
    width = COLUMNS * (panel + GAP) + 10
    rows = -(-len(PANELS) // COLUMNS)
    height = rows * (panel + GAP) + 84
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui,sans-serif" font-size="13" fill="#123">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, written in enumerate(PANELS):
        x = 10 + number % COLUMNS * (panel + GAP)
        y = 34 + number // COLUMNS * (panel + GAP)
        parts += _panel(written, length, x, y)
    parts += _legend(10, rows * (panel + GAP) + 24)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _mask(written: str, length: int) -> Tensor:
    # A window counts in t: its sixteen cells are sixteen moments.
    grid = (SIDE * SIDE, 1, 1) if "window" in written else (1, SIDE, SIDE)
    spec = Spec(op="attention", pattern=written.partition(",")[0], seq=length, grid=grid)
    placed = layouts.layout(spec)
    mask = layouts.visible(placed, placed, layouts.kinds(spec))[0]
    if written == BY_COLUMN:
        cells = torch.arange(SIDE * SIDE).view(SIDE, SIDE).T.flatten() + WORDS
        order = torch.cat([torch.arange(WORDS), cells])
        mask = mask[order][:, order]
    return mask


def _panel(written: str, length: int, x: int, y: int) -> list[str]:
    mask = _mask(written, length)
    visited, parts = 0, []
    for row in range(0, length, TILE):
        for column in range(0, length, TILE):
            tile = mask[row : row + TILE, column : column + TILE]
            if not tile.any():
                continue
            visited += 1
            left, top = x + column * CELL, y + row * CELL
            whole = bool(tile.all())
            parts.append(_box(left, top, TILE * CELL, WHOLE if whole else HIDDEN))
            if not whole:
                for q, k in tile.nonzero().tolist():
                    parts.append(_box(left + k * CELL, top + q * CELL, CELL, SEEN))
    tiles = (length // TILE) ** 2
    for n in range(0, length + 1, TILE):
        at, end = n * CELL, length * CELL
        parts.append(f'<path d="M{x} {y + at}h{end}M{x + at} {y}v{end}" stroke="{LINE}"/>')
    edge = WORDS * CELL
    parts.append(
        f'<path d="M{x} {y + edge}h{length * CELL}M{x + edge} {y}v{length * CELL}" '
        'stroke="#333" stroke-width="1.2" stroke-dasharray="4 3"/>'
    )
    share = f"{visited} of {tiles}"
    parts.append(
        f'<text x="{x}" y="{y - 8}" font-weight="600">{written.replace("&", "&amp;")}</text>'
    )
    parts.append(
        f'<text x="{x + length * CELL}" y="{y - 8}" text-anchor="end" fill="#567">{share}</text>'
    )
    return parts


def _box(x: int, y: int, side: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{colour}"/>'


def _legend(x: int, y: int) -> list[str]:
    entries = (
        (WHOLE, "whole tile: no token is looked at"),
        (SEEN, "visible pair of a boundary tile"),
        (HIDDEN, "hidden pair of a boundary tile"),
    )
    parts = []
    for colour, text in entries:
        parts.append(_box(x, y - 11, 13, colour))
        parts.append(f'<text x="{x + 19}" y="{y}">{text}</text>')
        x += 250
    lines = (
        f"Rows are queries, columns keys: {WORDS} words, then {SIDE * SIDE} cells of a picture",
        f"(of moments, for the window), dashed. Tiles of {TILE} x {TILE}; blank: not visited.",
    )
    for number, line in enumerate(lines):
        parts.append(f'<text x="10" y="{y + 24 + 18 * number}" fill="#567">{line}</text>')
    return parts


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
