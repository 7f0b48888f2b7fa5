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
from torch import Tensor

from unimodal.errors import DataError
from unimodal.grammar import FORCED, Open, cycle_of
from unimodal.modality import Modality
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
) -> EncodedDocument:
    """Encode a document.

    Args:
        document: Its segments have values, except trailing asked ones of a request.
        vocabulary: Source of all ids.
        config: The clock.
        rng: Draws masks and augmentations; required by `masked` segments and `augment`.
        augment: Apply `Modality.augment`, in training.

    Raises:
        DataError: naming the sample, if a segment has no value or a value does not fit its layout.
    """
    writer = _Writer(document, vocabulary, config, rng or np.random.default_rng(0), augment)
    for number, segment in enumerate(document.segments):
        writer.write(number, segment)
    if document.free:
        writer.stop()
    return writer.finish()


def rope_positions(
    grid: Int[Tensor, "T 3"],
    seconds: Float[Tensor, " T"] | None,
    start: float,
    rate: float,
) -> Float[Tensor, "T 3"]:
    """RoPE positions of content cells.

    Args:
        grid: Cells (t, h, w).
        seconds: Start times, where there is time.
        start: Position of the first cell.
        rate: Positions a second.
    """
    t = grid[:, 0].float() if seconds is None else seconds.float() * rate
    if not len(grid) or not bool((grid[:, 1:] > 0).any()):
        return (start + t)[:, None].repeat(1, 3)
    return start + torch.stack([t, grid[:, 1].float(), grid[:, 2].float()], dim=1)


