"""Scoring: likelihoods of documents, choice among candidates, and embeddings.

Documents are packed into one row without padding, so a score is that of the document alone.
Not here: metrics over data sets (`unimodal.evaluation`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unimodal.errors import ConfigError
from unimodal.generation.engine import check_batch_size, inference
from unimodal.generation.requests import MAX_DOCUMENT_POSITIONS
from unimodal.generation.step import Stepper
from unimodal.kernels.cross_entropy import linear_nll
from unimodal.model.cache import Cache, pack
from unimodal.model.decoder import Decoder
from unimodal.stream import Batch, Document, EncodedDocument, Segment, collate, encode_document
from unimodal.stream.encoding import NO_TARGET
from unimodal.types import Tokens

MAX_POSITIONS = 8192
"""Positions computed at once, unless one document alone has more."""
MAX_CANDIDATE_SLOTS = 1 << 18
"""Cached slots over all rows when candidates are compared."""


@dataclass(frozen=True)
class SegmentScore:
    """The likelihood of one segment.

    Attributes:
        modality: Ledger name.
        nats: Negative log-likelihood of all its targets: header, content and end.
        num_targets: How many they are.
        raw_unit: What they count, e.g. "byte".
        raw_units: How many raw units its value holds; None for pre-encoded and input-only values.
        bits_per_raw_unit: nats / ln 2 / raw units, for lossless modalities, else None.
    """

    modality: str
    nats: float
    num_targets: int
    raw_unit: str
    raw_units: float | None
    bits_per_raw_unit: float | None


@dataclass(frozen=True)
class Score:
    """The likelihood of one document.

    Attributes:
        nats: Negative log-likelihood of all targets, openers and the stop of free documents too.
        num_targets: How many they are.
        segments: One score a segment.
    """

    nats: float
    num_targets: int
    segments: list[SegmentScore]

    @property
    def nats_per_target(self) -> float:
        """Mean over targets; 0 without any."""
        return self.nats / self.num_targets if self.num_targets else 0.0

    @property
    def bits_per_raw_unit(self) -> float | None:
        """All bits over the raw units of the segments that carry loss.

        None unless all of these are lossless and count the same unit: bits over bases and bytes
        mean nothing together. `segments` has the bits of each.
        """
        scored = [s for s in self.segments if s.num_targets]
        if any(s.bits_per_raw_unit is None for s in scored):
            return None
        if len({s.raw_unit for s in scored}) != 1:
            return None
        units = sum(s.raw_units or 0.0 for s in scored)
        return self.nats / math.log(2) / units if units else None


def score(decoder: Decoder, documents: Sequence[Document]) -> list[Score]:
    """Score documents; segments whose objective is `next` or `masked` have targets.

    Raises:
        UnimodalError: if a document cannot be encoded.
    """
    encoded = [_encoded(decoder, document) for document in documents]
    scores: list[Score | None] = [None] * len(encoded)
    with inference(decoder):
        for places, batch in packed_batches(decoder, encoded):
            nll = target_nll(decoder, batch, decoder(batch)).cpu()
            start = 0
            for place in places:
                document = encoded[place]
                scores[place] = _score(decoder, document, nll[start : start + len(document)])
                start += len(document)
    return [found for found in scores if found is not None]


def classify(
    decoder: Decoder,
    documents: Sequence[Document],
    candidates: Sequence[Segment],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "n C"]:
    """Log-likelihood of each candidate after each document's given part.

    What is given is computed once; the candidates continue its cache.

    Args:
        decoder: The model.
        documents: Their given segments are the condition (see `Document.given`).
        candidates: Segments with a value, of any discrete modality.
        batch_size: Documents at once, at least 1.

    Returns:
        Nats, float32, on the CPU; the likeliest candidate has the largest.

    Raises:
        ConfigError: without candidates, if a document gives nothing, or `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    if not candidates:
        raise ConfigError("There are no candidates to choose among.")
    tails = [
        encode_document(
            Document([replace(c, objective="next", role="asked", attend="causal")]),
            decoder.vocabulary,
            decoder.stream,
        )
        for c in candidates
    ]
    found = []
    with inference(decoder):
        stepper = Stepper(decoder)
        for first in range(0, len(documents), batch_size):
            part = documents[first : first + batch_size]
            given = [_encoded(decoder, replace(d.given(), free=False)) for d in part]
            if any(len(document) == 0 for document in given):
                raise ConfigError(
                    "A document to classify gives nothing.",
                    remedy="Give a segment before the asked one.",
                )
            cache, _ = stepper.prefill(given, 0)
            found.append(_continue(stepper, cache, given, tails).cpu())
    return torch.cat(found) if found else torch.zeros(0, len(candidates))


def embed(decoder: Decoder, documents: Sequence[Document]) -> Float[Tensor, "n D"]:
    """Mean of the last hidden states (after the final norm) over content positions.

    A document without content (an empty text) is the mean over its control positions.

    Returns:
        float32, on the CPU.

    Raises:
        ConfigError: if a document has no segment.
    """
    for number, whole in enumerate(documents):
        if not whole.segments:
            raise ConfigError(
                "A document to embed has no segment.", subject=whole.id or f"document {number}"
            )
    plain = [
        replace(d, segments=tuple(replace(s, objective="none") for s in d.segments), free=False)
        for d in documents
    ]
    encoded = [_encoded(decoder, document) for document in plain]
    result = torch.zeros(len(encoded), decoder.config.width)
    with inference(decoder):
        for places, batch in packed_batches(decoder, encoded):
            hidden = decoder(batch)[0].float().cpu()
            start = 0
            for place in places:
                document = encoded[place]
                states = hidden[start : start + len(document)]
                content = document.grid[:, 0] >= 0
                result[place] = (states[content] if bool(content.any()) else states).mean(dim=0)
                start += len(document)
    return result


def _encoded(decoder: Decoder, document: Document) -> EncodedDocument:
    return encode_document(
        document, decoder.vocabulary, decoder.stream, longest=MAX_DOCUMENT_POSITIONS
    )


def packed_batches(
    decoder: Decoder, documents: Sequence[EncodedDocument], max_positions: int = MAX_POSITIONS
) -> Iterator[tuple[list[int], Batch]]:
    """One-row batches without padding, and which documents each holds, in order."""
    places: list[int] = []
    size = 0
    for place, document in enumerate(documents):
        if places and size + len(document) > max_positions:
            yield places, _row(decoder, [documents[p] for p in places])
            places, size = [], 0
        places.append(place)
        size += len(document)
    if places:
        yield places, _row(decoder, [documents[p] for p in places])


def target_nll(decoder: Decoder, batch: Batch, hidden: Tensor) -> Float[Tensor, " P"]:
    """Nats of each flat position's target, 0 where there is none."""
    flat = hidden.flatten(0, 1)
    result = torch.zeros(len(flat), device=flat.device)
    for head in batch.heads:
        columns = decoder.columns(head.number, head.columns)
        nll, _ = linear_nll(flat[head.index], decoder.head_weight(head.number), columns)
        result[head.index] = nll.float()
    return result


def _row(decoder: Decoder, documents: list[EncodedDocument]) -> Batch:
    length = sum(len(document) for document in documents)
    return collate([documents], length, decoder.vocabulary).to(decoder.device)


def _score(decoder: Decoder, document: EncodedDocument, nll: Tensor) -> Score:
    has_target = document.targets != NO_TARGET
    segment = document.segment.clone()
    # A `next` target belongs to the position that it predicts, a `masked` one to its own.
    masked = [s.segment.objective == "masked" for s in document.spans]
    own = torch.tensor([*masked, False])[document.segment.long()]
    segment[:-1] = torch.where(own[:-1], segment[:-1], document.segment[1:])
    parts = []
    for number, span in enumerate(document.spans):
        chosen = has_target & (segment == number)
        value, name = span.segment.value, span.segment.modality
        modality = decoder.vocabulary.modality(name)
        nats = float(nll[chosen].sum(dtype=torch.float64))
        counts = modality.is_discrete and not isinstance(value, Tokens)
        units = float(modality.raw_units(value)) if counts else None
        bits = nats / math.log(2) / units if units and modality.is_lossless else None
        count = int(chosen.sum())
        parts.append(SegmentScore(name, nats, count, modality.raw_unit, units, bits))
    total = float(nll[has_target].sum(dtype=torch.float64))
    return Score(total, int(has_target.sum()), parts)


def _continue(
    stepper: Stepper,
    cache: Cache,
    given: Sequence[EncodedDocument],
    tails: Sequence[EncodedDocument],
) -> Float[Tensor, "n C"]:
    """Log-likelihood of each tail after each cached prompt."""
    longest = max(len(tail) for tail in tails)
    at_once = max(1, MAX_CANDIDATE_SLOTS // (len(given) * (cache.length + longest)))
    parts = []
    for first in range(0, len(tails), at_once):
        parts.append(_continue_some(stepper, cache, given, tails[first : first + at_once]))
    return torch.cat(parts, dim=1)


def _continue_some(
    stepper: Stepper,
    cache: Cache,
    given: Sequence[EncodedDocument],
    tails: Sequence[EncodedDocument],
) -> Float[Tensor, "n C"]:
    decoder, device = stepper.decoder, stepper.decoder.device
    width, count = max(len(tail) for tail in tails), len(tails)
    pairs = [(g, t) for g in given for t in tails]
    batch = collate([[tail] for tail in tails], width, decoder.vocabulary)
    block = pack(batch.coordinates)
    valid = block[..., 1] >= 0
    rows = torch.arange(len(given)).repeat_interleave(count)
    packed = block.repeat(len(given), 1, 1)
    shift = torch.tensor([[len(g), int(g.segment[-1]) + 1] for g, _ in pairs])
    packed[..., 0] += shift[:, :1].to(packed)
    packed[..., 2] = torch.where(packed[..., 1] >= 0, packed[..., 2] + shift[:, 1:].to(packed), -1)
    position = batch.position.repeat(len(given), 1, 1)
    position += torch.tensor([g.next_position for g, _ in pairs])[:, None, None]
    copy = cache.copy_rows(rows.to(device))
    hidden = stepper.step_all(
        batch.ids.repeat(len(given), 1).to(device),
        stepper.tables(position.to(device)),
        packed.to(device),
        copy,
        has_gaps=not bool(valid.all()),
    )
    total = torch.zeros(len(pairs), device=device)
    row_of = torch.arange(len(pairs) * width, device=device) // width
    for head in batch.heads:
        # Targets of the tails, repeated for every prompt.
        index = (
            (head.index + torch.arange(len(given))[:, None] * count * width).flatten().to(device)
        )
        columns = decoder.columns(head.number, head.columns)
        logits = stepper.logits(hidden.flatten(0, 1)[index], head.number)
        scores = torch.log_softmax(logits, dim=-1)
        chosen = scores.gather(1, columns.repeat(len(given)).to(device)[:, None])[:, 0]
        total.index_add_(0, row_of[index], chosen)
    return total.view(len(given), count)
