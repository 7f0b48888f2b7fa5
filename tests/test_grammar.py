"""Grammars: walks within the budget always finish, labels are what a cursor reads."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimodal.errors import ConfigError, GrammarError
from unimodal.grammar import (
    CONTROL,
    FORCED,
    DocumentCursor,
    Fixed,
    Grid,
    IdRange,
    Layout,
    Open,
    SegmentGrammar,
    Switch,
    compile_segment,
    header_axes,
    size_span,
)
from unimodal.testing.walks import draw
from unimodal.types import raster_grid

NAMES = ("a", "b", "c")
SPANS = dict.fromkeys(NAMES, ("x", "y"))
CYCLES = ((), (("x",),), (("x", "y"),), (("x",), ("x", "y"), ("y",)))
END, STOP = 0, 1

fast = settings(max_examples=60, deadline=None, derandomize=True)
cycles = st.sampled_from(CYCLES)


@st.composite
def grids(draw_: st.DrawFn) -> Callable[[], Grid]:
    low = tuple(draw_(st.integers(1, 3)) for _ in range(3))
    high = tuple(n + draw_(st.integers(0, 3)) for n in low)
    return partial(Grid, max_size=high, min_size=low, cycle=draw_(cycles))


@st.composite
def opens(draw_: st.DrawFn) -> Callable[[], Open]:
    low = draw_(st.integers(0, 3))
    high = draw_(st.none() | st.integers(max(low, 1), 6))
    return partial(Open, min_cells=low, max_cells=high, cycle=draw_(cycles))


fixed = st.builds(
    partial,
    st.just(Fixed),
    st.integers(1, 5) | st.tuples(*[st.integers(1, 3)] * 3),
    st.sampled_from(CYCLES),
)
layouts: st.SearchStrategy[Callable[[], Layout]] = fixed | grids() | opens()


def compiled(layouts_: Sequence[Layout | Callable[[], Layout]]) -> dict[str, SegmentGrammar]:
    """Grammars over one id space: end, stop, then for each its opener, sizes and spans."""
    start, grammars = 2, {}
    for name, made in zip(NAMES, layouts_, strict=False):
        # Strategies hand out recipes: the run-time type checker draws random numbers, which
        # hypothesis forbids while it draws.
        layout = made() if callable(made) else made
        sizes = {size_span(a): high - low + 1 for a, (low, high) in header_axes(layout).items()}
        sizes |= {"x": 4, "y": 2}
        opener, start = start, start + 1
        ranges: dict[str, IdRange] = {}
        for key, size in sizes.items():
            ranges[key] = (start, start + size)
            start += size
        grammars[name] = compile_segment(name, layout, SPANS[name], opener, END, ranges)
    return grammars


def legal_ids(ranges: list[IdRange]) -> set[int]:
    assert all(start < stop for start, stop in ranges)
    return {i for start, stop in ranges for i in range(start, stop)}


@fast
@given(layouts, st.integers(0, 40), st.integers(0, 10_000))
def test_a_segment_finishes_within_its_budget(
    layout: Callable[[], Layout], extra: int, seed: int
) -> None:
    grammar = compiled([layout])["a"]
    rng = np.random.default_rng(seed)
    cursor = grammar.cursor()
    budget = grammar.shortest() + extra
    cells = []
    while not cursor.done:
        assert budget >= cursor.shortest()
        ranges = cursor.legal(budget)
        assert legal_ids(ranges)
        cells.append(cursor.push(draw(ranges, rng)))
        budget -= 1
    assert budget >= 0
    assert cursor.shortest() <= 1
    content = [cell for cell in cells if cell != CONTROL]
    codes = len(grammar.slots)
    size = cursor.sizes if grammar.end is None else [len(content) // codes, 1, 1]
    assert content == [tuple(c) for c in raster_grid(*size, codes).tolist()]


@fast
@given(layouts, st.integers(0, 10_000))
def test_whatever_is_illegal_is_refused_and_whatever_is_legal_is_taken(
    layout: Callable[[], Layout], seed: int
) -> None:
    grammar = compiled([layout])["a"]
    rng = np.random.default_rng(seed)
    cursor, budget = grammar.cursor(), grammar.shortest() + 20
    everything = range(-1, 40)
    while not cursor.done:
        unbounded = legal_ids(cursor.legal(10**6))
        assert legal_ids(cursor.legal(budget)) <= unbounded
        illegal = sorted(set(everything) - unbounded)
        for token in rng.choice(illegal, 3).tolist():
            before = (list(cursor.sizes), cursor.codes, cursor.num_headers, cursor.done)
            with pytest.raises(GrammarError):
                cursor.push(token)
            assert before == (list(cursor.sizes), cursor.codes, cursor.num_headers, cursor.done)
        cursor.push(draw(cursor.legal(budget), rng))
        budget -= 1
    with pytest.raises(GrammarError, match="follows the end"):
        cursor.push(END)


@fast
@given(layouts, st.integers(0, 30), st.integers(0, 10_000))
def test_labels_are_the_head_sets_that_a_cursor_reads(
    layout: Callable[[], Layout], extra: int, seed: int
) -> None:
    grammar = compiled([layout])["a"]
    names = sorted({s.head_set for s in grammar.slots} | {h.head_set for h in grammar.headers})
    numbers = {name: number for number, name in enumerate(names)}
    rng = np.random.default_rng(seed)
    cursor, budget, read = grammar.cursor(), grammar.shortest() + extra, []
    codes = 0
    while not cursor.done:
        forced = legal_ids(cursor.legal(10**6)) == {grammar.end}
        read.append(FORCED if forced else numbers[cursor.head_set()])
        codes += cursor.push(draw(cursor.legal(budget), rng)) != CONTROL
        budget -= 1
    assert grammar.labels(codes, numbers).tolist() == read


@fast
@given(
    st.lists(layouts, min_size=3, max_size=3),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(0, 10_000),
)
def test_an_asked_answer_writes_what_was_asked_within_its_budget(
    chosen: list[Callable[[], Layout]], asked: list[str], extra: int, seed: int
) -> None:
    grammars = compiled(chosen)
    cursor = DocumentCursor(grammars, asked)
    assert _walk(cursor, cursor.shortest() + extra, seed, grammars) == asked


@fast
@given(
    st.lists(layouts, min_size=3, max_size=3),
    st.sets(st.sampled_from(NAMES)),
    st.integers(0, 60),
    st.integers(0, 10_000),
)
def test_a_free_answer_stops_within_its_budget(
    chosen: list[Callable[[], Layout]], listed: set[str], extra: int, seed: int
) -> None:
    grammars = compiled(chosen)
    switch = Switch("switch", {name: grammars[name].opener for name in sorted(listed)}, STOP)
    cursor = DocumentCursor(grammars, None, switch)
    assert set(_walk(cursor, cursor.shortest() + extra, seed, grammars)) <= listed


@fast
@given(layouts, layouts, st.booleans(), st.integers(0, 20), st.integers(0, 10_000))
def test_an_open_segment_is_continued(
    first: Callable[[], Layout], second: Callable[[], Layout], free: bool, extra: int, seed: int
) -> None:
    grammars = compiled([first, second])
    rng = np.random.default_rng(seed)
    inside = grammars["a"].cursor()
    for _ in range(int(rng.integers(0, 8))):
        if not inside.done:
            inside.push(draw(inside.legal(200), rng))
    switch = Switch("switch", {"b": grammars["b"].opener}, STOP)
    cursor = DocumentCursor(grammars, None if free else ["b"], switch if free else None, inside)
    opened = _walk(cursor, cursor.shortest() + extra, seed, grammars)
    assert set(opened) <= {"b"} if free else opened == ["b"]


def _walk(
    cursor: DocumentCursor, budget: int, seed: int, grammars: dict[str, SegmentGrammar]
) -> list[str]:
    """Walk to the end; the modalities that were opened."""
    rng = np.random.default_rng(seed)
    opened = []
    while not cursor.done:
        assert budget >= cursor.shortest()
        head = cursor.head_set()
        ranges = cursor.legal(budget)
        ids = legal_ids(ranges)
        assert ids
        assert head is not None or len(ids) == 1
        token = draw(ranges, rng)
        opened += [n for n, g in grammars.items() if cursor.segment is None and g.opener == token]
        cursor.push(token)
        budget -= 1
    assert budget >= 0
    return opened


def test_an_answer_that_asks_for_nothing_is_done() -> None:
    assert DocumentCursor(compiled([Open()]), []).done


def test_a_finished_segment_inside_counts_as_finished() -> None:
    grammars = compiled([Fixed(1, cycle=(("x",),)), Open()])
    inside = grammars["a"].cursor()
    inside.push(grammars["a"].slots[0].ranges[0][0])
    assert inside.done
    assert DocumentCursor(grammars, [], inside=inside).done
    following = DocumentCursor(grammars, ["b"], inside=inside)
    assert following.legal(10) == [(grammars["b"].opener, grammars["b"].opener + 1)]


def test_free_switching_needs_openers() -> None:
    with pytest.raises(GrammarError, match="openers"):
        DocumentCursor(compiled([Open()]), None)


def test_a_segment_that_was_not_asked_for_may_not_open() -> None:
    grammars = compiled([Open(), Open()])
    cursor = DocumentCursor(grammars, ["a"])
    with pytest.raises(GrammarError, match="may not open"):
        cursor.push(grammars["b"].opener)


def test_header_ids_state_the_sizes_that_vary() -> None:
    grammar = compiled([Grid(max_size=(1, 4, 6), min_size=(1, 2, 6))])["a"]
    assert [h.axis for h in grammar.headers] == [1]
    assert grammar.header_ids((1, 3, 6)) == [grammar.headers[0].first_id + 1]


@pytest.mark.parametrize("budget", range(1, 30))
def test_a_header_allows_exactly_the_sizes_that_fit(budget: int) -> None:
    grammar = compiled([Grid(max_size=(1, 5, 5), cycle=(("x",),))])["a"]
    cursor = grammar.cursor()
    if budget < cursor.shortest():
        return
    rows = len(legal_ids(cursor.legal(budget)))
    assert rows == min(5, budget - 2)
    cursor.push(grammar.headers[0].first_id + rows - 1)
    columns = len(legal_ids(cursor.legal(budget - 1)))
    assert columns == min(5, math.floor((budget - 2) / rows))


@pytest.mark.parametrize(
    "layout", [Fixed(0), Fixed((1, 0, 1)), Grid((1, 1, 1), (1, 2, 1)), Grid((0, 1, 1), (0, 1, 1))]
)
def test_impossible_bounds_are_refused(layout: Layout) -> None:
    with pytest.raises(ConfigError, match="min <= max"):
        header_axes(layout)


def test_a_cycle_of_an_unknown_span_is_refused() -> None:
    with pytest.raises(ConfigError, match="span `z`"):
        compiled([Open(cycle=(("z",),))])
