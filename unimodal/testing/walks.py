"""Random walks through a grammar: what a model with random logits would write.

The ids here are made up (opener 0, end 1, then headers and spans), so that a modality can be walked
without a vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from unimodal.errors import ConfigError
from unimodal.grammar import IdRange, SegmentGrammar, compile_segment, header_axes, size_span
from unimodal.modality import Modality
from unimodal.types import Tokens

OPENER, END = 0, 1
END_CHANCE = 0.1
"""How often a walk ends where it may: a large span would otherwise never end by itself."""


def standalone_grammar(
    modality: Modality[Any, Any],
) -> tuple[SegmentGrammar, Mapping[str, IdRange]]:
    """A modality's grammar on made-up ids, and the range of each span and header axis.

    Raises:
        ConfigError: if the modality is not discrete.
    """
    if modality.layout is None:
        raise ConfigError(f"`{modality.name}` has no layout to walk.")
    sizes = {
        size_span(a): high - low + 1 for a, (low, high) in header_axes(modality.layout).items()
    }
    sizes |= modality.spans
    ranges: dict[str, IdRange] = {}
    start = END + 1
    for name, size in sizes.items():
        ranges[name] = (start, start + size)
        start += size
    grammar = compile_segment(
        modality.name, modality.layout, list(modality.spans), OPENER, END, ranges
    )
    return grammar, ranges


def draw(ranges: list[IdRange], rng: np.random.Generator) -> int:
    """A uniformly random id out of some ranges."""
    sizes = np.array([stop - start for start, stop in ranges])
    number = int(rng.integers(int(sizes.sum())))
    for (start, _), size in zip(ranges, sizes, strict=True):
        if number < size:
            return start + number
        number -= int(size)
    raise AssertionError("the number lies below the sum of the sizes")


def random_tokens(modality: Modality[Any, Any], rng: np.random.Generator, extra: int = 0) -> Tokens:
    """What a random walk through the modality's grammar writes, as `decode` receives it.

    Args:
        modality: A discrete modality.
        rng: Chooses the ids.
        extra: Budget beyond the shortest segment, in ids.
    """
    grammar, range_of = standalone_grammar(modality)
    cursor = grammar.cursor()
    budget = cursor.shortest() + extra
    names = list(modality.spans)
    cells, ids, spans = [], [], []
    while not cursor.done:
        legal = cursor.legal(budget)
        may_end = grammar.end is not None and (grammar.end, grammar.end + 1) in legal
        token = END if may_end and rng.random() < END_CHANCE else draw(legal, rng)
        is_code = token != END and cursor.num_headers == len(grammar.headers)
        cell = cursor.push(token)
        budget -= 1
        if is_code:
            span = next(i for i, n in enumerate(names) if range_of[n][0] <= token < range_of[n][1])
            cells.append(cell)
            ids.append(token - range_of[names[span]][0])
            spans.append(span)
    grid = torch.tensor(cells, dtype=torch.int32).reshape(-1, 3)
    step = modality.seconds_per_cell
    return Tokens(
        grid=grid,
        ids=torch.tensor(ids, dtype=torch.int64),
        span=torch.tensor(spans, dtype=torch.int64) if len(names) > 1 else 0,
        seconds=None if step is None else grid[:, 0].float() * step,
    )
