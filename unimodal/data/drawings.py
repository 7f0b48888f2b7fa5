"""Which drawings look alike, and a split of (style, concept) pairs that leaks none of them.

Used by the emoji recipe; works on any pictures of one size with a `style` and a `base` concept.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.sources import hash_fraction

_SMALL, _CLOSE_SMALL, _CLOSE = 8, 5.0, 12.0
_LARGEST_HELD_OUT = 12


class _Groups:
    """Union-find over n items."""

    def __init__(self, number: int):
        self._parent = list(range(number))

    def find(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low


def group_drawings(pixels: NDArray[np.uint8]) -> list[int]:
    """A group number a drawing; drawings that look alike have the same.

    Two drawings look alike if the root mean square difference is below 5 of 255 at 8 x 8 and
    below 12 at full size.

    Args:
        pixels: uint8 [n, h, w, 3], h and w multiples of 8.
    """
    number, height, width, _ = pixels.shape
    groups = _Groups(number)
    cells = pixels.reshape(number, _SMALL, height // _SMALL, _SMALL, width // _SMALL, 3)
    small = cells.mean(axis=(2, 4), dtype=np.float32).reshape(number, -1)
    norms = (small**2).sum(axis=1)
    bound = _CLOSE_SMALL**2 * small.shape[1]
    for start in range(0, number, 512):
        block = small[start : start + 512]
        distance = norms[start : start + 512, None] + norms[None] - 2 * block @ small.T
        ones, others = np.nonzero(distance < bound)
        for one, other in zip((ones + start).tolist(), others.tolist(), strict=True):
            if one < other and groups.find(one) != groups.find(other):
                difference = pixels[one].astype(np.float32) - pixels[other]
                if float((difference**2).mean()) < _CLOSE**2:
                    groups.join(one, other)
    return [groups.find(item) for item in range(number)]


def hold_out(rows: Sequence[Mapping[str, Any]], alike: Sequence[int]) -> list[str]:
    """The split of each (style, concept) pair.

    - `concepts` (4 % of the base concepts): never seen in any style;
    - `test` (10 % of the pairs) and `validation` (4 %): the concept is in `train` in another
      style, and no drawing that looks alike is;
    - `train`: the rest.

    Variants of one base concept in one style (skin tones) stay together.

    Args:
        rows: Pairs, each with `style` and `base`.
        alike: Their groups, from `group_drawings`.
    """
    pairs = _Groups(len(rows))
    concepts = {base: i for i, base in enumerate(sorted({row["base"] for row in rows}))}
    families = _Groups(len(concepts))
    first: dict[Any, int] = {}
    for index, (row, group) in enumerate(zip(rows, alike, strict=True)):
        for key in ((row["style"], row["base"]), group):
            other = first.setdefault(key, index)
            pairs.join(index, other)
            families.join(concepts[row["base"]], concepts[rows[other]["base"]])
    family_of = [families.find(concepts[row["base"]]) for row in rows]
    members: dict[int, set[str]] = defaultdict(set)
    for row, family in zip(rows, family_of, strict=True):
        members[family].add(row["base"])
    unseen = {
        family
        for family, bases in members.items()
        if len(bases) <= _LARGEST_HELD_OUT and hash_fraction("concept", min(bases)) < 0.04
    }
    sizes = Counter(pairs.find(index) for index in range(len(rows)))
    splits = []
    for index, family in enumerate(family_of):
        group = pairs.find(index)
        fraction = hash_fraction("pair", rows[group]["style"], rows[group]["base"])
        if family in unseen:
            splits.append("concepts")
        elif sizes[group] > 10 * _LARGEST_HELD_OUT or fraction >= 0.14:
            splits.append("train")
        else:
            splits.append("test" if fraction < 0.10 else "validation")
    return _keep_seen(rows, [pairs.find(index) for index in range(len(rows))], splits)


def _keep_seen(
    rows: Sequence[Mapping[str, Any]], groups: Sequence[int], splits: list[str]
) -> list[str]:
    """Move held-out groups to `train` until every held-out concept is seen there."""
    while True:
        seen = {r["base"] for r, split in zip(rows, splits, strict=True) if split == "train"}
        back = {
            group
            for row, group, split in zip(rows, groups, splits, strict=True)
            if split in ("test", "validation") and row["base"] not in seen
        }
        if not back:
            return splits
        splits = [
            "train" if group in back else split for group, split in zip(groups, splits, strict=True)
        ]
