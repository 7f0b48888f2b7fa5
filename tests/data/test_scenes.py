"""Composed scenes: splits disjoint by construction, captions and truth that fit the pixels."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.data.scene_drawing import COLOURS, SHAPES, cut_out, shape_mask
from unimodal.data.scenes import (
    CONVERSE,
    Plan,
    Scenes,
    caption,
    held_out,
    is_held_out_pair,
    plural,
    stats,
)
from unimodal.data.sources import SPLITS, open_source
from unimodal.errors import ConfigError


def shapes(split: str, length: int = 400, **options: Any) -> Scenes:
    source = open_source("scenes", split, length=length, drawings="none", **options)
    assert isinstance(source, Scenes)
    return source


def plan_of(record: dict[str, Any]) -> Plan:
    """The plan that a record was made of, read back from its truth."""
    names = tuple(dict.fromkeys(placed["name"] for placed in record["objects"]))
    return Plan("", names, record["relation"])


def test_what_test_shows_is_in_no_training_scene() -> None:
    seen_pairs, seen_roles = set(), set()
    for split in ("train", "validation"):
        for record in shapes(split, 800):
            plan = plan_of(record)
            assert held_out(plan) == record["held_out"] == ""
            seen_pairs |= set(plan.pairs)
            seen_roles |= set(plan.roles)
    assert len(seen_pairs) > 200
    assert not any(is_held_out_pair(*pair) for pair in seen_pairs)
    for index, record in enumerate(shapes("test")):
        plan = plan_of(record)
        if index % 2 == 0:
            assert record["held_out"] == "pair"
            assert not set(plan.pairs) <= seen_pairs
        else:
            assert record["held_out"] == "role"
            assert not set(plan.roles) <= seen_roles


def test_a_relation_said_the_other_way_round_is_held_out_too() -> None:
    assert set(CONVERSE.values()) == {*CONVERSE, "around"} - {"inside"} | {"right of"}
    plan = Plan("pair", ("red circle", "blue star"), "left of")
    assert ("blue star", "right of") in plan.roles
    assert is_held_out_pair("a", "b") == is_held_out_pair("b", "a")


def test_shares_that_are_held_out() -> None:
    counts = stats(shapes("train"))
    assert counts["objects"] == len(COLOURS) * len(SHAPES)
    assert 0.06 < counts["held-out pairs"] / (64 * 63 / 2) < 0.14
    assert 0.04 < counts["held-out roles"] / (64 * 15) < 0.12


def test_positions_agree_with_the_relation() -> None:
    found = set()
    for record in shapes("train", 600):
        first, *others = record["objects"]
        role = record["relation"]
        found.add(role)
        assert all(0 <= o["top"] and o["top"] + o["size"] <= 32 for o in record["objects"])
        if role in CONVERSE:
            second = others[0]
            down, right = (
                first[side] + first["size"] / 2 - second[side] - second["size"] / 2
                for side in ("top", "left")
            )
            told = {
                "left of": right < -abs(down),
                "right of": right > abs(down),
                "above": down < -abs(right),
                "below": down > abs(right),
                "inside": max(abs(down), abs(right)) < 4,
            }
            assert told[role], record["text"]
        elif role in ("two", "three"):
            assert len(record["objects"]) == {"two": 2, "three": 3}[role]
    assert found >= {*CONVERSE, "", "two", "three", "between", "small", "large", "top left"}


def test_the_pixels_show_the_objects() -> None:
    for record in shapes("train", 60, plain=True):
        pixels = record["image"].pixels.numpy().astype(float)
        inner = record["objects"][0]
        colour, shape = inner["name"].split()
        box = pixels[inner["top"] :, inner["left"] :][: inner["size"], : inner["size"]]
        mask = shape_mask(shape, inner["size"]) > 0.99
        assert np.abs(box[mask] - COLOURS[colour]).max() < 12


def test_captions_name_every_object_and_vary() -> None:
    rng = np.random.default_rng(0)
    plan = Plan("pair", ("orange cross", "blue star"), "left of")
    told = {caption(plan, "white", rng) for _ in range(100)}
    assert len(told) > 8
    assert all("orange cross" in text and "blue star" in text for text in told)
    assert "an orange cross left of a blue star" in told
    assert plural("red cross") == "red crosses"
    assert plural("butterfly") == "butterflies"
    three = caption(Plan("count", ("red cross",), "three"), "gray", rng)
    assert "three red crosses on a gray background" in three


def test_things_are_drawn_from_training_drawings_only() -> None:
    source = open_source("scenes", "test", length=60)
    assert isinstance(source, Scenes)
    assert {"apple", "dog", "house", "umbrella"} <= set(source.names)
    styles = {o["style"] for record in source for o in record["objects"]}
    assert styles > {"", "noto", "twemoji"}
    record = source[3]
    copy = pickle.loads(pickle.dumps(source))[3]
    assert torch.equal(record["image"].pixels, copy["image"].pixels)
    assert {k: v for k, v in record.items() if k != "image"} == {
        k: v for k, v in copy.items() if k != "image"
    }


def test_a_drawing_is_cut_out_of_its_background_but_keeps_its_own_white() -> None:
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[4:12, 4:12] = (200, 30, 30)
    pixels[7:9, 7:9] = 255
    _, mask = cut_out(pixels)
    assert mask[0, 0] == 0
    assert mask[7, 7] == 1
    assert mask[4:12, 4:12].min() == 1
    assert mask.sum() == 64


def test_splits_and_numbers_are_checked() -> None:
    assert [len(open_source("scenes", s, drawings="none")) for s in SPLITS] == [200_000, 500, 1_000]
    with pytest.raises(ConfigError, match="no split"):
        open_source("scenes", "tests")
    with pytest.raises(ConfigError, match="at least 24"):
        shapes("train", size=8)
