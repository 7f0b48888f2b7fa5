"""The laws of a modality's contract, one function each: here those about values and their tokens.

Those about instances are in `unimodal.testing.instance_laws`. A law is a generator: it yields one
message for each breach, naming what was expected and what was found. The runner is
`unimodal.testing.conformance`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from unimodal.errors import GrammarError
from unimodal.grammar import Fixed, Grid, Open, cycle_of
from unimodal.modality import STRING_UNITS, Attend, Modality
from unimodal.stream.content import check_cells, check_codes
from unimodal.testing.walks import random_tokens, standalone_grammar
from unimodal.types import Tokens


@dataclass
class Subject:
    """What the laws read: a modality, values, and a folder to write to."""

    modality: Modality[Any, Any]
    examples: list[Any]
    seed: int = 0
    folder: Path = field(default_factory=Path)
    encoded: list[Tokens] = field(default_factory=list)

    def tokens(self) -> list[Tokens]:
        """The examples encoded, once."""
        if not self.encoded:
            self.encoded = [self.modality.encode(value) for value in self.examples]
        return self.encoded

    def rebuilt(self) -> Modality[Any, Any]:
        """Another instance of the same config and state."""
        other = type(self.modality)(self.modality.config)
        other.load_state(self.modality.state())
        return other


Law = Callable[[Subject], Iterator[str]]
LAWS: dict[str, Law] = {}


def law(check: Law) -> Law:
    """Add a law under its function's name."""
    LAWS[check.__name__] = check
    return check


ROUNDING = 2e-3
"""`distance` that the order of sums may make: half a level of 256."""


def same_tokens(a: Tokens, b: Tokens) -> bool:
    """Whether two encodings agree bit for bit."""
    if len(a) != len(b) or not torch.equal(a.spans(), b.spans()):
        return False
    for name in ("grid", "ids", "features", "seconds"):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None) or (x is not None and not torch.equal(x, y)):
            return False
    return True


@law
def declaration(s: Subject) -> Iterator[str]:
    """Required members are there and fit together."""
    m = s.modality
    if not isinstance(getattr(m, "value_type", None), type):
        yield "`value_type` must be a type."
    if not isinstance(getattr(m, "raw_unit", None), str) or not m.raw_unit:
        yield "`raw_unit` must be a word such as 'byte' or 'second'."
    if not m.is_discrete and not m.is_continuous:
        yield "declares neither `spans` nor `feature_shape`."
    for name, size in m.spans.items():
        if not isinstance(size, int) or size < 1:
            yield f"span `{name}` must have an int size of at least 1, but has {size!r}."
    if m.is_discrete and not isinstance(m.layout, Fixed | Grid | Open):
        yield f"a discrete modality needs a `layout`, but has {m.layout!r}."
    if m.is_discrete and isinstance(m.layout, Fixed | Grid | Open):
        cycle_of(m.layout, list(m.spans))
    if m.attend not in get_args(Attend):
        yield f"`attend` must be one of {get_args(Attend)}, but is {m.attend!r}."
    if not m.round_trip_error >= 0:
        yield f"`round_trip_error` must be at least 0, but is {m.round_trip_error}."
    if not dataclasses.is_dataclass(m.config):
        yield f"`config` must be a dataclass, but is a {type(m.config).__name__}."


@law
def examples(s: Subject) -> Iterator[str]:
    """`example` draws values of the declared type, the same for the same generator."""
    m = s.modality
    for number, value in enumerate(s.examples):
        if not isinstance(value, m.value_type):
            yield f"must be a {m.value_type.__name__}, but is a {type(value).__name__}."
            return
        again = m.example(np.random.default_rng((s.seed, number)))
        if not _same(m, value, again):
            yield "the same generator must draw the same value."


@law
def determinism(s: Subject) -> Iterator[str]:
    """`encode` gives the same tokens twice, whatever the global generators are at."""
    for value, tokens in zip(s.examples, s.tokens(), strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1 + s.seed)
            if not same_tokens(tokens, s.modality.encode(value)):
                yield "encoding the same value twice gave different tokens."


