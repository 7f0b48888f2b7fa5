"""Reading composed scenes: maps of where which object is, and whether a role is shown.

A network gives one map an object (how likely its middle is in a cell) and one of sizes. From the
maps follow the objects with their places; from the places whether one is left of the other, inside
it, in a corner and so on. The objects and roles are those of `unimodal.data.scenes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unimodal.data.scenes import CONTAINERS

CELLS = 8
"""Cells of a map along a side."""
SPREAD = 0.7
"""Standard deviation of an object's mark on its map, in cells."""
ENOUGH = 0.35
"""Height of a peak that counts as an object."""
AROUND = " (around)"


@dataclass(frozen=True)
class Seen:
    """An object that was read off a picture.

    Attributes:
        name: What it is.
        row, column: Its middle, as shares of the picture.
        size: Its height and width, as a share of the picture.
        is_around: Whether it has another object inside.
    """

    name: str
    row: float
    column: float
    size: float
    is_around: bool = False


def map_names(objects: Sequence[str]) -> list[str]:
    """Names of the maps: one an object, and one more for each that may be round another."""
    around = [name + AROUND for name in objects if name.split()[-1] in CONTAINERS]
    return [*objects, *around]


def scene_targets(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], side: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Marks (n, names, 8, 8) in [0, 1], and sizes (n, 8, 8), -1 where there is no middle.

    Args:
        records: Of each scene `relation` and `objects`: `name`, `top`, `left`, `size` in pixels.
        names: Of the maps.
        side: Pixels of the judged picture along a side.
        scale: Judged pixels a pixel of the boxes.
    """
    number = {name: place for place, name in enumerate(names)}
    heat = np.zeros((len(records), len(names), CELLS, CELLS), np.float32)
    sizes = np.full((len(records), CELLS, CELLS), -1, np.float32)
    middles = np.arange(CELLS) + 0.5
    for scene, record in enumerate(records):
        for order, one in enumerate(record["objects"]):
            is_around = record["relation"] == "inside" and order == 1
            size = one["size"] * scale / side
            row, column = ((one[at] * scale / side + size / 2) * CELLS for at in ("top", "left"))
            down = np.exp(-((middles - row) ** 2) / (2 * SPREAD**2))
            across = np.exp(-((middles - column) ** 2) / (2 * SPREAD**2))
            mark = np.outer(down, across)
            place = heat[scene, number[one["name"] + AROUND * is_around]]
            np.maximum(place, mark / mark.max(), out=place)
            sizes[scene, min(int(row), CELLS - 1), min(int(column), CELLS - 1)] = size
    return torch.from_numpy(heat), torch.from_numpy(sizes)


def heat_loss(outputs: Tensor, heat: Tensor, sizes: Tensor) -> Tensor:
    """Cross entropy of the marks, summed over maps and averaged over cells; error of the sizes."""
    marks = F.binary_cross_entropy_with_logits(outputs[:, :-1], heat, reduction="none")
    known = sizes >= 0
    error = (outputs[:, -1].sigmoid() - sizes).abs()
    return marks.sum(dim=1).mean() + (error * known).sum() / known.sum().clamp(min=1)


def read_scenes(outputs: Tensor, names: Sequence[str]) -> list[list[Seen]]:
    """The objects of each picture: peaks of the maps.

    Args:
        outputs: (n, names + 1, 8, 8); the last map is that of sizes.
        names: Of the other maps.
    """
    heat = outputs[:, :-1].sigmoid()
    sizes = outputs[:, -1].sigmoid()
    is_peak = (heat == F.max_pool2d(heat, 3, stride=1, padding=1)) & (heat > ENOUGH)
    found: list[list[Seen]] = [[] for _ in range(len(outputs))]
    taken: set[tuple[int, int, int, int]] = set()
    for scene, name, row, column in is_peak.nonzero().tolist():
        # A middle between two cells marks both alike: neighbours of a peak are the same object.
        near = {(scene, name, row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        if near & taken:
            continue
        taken.add((scene, name, row, column))
        middle = _centroid(heat[scene, name].numpy(), row, column)
        size = float(sizes[scene, row, column])
        is_around = names[name].endswith(AROUND)
        found[scene].append(Seen(names[name].removesuffix(AROUND), *middle, size, is_around))
    return found


def _centroid(marks: NDArray[np.float32], row: int, column: int) -> tuple[float, float]:
    """The middle of a mark, from the three by three cells round its peak."""
    rows = slice(max(0, row - 1), row + 2)
    columns = slice(max(0, column - 1), column + 2)
    part = marks[rows, columns]
    total = float(part.sum())
    down = float((part.sum(axis=1) * (np.arange(CELLS)[rows] + 0.5)).sum()) / total
    across = float((part.sum(axis=0) * (np.arange(CELLS)[columns] + 0.5)).sum()) / total
    return down / CELLS, across / CELLS


def has_objects(seen: Sequence[Seen], record: Mapping[str, Any]) -> bool:
    """Whether a picture shows the objects of a scene, each as often, and no others."""
    return sorted(s.name for s in seen) == sorted(o["name"] for o in record["objects"])


def shows_role(seen: Sequence[Seen], record: Mapping[str, Any]) -> bool:
    """Whether the objects stand as a scene's `relation` says. They must be the right ones."""
    if not has_objects(seen, record):
        return False
    role = record["relation"]
    order = list(dict.fromkeys(o["name"] for o in record["objects"]))
    first = next(s for s in seen if s.name == order[0])
    if role in ("", "two", "three"):
        return True  # the number of objects is right
    if role == "small":
        return first.size < 0.42
    if role == "large":
        return first.size > 0.68
    if role in ("top left", "top right", "bottom left", "bottom right"):
        rows, columns = role.split()
        return (first.row < 0.5) == (rows == "top") and (first.column < 0.5) == (columns == "left")
    others = [next(s for s in seen if s.name == name) for name in order[1:]]
    if role == "between":
        return others[0].column < first.column < others[1].column
    down, right = first.row - others[0].row, first.column - others[0].column
    return {
        "left of": right < -abs(down),
        "right of": right > abs(down),
        "above": down < -abs(right),
        "below": down > abs(right),
        "inside": others[0].is_around and max(abs(down), abs(right)) < 0.2,
    }[role]


def share_read(
    seen: Sequence[Sequence[Seen]], records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Shares of scenes whose objects are right, and whose objects and role are."""
    pairs = list(zip(seen, records, strict=True))
    return {
        "objects": float(np.mean([has_objects(s, r) for s, r in pairs])),
        "role": float(np.mean([shows_role(s, r) for s, r in pairs])),
    }
