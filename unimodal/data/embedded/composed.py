"""Sources that are made of other sources: `scenes` and `joined`. Nothing is stored for them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from unimodal.data.joined import Joined
from unimodal.data.scene_drawing import Thing
from unimodal.data.scenes import Scenes
from unimodal.data.sources import SOURCES, SPLITS, check_options, check_split, open_source
from unimodal.errors import DataError

THINGS = {
    "apple": "red apple",
    "car": "automobile",
    "airplane": "airplane",
    "balloon": "balloon",
    "ball": "soccer ball",
    "banana": "banana",
    "bicycle": "bicycle",
    "bus": "bus",
    "butterfly": "butterfly",
    "cactus": "cactus",
    "cake": "birthday cake",
    "carrot": "carrot",
    "cat": "cat face",
    "cow": "cow face",
    "crab": "crab",
    "crown": "crown",
    "dog": "dog face",
    "doughnut": "doughnut",
    "elephant": "elephant",
    "fire": "fire",
    "fish": "fish",
    "fox": "fox",
    "hamburger": "hamburger",
    "hammer": "hammer",
    "hat": "top hat",
    "house": "house",
    "key": "key",
    "monkey": "monkey face",
    "moon": "crescent moon",
    "mouse": "mouse face",
    "octopus": "octopus",
    "owl": "owl",
    "panda": "panda",
    "pear": "pear",
    "penguin": "penguin",
    "pig": "pig face",
    "pineapple": "pineapple",
    "pizza": "pizza",
    "rabbit": "rabbit face",
    "rose": "rose",
    "snowflake": "snowflake",
    "tent": "tent",
    "tomato": "tomato",
    "tree": "evergreen tree",
    "tulip": "tulip",
    "turtle": "turtle",
    "umbrella": "umbrella",
}
"""What captions call a thing, and the name of its drawing. Those without a drawing are left out."""

_LENGTHS = {"train": 200_000, "validation": 500, "test": 1_000}


@SOURCES.register("scenes")
def scenes(
    *,
    split: str = "train",
    length: int | None = None,
    drawings: str = "embedded/emoji",
    drawing_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Scenes:
    """Composed scenes of shapes and drawings; see `unimodal.data.scenes.Scenes`.

    Args:
        split: `train`, `validation`, or `test` (held-out pairs of objects, and objects in held-out
            roles).
        length: Number of scenes.
        drawings: Source of the things, whose records have `image`, `text` and `style`; only its
            `train` split is shown. `none`: shapes alone.
        drawing_options: Options of that source.
        **options: `seed`, `size` and `plain` of `Scenes`.
    """
    check_split(split, SPLITS, "scenes")
    options["length"] = _LENGTHS[split] if length is None else length
    check_options("scenes", options, Scenes)
    things, license = _things(drawings, tuple(sorted((drawing_options or {}).items())))
    return Scenes(things, split=split, license=license, **options)


@lru_cache(maxsize=4)
def _things(drawings: str, options: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], str]:
    """Drawings by the name that captions use, and their licence."""
    if drawings == "none":
        return {}, "CC0-1.0"
    source = open_source(drawings, "train", **dict(options))
    called = {label: name for name, label in THINGS.items()}
    found: dict[str, list[Thing]] = {}
    for index in range(len(source)):
        record = source[index]
        name = called.get(record["text"])
        if name is not None:
            found.setdefault(name, []).append(
                Thing(record["style"], record["image"].pixels.numpy())
            )
    return found, source.license


@SOURCES.register("joined")
def joined(
    *,
    split: str = "train",
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    on: str = "text",
    aliases: Mapping[str, str] | None = None,
    most: int = 8,
) -> Joined:
    """Records of one source with those of another that have the same value in a field.

    A spoken caption and a picture of what it names, for example.

    Args:
        split: Of both; one that names its own `split` keeps it.
        first, second: `{"name": ..., "options": {...}, "split": ...}`, the last two optional.
        on: The field that must be the same (the case of letters does not count).
        aliases: Values of the first, and what the second calls them.
        most: Records of the second that one of the first is joined with, at most.
    """
    for option, part in (("first", first), ("second", second)):
        if not isinstance(part, Mapping) or "name" not in part:
            raise DataError(
                f"`{option}` must name a data set, but is {part!r}.",
                subject="joined",
                remedy="Write {name: NAME}, and `options` and `split` beside it where needed.",
            )
    sources = [
        open_source(part["name"], part.get("split") or split, **dict(part.get("options") or {}))
        for part in (first, second)
    ]
    return Joined(*sources, on=on, aliases=aliases or {}, most=most, split=split)
