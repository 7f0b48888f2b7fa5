"""One request while it is being answered: its automaton, budget, positions, and what is written.

A `Row` knows what may follow and where each new token stands (RoPE position, grid cell, segment),
as `stream.encoding` computes them for training. It holds no tensors of the model.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from unimodal.errors import ConfigError, DataError, GrammarError, UnimodalError
from unimodal.generation.requests import MAX_DOCUMENT_POSITIONS, Answer, Request, Written
from unimodal.generation.sampling import Uniforms
from unimodal.grammar import CONTROL, Cell, DocumentCursor, SegmentCursor
from unimodal.model.cache import FIELDS
from unimodal.stream import EncodedDocument, Segment, StreamConfig, encode_document
from unimodal.stream.encoding import rope_positions
from unimodal.types import Tokens
from unimodal.vocabulary import HeadSet, Vocabulary

MAX_STEADY = 64
"""Most ids planned ahead."""
UNBOUNDED = 1 << 62
"""A budget that forbids nothing."""


@dataclass(frozen=True)
class Placed:
    """A token and where it stands.

    Attributes:
        id: Global id.
        position: RoPE position (t, h, w).
        coordinates: index, document, segment, kind, full, t, h, w.
    """

    id: int
    position: tuple[float, float, float]
    coordinates: tuple[int, ...]


@dataclass
class _Open:
    """A segment being written, and where its ids begin in the answer."""

    name: str
    cursor: SegmentCursor
    start: int
    content_start: float | None = None
    stop: int | None = None


class Row:
    """The state of one request.

    Args:
        request: What is asked.
        vocabulary: Its ledger.
        stream: The clock.

    Raises:
        UnimodalError: if the request cannot be answered.
    """

    def __init__(self, request: Request, vocabulary: Vocabulary, stream: StreamConfig):
        self.request, self.vocabulary, self.stream = request, vocabulary, stream
        self.uniforms = Uniforms(request.sampling.seed)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.forced: list[bool] = []
        self.is_truncated = False
        self.segments: list[_Open] = []
        self.open: _Open | None = None
        self.error: UnimodalError | None = None
        self.prompt, self.cursor = self._begin()
        self.index = len(self.prompt)
        self.segment = int(self.prompt.segment[-1]) if self.index else -1
        self.kind = int(self.prompt.kind[-1]) if self.index else -1
        if self.open is None:
            self.at = self.prompt.next_position
        shortest = len(self.ids) + self.cursor.shortest()
        if shortest > request.max_tokens:
            raise ConfigError(
                f"The answer needs at least {shortest} ids, but `max_tokens` is "
                f"{request.max_tokens}.",
                subject=request.document.id or None,
                remedy="Raise `max_tokens`; the ids of a `prefix` count.",
            )

    # What may follow

    @property
    def done(self) -> bool:
        """Whether nothing follows."""
        return self.cursor.done or self.error is not None

    @property
    def budget(self) -> int:
        """Ids that may still be appended."""
        return self.request.max_tokens - len(self.ids)

    def head_number(self) -> int:
        """Head set of the next id, which is not forced."""
        name = self.cursor.head_set()
        assert name is not None, "forced ids are appended before"
        return self.vocabulary.head_numbers[name]

    def codes_ahead(self) -> tuple[list[int], int]:
        """Head sets of the codes of one cell from here on, and how many ids may be planned ahead.

        A planned id has its whole head set to choose from, and if it is a code, the segment goes
        on in the same way.
        """
        inside = self.cursor.segment
        if inside is None or inside.num_headers < len(inside.grammar.headers):
            return [], 0
        grammar, codes = inside.grammar, inside.codes
        if self.request.constraints_of(grammar.name):
            return [], 0
        per_cell = len(grammar.slots)
        if any(sum(b - a for a, b in slot.ranges) < 2 for slot in grammar.slots):
            return [], 0
        budget = self.budget - (self.cursor.shortest() - inside.shortest())
        if grammar.end is None:
            count = inside.shortest() - 1
        else:
            if -(-codes // per_cell) < grammar.min_cells:
                return [], 0
            # Code n may follow if the cell that it is in, and the end, still fit.
            count = (budget + codes - 1) // per_cell * per_cell - codes
            if grammar.max_cells is not None:
                count = min(count, grammar.max_cells * per_cell - codes)
            count -= 1  # after the last code that fits, the end is forced
        numbers = [
            self.vocabulary.head_numbers[grammar.slots[(codes + i) % per_cell].head_set]
            for i in range(per_cell)
        ]
        return numbers, max(0, min(count, MAX_STEADY))

    def legal(self, head: HeadSet) -> Bool[Tensor, " C"] | None:
        """Columns of a head set that may follow; None if all may.

        Raises:
            GrammarError: if the constraints leave none.
        """
        ranges = self.cursor.legal(self.budget)
        # An id that the layout forces has been appended before: here, the budget leaves one.
        self.is_truncated |= sum(stop - start for start, stop in ranges) == 1
        ids = head.ids
        mask = torch.zeros(len(ids), dtype=torch.bool)
        for start, stop in ranges:
            mask |= (ids >= start) & (ids < stop)
        mask = self._constrained(mask, ids)
        return None if bool(mask.all()) else mask

    def _constrained(self, mask: Tensor, ids: Tensor) -> Tensor:
        """What the constraints keep of legal ids."""
        constraints = self.request.constraints_of(self.open.name) if self.open else ()
        if self.open is None or not constraints:
            return mask
        written = self.ids[self.open.start :]
        for constraint in constraints:
            kept = constraint.keep(written, ids)
            mask = mask if kept is None else mask & kept
        if not bool(mask.any()):
            raise GrammarError(
                f"The constraints on `{self.open.name}` leave no id that may follow "
                f"{len(written)} ids within {self.budget} more.",
                subject=self.request.document.id or None,
                remedy="Raise `max_tokens`, or loosen the constraints.",
            )
        return mask

    # What was drawn

    def push(self, token: int, logprob: float) -> list[Placed]:
        """Append a drawn id and whatever is forced after it; return them with their places.

        Raises:
            DataError: if the id has no log-probability.
        """
        if not math.isfinite(logprob):
            raise DataError(
                f"The model has no finite score for what follows {len(self.ids)} ids.",
                subject=self.request.document.id or None,
                remedy="Look for values that are not finite, or huge, in what is given.",
            )
        return [self._append(token, logprob, False), *self.drain()]

    def drain(self) -> list[Placed]:
        """Append forced ids; return them with their places.

        Forced is what training does not learn: where the layout allows one id. Where only the
        budget leaves no choice, the id is drawn, and so has its log-probability.

        Raises:
            GrammarError: if a constraint forbids one.
        """
        placed = []
        while not self.done:
            ranges = self.cursor.legal(UNBOUNDED)
            if sum(stop - start for start, stop in ranges) != 1:
                break
            self._constrained(torch.ones(1, dtype=torch.bool), torch.tensor([ranges[0][0]]))
            placed.append(self._append(ranges[0][0], 0.0, True))
        return placed

    def plan(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Positions (count, 3) and coordinates (count, 8) of the open segment's next codes."""
        assert self.open is not None
        cursor = self.open.cursor
        grid = _cells(cursor, cursor.codes, count)
        start = self.at if self.open.content_start is None else self.open.content_start
        position = self._positions(cursor, grid, start)
        coordinates = np.empty((count, FIELDS), np.int32)
        coordinates[:, 0] = np.arange(self.index, self.index + count)
        coordinates[:, 1:5] = (0, self.segment, self.kind, 0)
        coordinates[:, 5:] = grid
        return position, coordinates

    def commit(
        self, tokens: list[int], logprobs: list[float], position: NDArray[np.float32]
    ) -> None:
        """Append planned codes that were drawn and fed.

        Args:
            tokens, logprobs: What was drawn.
            position: What `plan` said of them.
        """
        if not tokens:
            return
        assert self.open is not None
        if self.open.content_start is None:
            self.open.content_start = self.at
        self.open.cursor.codes += len(tokens)
        self.index += len(tokens)
        self.at = max(self.at, float(position[: len(tokens)].max()) + 1)
        self.ids += tokens
        self.logprobs += logprobs
        self.forced += [False] * len(tokens)

    def answer(self) -> Answer:
        """The answer; its values are decoded here."""
        if self.error is not None:
            return Answer(error=self.error)
        written = []
        for item in self.segments:
            part = slice(item.start, item.stop)
            written.append(
                Written(
                    item.name,
                    self._decode(item),
                    self.ids[part],
                    self.logprobs[part],
                    self.forced[part],
                )
            )
        return Answer(written, self.ids, self.logprobs, self.forced, self.is_truncated)

    # Inside

    def _begin(self) -> tuple[EncodedDocument, DocumentCursor]:
        request, vocabulary = self.request, self.vocabulary
        wanted = request.wanted()
        subject = request.document.id or None
        if wanted is not None and not wanted:
            raise ConfigError(
                "The request asks for nothing.", subject=subject, remedy="Name what to write."
            )
        given = replace(request.document.given(), free=False)
        for segment in given.segments:
            _check_value(segment, vocabulary, subject)
        names = wanted
        if wanted is None:
            names = list(vocabulary.openers_listed)
            if not given.segments:
                raise ConfigError(
                    "Free switching begins after a given segment, and none is given.",
                    subject=subject,
                )
        grammars = {name: vocabulary.grammar(name) for name in names or []}
        for name in request.constraints:
            if name not in grammars:
                raise ConfigError(
                    f"The constraints name `{name}`, which is not asked for.",
                    subject=subject,
                    remedy=f"Asked for: {', '.join(grammars) or 'nothing'}.",
                )
        if request.prefix is not None:
            return self._continue(given, wanted)
        if given.segments:
            prompt = encode_document(given, vocabulary, self.stream, longest=MAX_DOCUMENT_POSITIONS)
        else:
            prompt = _empty(given)
        return prompt, DocumentCursor(grammars, wanted, vocabulary.switch)

    def _continue(self, given: Any, wanted: list[str] | None) -> tuple[EncodedDocument, Any]:
        if wanted is None:
            raise ConfigError("A `prefix` needs `asked`: which modality it begins.")
        name, vocabulary = wanted[0], self.vocabulary
        grammar = vocabulary.grammar(name)
        if grammar.end is None:
            raise ConfigError(
                f"`{name}` has a layout without an end, so no value is the beginning of another.",
                remedy="Leave out `prefix`.",
            )
        # As training learns it: the ids, one after the other.
        part = Segment(name, self.request.prefix, attend="causal", objective="next")
        _check_value(part, vocabulary, self.request.document.id or None)
        whole = encode_document(
            replace(given, segments=(*given.segments, part)),
            vocabulary,
            self.stream,
            longest=MAX_DOCUMENT_POSITIONS,
        )
        span = whole.spans[-1]
        prompt = _cut(whole, span.stop - 1)
        cursor = grammar.cursor()
        self.ids = prompt.ids[span.start :].tolist()
        for token in self.ids[1:]:
            cursor.push(token)
        self.logprobs, self.forced = [0.0] * len(self.ids), [True] * len(self.ids)
        self.open = _Open(name, cursor, 1)
        if cursor.codes:
            self.open.content_start = float(prompt.position[span.content, 0])
        self.at = prompt.next_position
        self.segments.append(self.open)
        grammars = {n: vocabulary.grammar(n) for n in wanted}
        return prompt, DocumentCursor(grammars, wanted[1:], vocabulary.switch, inside=cursor)

    def _append(self, token: int, logprob: float, forced: bool) -> Placed:
        before = self.cursor.segment
        cell = self.cursor.push(token)
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.forced.append(forced)
        inside = self.cursor.segment
        if before is None and inside is not None:
            self.segment += 1
            self.kind = self.vocabulary.kind(inside.grammar.name)
            self.open = _Open(inside.grammar.name, inside, len(self.ids))
            self.segments.append(self.open)
        position = self._place(cell)
        if before is not None and inside is None and self.open is not None:
            self.open.stop = len(self.ids)
            self.open = None
        coordinates = (self.index, 0, self.segment, self.kind, 0, *cell)
        self.index += 1
        return Placed(token, position, coordinates)

    def _place(self, cell: Cell) -> tuple[float, float, float]:
        if cell == CONTROL or self.open is None:
            here = self.at
            self.at += 1
            return here, here, here
        if self.open.content_start is None:
            self.open.content_start = self.at
        grid = np.array([cell], dtype=np.int32)
        found = self._positions(self.open.cursor, grid, self.open.content_start)
        self.at = max(self.at, float(found.max()) + 1)
        t, h, w = found[0].tolist()
        return t, h, w

    def _positions(
        self, cursor: SegmentCursor, grid: NDArray[np.int32], start: float
    ) -> NDArray[np.float32]:
        """`rope_positions` of some cells, as of the whole value."""
        seconds = _seconds(self.vocabulary, cursor, grid)
        flat = cursor.sizes[1] == 1 and cursor.sizes[2] == 1
        return rope_positions(grid, seconds, start, self.stream.positions_per_second, flat=flat)

    def _decode(self, item: _Open) -> Any:
        modality = self.vocabulary.modality(item.name)
        cursor = item.cursor
        first = item.start + len(cursor.grammar.headers)
        content = torch.tensor(self.ids[first : first + cursor.codes], dtype=torch.int64)
        ids, spans = self.vocabulary.local_ids(item.name, content)
        grid = _cells(cursor, 0, cursor.codes)
        seconds = _seconds(self.vocabulary, cursor, grid)
        tokens = Tokens(
            torch.from_numpy(grid),
            ids=ids,
            span=spans if len(modality.spans) > 1 else 0,
            seconds=None if seconds is None else torch.from_numpy(seconds),
        )
        return modality.decode(tokens)


