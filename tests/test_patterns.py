"""Patterns: the pictures that they are meant to be, their ranges, their grammar."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimodal.errors import ConfigError
from unimodal.patterns import (
    Causal,
    Cells,
    Column,
    Conv,
    Full,
    Nearby3D,
    Pattern,
    Prefix,
    Row,
    Window,
    parse_pattern,
    visible,
)
from unimodal.types import CONTROL_CELL, Coordinates, raster_grid

sizes = st.integers(1, 5)
primitive = st.one_of(
    st.just(Causal()),
    st.just(Full()),
    st.just(Row()),
    st.just(Column()),
    st.builds(Prefix, length=sizes),
    st.builds(Window, size=sizes),
    st.builds(Conv, size=st.sampled_from([1, 3, 5])),
    st.builds(Nearby3D, t=st.integers(0, 2), h=st.integers(0, 2), w=st.integers(0, 2)),
)


def join(left: Pattern, right: Pattern, both: bool) -> Pattern:
    return left & right if both else left | right


any_pattern = st.recursive(
    primitive, lambda inner: st.builds(join, inner, inner, st.booleans()), max_leaves=4
)


def segment(shape: tuple[int, int, int], full: bool) -> Coordinates:
    """One document: two words, an opener, then a grid."""
    cells = raster_grid(*shape)
    length = 3 + len(cells)
    grid = torch.full((length, 3), CONTROL_CELL, dtype=torch.int32)
    grid[:2] = 0
    grid[1, 0] = 1
    grid[3:] = cells
    number = torch.arange(length, dtype=torch.int32)
    of_grid = (number >= 2).int()
    return Coordinates(
        index=number,
        document=torch.zeros_like(number),
        segment=of_grid,
        kind=of_grid,
        full=(number >= 2) & full,
        grid=grid,
    )


def allowed(pattern: Pattern, shape: tuple[int, int, int]) -> Tensor:
    """The predicate on every pair of cells of a grid."""
    grid = raster_grid(*shape)
    index = torch.arange(len(grid))
    q = Cells(index[:, None], *(grid[:, None, i] for i in range(3)))
    k = Cells(index[None], *(grid[None, :, i] for i in range(3)))
    return pattern.allows(q, k).expand(len(grid), len(grid))


@settings(max_examples=100, deadline=None)
@given(pattern=any_pattern, shape=st.tuples(sizes, sizes, sizes), full=st.booleans())
def test_the_shared_rule_holds_for_every_pattern(
    pattern: Pattern, shape: tuple[int, int, int], full: bool
) -> None:
    c = segment(shape, full)
    mask = visible(c, c, [Causal(), pattern])
    earlier = torch.ones_like(mask).tril()
    inside = c.segment[:, None] == c.segment[None]
    assert torch.equal(mask[~inside], earlier[~inside])
    if not full:
        assert not (mask & ~earlier).any()
    cells = mask[3:, 3:]
    candidates = torch.ones_like(cells) if full else torch.ones_like(cells).tril()
    assert torch.equal(cells, candidates & allowed(pattern, shape))
    assert mask.diagonal().all()
    assert mask[2:, 2].all(), "control positions are always kept"


@settings(max_examples=60, deadline=None)
@given(left=any_pattern, right=any_pattern, shape=st.tuples(sizes, sizes, sizes))
def test_composition_is_and_and_or(
    left: Pattern, right: Pattern, shape: tuple[int, int, int]
) -> None:
    a, b = allowed(left, shape), allowed(right, shape)
    assert torch.equal(allowed(left & right, shape), a & b)
    assert torch.equal(allowed(left | right, shape), a | b)
    for joined in (left & right, left | right):
        if joined.is_dense:
            assert allowed(joined, shape).all()


def picture(pattern: Pattern, shape: tuple[int, int, int], query: int, full: bool = False) -> str:
    """The keys of one query as a picture, a line a row."""
    c = segment(shape, full)
    row = visible(c, c, [Causal(), pattern])[3 + query, 3:].reshape(shape[0] * shape[1], shape[2])
    return "/".join("".join("x" if cell else "." for cell in line) for line in row.tolist())


@pytest.mark.parametrize(
    ("pattern", "query", "full", "expected"),
    [
        (Row(), 5, False, ".xxx/xx../...."),
        # Of the cell to the left and the rest of its column, the stream has shown one so far.
        (Column(), 5, False, ".x../xx../...."),
        (Column(), 5, True, ".x../xx../xx.."),
        (Conv(3), 5, False, "xxx./xx../...."),
        (Conv(3), 5, True, "xxx./xxx./xxx."),
        (Conv(3), 3, True, "..xx/..xx/...."),
        (Nearby3D(0, 1, 0), 9, False, "..../.x../.x.."),
        (Causal(), 5, False, "xxxx/xx../...."),
        (Full(), 5, True, "xxxx/xxxx/xxxx"),
        (Row() & Conv(3), 5, False, ".xx./xx../...."),
    ],
    ids=str,
)
def test_pictures(pattern: Pattern, query: int, full: bool, expected: str) -> None:
    assert picture(pattern, (1, 3, 4), query, full) == expected


def test_window_and_prefix_read_the_first_axis() -> None:
    assert picture(Window(2), (6, 1, 1), 4) == "./././x/x/."
    assert picture(Prefix(2), (6, 1, 1), 4) == "x/x/././x/."


def test_documents_and_padding_never_meet() -> None:
    c = segment((1, 2, 2), True)
    c.document[:4] = 1
    c.document[-1] = -1
    mask = visible(c, c, [Causal(), Full()])
    assert not mask[:4, 4:].any()
    assert not mask[4:, :4].any()
    assert not mask[-1].any()
    assert not mask[:, -1].any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("causal", Causal()),
        ("conv(size=11)", Conv(11)),
        (" nearby_3d( t=1, h=2 ,w=3 ) ", Nearby3D(1, 2, 3)),
        ("window(size=64) | prefix(length=4)", Window(64) | Prefix(4)),
        ("row & conv(size=3) | prefix(length=1)", (Row() & Conv(3)) | Prefix(1)),
    ],
)
def test_written_patterns(text: str, expected: Pattern) -> None:
    assert parse_pattern(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows", "row"),
        ("conv(size=4)", "odd"),
        ("window(size=0)", "at least 1"),
        ("window(size=x)", "key=integer"),
        ("window(width=3)", "width"),
        ("window(size=3", "close the parenthesis"),
        ("conv(size=3))", "close the parenthesis"),
        ("nearby_3d(t=-1)", "at least 0"),
    ],
)
def test_bad_patterns_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_pattern(text)
