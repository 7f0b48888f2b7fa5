"""What a request gives, as stream positions: the given segments, and the beginning of an answer.

Requests of one batch often share a document (several answers to one prompt, one null condition for
all): each is encoded once, and by its identity the engine knows to compute it once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from unimodal.errors import ConfigError, DataError
from unimodal.generation.requests import MAX_DOCUMENT_POSITIONS, Request
from unimodal.grammar import SegmentGrammar, cycle_of
from unimodal.stream import Document, EncodedDocument, Segment, StreamConfig, encode_document
from unimodal.types import Tokens, raster_grid
from unimodal.vocabulary import Vocabulary


class Prompts:
    """Encodes prompts, each once.

    Args:
        vocabulary: Source of all ids.
        stream: The clock.
    """

    def __init__(self, vocabulary: Vocabulary, stream: StreamConfig):
        self.vocabulary, self.stream = vocabulary, stream
        self._made: dict[tuple[object, ...], EncodedDocument] = {}

    def encode(self, request: Request, document: Document, begun: str | None) -> EncodedDocument:
        """A document of a request: its own, or its null condition.

        Args:
            request: Says what the answer begins with.
            document: Up to its first asked segment.
            begun: Modality whose segment the request's prefix begins, if any.

        Returns:
            The given segments; with a prefix, opener, header and given codes of one more, which is
            the last of its `spans`.

        Raises:
            UnimodalError: if something cannot be encoded, or the prefix is no beginning.
        """
        key: tuple[object, ...] = (id(document),)
        if begun is not None:
            key = (id(document), begun, id(request.prefix), request.prefix_cells)
        if key not in self._made:
            self._made[key] = self._encode(request, document, begun)
        return self._made[key]

    def _encode(self, request: Request, document: Document, begun: str | None) -> EncodedDocument:
        given = replace(document.given(), free=False)
        if begun is not None:
            return self._begin(request, given, begun)
        return self._positions(given) if given.segments else _empty(given)

    def _positions(self, given: Document) -> EncodedDocument:
        for segment in given.segments:
            _check_value(segment, self.vocabulary, given.id or None)
        return encode_document(given, self.vocabulary, self.stream, longest=MAX_DOCUMENT_POSITIONS)

    def _begin(self, request: Request, given: Document, name: str) -> EncodedDocument:
        grammar = self.vocabulary.grammar(name)
        value, num_codes = self._whole(request.prefix, name)
        # As training learns it: the ids, one after the other.
        part = Segment(name, value, attend="causal", objective="next")
        whole = self._positions(replace(given, segments=(*given.segments, part)))
        span = whole.spans[-1]
        most = span.stop - span.content - (grammar.end is not None)
        num_codes = most if num_codes is None else num_codes
        if request.prefix_cells is not None:
            num_codes = request.prefix_cells * len(grammar.slots)
        _check_beginning(grammar, num_codes, most, request)
        return _cut(whole, span.content + num_codes)

    def _whole(self, value: Any, name: str) -> tuple[Any, int | None]:
        """A whole value that begins as the prefix does; how many codes it has, if fewer."""
        grammar = self.vocabulary.grammar(name)
        if grammar.end is not None or grammar.headers or not isinstance(value, Tokens):
            return value, None
        modality = self.vocabulary.modality(name)
        grid = raster_grid(*grammar.size, len(grammar.slots))
        if value.ids is None or len(value.ids) >= len(grid):
            return value, None
        assert modality.layout is not None
        missing = len(grid) - len(value.ids)
        names = list(modality.spans)
        cycle = cycle_of(modality.layout, names)
        first = torch.tensor([names.index(slot[0]) for slot in cycle])
        spans = first.repeat(len(grid) // len(cycle))
        spans[: len(value.ids)] = value.spans()
        step = modality.seconds_per_cell
        return Tokens(
            grid,
            ids=torch.cat([value.ids, value.ids.new_zeros(missing)]),
            span=spans,
            seconds=None if step is None else grid[:, 0].float() * step,
        ), len(value.ids)


def _check_beginning(grammar: SegmentGrammar, num_codes: int, most: int, request: Request) -> None:
    """Raise ConfigError if that many codes are no beginning of a value."""
    subject = request.document.id or None
    if not 0 <= num_codes <= most:
        raise ConfigError(
            f"`prefix_cells` must lie between 0 and {most // len(grammar.slots)}, the cells of the "
            f"prefix, but is {request.prefix_cells}.",
            subject=subject,
        )
    if num_codes == most and grammar.end is None:
        raise ConfigError(
            f"`{grammar.name}` has a layout without an end: its value is whole, and nothing is "
            "left to write.",
            subject=subject,
            remedy="Set `prefix_cells` to how many of its cells are given, fewer than all.",
        )


def _check_value(segment: Segment, vocabulary: Vocabulary, subject: str | None) -> None:
    modality = vocabulary.modality(segment.modality)
    if segment.value is not None and not isinstance(segment.value, modality.value_type | Tokens):
        raise DataError(
            f"A segment of `{segment.modality}` takes {modality.value_type.__name__}, but has "
            f"{type(segment.value).__name__}.",
            subject=subject,
            remedy="Read files with the modality's `read`.",
        )


def _empty(document: Document) -> EncodedDocument:
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


COLUMNS = (
    "ids",
    "targets",
    "head_set",
    "loss_weight",
    "grid",
    "position",
    "segment",
    "kind",
    "full",
)
"""Fields of an encoded document that hold one row a position."""


def _cut(document: EncodedDocument, stop: int) -> EncodedDocument:
    """The first `stop` positions."""
    return replace(document, **{name: getattr(document, name)[:stop] for name in COLUMNS})


def extend(
    prompt: EncodedDocument,
    ids: Sequence[int],
    position: Sequence[Sequence[float]],
    coordinates: Sequence[Sequence[int]],
) -> EncodedDocument:
    """A prompt with further tokens, which have no targets.

    Args:
        prompt: What comes before.
        ids: Global ids.
        position: (t, h, w) of each.
        coordinates: index, document, segment, kind, full, t, h, w of each.
    """
    if not ids:
        return prompt
    count = len(ids)
    columns = torch.tensor(coordinates, dtype=torch.int32)
    added = {
        "ids": torch.tensor(ids),
        "targets": torch.full((count,), -1),
        "head_set": torch.full((count,), -1),
        "loss_weight": torch.zeros(count),
        "grid": columns[:, 5:],
        "position": torch.tensor(position),
        "segment": columns[:, 2],
        "kind": columns[:, 3],
        "full": torch.zeros(count),
    }
    joined: dict[str, Any] = {}
    for name in COLUMNS:
        old = getattr(prompt, name)
        joined[name] = torch.cat([old, added[name].to(old.dtype)])
    return replace(prompt, **joined)