@law
def ids(s: Subject) -> Iterator[str]:
    """Ids are int64 and lie inside the span that they name."""
    m = s.modality
    sizes = list(m.spans.values())
    for tokens in s.tokens():
        if tokens.ids is None:
            if m.is_discrete:
                yield "the modality declares spans, but `encode` gives no ids."
            continue
        if not m.is_discrete:
            yield "`encode` gives ids, but no span is declared."
            return
        if tokens.ids.dtype != torch.int64:
            yield f"must be int64, but are {tokens.ids.dtype}."
        span = tokens.spans()
        if len(span) and not 0 <= int(span.min()) <= int(span.max()) < len(sizes):
            yield f"`span` must lie in 0 to {len(sizes) - 1}, but reaches {span.unique().tolist()}."
            continue
        limit = torch.tensor(sizes)[span]
        outside = (tokens.ids < 0) | (tokens.ids >= limit)
        if bool(outside.any()):
            place = int(outside.nonzero()[0])
            yield (
                f"id {int(tokens.ids[place])} lies outside its span "
                f"`{list(m.spans)[int(span[place])]}` of size {int(limit[place])}."
            )


@law
def features(s: Subject) -> Iterator[str]:
    """Features are finite float32 rows of the declared shape."""
    m = s.modality
    for tokens in s.tokens():
        if tokens.features is None:
            if m.is_continuous:
                yield "the modality declares `feature_shape`, but `encode` gives no features."
            continue
        if tokens.features.dtype != torch.float32:
            yield f"must be float32, but are {tokens.features.dtype}."
        if tuple(tokens.features.shape[1:]) != tuple(m.feature_shape):
            yield (
                f"rows must have shape {tuple(m.feature_shape)}, "
                f"but have {tuple(tokens.features.shape[1:])}."
            )
        if not bool(tokens.features.isfinite().all()):
            yield "hold NaN or infinity."


@law
def grid(s: Subject) -> Iterator[str]:
    """Cells are integers from 0, in the order and number that the layout states."""
    for tokens in s.tokens():
        if tokens.grid.dtype not in (torch.int32, torch.int64):
            yield f"must be int32 or int64, but is {tokens.grid.dtype}."
        elif len(tokens) and int(tokens.grid.min()) < 0:
            yield f"cells must be at least 0, but reach {int(tokens.grid.min())}."
        else:
            yield from _grid_of(s.modality, tokens)


@law
def cycle(s: Subject) -> Iterator[str]:
    """The spans of the codes follow the layout's cycle."""
    m = s.modality
    if not isinstance(m.layout, Fixed | Grid | Open) or not m.is_discrete:
        return
    grammar, range_of = standalone_grammar(m)
    starts = torch.tensor([range_of[name][0] for name in m.spans])
    for tokens in s.tokens():
        if tokens.ids is None:
            continue
        number = tokens.spans()
        if not bool(((number >= 0) & (number < len(starts))).all()):
            yield f"`span` must lie in 0 to {len(starts) - 1}."
            continue
        try:
            check_codes(grammar.slots, (tokens.ids + starts[number]).numpy())
        except GrammarError as error:
            yield error.message


@law
def seconds(s: Subject) -> Iterator[str]:
    """Seconds are float32, never fall with t, and agree with `seconds_per_cell`."""
    step = s.modality.seconds_per_cell
    for tokens in s.tokens():
        given = tokens.seconds
        if given is None:
            if step is not None:
                yield "`seconds_per_cell` is declared, but `encode` gives no seconds."
            continue
        if given.dtype != torch.float32:
            yield f"must be float32, but are {given.dtype}."
        if not bool(given.isfinite().all()) or (len(given) and float(given.min()) < 0):
            yield "must be finite and at least 0."
        if bool((given.diff() < 0).any()):
            yield "must not fall from one position to the next."
        if step is not None:
            expected = tokens.grid[:, 0].double() * step
            if bool(((given.double() - expected).abs() > 1e-4 * (1 + expected)).any()):
                yield f"must be t x seconds_per_cell ({step}), but differ."


@law
def total_decode(s: Subject) -> Iterator[str]:
    """`decode` has a value for whatever the grammar accepts."""
    m = s.modality
    if not m.is_discrete:
        return
    for number in range(2 * len(s.examples)):
        rng = np.random.default_rng((s.seed, 7, number))
        tokens = random_tokens(m, rng, extra=int(rng.integers(0, 65)))
        try:
            value = m.decode(tokens)
        except Exception as error:
            yield (
                f"`decode` refused a legal sequence of {len(tokens)} ids "
                f"({type(error).__name__}: {error})."
            )
            return
        if not isinstance(value, m.value_type):
            yield f"`decode` gave a {type(value).__name__} instead of a {m.value_type.__name__}."


@law
def round_trip(s: Subject) -> Iterator[str]:
    """decode(encode(v)) is within `round_trip_error` of v."""
    m = s.modality
    if not m.is_discrete:
        return
    for value, tokens in zip(s.examples, s.tokens(), strict=True):
        seen = Tokens(tokens.grid, tokens.ids, tokens.span, seconds=tokens.seconds)
        distance = m.distance(value, m.decode(seen))
        if not distance <= m.round_trip_error:
            yield (
                f"`distance` after a round trip may be {m.round_trip_error:g}, "
                f"but reaches {distance:g}."
            )
            return


