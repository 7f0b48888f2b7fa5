"""Composed scenes: one to three known objects on a small picture, with a caption and the truth.

A scene is a function of (seed, split, index): coloured shapes and drawings of things, how many of
them, and where they stand to each other. Some pairs of objects, and some objects in some roles
(left of something, two of a kind, in a corner), never occur in training: a model that draws them
has composed them. Nothing is stored; see `unimodal.data.scene_drawing` for the pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from unimodal.data.scene_drawing import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Painter,
    Thing,
)
from unimodal.data.sources import BaseSource, Record, hash_fraction, hash_seed
from unimodal.data.tables import to_image
from unimodal.errors import ConfigError

RELATIONS = ("left of", "right of", "above", "below", "inside")
"""How the first of two objects stands to the second."""
CONVERSE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
}
"""How the second stands to the first."""
COUNTS = ("two", "three")
SIZES = ("small", "large")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
CONTAINERS = ("circle", "square")
"""Shapes with room for an object inside."""

PAIR_SHARE = 0.1
"""Share of the pairs of objects that training never sees together."""
ROLE_SHARE = 0.08
"""Share of the (object, role) combinations that training never sees."""

_KINDS = {"single": 0.1, "sized": 0.1, "corner": 0.1, "count": 0.2, "pair": 0.4, "between": 0.1}
"""Shares of the kinds of scenes in training."""
_CAN_HOLD_OUT = {
    "": tuple(_KINDS),
    "pair": ("pair", "between"),
    "role": tuple(kind for kind in _KINDS if kind != "single"),
}
_NUM_NAMES = {"pair": 2, "between": 3}
_COLOUR_NAMES = tuple(COLOURS)
_IRREGULAR = {"fish": "fish", "mouse": "mice", "tomato": "tomatoes", "cactus": "cacti"}
_IRREGULAR |= {"butterfly": "butterflies"}

_TEMPLATES = {
    "left of": (
        "{a} left of {b}",
        "{a} to the left of {b}",
        "{a} on the left and {b} on the right",
        "{b} with {a} to its left",
        "{b} right of {a}",
    ),
    "right of": (
        "{a} right of {b}",
        "{a} to the right of {b}",
        "{a} on the right and {b} on the left",
        "{b} with {a} to its right",
        "{b} left of {a}",
    ),
    "above": (
        "{a} above {b}",
        "{a} over {b}",
        "{a} at the top and {b} at the bottom",
        "{b} with {a} above it",
        "{b} below {a}",
    ),
    "below": (
        "{a} below {b}",
        "{a} under {b}",
        "{a} at the bottom and {b} at the top",
        "{b} with {a} below it",
        "{b} above {a}",
    ),
    "inside": ("{a} inside {b}", "{a} in {b}", "{b} with {a} inside", "{b} around {a}"),
    "between": (
        "{a} between {b} and {c}",
        "{b}, {a} and {c} in a row",
        "{b} on the left, {a} in the middle, {c} on the right",
    ),
}
_OPENINGS = ("", "", "", "a picture of ", "a drawing of ")


@dataclass(frozen=True)
class Placed:
    """One object of a scene.

    Attributes:
        name: What a caption calls it, e.g. `red circle` or `apple`.
        style: Of its drawing; empty for shapes.
        top, left: Of its box, in pixels.
        size: Height and width of its box, in pixels.
    """

    name: str
    style: str
    top: int
    left: int
    size: int


@dataclass(frozen=True)
class Plan:
    """What a scene shows, before anything is placed.

    Attributes:
        kind: One of `single, sized, corner, count, pair, between`.
        names: Its objects, each name once, the one that is spoken of first.
        role: Relation, count, size or corner of the first object; empty for `single`.
    """

    kind: str
    names: tuple[str, ...]
    role: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of objects that occur together, each sorted."""
        return [
            (min(one, other), max(one, other))
            for number, one in enumerate(self.names)
            for other in self.names[number + 1 :]
        ]

    @property
    def roles(self) -> list[tuple[str, str]]:
        """(object, role) combinations that occur."""
        found = [(self.names[0], self.role)] if self.role else []
        if self.role in CONVERSE:
            found.append((self.names[1], CONVERSE[self.role]))
        return found


@lru_cache(maxsize=1 << 16)
def is_held_out_pair(one: str, other: str) -> bool:
    """Whether training never shows two objects together; the order does not matter."""
    return hash_fraction("scene pair", min(one, other), max(one, other)) < PAIR_SHARE


@lru_cache(maxsize=1 << 14)
def is_held_out_role(name: str, role: str) -> bool:
    """Whether training never shows an object in a role."""
    return hash_fraction("scene role", name, role) < ROLE_SHARE


