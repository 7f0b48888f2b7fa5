"""The embedded sets: hashes, counts, no leak between splits, random access, pickling."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.data.embedded.sets import FOLDER
from unimodal.data.motion import HELD_OUT_PAIRS
from unimodal.data.packages import sha256_of
from unimodal.data.sources import SOURCES, SPLITS, open_source
from unimodal.errors import ConfigError, DataError
from unimodal.media.values import Audio, Image, Video

COUNTS = {
    "embedded/digits": (1000, 100, 200),
    "embedded/e_coli": (5660, 129, 644),
    "embedded/emoji": (2128, 87, 283),
    "embedded/fashion": (6000, 300, 1000),
    "embedded/moving_digits": (20000, 200, 400),
    "embedded/spoken_words": (806, 34, 180),
    "embedded/text": (18005, 593, 1402),
}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal records, tensors included."""
    tensors = {Image: "pixels", Audio: "samples", Video: "frames"}
    for key, value in one.items():
        name = tensors.get(type(value))
        if name is None:
            if value != other[key]:
                return False
        elif not torch.equal(getattr(value, name), getattr(other[key], name)):
            return False
    return one.keys() == other.keys()


def test_files_are_the_recorded_ones_and_small() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert set(manifest) == {
        p.name for p in FOLDER.iterdir() if p.is_file() and p.suffix not in (".py", ".json")
    }
    for name, facts in manifest.items():
        assert sha256_of(FOLDER / name) == facts["sha256"], name
    assert sum(facts["bytes"] for facts in manifest.values()) < 12_000_000


@pytest.mark.parametrize("name", COUNTS)
def test_counts_access_and_pickling(name: str) -> None:
    assert name in SOURCES.names()
    for split, count in zip(SPLITS, COUNTS[name], strict=True):
        source = open_source(name, split)
        assert len(source) == count
        assert source.split == split
        assert source.license
        copy = pickle.loads(pickle.dumps(source))
        for index in (0, count // 2, -1):
            assert same(source[index], copy[index])
    with pytest.raises(ConfigError, match="no split"):
        open_source(name, "tset")


@pytest.mark.parametrize("name", ["embedded/emoji", "embedded/fashion", "embedded/text"])
def test_no_id_is_in_two_splits(name: str) -> None:
    seen: set[str] = set()
    for split in SPLITS:
        ids = [record["id"] for record in open_source(name, split)]  # type: ignore[attr-defined]
        assert len(set(ids)) == len(ids)
        assert not seen & set(ids)
        seen |= set(ids)


def test_held_out_emoji_are_seen_in_another_style_and_never_drawn_alike() -> None:
    records = {split: list(open_source("embedded/emoji", split)) for split in SPLITS}
    styles: dict[str, set[str]] = {}
    for record in records["train"]:
        styles.setdefault(record["concept"], set()).add(record["style"])
    train = np.stack([r["image"].pixels.numpy() for r in records["train"]]).reshape(2128, -1)
    for record in records["test"] + records["validation"]:
        assert styles[record["concept"]] - {record["style"]}
        assert record["style"] not in styles[record["concept"]]
    for record in records["test"][::10]:
        pixels = record["image"].pixels.numpy().reshape(-1)
        assert not (train == pixels).all(axis=1).any(), record["id"]


def test_test_voices_are_unseen_and_of_both_engines() -> None:
    records = {split: list(open_source("embedded/spoken_words", split)) for split in SPLITS}
    voices = {split: {r["voice"] for r in rows} for split, rows in records.items()}
    assert not voices["test"] & (voices["train"] | voices["validation"])
    assert {r["engine"] for r in records["test"]} == {"espeak", "flite"}
    assert {r["text"] for r in records["test"]} == {r["text"] for r in records["train"]}
    pairs = [{(r["voice"], r["text"]) for r in records[s]} for s in ("train", "validation")]
    assert not pairs[0] & pairs[1]
    for record in records["test"][::7]:
        sound = record["speech"]
        assert 0.1 < sound.seconds < 2
        assert 0.3 < float(sound.samples.abs().max()) <= 1
        assert sound.sample_rate_hz == 16_000


def test_test_clips_have_unseen_pairs_and_unseen_digits() -> None:
    sources = {split: open_source("embedded/moving_digits", split) for split in SPLITS}
    held_out = set(HELD_OUT_PAIRS)
    for split, source in sources.items():
        for index in range(60):
            record = source[index]
            assert ((record["digit"], record["motion"]) in held_out) == (split == "test")
            assert record["motion"] in record["text"]
            assert record["video"].frames.shape == (8, 32, 32, 3)
            assert int(record["video"].frames.max()) > 100
    images = [set(source._images) for source in sources.values()]  # type: ignore[attr-defined]
    assert not images[0] & images[1]
    assert not images[0] & images[2]
    assert not images[1] & images[2]
    other = open_source("embedded/moving_digits", "train", seed=1)
    assert not same(other[0], {**sources["train"][0], "id": other[0]["id"]})


def test_moving_left_moves_left() -> None:
    source = open_source("embedded/moving_digits", "train")
    columns = torch.arange(32.0)
    found = 0
    for index in range(400):
        record = source[index]
        if record["motion"] in ("moving left", "moving right"):
            ink = record["video"].frames[..., 0].float().sum(dim=1)
            centre = (ink * columns).sum(dim=1) / ink.sum(dim=1)
            steps = centre.diff()
            assert bool(
                (steps < 0).all() if record["motion"] == "moving left" else (steps > 0).all()
            )
            found += 1
    assert found > 20


def test_the_genome_is_whole_and_its_tail_held_out() -> None:
    parts = {split: open_source("embedded/e_coli", split) for split in SPLITS}
    assert sum(part.num_bases for part in parts.values()) == 4_938_920  # type: ignore[attr-defined]
    test = parts["test"]
    assert "".join(test[i]["dna"] for i in range(len(test))).__len__() == 493_892
    assert test[0]["start"] == 4_938_920 - 493_892
    last = parts["validation"][-1]
    assert last["start"] + len(last["dna"]) == test[0]["start"]
    with pytest.raises(DataError, match="`window` is no option of the data `embedded/e_coli`"):
        open_source("embedded/e_coli", window=100)


@pytest.mark.parametrize("name", ["embedded/moving_digits", "scenes"])
def test_options_that_are_passed_on_are_checked_too(name: str) -> None:
    with pytest.raises(DataError, match=f"`speed` is no option of the data `{name}`"):
        open_source(name, speed=2)