def _seconds(
    vocabulary: Vocabulary, cursor: SegmentCursor, grid: NDArray[np.int32]
) -> NDArray[np.float32] | None:
    step = vocabulary.modality(cursor.grammar.name).seconds_per_cell
    return None if step is None else grid[:, 0].astype(np.float32) * np.float32(step)


def _cells(cursor: SegmentCursor, first: int, count: int) -> NDArray[np.int32]:
    """Grid cells of some codes of a segment whose size is known."""
    cell = np.arange(first, first + count) // len(cursor.grammar.slots)
    h, w = cursor.sizes[1], cursor.sizes[2]
    return np.stack([cell // (h * w), cell // w % h, cell % w], axis=1).astype(np.int32)


def _check_value(segment: Segment, vocabulary: Vocabulary, subject: str | None) -> None:
    modality = vocabulary.modality(segment.modality)
    if segment.value is not None and not isinstance(segment.value, modality.value_type | Tokens):
        raise DataError(
            f"A `{segment.modality}` segment takes {modality.value_type.__name__}, but has "
            f"{type(segment.value).__name__}.",
            subject=subject,
            remedy="Read files with the modality's `read`.",
        )


def _empty(document: Any) -> EncodedDocument:
    integers, none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    return EncodedDocument(
        document=document,
        ids=integers,
        targets=integers,
        head_set=none,
        loss_weight=torch.zeros(0),
        grid=torch.zeros(0, 3, dtype=torch.int32),
        position=torch.zeros(0, 3),
        segment=none,
        kind=none,
        full=torch.zeros(0, dtype=torch.bool),
    )


def _cut(document: EncodedDocument, stop: int) -> EncodedDocument:
    """The first `stop` positions."""
    columns = ("ids", "targets", "head_set", "loss_weight", "grid", "position", "segment", "kind")
    cut = {name: getattr(document, name)[:stop] for name in (*columns, "full")}
    return replace(document, **cut)
