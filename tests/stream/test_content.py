"""Content against its layout: what the check accepts is what a cursor walks to its end."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import DataError, GrammarError
from unimodal.stream import Document, Segment, StreamConfig, encode_document
from unimodal.stream.content import check_cells, check_codes
from unimodal.types import Tokens, line_grid, raster_grid
from unimodal.vocabulary import Vocabulary

NAMES = ["fake_line", "fake_residual", "fake_grid", "fake_events", "fake_masked", "fake_marked"]
VOCABULARY = Vocabulary.of(NAMES)


def encode(name: str, tokens: Tokens) -> None:
    item = Segment(name, tokens, objective="next", attend="causal")
    encode_document(Document([item], id="sample 7"), VOCABULARY, StreamConfig())


def walks(name: str, tokens: Tokens) -> bool:
    """Whether a cursor takes the codes to its end, at the cells that they state."""
    grammar = VOCABULARY.grammar(name)
    ids = VOCABULARY.content_ids(name, tokens.ids, tokens.span).tolist()
    size = (tokens.grid.max(dim=0).values + 1).tolist() if len(tokens) else [0, 0, 0]
    cursor = grammar.cursor()
    try:
        for token in grammar.header_ids(size):
            cursor.push(token)
        cells = [cursor.push(token) for token in ids]
        if grammar.end is not None:
            cursor.push(grammar.end)
    except (GrammarError, ZeroDivisionError):
        return False
    return cursor.done and cells == [tuple(cell) for cell in tokens.grid.tolist()]


@given(st.sampled_from(NAMES), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_check_accepts_what_a_cursor_walks(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    modality = VOCABULARY.modality(name)
    tokens = modality.encode(modality.example(rng))
    order = np.arange(len(tokens))
    if len(order) and rng.random() < 0.7:
        change = rng.integers(3)
        if change == 0:
            order = order[: rng.integers(len(order))]
        elif change == 1:
            order = np.roll(order, 1)
        else:
            order = np.concatenate([order, order])
    picked = torch.from_numpy(order)
    grid = tokens.grid[picked] if rng.random() < 0.5 else tokens.grid[: len(picked)]
    if len(grid) != len(picked):
        grid = tokens.grid[picked]
    tokens = Tokens(grid, tokens.ids[picked], tokens.spans()[picked])
    grammar = VOCABULARY.grammar(name)
    try:
        check_cells(grammar, tokens.grid.numpy())
        check_codes(grammar.slots, VOCABULARY.content_ids(name, tokens.ids, tokens.span))
        accepted = True
    except GrammarError:
        accepted = False
    assert accepted == walks(name, tokens)


LINE = Tokens(line_grid(2), ids=torch.zeros(2, dtype=torch.int64))
SHORT = Tokens(raster_grid(1, 2, 3)[[0, 1, 5]], ids=torch.zeros(3, dtype=torch.int64))
LEVELS = Tokens(raster_grid(1, 1, 1, 3), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 2, 1]))


@pytest.mark.parametrize(
    ("name", "tokens", "match"),
    [
        ("fake_grid", SHORT, "3 codes, but its cells must be the 1 x 2 x 3 raster"),
        ("fake_grid", dataclasses.replace(SHORT, grid=raster_grid(1, 1, 7)[:3] + 4), "axis t"),
        ("fake_grid", Tokens(raster_grid(1, 7, 1), torch.zeros(7, dtype=torch.int64)), "axis h"),
        ("fake_masked", LINE, "size 2 on axis t, but may have 6 to 6"),
        ("fake_residual", LEVELS, "Code 1 must come from `fake_residual.level_1`"),
        ("fake_residual", dataclasses.replace(LEVELS, span=-1), "span -1, but has spans 0 to 2"),
        ("fake_line", dataclasses.replace(LINE, span=5), "span 5, but has spans 0 to 0"),
        ("fake_line", dataclasses.replace(LINE, ids=LINE.ids + 26), "outside its span"),
        ("fake_line", dataclasses.replace(LINE, grid=LINE.grid.flip(0)), "raster"),
    ],
)
def test_what_is_off_its_layout_is_refused_with_the_sample(name, tokens, match) -> None:
    with pytest.raises(DataError, match=match) as caught:
        encode(name, tokens)
    assert caught.value.subject == "sample 7"