def held_out(plan: Plan) -> str:
    """`pair` or `role`: which rule keeps a scene out of training; `both`; or empty for neither."""
    has_pair = any(is_held_out_pair(*pair) for pair in plan.pairs)
    has_role = any(is_held_out_role(*role) for role in plan.roles)
    return "both" if has_pair and has_role else "pair" if has_pair else "role" if has_role else ""


class Scenes(BaseSource):
    """Composed scenes; record: `{"id", "image", "text", "objects", "relation", "background",
    "held_out"}`.

    `objects` are `Placed` as dicts, `relation` is the role of the first. `train` and `validation`
    have no held-out pair and no held-out role; in `test` even records have a held-out pair (and no
    held-out role), odd ones a held-out role (and no held-out pair).

    Args:
        things: Drawings by name; may be empty.
        split: `train`, `validation` or `test`.
        length: Number of scenes.
        seed: Another seed makes other scenes.
        size: Height and width of a picture in pixels, at least 24.
        plain: Only white backgrounds.
        name: See `Source`.
        license: See `Source`.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(
        self,
        things: Mapping[str, Sequence[Thing]],
        *,
        split: str,
        length: int,
        seed: int = 0,
        size: int = 32,
        plain: bool = False,
        name: str = "scenes",
        license: str = "CC0-1.0",
    ):
        super().__init__(name, license, split)
        if size < 24 or length < 0:
            raise ConfigError(
                f"`size` must be at least 24 and `length` at least 0, but they are {size} and "
                f"{length}."
            )
        self._length, self.seed, self.plain = length, seed, plain
        self._painter = Painter(things, size)
        self._things = sorted(things)
        self._shapes = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        self.names = (*self._shapes, *self._things)

    def __len__(self) -> int:
        return self._length

    def record(self, index: int) -> Record:
        rng = np.random.default_rng(hash_seed("scene", self.split, self.seed, index))
        wanted = "" if self.split != "test" else ("pair", "role")[index % 2]
        kind = _kind(wanted, rng)
        plan = self._plan(kind, rng)
        while plan is None or held_out(plan) != wanted:
            plan = self._plan(kind, rng)
        objects = self._place(plan, rng)
        background = "white" if self.plain else self._background(plan, rng)
        return {
            "id": f"{self.split}-{self.seed}-{index}",
            "image": to_image(self._painter.paint(objects, background, rng)),
            "text": caption(plan, background, rng),
            "objects": [dict(vars(placed)) for placed in objects],
            "relation": plan.role,
            "background": background,
            "held_out": wanted,
        }

    def _plan(self, kind: str, rng: np.random.Generator) -> Plan | None:
        """What to show; None if what was drawn cannot be shown."""
        names = tuple(self._name(rng) for _ in range(_NUM_NAMES.get(kind, 1)))
        role = {"between": "between", "single": ""}.get(kind)
        if kind == "pair":
            role = _one(RELATIONS, rng)
            if role == "inside":
                names = (names[0], f"{_one(_COLOUR_NAMES, rng)} {_one(CONTAINERS, rng)}")
                if names[0].split()[0] == names[1].split()[0]:  # one colour would hide it
                    return None
        elif role is None:
            role = _one({"sized": SIZES, "corner": CORNERS, "count": COUNTS}[kind], rng)
        return Plan(kind, names, role) if len(set(names)) == len(names) else None

    def _name(self, rng: np.random.Generator) -> str:
        """A shape or a thing, equally often."""
        is_thing = bool(self._things) and rng.random() < 0.5
        return _one(self._things if is_thing else self._shapes, rng)

    def _background(self, plan: Plan, rng: np.random.Generator) -> str:
        if rng.random() < 0.6:
            return "white"
        taken = {name.split()[0] for name in plan.names}
        return _one([name for name in BACKGROUNDS if name not in taken], rng)

    def _place(self, plan: Plan, rng: np.random.Generator) -> list[Placed]:
        """Boxes: by fractions of the picture, then whole pixels."""
        sketch = _SKETCHES[plan.kind](plan, rng)
        side = self._painter.size
        names = plan.names if len(plan.names) == len(sketch) else plan.names * len(sketch)
        styles: dict[str, str] = {}
        placed = []
        for name, (top, left, size) in zip(names, sketch, strict=True):
            pixels = max(6, round(size * side))
            style = styles.setdefault(name, self._painter.style_of(name, rng))
            row, column = (max(0, min(round(at * side), side - pixels)) for at in (top, left))
            placed.append(Placed(name, style, row, column, pixels))
        return placed


_Box = tuple[float, float, float]
"""Top, left and size as shares of the picture."""


def caption(plan: Plan, background: str, rng: np.random.Generator) -> str:
    """One of several phrasings of a scene."""
    opening = _one(_OPENINGS, rng)
    a = plan.names[0]
    if plan.kind == "count":
        text = f"{plan.role} {plural(a)}"
        opening = opening or _one(("", "", "there are "), rng)
    elif plan.kind == "sized":
        text = with_article(f"{plan.role} {a}")
    elif plan.kind == "corner":
        text = _one(("{a} in the {role}", "{a} in the {role} corner", "{a} at the {role}"), rng)
        text = text.format(a=with_article(a), role=plan.role)
    elif plan.kind == "single":
        text = with_article(a)
    else:
        named = dict(zip("abc", map(with_article, plan.names), strict=False))
        text = _one(_TEMPLATES[plan.role], rng).format(**named)
    if background != "white":
        text += f" on a{'n' if background[0] in 'aeiou' else ''} {background} background"
    return opening + text


def with_article(name: str) -> str:
    """`apple` to `an apple`."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """`red cross` to `red crosses`."""
    head, _, last = name.rpartition(" ")
    many = _IRREGULAR.get(last)
    if many is None:
        many = last + ("es" if last.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{head} {many}".strip()


def stats(source: Scenes) -> dict[str, Any]:
    """How many objects a source draws from, and how many pairs and roles are held out."""
    names = source.names
    roles = (*RELATIONS, "around", "between", *COUNTS, *SIZES, *CORNERS)
    return {
        "objects": len(names),
        "held-out pairs": sum(
            is_held_out_pair(a, b) for i, a in enumerate(names) for b in names[i + 1 :]
        ),
        "held-out roles": sum(is_held_out_role(name, role) for name in names for role in roles),
    }


def _kind(wanted: str, rng: np.random.Generator) -> str:
    """A kind of scene of which something may be held out as wanted."""
    kinds = _CAN_HOLD_OUT[wanted]
    at = rng.random() * sum(_KINDS[kind] for kind in kinds)
    for kind in kinds:
        at -= _KINDS[kind]
        if at < 0:
            return kind
    return kinds[-1]


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _single(plan: Plan, rng: np.random.Generator) -> list[_Box]:
    size = {"small": (0.28, 0.36), "large": (0.78, 0.94)}.get(plan.role, (0.45, 0.7))
    side = rng.uniform(*size)
    return [(rng.uniform(0, 1 - side), rng.uniform(0, 1 - side), side)]


def _corner(plan: Plan, rng: np.random.Generator) -> list[_Box]:
    side = rng.uniform(0.34, 0.46)
    row, column = plan.role.split()
    near, far = rng.uniform(0, 0.04, 2), rng.uniform(0.96, 1, 2) - side
    return [(near[0] if row == "top" else far[0], near[1] if column == "left" else far[1], side)]


def _count(plan: Plan, rng: np.random.Generator) -> list[_Box]:
    """Each in a quarter of the picture of its own."""
    quarters = rng.permutation(4)[: 2 + (plan.role == "three")]
    side = rng.uniform(0.34, 0.44)
    room = 0.48 - side
    return [
        (0.5 * (q // 2) + 0.02 + rng.uniform(0, room), 0.5 * (q % 2) + 0.02 + rng.uniform(0, room),
         side)
        for q in quarters.tolist()
    ]  # fmt: skip


def _pair(plan: Plan, rng: np.random.Generator) -> list[_Box]:
    if plan.role == "inside":
        outer, inner = rng.uniform(0.78, 0.94), rng.uniform(0.3, 0.38)
        top, left = rng.uniform(0, 1 - outer, 2)
        middle = (outer - inner) / 2
        shift = rng.uniform(-0.04, 0.04, 2)
        return [(top + middle + shift[0], left + middle + shift[1], inner), (top, left, outer)]
    first, second = rng.uniform(0.36, 0.46, 2)
    slack = 1 - first - second
    start, gap = 0.5 * slack * rng.random(), slack * rng.uniform(0.3, 0.5)
    across = rng.uniform(0.3, 0.7) + rng.uniform(-0.08, 0.08, 2)
    along = (start, start + first + gap)
    sizes = (first, second)
    boxes = [
        (max(0.0, min(middle - size / 2, 1 - size)), at, size)
        for middle, at, size in zip(across, along, sizes, strict=True)
    ]
    if plan.role in ("above", "below"):
        boxes = [(at, side, size) for side, at, size in boxes]
    # The first box is at the left or top: it is the second object's in the two converse relations.
    return boxes if plan.role in ("left of", "above") else boxes[::-1]


def _between(plan: Plan, rng: np.random.Generator) -> list[_Box]:
    sizes = rng.uniform(0.26, 0.31, 3)
    slack = 1 - sizes.sum()
    lefts = (0.0, sizes[0] + slack / 2, sizes[0] + sizes[1] + slack)
    base = rng.uniform(0.1, 0.6)
    tops = base + rng.uniform(-0.06, 0.06, 3)
    left, middle, right = zip(tops, lefts, sizes, strict=True)
    return [middle, left, right]


_SKETCHES = {
    "single": _single,
    "sized": _single,
    "corner": _corner,
    "count": _count,
    "pair": _pair,
    "between": _between,
}
