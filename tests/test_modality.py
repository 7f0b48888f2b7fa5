"""What the base class promises: configs found and rebuilt, freezing, fingerprints, raw units."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest
import torch

from unimodal.errors import CheckpointError, ConfigError, VocabularyError
from unimodal.modality import (
    Modality,
    NoConfig,
    config_from_dict,
    config_to_dict,
    config_type,
    fit,
    freeze,
)
from unimodal.testing.fixtures import FakeCodec, FakeCodecConfig, FakeLine
from unimodal.vocabulary import Vocabulary

V = TypeVar("V")
C = TypeVar("C")


@dataclass(kw_only=True)
class Level:
    size: int = 1


@dataclass(kw_only=True)
class Levels:
    first: Level = field(default_factory=Level)
    others: tuple[Level, ...] = (Level(size=2),)
    by_name: dict[str, Level] = field(default_factory=lambda: {"a": Level(size=3)})
    listed: list[int] = field(default_factory=lambda: [1])
    perhaps: Level | None = None
    shape: int | tuple[int, int] = (1, 2)
    words: tuple[str, ...] = ("x",)


class Between(Modality[V, C], Generic[C, V]):
    pass


class Narrow(Between[C, str]):
    pass


class Leaf(Narrow[Levels]):
    pass


class Below(Leaf):
    pass


class Open(Between[C, V]):
    pass


class Bare(FakeLine):
    pass


def test_the_config_is_found_through_generic_bases():
    assert config_type(Leaf) is Levels
    assert config_type(Below) is Levels
    assert config_type(Bare) is NoConfig


def test_a_config_that_nobody_chose_is_refused():
    with pytest.raises(ConfigError, match=r"`Open`.*must be a dataclass"):
        config_type(Open)


@pytest.mark.parametrize("value", [Levels(), Levels(perhaps=Level(size=4), shape=7)])
def test_nested_configs_come_back_from_json(value):
    assert config_from_dict(Levels, config_to_dict(value), "x") == value


def test_a_key_of_a_nested_config_is_checked():
    with pytest.raises(ConfigError, match=r"`others`.*Unknown key `sizes`.*`size`"):
        config_from_dict(Levels, {"others": [{"sizes": 1}]}, "x")


def test_one_string_stands_for_a_sequence_of_one():
    assert config_from_dict(Levels, {"words": "red apple"}, "x").words == ("red apple",)


@dataclass(kw_only=True)
class Scalars:
    count: int = 1
    share: float = 0.5
    is_on: bool = False
    word: str = "x"
    window: int | None = None
    size: int | tuple[int, int] = 1
    words: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("count", "a", "a whole number"),
        ("count", 2.5, "a whole number"),
        ("count", True, "a whole number"),
        ("count", None, "a whole number"),
        ("share", "1e-3", "a number"),
        ("share", False, "a number"),
        ("is_on", 1, "true or false"),
        ("word", 3, "a string"),
        ("window", "a", "a whole number"),
        ("size", [1, "b"], "a whole number"),
        ("size", "b", "a whole number"),
        ("words", 3, "a list"),
        ("words", ["a", 3], "a string"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key(key, value, wanted):
    with pytest.raises(ConfigError, match=rf"^x, `{key}`: It must be {wanted}, but is "):
        config_from_dict(Scalars, {key: value}, "x")


def test_values_of_the_types_declared_are_taken():
    values = {"count": 2, "share": 1, "is_on": True, "word": "", "window": None, "size": [1, 2]}
    assert config_from_dict(Scalars, values, "x") == Scalars(**{**values, "size": (1, 2)})
    assert config_from_dict(Scalars, {"window": 3, "size": 4}, "x") == Scalars(window=3, size=4)


def codec() -> FakeCodec:
    return FakeCodec(FakeCodecConfig())


def test_a_frozen_modality_refuses_both_ways_to_fit_and_takes_no_gradient():
    modality = codec()
    freeze(modality)
    for attempt in (modality.fit, lambda values: fit(modality, values)):
        with pytest.raises(VocabularyError, match=r"fake_codec@2"):
            attempt([torch.rand(9)])
    assert not any(p.requires_grad for p in modality.network.parameters())
    assert not modality.network.training


def test_a_tokenizer_that_changed_in_its_ledger_is_refused_before_it_is_written():
    modality = codec()
    vocabulary = Vocabulary.of({"fake_codec": modality})
    with torch.no_grad():
        modality.codes.decoder["levels"].add_(1)
    again = Vocabulary.from_json(vocabulary.to_json(), {"fake_codec": modality.state()})
    assert again.entries["fake_codec"].decoder_hash == modality.decoder_hash()
    with torch.no_grad():
        modality.codes.centres.add_(1)
    with pytest.raises(VocabularyError, match=r"fake_codec\.code.*fake_codec@2"):
        vocabulary.to_json()


def test_a_replaced_decoder_is_told_and_recorded(caplog):
    modality = codec()
    ledger = Vocabulary.of({"fake_codec": modality}).to_json()
    with torch.no_grad():
        modality.codes.decoder["levels"].add_(1)
    loaded = Vocabulary.from_json(ledger, {"fake_codec": modality.state()})
    assert "decoder of `fake_codec`" in caplog.text
    assert loaded.entries["fake_codec"].decoder_hash == modality.decoder_hash()


def test_a_bfloat16_network_has_a_fingerprint_of_its_own():
    modality, other = codec(), codec()
    modality.network.bfloat16()
    assert modality.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("files", [{}, {"network.safetensors": b"x"}])
def test_a_network_file_that_does_not_fit_is_named(files: dict[str, Any]):
    with pytest.raises(CheckpointError, match=r"`fake_codec`.*network\.safetensors"):
        codec().load_state(files)


def test_raw_units_are_counted_by_default_only_where_that_is_true():
    class Steps(FakeLine):
        raw_unit = "step"

    assert FakeLine(NoConfig()).raw_units("\u00e9") == 2
    with pytest.raises(ConfigError, match="how many steps"):
        Steps(NoConfig()).raw_units("abc")