class _Writer:
    """Appends segments; targets are written at their own positions and shifted at the end."""

    def __init__(
        self,
        document: Document,
        vocabulary: Vocabulary,
        config: StreamConfig,
        rng: np.random.Generator,
        augment: bool,
    ):
        self.document, self.vocabulary, self.config = document, vocabulary, config
        self.rng, self.augment = rng, augment
        self.columns: dict[str, list[Tensor]] = {
            name: []
            for name in ("ids", "next", "own", "heads", "weight", "grid", "position", "segment")
        }
        self.columns |= {"kind": [], "full": []}
        self.features: list[Features] = []
        self.spans: list[SegmentSpan] = []
        self.length = 0
        self.cursor = 0.0

    def write(self, number: int, segment: Segment) -> None:
        modality = self.vocabulary.modality(segment.modality)
        tokens = self._encode(modality, segment)
        before, after, heads = self._frame(modality, segment, tokens)
        content = tokens.grid.shape[0]
        total = len(before) + content + len(after)
        ids = torch.full((total,), self.vocabulary.control("pad"), dtype=torch.int64)
        ids[: len(before)] = torch.tensor(before)
        ids[len(before) + content :] = torch.tensor(after, dtype=torch.int64)
        inside = slice(len(before), len(before) + content)
        if tokens.ids is not None:
            true_ids = self.vocabulary.content_ids(segment.modality, tokens.ids, tokens.spans())
            ids[inside] = true_ids
        hidden = torch.zeros(content, dtype=torch.bool)
        predicted = torch.zeros(total, dtype=torch.bool)
        own = torch.zeros(total, dtype=torch.bool)
        if segment.objective == "next":
            predicted = heads >= 0
        elif segment.objective == "masked":
            hidden = self._hide(content, segment.mask_ratio)
            own[inside] = hidden
        inputs = ids.clone()
        inputs[inside][hidden] = self.vocabulary.control("mask")
        if tokens.features is not None:
            features = tokens.features
            if bool(hidden.any()):
                features = features.masked_fill(_like(hidden, features), 0.0)
            start = self.length + len(before)
            self.features.append(Features(segment.modality, start, features, hidden))
            if tokens.ids is not None:
                inputs[inside] = torch.where(
                    hidden, self.vocabulary.control("mask"), self.vocabulary.control("pad")
                )
        self._append(number, segment, modality, tokens, inputs, ids, predicted, own, heads)
        start = self.length
        self.length += total
        self.spans.append(SegmentSpan(segment, start, start + len(before), self.length))

    def _encode(self, modality: Modality[Any, Any], segment: Segment) -> Tokens:
        if segment.value is None:
            raise DataError(
                f"A `{segment.modality}` segment has no value.",
                subject=self.document.id or None,
                remedy="A record must hold every field that its task names.",
            )
        tokens = modality.encode(segment.value)
        if len(tokens) == 0 and not modality.is_discrete:
            raise DataError(
                f"A `{segment.modality}` value encodes to no positions.",
                subject=self.document.id or None,
            )
        if segment.objective != "none" and tokens.ids is None:
            raise DataError(
                f"Modality `{segment.modality}` has no ids to predict: its objective must be none.",
                subject=self.document.id or None,
                remedy=f"Predict `{modality.decoded_by}` instead." if modality.decoded_by else None,
            )
        return modality.augment(tokens, self.rng) if self.augment else tokens

    def _frame(
        self,
        modality: Modality[Any, Any],
        segment: Segment,
        tokens: Tokens,
    ) -> tuple[list[int], list[int], Tensor]:
        """Ids before and after the content, and the head set of every position."""
        opener = self.vocabulary.opener(segment.modality)
        forced = torch.tensor([FORCED], dtype=torch.int32)
        if self.document.free and self.length and self.vocabulary.switch:
            forced = torch.tensor([self.vocabulary.head_numbers[SWITCH]], dtype=torch.int32)
        if not modality.is_discrete or modality.layout is None:
            return [opener], [], torch.cat([forced, torch.full((len(tokens),), FORCED)])
        grammar = self.vocabulary.grammar(segment.modality)
        header: list[int] = []
        if isinstance(modality.layout, Open):
            self._check_open(modality.layout, segment, modality, tokens)
        else:
            size = (tokens.grid.max(dim=0).values + 1).tolist() if len(tokens) else [0, 0, 0]
            header = grammar.header_ids(size)
        after = [] if grammar.end is None else [grammar.end]
        labels = grammar.labels(len(tokens), self.vocabulary.head_numbers)
        return [opener, *header], after, torch.cat([forced, labels])

    def _check_open(
        self,
        layout: Open,
        segment: Segment,
        modality: Modality[Any, Any],
        tokens: Tokens,
    ) -> None:
        codes = len(cycle_of(layout, list(modality.spans)))
        cells, rest = divmod(len(tokens), codes)
        most = float("inf") if layout.max_cells is None else layout.max_cells
        if rest or not layout.min_cells <= cells <= most:
            raise DataError(
                f"A `{segment.modality}` value has {len(tokens)} codes, but its layout allows "
                f"{layout.min_cells} to {layout.max_cells or 'any number of'} cells of {codes}.",
                subject=self.document.id or None,
            )

    def _hide(self, content: int, ratio: float) -> Bool[Tensor, " T"]:
        hidden = torch.zeros(content, dtype=torch.bool)
        count = max(1, round(content * ratio)) if content else 0
        hidden[torch.from_numpy(self.rng.permutation(content)[:count])] = True
        return hidden

    def _append(
        self,
        number: int,
        segment: Segment,
        modality: Modality[Any, Any],
        tokens: Tokens,
        inputs: Tensor,
        ids: Tensor,
        predicted: Tensor,
        own: Tensor,
        heads: Tensor,
    ) -> None:
        total, content = len(ids), len(tokens)
        after = 1 if isinstance(modality.layout, Open) and modality.is_discrete else 0
        before = total - content - after
        grid = torch.full((total, 3), CONTROL_CELL, dtype=torch.int32)
        grid[before : before + content] = tokens.grid.int()
        position = torch.empty(total, 3)
        position[:before] = (self.cursor + torch.arange(before))[:, None]
        self.cursor += before
        rate = self.config.positions_per_second
        inside = rope_positions(tokens.grid, tokens.seconds, self.cursor, rate)
        position[before : before + content] = inside
        self.cursor = float(inside.max()) + 1 if content else self.cursor
        position[before + content :] = self.cursor
        self.cursor += after
        attend = segment.attend or modality.attend
        full = attend == "full" and segment.objective != "next"
        add = self.columns
        add["ids"].append(inputs)
        add["next"].append(torch.where(predicted, ids, NO_TARGET))
        add["own"].append(torch.where(own, ids, NO_TARGET))
        add["heads"].append(heads.int())
        add["weight"].append(torch.full((total,), float(segment.weight)))
        add["grid"].append(grid)
        add["position"].append(position)
        add["segment"].append(torch.full((total,), number, dtype=torch.int32))
        kind = self.vocabulary.kind(segment.modality)
        add["kind"].append(torch.full((total,), kind, dtype=torch.int32))
        add["full"].append(torch.full((total,), full))

    def stop(self) -> None:
        """Append the stop of a free document, on its last segment's number."""
        switch = self.vocabulary.switch
        if switch is None:
            raise DataError(
                "A free document needs openers that the vocabulary lists.",
                subject=self.document.id or None,
                remedy="Build the vocabulary with `openers=[...]`.",
            )
        number = self.vocabulary.head_numbers[SWITCH]
        add = self.columns
        add["ids"].append(torch.tensor([switch.stop]))
        add["next"].append(torch.tensor([switch.stop]))
        add["own"].append(torch.tensor([NO_TARGET]))
        add["heads"].append(torch.tensor([number], dtype=torch.int32))
        add["weight"].append(torch.tensor([1.0]))
        add["grid"].append(torch.full((1, 3), CONTROL_CELL, dtype=torch.int32))
        add["position"].append(torch.full((1, 3), self.cursor))
        add["segment"].append(add["segment"][-1][-1:] + 1)
        add["kind"].append(add["kind"][-1][-1:])
        add["full"].append(torch.tensor([False]))
        self.length += 1

    def finish(self) -> EncodedDocument:
        joined = {name: torch.cat(parts) for name, parts in self.columns.items()}
        own, heads, weight = joined["own"], joined["heads"], joined["weight"]
        targets, head_set, loss_weight = own.clone(), heads.clone(), weight.clone()
        following = joined["next"][1:]
        is_next = following != NO_TARGET
        targets[:-1] = torch.where(is_next, following, targets[:-1])
        head_set[:-1] = torch.where(is_next, heads[1:], head_set[:-1])
        loss_weight[:-1] = torch.where(is_next, weight[1:], loss_weight[:-1])
        head_set[targets == NO_TARGET] = FORCED
        loss_weight[targets == NO_TARGET] = 0.0
        return EncodedDocument(
            document=self.document,
            ids=joined["ids"],
            targets=targets,
            head_set=head_set,
            loss_weight=loss_weight,
            grid=joined["grid"],
            position=joined["position"],
            segment=joined["segment"],
            kind=joined["kind"],
            full=joined["full"],
            features=self.features,
            spans=self.spans,
        )


def _like(mask: Tensor, features: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (features.ndim - 1))
