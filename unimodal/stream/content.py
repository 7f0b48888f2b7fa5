"""Content against its layout: what is refused here, no cursor would walk.

One check for all three layouts, vectorised; the cursors of `unimodal.grammar` define what is right.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import GrammarError
from unimodal.grammar import AXES, Cell, SegmentGrammar, Slot


def check_cells(grammar: SegmentGrammar, grid: NDArray[np.int32]) -> Cell:
    """Check the number and the order of a value's cells.

    Args:
        grammar: The layout.
        grid: Cells, (T, 3).

    Returns:
        The size (t, h, w).

    Raises:
        GrammarError: if a size or the number of codes is out of bounds, or the cells are no raster.
    """
    t, h, w = size = _size(grammar, grid)
    per_cell = len(grammar.slots)
    cell = np.arange(len(grid)) // per_cell
    is_raster = len(grid) == t * h * w * per_cell
    if is_raster and h == w == 1:
        is_raster = np.array_equal(grid[:, 0], cell) and not grid[:, 1:].any()
    elif is_raster:
        raster = np.stack((cell // (h * w), cell // w % h, cell % w), axis=1)
        is_raster = np.array_equal(grid, raster)
    if not is_raster:
        raise _misfit(
            grammar,
            f"{len(grid)} codes, but its cells must be the {t} x {h} x {w} raster, {per_cell} "
            "codes each",
        )
    return size


def check_codes(slots: Sequence[Slot], ids: NDArray[np.int64]) -> None:
    """Check that codes follow the cycle of a cell.

    Args:
        slots: Codes of one cell.
        ids: Global ids of the content, (T,).

    Raises:
        GrammarError: naming the first code of a slot that comes from another span.
    """
    for place, slot in enumerate(slots):
        codes = ids[place :: len(slots)]
        inside = np.zeros(len(codes), np.bool_)
        for start, stop in slot.ranges:
            inside |= (codes >= start) & (codes < stop)
        if not inside.all():
            number = int(inside.argmin()) * len(slots) + place
            name = slot.head_set.removesuffix("+end")
            raise GrammarError(f"Code {number} must come from `{name}`, but does not.")


def _size(grammar: SegmentGrammar, grid: NDArray[np.int32]) -> Cell:
    """Size of checked cells: the count of an open layout, else the extent of the grid."""
    if grammar.end is not None:
        cells, rest = divmod(len(grid), len(grammar.slots))
        most = math.inf if grammar.max_cells is None else grammar.max_cells
        if rest or not grammar.min_cells <= cells <= most:
            raise _misfit(
                grammar,
                f"{len(grid)} codes, but the layout allows {grammar.min_cells} to {most} cells of "
                f"{len(grammar.slots)}",
            )
        return cells, 1, 1
    low, high = list(grammar.size), list(grammar.size)
    for header in grammar.headers:
        low[header.axis], high[header.axis] = header.low, header.high
    size = (grid.max(axis=0) + 1).tolist() if len(grid) else [0, 0, 0]
    for axis, n, least, most in zip(AXES, size, low, high, strict=True):
        if not least <= n <= most:
            raise _misfit(grammar, f"size {n} on axis {axis}, but may have {least} to {most}")
    return size[0], size[1], size[2]


def _misfit(grammar: SegmentGrammar, what: str) -> GrammarError:
    return GrammarError(
        f"A value of `{grammar.name}` has {what}.",
        remedy="Crop or resize the value, or widen the layout in the modality's config.",
    )