@law
def length(s: Subject) -> Iterator[str]:
    """`length` tells the encoded length without encoding."""
    for value, tokens in zip(s.examples, s.tokens(), strict=True):
        told = s.modality.length(value)
        if told != len(tokens):
            yield f"`length` says {told}, but `encode` gives {len(tokens)} positions."


@law
def batches(s: Subject) -> Iterator[str]:
    """Many at once are what each is alone: encoded exactly, decoded up to rounding."""
    together = s.modality.encode_batch(s.examples)
    if len(together) != len(s.examples):
        yield f"`encode_batch` of {len(s.examples)} values gave {len(together)}."
        return
    for one, other in zip(s.tokens(), together, strict=True):
        if not same_tokens(one, other):
            yield "`encode_batch` differs from `encode`."
    if not s.modality.is_discrete:
        return
    decoded = s.modality.decode_batch(s.tokens())
    if len(decoded) != len(s.examples):
        yield f"`decode_batch` of {len(s.examples)} values gave {len(decoded)}."
        return
    for tokens, again in zip(s.tokens(), decoded, strict=True):
        if not s.modality.distance(s.modality.decode(tokens), again) <= ROUNDING:
            yield "`decode_batch` differs from `decode`."


@law
def raw_units(s: Subject) -> Iterator[str]:
    """`raw_units` is finite, above 0 for a value that has positions, and right for strings."""
    m = s.modality
    if not m.is_discrete and type(m).raw_units is Modality.raw_units:
        return  # what is input only has no bits to count by them
    for value, tokens in zip(s.examples, s.tokens(), strict=True):
        units = m.raw_units(value)
        if isinstance(value, str) and m.raw_unit in STRING_UNITS:
            expected = STRING_UNITS[m.raw_unit](value)
            if units != expected:
                yield f"a string of {expected} {m.raw_unit}s counts {units}."
        if not math.isfinite(units) or units < 0 or (len(tokens) and units == 0):
            yield f"a value of {len(tokens)} positions counts {units} {m.raw_unit}s."


@law
def augmentation(s: Subject) -> Iterator[str]:
    """`augment` and `variants` keep what the layout and the spans promise."""
    m = s.modality
    rng = np.random.default_rng((s.seed, 11))
    other = Subject(m, s.examples, s.seed, encoded=[m.augment(t, rng) for t in s.tokens()])
    for check in (ids, features, grid, cycle):
        for message in check(other):
            yield f"after `augment`, {check.__name__} {message}"
    for value in s.examples:
        first, *others = m.variants(value)
        if not _same(m, value, first):
            yield "the first of `variants` must be the value itself."
        for other_value in others:
            m.encode(other_value)


@law
def variation(s: Subject) -> Iterator[str]:
    """`vary` gives values of the declared type that encode, the same for the same generator."""
    m = s.modality
    if type(m).vary is Modality.vary:
        return
    varied: list[list[Any]] = [[], []]
    for number, value in enumerate(s.examples):
        for several in varied:
            several.append(m.vary(value, np.random.default_rng((s.seed, 13, number))))
    for value in varied[0]:
        if not isinstance(value, m.value_type):
            yield f"`vary` gave a {type(value).__name__} instead of a {m.value_type.__name__}."
            return
    encoded, again = ([m.encode(value) for value in several] for several in varied)
    if not all(map(same_tokens, encoded, again)):
        yield "`vary` must depend on its generator alone."
    other = Subject(m, varied[0], s.seed, encoded=encoded)
    for check in (ids, features, grid, cycle, length):
        for message in check(other):
            yield f"after `vary`, {check.__name__} {message}"


def _same(m: Modality[Any, Any], a: Any, b: Any) -> bool:
    try:
        return m.distance(a, b) == 0 or m.distance(a, a) > 0
    except Exception:
        return same_tokens(m.encode(a), m.encode(b))


def _grid_of(m: Modality[Any, Any], tokens: Tokens) -> Iterator[str]:
    cells = tokens.grid.long()
    if not m.is_discrete or not isinstance(m.layout, Fixed | Grid | Open) or tokens.ids is None:
        extent = cells.max(dim=0).values + 1 if len(cells) else torch.ones(3, dtype=torch.int64)
        order = (cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]
        if bool((order.diff() < 0).any()):
            yield "cells must stand in raster order: t, then h, then w."
        return
    try:
        check_cells(standalone_grammar(m)[0], tokens.grid.numpy())
    except GrammarError as error:
        yield error.message
