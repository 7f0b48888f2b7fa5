"""Encoding: a document becomes stream positions with ids, targets and coordinates.

A segment is written as opener, header ids (if its layout has a header), content, and an end (if its
layout is open). Openers, headers and ends stand on control cells. The three coordinates are never
mixed: `index` is the place in the row, `grid` is what patterns read, `position` is for RoPE.

RoPE positions follow M-RoPE (Qwen2-VL): a control or one-dimensional position has t = h = w = the
previous maximum + 1; a grid value starts there and adds its cell; where there is time, t is start +
seconds x rate, so that all modalities share one clock.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from unimodal.errors import ConfigError, DataError, GrammarError, UnimodalError, VocabularyError
from unimodal.grammar import FORCED
from unimodal.modality import Modality
from unimodal.stream.content import check_cells, check_codes
from unimodal.stream.documents import Document, Segment
from unimodal.types import CONTROL_CELL, Tokens
from unimodal.vocabulary import SWITCH, Vocabulary

NO_TARGET = -1


@dataclass(kw_only=True)
class StreamConfig:
    """What turns documents into positions."""

    positions_per_second: float = 50.0
    """RoPE positions a second, for tokens with time. 50 makes one step of 20 ms."""


@dataclass(frozen=True)
class SegmentSpan:
    """Where a segment landed in its document.

    Attributes:
        start, stop: Positions, opener and end included.
        content: First content position.
    """

    segment: Segment
    start: int
    content: int
    stop: int


@dataclass(frozen=True)
class Features:
    """Continuous features of one segment.

    Attributes:
        modality: Ledger name.
        start: First position in the document.
        values: (T, *feature_shape), float32.
        hidden: Positions that the masked objective hides, (T,).
    """

    modality: str
    start: int
    values: Float[Tensor, "T ..."]
    hidden: Bool[Tensor, " T"]


@dataclass
class EncodedDocument:
    """One document as stream positions.

    Attributes:
        ids: Input id; `pad` where features stand.
        targets: Id to predict at the position, or `NO_TARGET`.
        head_set: Number of the head set of the target, or -1.
        loss_weight: Weight of the position's loss.
        grid, position: Cell (int32) and RoPE position (float32) on t, h, w.
        segment, kind: Segment number and modality number, int32.
        full: Whether the segment attends in full.
        features: Continuous inputs.
        spans: Where each segment stands.
    """

    document: Document
    ids: Int[Tensor, " T"]
    targets: Int[Tensor, " T"]
    head_set: Int[Tensor, " T"]
    loss_weight: Float[Tensor, " T"]
    grid: Int[Tensor, "T 3"]
    position: Float[Tensor, "T 3"]
    segment: Int[Tensor, " T"]
    kind: Int[Tensor, " T"]
    full: Bool[Tensor, " T"]
    features: list[Features] = field(default_factory=list)
    spans: list[SegmentSpan] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def next_position(self) -> float:
        """RoPE position of whatever follows: the maximum so far + 1."""
        return float(self.position.max()) + 1 if len(self) else 0.0


def encode_document(
    document: Document,
    vocabulary: Vocabulary,
    config: StreamConfig,
    rng: np.random.Generator | None = None,
    *,
    augment: bool = False,
    longest: int | None = None,
) -> EncodedDocument:
    """Encode a document.

    Args:
        document: All its segments have values; a request gives `document.given()`.
        vocabulary: Source of all ids.
        config: The clock.
        rng: Draws masks and augmentations; required by `masked` segments and `augment`.
        augment: Apply `Modality.augment`, in training.
        longest: Refuse more positions than this, before they cost any memory.

    Raises:
        DataError: naming the sample, if a segment has no value, a value does not fit its layout, or
            the document is longer than `longest`.
        ConfigError: if something is to be drawn, but there is no `rng`.
    """
    if rng is None and (augment or any(s.objective == "masked" for s in document.segments)):
        raise ConfigError(
            "Masks and augmentations are drawn, but `rng` is None.",
            subject=document.id or None,
            remedy="Pass a generator, another for each document.",
        )
    pieces = _read(document, vocabulary, rng or np.random.default_rng(0), augment, longest)
    extra = 1 if document.free else 0
    check_length(document, sum(piece.total for piece in pieces) + extra, longest)
    columns = _Columns(sum(piece.total for piece in pieces) + extra, vocabulary.control("pad"))
    start, cursor = 0, 0.0
    for number, piece in enumerate(pieces):
        place = slice(start, start + piece.total)
        columns.write(place, number, piece)
        cursor = _positions(columns.position[place], piece, cursor, config.positions_per_second)
        start += piece.total
    if document.free:
        columns.stop(vocabulary, document, len(pieces), cursor)
    return columns.finish(document, pieces)


def check_length(document: Document, positions: int, longest: int | None) -> None:
    """Raise DataError if a document has more than `longest` positions."""
    if longest is not None and positions > longest:
        raise DataError(
            f"The document has {positions} positions, but may have {longest}.",
            subject=document.id or None,
            remedy="Shorten the values (crop, window, resize); in training, "
            "`packing.row_length` may also be raised.",
        )


def rope_positions(
    grid: NDArray[np.int32],
    seconds: NDArray[np.float32] | None,
    start: float,
    rate: float,
    *,
    flat: bool | None = None,
) -> NDArray[np.float32]:
    """RoPE positions (T, 3) of content cells.

    Args:
        grid: Cells (T, 3) as t, h, w.
        seconds: Start times (T,), where there is time.
        start: Position of the first cell.
        rate: Positions a second.
        flat: Whether the value is one-dimensional (t alone); None: if these cells are. For some
            cells of a value, say it of the whole value.
    """
    t = grid[:, 0] if seconds is None else seconds * rate
    position = np.empty((len(grid), 3), np.float32)
    if flat is None:
        flat = not grid[:, 1:].any()
    if flat:
        position[:] = np.asarray(t)[:, None]
    else:
        position[:, 0], position[:, 1:] = t, grid[:, 1:]
    position += start
    return position


@dataclass
class _Piece:
    """One encoded segment, framed but not yet placed."""

    segment: Segment
    kind: int
    full: bool
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    heads: NDArray[np.int32]
    hidden: NDArray[np.bool_]
    grid: NDArray[np.int32]
    seconds: NDArray[np.float32] | None
    features: Tensor | None
    before: int

    @property
    def total(self) -> int:
        return len(self.inputs)

    @property
    def inside(self) -> slice:
        return slice(self.before, self.before + len(self.grid))


def _read(
    document: Document,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    augment: bool,
    longest: int | None,
) -> list[_Piece]:
    pieces: list[_Piece] = []
    for segment in document.segments:
        modality = vocabulary.modality(segment.modality)
        is_switch = document.free and bool(pieces)
        try:
            tokens = _encode(document, segment, modality)
            if augment:
                tokens = modality.augment(tokens, rng)
            # A frame takes ten times the memory of the ids: a text of millions must not get one.
            check_length(document, len(tokens), longest)
            if is_switch and segment.modality not in vocabulary.openers_listed:
                raise DataError(
                    f"A free document goes on with `{segment.modality}`, no listed opener.",
                    remedy="List it below `openers:`.",
                )
            pieces.append(_frame(segment, modality, tokens, vocabulary, rng, is_switch))
        except (GrammarError, VocabularyError) as error:
            raise DataError(
                error.message, subject=document.id or error.subject, remedy=error.remedy
            ) from error
        except UnimodalError as error:
            error.subject = error.subject or document.id or None
            raise
    return pieces


def _encode(
    document: Document,
    segment: Segment,
    modality: Modality[Any, Any],
) -> Tokens:
    subject = document.id or None
    if segment.value is None:
        raise DataError(
            f"A segment of `{segment.modality}` has no value.",
            subject=subject,
            remedy="A record must hold every field that its task names.",
        )
    value = segment.value
    tokens = value if isinstance(value, Tokens) else modality.encode(value)
    if tokens.features is not None and not bool(tokens.features.isfinite().all()):
        raise DataError(
            f"A value of `{segment.modality}` has features that are not finite.",
            remedy="Take NaN and infinity out of the value.",
        )
    if len(tokens) == 0 and not modality.is_discrete:
        raise DataError(
            f"A value of `{segment.modality}` has no positions.",
            subject=subject,
            remedy="Leave it out: it is empty, or too short for one position.",
        )
    if segment.objective != "none" and tokens.ids is None:
        raise DataError(
            f"Modality `{segment.modality}` has no ids to predict: its objective must be none.",
            subject=subject,
            remedy=f"Predict `{modality.decoded_by}` instead." if modality.decoded_by else None,
        )
    if segment.objective == "next" and (segment.attend or modality.attend) == "full":
        raise DataError(
            f"Modality `{segment.modality}` attends in full: with the objective `next` it would "
            "see the ids that it must predict.",
            subject=subject,
            remedy="Set attend=causal on the segment, or objective=masked.",
        )
    return tokens


def _frame(
    segment: Segment,
    modality: Modality[Any, Any],
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    is_switch: bool,
) -> _Piece:
    """Add opener, header and end; write targets at their own positions."""
    before = [vocabulary.opener(segment.modality)]
    after: list[int] = []
    content = len(tokens)
    heads = np.full(1 + content, FORCED, np.int32)
    if modality.is_discrete and modality.layout is not None:
        grammar = vocabulary.grammar(segment.modality)
        before += grammar.header_ids(check_cells(grammar, tokens.grid.numpy()))
        after = [] if grammar.end is None else [grammar.end]
        heads = np.full(len(before) + content + len(after), FORCED, np.int32)
        heads[1:] = grammar.labels(content, vocabulary.head_numbers)
    if is_switch:
        heads[0] = vocabulary.head_numbers[SWITCH]
    pad, mask = vocabulary.control("pad"), vocabulary.control("mask")
    inside = slice(len(before), len(before) + content)
    ids = np.full(len(heads), pad, np.int64)
    ids[: len(before)] = before
    ids[inside.stop :] = after
    if tokens.ids is not None:
        ids[inside] = vocabulary.content_ids(segment.modality, tokens.ids, tokens.span)
        check_codes(vocabulary.grammar(segment.modality).slots, ids[inside])
    hidden = np.zeros(content, np.bool_)
    targets = np.full(len(heads), NO_TARGET, np.int64)
    if segment.objective == "next":
        targets = np.where(heads >= 0, ids, NO_TARGET)
    elif segment.objective == "masked" and content:
        count = max(1, round(content * segment.mask_ratio))
        hidden[rng.permutation(content)[:count]] = True
        targets[inside] = np.where(hidden & (heads[inside] >= 0), ids[inside], NO_TARGET)
    inputs = ids
    # What is learned one by one is fed as ids, as generation feeds what it writes.
    features = None if segment.objective == "next" else tokens.features
    if features is not None:
        inputs[inside] = pad
    inputs[inside][hidden] = mask
    return _Piece(
        segment=segment,
        kind=vocabulary.kind(segment.modality),
        full=(segment.attend or modality.attend) == "full",
        inputs=inputs,
        targets=targets,
        heads=heads,
        hidden=hidden,
        grid=tokens.grid.numpy(),
        seconds=_clock(modality, tokens),
        features=_without(features, hidden),
        before=len(before),
    )


def _clock(modality: Modality[Any, Any], tokens: Tokens) -> NDArray[np.float32] | None:
    """Start times that place the positions.

    Those of ids come from their cells alone: generation has to place an id before it is decoded.
    """
    if tokens.seconds is None or (modality.is_discrete and modality.seconds_per_cell is None):
        return None
    return tokens.seconds.numpy()


def _without(features: Tensor | None, hidden: NDArray[np.bool_]) -> Tensor | None:
    """Features with zeros where they are hidden."""
    if features is None or not hidden.any():
        return features
    mask = torch.from_numpy(hidden).reshape(-1, *[1] * (features.ndim - 1))
    return features.masked_fill(mask, 0.0)


def _positions(out: NDArray[np.float32], piece: _Piece, cursor: float, rate: float) -> float:
    """Write RoPE positions of a segment that begins at `cursor`; return the one that follows."""
    before, inside = piece.before, piece.inside
    out[:before] = (cursor + np.arange(before, dtype=np.float32))[:, None]
    cursor += before
    if len(piece.grid):
        out[inside] = rope_positions(piece.grid, piece.seconds, cursor, rate)
        cursor = float(out[inside].max()) + 1
    after = len(out) - inside.stop
    out[inside.stop :] = cursor
    return cursor + after


class _Columns:
    """The columns of a document. Targets stand at their own positions until `finish`."""

    def __init__(self, length: int, pad: int):
        self.ids = np.full(length, pad, np.int64)
        self.next = np.full(length, NO_TARGET, np.int64)
        self.own = np.full(length, NO_TARGET, np.int64)
        self.heads = np.full(length, FORCED, np.int32)
        self.weight = np.zeros(length, np.float32)
        self.grid = np.full((length, 3), CONTROL_CELL, np.int32)
        self.position = np.zeros((length, 3), np.float32)
        self.segment = np.zeros(length, np.int32)
        self.kind = np.zeros(length, np.int32)
        self.full = np.zeros(length, np.bool_)

    def write(self, place: slice, number: int, piece: _Piece) -> None:
        """Write all but positions."""
        self.ids[place] = piece.inputs
        (self.own if piece.segment.objective == "masked" else self.next)[place] = piece.targets
        self.heads[place] = piece.heads
        self.weight[place] = piece.segment.weight
        self.grid[place][piece.inside] = piece.grid
        self.segment[place] = number
        self.kind[place] = piece.kind
        self.full[place] = piece.full
        if piece.heads[0] != FORCED:  # an opener that free switching predicts
            self.next[place.start] = piece.inputs[0]

    def stop(self, vocabulary: Vocabulary, document: Document, number: int, cursor: float) -> None:
        """Write the stop of a free document."""
        switch = vocabulary.switch
        if switch is None:
            raise DataError(
                "A free document needs openers that the vocabulary lists.",
                subject=document.id or None,
                remedy="Build the vocabulary with `openers=[...]`.",
            )
        self.ids[-1] = self.next[-1] = switch.stop
        self.heads[-1] = vocabulary.head_numbers[SWITCH]
        self.weight[-1] = self.weight[-2] if len(self.weight) > 1 else 1.0
        self.position[-1] = cursor
        self.segment[-1] = number
        self.kind[-1] = self.kind[-2] if len(self.kind) > 1 else 0

    def finish(self, document: Document, pieces: list[_Piece]) -> EncodedDocument:
        """Shift targets of the next-id objective by one, and hand over tensors."""
        targets, heads, weight = self.own, self.heads.copy(), self.weight.copy()
        is_next = np.flatnonzero(self.next[1:] != NO_TARGET)
        targets[is_next] = self.next[is_next + 1]
        heads[is_next] = self.heads[is_next + 1]
        weight[is_next] = self.weight[is_next + 1]
        silent = targets == NO_TARGET
        heads[silent] = FORCED
        weight[silent] = 0.0
        encoded = EncodedDocument(
            document,
            ids=torch.from_numpy(self.ids),
            targets=torch.from_numpy(targets),
            head_set=torch.from_numpy(heads),
            loss_weight=torch.from_numpy(weight),
            grid=torch.from_numpy(self.grid),
            position=torch.from_numpy(self.position),
            segment=torch.from_numpy(self.segment),
            kind=torch.from_numpy(self.kind),
            full=torch.from_numpy(self.full),
        )
        start = 0
        for piece in pieces:
            content = start + piece.before
            if piece.features is not None:
                hidden = torch.from_numpy(piece.hidden)
                name = piece.segment.modality
                encoded.features.append(Features(name, content, piece.features, hidden))
            encoded.spans.append(SegmentSpan(piece.segment, start, content, start + piece.total))
            start += piece.total
        return encoded
