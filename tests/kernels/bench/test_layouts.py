"""What attention benchmarks attend over is what the library's own patterns mean."""

import pytest
import torch

from unimodal import patterns
from unimodal.kernels.attention.tokens import token_table
from unimodal.kernels.bench import layouts
from unimodal.kernels.bench.spec import Spec
from unimodal.types import Coordinates

WRITTEN = [
    "causal",
    "full",
    "window(size=3)",
    "prefix(length=2)",
    "row",
    "column",
    "conv(size=3)",
    "nearby_3d(t=1, h=0, w=1)",
    "row & conv(size=3)",
    "window(size=2) | prefix(length=1)",
]


def spec_of(pattern: str) -> Spec:
    grid = (2, 3, 3) if "nearby" in pattern else None
    return Spec(op="attention", pattern=pattern, batch=2, seq=48, documents=2, grid=grid)


@pytest.mark.parametrize("written", WRITTEN)
def test_masks_are_those_of_the_patterns(written: str) -> None:
    spec = spec_of(written)
    placed = layouts.layout(spec)
    mask = layouts.visible(placed, placed, layouts.kinds(spec))
    coordinates = Coordinates(**vars(placed))
    by_kind = [patterns.Causal(), patterns.parse_pattern(written)]
    assert torch.equal(mask, patterns.visible(coordinates, coordinates, by_kind))
    assert not mask[:, :24, 24:].any()


@pytest.mark.parametrize("written", WRITTEN)
def test_the_scalar_rule_is_the_mask(written: str) -> None:
    spec = spec_of(written)
    placed = layouts.layout(spec)
    by_kind = layouts.kinds(spec)
    rule = layouts.Rule.of(by_kind)
    table = token_table(placed, rule.programs).unbind(0)
    sees = layouts.scalar_rule(rule)
    mask = layouts.visible(placed, placed, by_kind)
    for q, k in [(0, 0), (5, 2), (13, 20), (20, 13), (20, 19), (30, 29), (30, 2)]:
        seen = sees([row[1, q] for row in table], [row[1, k] for row in table])
        assert bool(seen) == bool(mask[1, q, k])


def test_pictures_get_a_square_after_their_text() -> None:
    assert layouts.grid_of(Spec(op="attention", pattern="row"), 1280) == (1, 32, 32)
    assert layouts.grid_of(Spec(op="attention", pattern="causal"), 1280) == (1280, 1, 1)
