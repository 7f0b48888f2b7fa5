"""Joined sources: every match of a field, in the same split, by whichever voice or style."""

import pytest

from unimodal.data.commands import stats
from unimodal.data.joined import Joined
from unimodal.data.sources import ListSource, open_source
from unimodal.errors import ConfigError, DataError
from unimodal.media.values import Audio, Image

SAID = ListSource(
    [
        {"id": "a", "speech": 1, "text": "Apple", "voice": "x"},
        {"id": "b", "speech": 2, "text": "tree", "voice": "y"},
        {"id": "c", "speech": 3, "text": "yes", "voice": "y"},
    ],
    name="said",
    license="CC0-1.0",
)
SHOWN = ListSource(
    [
        {"id": f"s{n}", "image": n, "text": ["red apple", "apple"] if n < 4 else "tree", "style": n}
        for n in range(6)
    ],
    name="shown",
    license="MIT",
)


def test_every_match_is_a_record_with_the_fields_of_both() -> None:
    source = Joined(SAID, SHOWN, aliases={"apple": "red apple"})
    assert len(source) == 4 + 2
    assert source[0] == {
        "id": "a+s0", "speech": 1, "image": 0, "text": "Apple", "voice": "x", "style": 0,
    }  # fmt: skip
    assert {record["speech"] for record in source} == {1, 2}
    assert source.license == "CC0-1.0; MIT"


def test_matches_are_limited_and_the_draw_is_fixed() -> None:
    aliases = {"apple": "red apple"}
    source = Joined(SAID, SHOWN, aliases=aliases, most=1)
    assert [r["speech"] for r in source] == [1, 2]
    again = Joined(SAID, SHOWN, aliases=aliases, most=1)
    assert [r["id"] for r in source] == [r["id"] for r in again]


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="`most`"):
        Joined(SAID, SHOWN, most=0)
    with pytest.raises(DataError, match=r"`voice`.*is missing"):
        Joined(SAID, SHOWN, on="voice")


def test_what_is_not_named_is_told() -> None:
    parts = {"first": {"name": "embedded/spoken_words"}, "second": "embedded/emoji"}
    with pytest.raises(DataError, match=r"`joined` need the option `first`"):
        open_source("joined")
    with pytest.raises(DataError, match=r"`joined` need the option `first`"):
        stats("joined")
    with pytest.raises(DataError, match=r"`joined` need the option `second`"):
        open_source("joined", first=parts["first"])
    with pytest.raises(DataError, match=r"`second` must name a data set, but is 'embedded/emoji'"):
        open_source("joined", **parts)


def test_words_of_unseen_voices_come_with_pictures() -> None:
    options = {
        "first": {"name": "embedded/spoken_words"},
        "second": {"name": "embedded/emoji"},
        "aliases": {"apple": "red apple", "horse": "horse face"},
    }
    train = open_source("joined", "train", **options)
    test = open_source("joined", "test", **options)
    record = test[0]
    assert isinstance(record["speech"], Audio)
    assert isinstance(record["image"], Image)
    voices = [{s[i]["voice"] for i in range(len(s))} for s in (train, test)]
    assert not voices[0] & voices[1]
    pictures = [{s[i]["id"].split("+")[1] for i in range(len(s))} for s in (train, test)]
    assert pictures[1]
    assert not pictures[0] & pictures[1]
    seen = open_source(
        "joined", "test", **{**options, "second": {"name": "embedded/emoji", "split": "train"}}
    )
    assert len(seen) > len(test)
