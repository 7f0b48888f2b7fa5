"""Layouts and grammars: which ids may follow, as an automaton with integer registers.

A modality states one of three layouts. `SegmentGrammar` is a layout compiled against the ids of a
vocabulary; `SegmentCursor` walks it for one segment, `DocumentCursor` for a whole answer of one or
several segments. The cursors serve generation (which ids are legal now, within the token budget)
and define the labels of training (`SegmentGrammar.labels`): both read the same head sets. Content
that is not what a cursor would walk is refused when it is encoded (`stream.content`).

An answer always decodes: every state knows its shortest completion, and an id that cannot finish
within the budget is illegal. A position with one legal id is forced: it is appended, not sampled,
and carries no loss.

Decode constraints (`unimodal.constraints`) only remove ids, at generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from unimodal.errors import ConfigError, GrammarError
from unimodal.types import CONTROL_CELL

Cycle = tuple[tuple[str, ...], ...]
IdRange = tuple[int, int]
"""Global ids [start, stop)."""
Cell = tuple[int, int, int]
CONTROL: Cell = (CONTROL_CELL, CONTROL_CELL, CONTROL_CELL)
AXES = ("t", "h", "w")
FORCED = -1
"""Head-set number of positions that are not sampled."""


@dataclass(frozen=True)
class Fixed:
    """A fixed number of cells: no header, no end.

    Args:
        shape: Cells as (t, h, w), or one int for t.
        cycle: The codes of one cell: for each, the spans it may come from. Empty: one code for each
            span of the modality, in their order.
    """

    shape: int | tuple[int, int, int]
    cycle: Cycle = ()


@dataclass(frozen=True)
class Grid:
    """A header with the size on each axis that varies, then t x h x w cells.

    Args:
        max_size: Largest (t, h, w).
        min_size: Smallest (t, h, w). An axis whose two bounds agree has no header.
        cycle: As in `Fixed`.
    """

    max_size: tuple[int, int, int]
    min_size: tuple[int, int, int] = (1, 1, 1)
    cycle: Cycle = ()


@dataclass(frozen=True)
class Open:
    """Cells along t until an end, within bounds.

    Args:
        min_cells: Fewest cells before an end.
        max_cells: Most cells; there the end is forced. None: only the budget bounds it.
        cycle: As in `Fixed`. The end may follow whole cells only.
    """

    min_cells: int = 0
    max_cells: int | None = None
    cycle: Cycle = ()


Layout = Fixed | Grid | Open


def bounds(layout: Layout) -> tuple[Cell, Cell]:
    """Smallest and largest (t, h, w) of a layout that has no end.

    Raises:
        ConfigError: if a bound is below 1 or the bounds cross.
    """
    if isinstance(layout, Fixed):
        shape = (layout.shape, 1, 1) if isinstance(layout.shape, int) else layout.shape
        low = high = shape
    elif isinstance(layout, Grid):
        low, high = layout.min_size, layout.max_size
    else:
        raise ConfigError("An `Open` layout has no grid bounds.")
    for axis, least, most in zip(AXES, low, high, strict=True):
        if not 1 <= least <= most:
            raise ConfigError(f"Layout axis {axis}: need 1 <= min <= max, but got {least}, {most}.")
    return low, high


def cycle_of(layout: Layout, spans: Sequence[str]) -> Cycle:
    """The codes of one cell, with the default filled in.

    Raises:
        ConfigError: if the cycle names a span that the modality lacks.
    """
    cycle = layout.cycle or tuple((span,) for span in spans)
    for slot in cycle:
        for span in slot:
            if span not in spans:
                raise ConfigError(f"The layout's cycle names span `{span}`, which is not declared.")
    return cycle


def header_axes(layout: Layout) -> dict[str, IdRange]:
    """Axes whose size a header states, with their least and largest size (inclusive)."""
    if isinstance(layout, Open):
        return {}
    low, high = bounds(layout)
    return {a: (lo, hi) for a, lo, hi in zip(AXES, low, high, strict=True) if lo < hi}


@dataclass(frozen=True)
class Slot:
    """One code of a cell: its head set, and the id ranges of its spans."""

    head_set: str
    ranges: tuple[IdRange, ...]


@dataclass(frozen=True)
class Header:
    """One header position: which axis (0, 1, 2) it sizes, its head set, ids and bounds."""

    axis: int
    head_set: str
    first_id: int
    low: int
    high: int


@dataclass(frozen=True)
class SegmentGrammar:
    """A layout compiled against the ids of a vocabulary.

    Attributes:
        name: The modality.
        opener: Id that begins a segment.
        slots: The codes of one cell.
        headers: Header positions in the order t, h, w.
        size: (t, h, w) of axes without a header; t is 0 for open layouts.
        end: Id of the end, for open layouts.
        min_cells, max_cells: Bounds of open layouts.
    """

    name: str
    opener: int
    slots: tuple[Slot, ...]
    headers: tuple[Header, ...] = ()
    size: Cell = (0, 1, 1)
    end: int | None = None
    min_cells: int = 0
    max_cells: int | None = None

    def cursor(self) -> "SegmentCursor":
        """A cursor at the position after the opener."""
        return SegmentCursor(self)

    def is_single(self, place: int) -> bool:
        """Whether code `place` of a cell has one id to choose from: it is never sampled."""
        may_end = place == 0 and self.end is not None
        return not may_end and sum(b - a for a, b in self.slots[place].ranges) == 1

    def shortest(self) -> int:
        """Fewest ids of a whole segment, without the opener."""
        return self.cursor().shortest()

    def header_ids(self, size: Sequence[int]) -> list[int]:
        """Ids that state a size (t, h, w) within the bounds."""
        return [h.first_id + int(size[h.axis]) - h.low for h in self.headers]

    def labels(self, num_codes: int, numbers: Mapping[str, int]) -> Int[Tensor, " T"]:
        """Head-set numbers of a segment's positions after the opener: header, codes, end.

        Equal to walking a cursor, but vectorised. Positions whose only id follows from the layout
        are `FORCED`: a slot of one id, and the end after the last cell that may be.

        Args:
            num_codes: Content positions of the segment.
            numbers: Number of each head set.
        """
        labels = [
            FORCED if self.is_single(place) else numbers[slot.head_set]
            for place, slot in enumerate(self.slots)
        ]
        cycle = torch.tensor(labels, dtype=torch.int32)
        cells = -(-num_codes // len(cycle))
        parts = [torch.tensor([numbers[h.head_set] for h in self.headers], dtype=torch.int32)]
        parts.append(cycle.repeat(cells)[:num_codes])
        if self.end is not None:
            full = self.max_cells is not None and num_codes >= self.max_cells * len(cycle)
            parts.append(torch.tensor([FORCED if full else int(cycle[0])], dtype=torch.int32))
        return torch.cat(parts)


class SegmentCursor:
    """Walks one segment: registers are the header sizes and the number of codes so far."""

    __slots__ = ("codes", "done", "grammar", "num_headers", "sizes")

    def __init__(self, grammar: SegmentGrammar):
        self.grammar = grammar
        self.sizes = list(grammar.size)
        self.num_headers = 0
        self.codes = 0
        self.done = False

    def head_set(self) -> str:
        """Name of the head set that the next id is drawn from."""
        if self.num_headers < len(self.grammar.headers):
            return self.grammar.headers[self.num_headers].head_set
        return self.grammar.slots[self.codes % len(self.grammar.slots)].head_set

    def cell(self) -> Cell:
        """Grid cell of the next code; control cells for a header, and for an end."""
        if self.num_headers < len(self.grammar.headers):
            return CONTROL
        cell = self.codes // len(self.grammar.slots)
        h, w = self.sizes[1], self.sizes[2]
        return cell // (h * w), cell // w % h, cell % w

    def shortest(self) -> int:
        """Fewest ids that finish the segment from here."""
        return self._after(self.num_headers, self.sizes, self.codes)

    def legal(self, budget: int) -> list[IdRange]:
        """Ids that may follow and still let the segment finish within `budget` ids.

        Args:
            budget: Ids that may still be appended to this segment, the next one included.
        """
        g = self.grammar
        if self.num_headers < len(g.headers):
            header = g.headers[self.num_headers]
            high = self._largest(header, budget - 1)
            return [(header.first_id, header.first_id + high - header.low + 1)]
        ranges: list[IdRange] = []
        full = g.max_cells is not None and self.codes >= g.max_cells * len(g.slots)
        if not full and self._after(self.num_headers, self.sizes, self.codes + 1) < budget:
            ranges.extend(g.slots[self.codes % len(g.slots)].ranges)
        if self._may_end():
            ranges.append((g.end, g.end + 1))  # type: ignore[operator, arg-type]
        return ranges

    def push(self, token: int) -> Cell:
        """Append one id and return its cell.

        Raises:
            GrammarError: if the layout does not allow it here.
        """
        g = self.grammar
        if self.done:
            raise GrammarError(f"Id {token} follows the end of a segment of `{g.name}`.")
        if self.num_headers < len(g.headers):
            header = g.headers[self.num_headers]
            size = token - header.first_id + header.low
            if not header.low <= size <= header.high:
                raise self._refusal(token)
            self.sizes[header.axis] = size
            self.num_headers += 1
            return CONTROL
        if token == g.end:
            if not self._may_end():
                raise self._refusal(token)
            self.done = True
            return CONTROL
        slot = g.slots[self.codes % len(g.slots)]
        full = g.max_cells is not None and self.codes >= g.max_cells * len(g.slots)
        if full or not any(start <= token < stop for start, stop in slot.ranges):
            raise self._refusal(token)
        cell = self.cell()
        self.codes += 1
        self.done = g.end is None and self.codes == self._total(self.sizes)
        return cell

    def _may_end(self) -> bool:
        g = self.grammar
        cells, rest = divmod(self.codes, len(g.slots))
        return g.end is not None and rest == 0 and cells >= g.min_cells

    def _total(self, sizes: Sequence[int]) -> int:
        return sizes[0] * sizes[1] * sizes[2] * len(self.grammar.slots)

    def _after(self, num_headers: int, sizes: Sequence[int], codes: int) -> int:
        g = self.grammar
        if g.end is not None:
            cells = max(g.min_cells, -(-codes // len(g.slots)))
            return cells * len(g.slots) - codes + 1
        sizes = list(sizes)
        for header in g.headers[num_headers:]:
            sizes[header.axis] = header.low
        return len(g.headers) - num_headers + self._total(sizes) - codes

    def _largest(self, header: Header, budget: int) -> int:
        high = header.high
        sizes = list(self.sizes)
        sizes[header.axis] = 1
        for later in self.grammar.headers[self.num_headers + 1 :]:
            sizes[later.axis] = later.low
        rest = len(self.grammar.headers) - self.num_headers - 1
        return min(high, (budget - rest) // self._total(sizes))

    def _refusal(self, token: int) -> GrammarError:
        return GrammarError(
            f"Id {token} may not follow {self.codes} codes of a segment of `{self.grammar.name}` "
            f"(head set `{self.head_set()}`)."
        )


@dataclass(frozen=True)
class Switch:
    """Free switching: after a segment, any listed opener or a stop.

    Attributes:
        head_set: Name of the head set that holds them.
        openers: Openers that the checkpoint lists, by modality.
        stop: Id that finishes the document.
    """

    head_set: str
    openers: Mapping[str, int]
    stop: int


class DocumentCursor:
    """Walks an answer of several segments.

    Args:
        grammars: Grammar of each modality that may be written.
        asked: Modalities to write, in order. None: free switching by `switch`.
        switch: Openers and stop of free switching.
        inside: Continue a segment that is already open (priming, completion), with its cursor.
    """

    def __init__(
        self,
        grammars: Mapping[str, SegmentGrammar],
        asked: Sequence[str] | None,
        switch: Switch | None = None,
        inside: SegmentCursor | None = None,
    ):
        if asked is None and switch is None:
            raise GrammarError("Free switching needs openers that the checkpoint lists.")
        self.grammars = grammars
        self.pending = None if asked is None else list(asked)
        self.switch = switch
        self.segment = None if inside is None or inside.done else inside
        self.done = not (self.segment or asked is None or asked)

    def shortest(self) -> int:
        """Fewest ids that finish the answer from here."""
        inside = self.segment.shortest() if self.segment else 0
        if self.pending is None:
            return inside + (0 if self.done else 1)
        return inside + self._rest()

    def head_set(self) -> str | None:
        """Head set of the next id; None where it is forced whatever the budget."""
        if self.segment:
            return self.segment.head_set()
        return self.switch.head_set if self.pending is None and self.switch else None

    def legal(self, budget: int) -> list[IdRange]:
        """Id ranges that may follow within `budget` further ids of the whole answer."""
        if self.segment:
            return self.segment.legal(budget - self._rest())
        if self.pending is None:
            assert self.switch is not None
            fit = [
                (opener, opener + 1)
                for name, opener in self.switch.openers.items()
                if self.grammars[name].shortest() + 2 <= budget
            ]
            return [*fit, (self.switch.stop, self.switch.stop + 1)]
        opener = self.grammars[self.pending[0]].opener
        return [(opener, opener + 1)]

    def push(self, token: int) -> Cell:
        """Append one id and return its cell.

        Raises:
            GrammarError: if it may not follow.
        """
        if self.segment:
            cell = self.segment.push(token)
            if self.segment.done:
                self.segment = None
                self.done = self.pending is not None and not self.pending
            return cell
        if self.pending is None and self.switch and token == self.switch.stop:
            self.done = True
            return CONTROL
        name = self._opened(token)
        if self.pending:
            self.pending.pop(0)
        self.segment = self.grammars[name].cursor()
        return CONTROL

    def _opened(self, token: int) -> str:
        if self.pending is not None:
            names = self.pending[:1]
        else:
            names = list(self.switch.openers) if self.switch else []
        for name in names:
            if self.grammars[name].opener == token:
                return name
        raise GrammarError(f"Id {token} may not open a segment here; asked: {names}.")

    def _rest(self) -> int:
        if self.pending is None:
            return 1
        return sum(1 + self.grammars[name].shortest() for name in self.pending)


def compile_segment(
    name: str,
    layout: Layout,
    spans: Sequence[str],
    opener: int,
    end: int,
    range_of: Mapping[str, IdRange],
) -> SegmentGrammar:
    """Compile a layout.

    Args:
        name: The modality.
        layout: Its layout.
        spans: Its spans in order.
        opener: Id of its opener.
        end: Id of the shared end.
        range_of: Global ids of each span, and of each header axis (`size_span`).
    """
    is_open = isinstance(layout, Open)
    cycle = cycle_of(layout, spans)
    slots = tuple(Slot(head_set_name(name, s), tuple(range_of[x] for x in s)) for s in cycle)
    if isinstance(layout, Open):
        # The end may follow whole cells only, so only the first code's head set holds it.
        slots = (replace(slots[0], head_set=head_set_name(name, cycle[0], True)), *slots[1:])
        return SegmentGrammar(
            name, opener, slots, end=end, min_cells=layout.min_cells, max_cells=layout.max_cells
        )
    assert not is_open
    low, _ = bounds(layout)
    headers = tuple(
        Header(
            AXES.index(axis), f"{name}.{size_span(axis)}", range_of[size_span(axis)][0], least, most
        )
        for axis, (least, most) in header_axes(layout).items()
    )
    return SegmentGrammar(name, opener, slots, headers=headers, size=low)


def size_span(axis: str) -> str:
    """Name of the span that states the size on an axis."""
    return f"size_{axis}"


def head_set_name(name: str, slot: Sequence[str], with_end: bool = False) -> str:
    """Name of the head set of one code of a cell."""
    return f"{name}.{'+'.join(slot)}" + ("+end" if with_end else "")
