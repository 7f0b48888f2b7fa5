"""The decoder's config says what is wrong before weights are made."""

import pytest

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import ConfigError
from unimodal.model.config import DecoderConfig, dalle_order, layer_patterns
from unimodal.patterns import Row, parse_pattern
from unimodal.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"init_std": -1.0}, "`init_std` must be above 0"),
        ({"positions_per_second": 0.0}, "`positions_per_second` must be above 0"),
        ({"patterns": {"fake_grid": []}}, "`patterns.fake_grid` must be a pattern"),
        ({"patterns": {"fake_grid": [1]}}, "`patterns.fake_grid` must be a pattern"),
        ({"z_loss": float("nan")}, "`z_loss`"),
    ],
)
def test_bad_values_are_refused_by_name(options, match):
    with pytest.raises(ConfigError, match=match):
        DecoderConfig(**options)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("row", [Row()] * 6),
        (["row"], [Row()] * 6),
        ("dalle", [parse_pattern(text) for text in dalle_order(6)]),
    ],
)
def test_one_pattern_may_stand_alone(written, expected):
    config = DecoderConfig(num_layers=6, patterns={"fake_grid": written})
    found = layer_patterns(config, Vocabulary.of(["fake_grid"]))
    assert [by_kind[0] for by_kind in found] == expected
