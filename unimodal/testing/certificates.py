"""Certificates: ways of computing the same thing agree, in float32 within 1e-5.

Cached = uncached, also over switches between modalities and with guidance, batched = single, guided
or not, packed = alone, padded = unpadded. Each function returns the
worst difference, or raises `CertificateError` with it and its place; where there is nothing to
compare it raises ConfigError. A difference of two log-probabilities is taken relative to their size
where that is above 1.

Use them on a model from `sharpen`: at initial weights attention is nearly uniform and updates are
small, so that a wrong position or a leaked document would hardly show.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimodal.blocks import Block
from unimodal.errors import CertificateError, ConfigError, UnimodalError
from unimodal.generation import Answer, Engine, Request, Written
from unimodal.generation.engine import inference
from unimodal.generation.scoring import target_nll
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, EncodedDocument, Segment, collate, encode_document
from unimodal.stream.encoding import NO_TARGET
from unimodal.types import Tokens
from unimodal.vocabulary import Vocabulary

TOLERANCE = 1e-5
_REDRAWS = 2


@torch.no_grad()
def sharpen(decoder: Decoder, gain: float = 1.0, attention: float = 2.0) -> Decoder:
    """Scale weights in place so that every part of the model shows in its logits.

    Matrices get variance gain^2 / inputs, so that updates are as large as what they update;
    embeddings get unit variance; query norms are multiplied, so that attention is peaked; the final
    norm is divided, so that logits have a standard deviation of a few units.

    Args:
        decoder: Changed in place, and returned.
        gain: Of each matrix.
        attention: Factor of each query norm.
    """
    for name, parameter in decoder.named_parameters():
        if parameter.ndim < 2:
            continue
        own_rows = name.startswith(("embeddings.", "outputs."))
        size = 1.0 if own_rows else gain * parameter[0].numel() ** -0.5
        parameter.mul_(size / parameter.square().mean().sqrt().clamp(min=1e-12))
    for block in decoder.blocks:
        assert isinstance(block, Block)
        if block.attention.q_norm is not None:
            block.attention.q_norm.weight.mul_(attention)
    decoder.norm.weight.mul_(3.0 * decoder.config.width**-0.5)
    return decoder


def certify_cached(
    decoder: Decoder, requests: Sequence[Request], tolerance: float = TOLERANCE
) -> float:
    """What generation computed step by step with a cache equals one pass over the whole document.

    The document is the one that training would make of what was written, so generation and training
    agree, too.

    Args:
        decoder: The model, float32.
        requests: Answered together in one batch, guided or not; none may fail.
        tolerance: Largest difference of a drawn id's log-probability, before guidance.

    Returns:
        The worst difference.

    Raises:
        CertificateError: with the worst difference and its place.
        ConfigError: if no id was drawn.
    """
    answers = _answers(decoder, requests, batched=True)
    _check_some(any(not all(answer.forced) for answer in answers), "an id that is drawn")
    return _cached(decoder, requests, answers, tolerance)


def certify_switches(
    decoder: Decoder, requests: Sequence[Request], tolerance: float = TOLERANCE
) -> float:
    """As `certify_cached`, of answers of which some go on with another modality.

    Raises:
        CertificateError: with the worst difference and its place.
        ConfigError: if no answer holds two modalities with a drawn id in the later one.
    """
    answers = _answers(decoder, requests, batched=True)
    switched = any(
        part.modality != answer.segments[0].modality and not all(part.forced)
        for answer in answers
        for part in answer.segments[1:]
    )
    _check_some(switched, "an answer that switches to another modality and draws an id there")
    return _cached(decoder, requests, answers, tolerance)


def certify_guided(
    decoder: Decoder, requests: Sequence[Request], tolerance: float = TOLERANCE
) -> float:
    """What guidance computed with two caches equals two passes, over all of either branch.

    Args:
        decoder: The model, float32.
        requests: Answered together in one batch, some of them guided; none may fail.
        tolerance: Largest difference of a drawn id's log-probability after guidance, over how much
            guidance amplifies one: scale + |1 - scale|.

    Returns:
        The worst difference.

    Raises:
        CertificateError: with the worst difference and its place.
        ConfigError: if no id is drawn that guidance changes.
    """
    answers = _answers(decoder, requests, batched=True)
    worst, place, is_changed = 0.0, "", False
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        expected = _two_passes(decoder, request, answer)
        for at, (found, forced) in enumerate(
            zip(answer.guided_logprobs, answer.forced, strict=True)
        ):
            if forced:
                continue
            is_changed |= _gap(expected[at], answer.logprobs[at]) > tolerance
            gap = _gap(found, expected[at]) / _amplified(request)
            if _is_worse(gap, worst):
                worst = gap
                place = f"request {number}, id {at} of the answer: {found} against {expected[at]}"
    _check_some(is_changed, "a drawn id that guidance changes")
    return _verdict("cached and uncached guidance", worst, place, tolerance)


def certify_batched(
    decoder: Decoder, requests: Sequence[Request], tolerance: float = TOLERANCE
) -> float:
    """Each request gets the same answer in a batch and alone. See `certify_cached`.

    A random number may fall on the border of two ids, where the last bit decides: a request whose
    answers part although all before is as likely is drawn again, with two further seeds at most.
    """
    what, asked = "batched and single answers", list(requests)
    together = _answers(decoder, asked, batched=True)
    _check_some(any(not all(answer.forced) for answer in together), "an id that is drawn")
    alone = _answers(decoder, asked, batched=False)
    worst, place = 0.0, ""
    for number, (a, b) in enumerate(zip(together, alone, strict=True)):
        for redraws in range(_REDRAWS + 1):
            if redraws:
                asked[number] = _reseeded(asked[number])
                a = _answers(decoder, asked, batched=True)[number]
                (b,) = _answers(decoder, [asked[number]], batched=False)
            apart, gap, at = _apart(a, b, _amplified(asked[number]))
            if _is_worse(gap, worst):
                worst, place = gap, f"request {number}, {at}"
            if apart is None or not worst <= tolerance:
                break
        else:
            message = f"request {number}, id {apart}: the ids differ from here on"
            return _verdict(what, float("inf"), message, tolerance)
    return _verdict(what, worst, place, tolerance)


def certify_packed(
    decoder: Decoder, documents: Sequence[Document], tolerance: float = TOLERANCE
) -> float:
    """Each document's targets are as likely packed with the others as alone.

    Args:
        decoder: The model, float32.
        documents: At least two, with objectives.
        tolerance: Largest difference of a target's log-probability.

    Returns:
        The worst difference.

    Raises:
        CertificateError: with the worst difference and its place.
        ConfigError: if there are fewer than two documents, or none has a target.
    """
    if len(documents) < 2:
        raise ConfigError("Packing is certified on at least two documents.")
    encoded = _encode(decoder, documents)
    _check_some(_has_target(encoded), "a document with a target")
    length = sum(len(document) for document in encoded)
    packed = _nll(decoder, encoded, length)
    worst, place, start = 0.0, "", 0
    for number, document in enumerate(encoded):
        alone = _nll(decoder, [document], len(document))
        here = packed[start : start + len(document)]
        start += len(document)
        worst, place = _compare(here, alone, f"document {number}", worst, place)
    return _verdict("packed and separate documents", worst, place, tolerance)


def certify_padded(
    decoder: Decoder,
    documents: Sequence[Document],
    padding: int = 7,
    tolerance: float = TOLERANCE,
) -> float:
    """Each document's targets are as likely in a longer row as in one of its own length.

    Args:
        decoder, documents, tolerance: See `certify_packed`.
        padding: Positions added to the row.

    Raises:
        CertificateError: with the worst difference and its place.
        ConfigError: if no document has a target.
    """
    encoded = _encode(decoder, documents)
    _check_some(_has_target(encoded), "a document with a target")
    worst, place = 0.0, ""
    for number, document in enumerate(encoded):
        alone = _nll(decoder, [document], len(document))
        padded = _nll(decoder, [document], len(document) + padding)
        if bool((padded[len(document) :] != 0).any()):
            message = f"document {number}: padding has a target"
            return _verdict("padded and unpadded rows", float("inf"), message, tolerance)
        where = f"document {number}"
        worst, place = _compare(padded[: len(document)], alone, where, worst, place)
    return _verdict("padded and unpadded rows", worst, place, tolerance)


def answered_document(
    vocabulary: Vocabulary, request: Request, answer: Answer, given: Document | None = None
) -> Document:
    """The training document of a request and its answer, with exactly the ids that were written.

    Its segments hold the written values; where a value's ids are others than the written ones (a
    lossy modality, another split into words), these ids.

    Args:
        vocabulary: The model's ledger.
        request: What was asked.
        answer: What was written.
        given: What it continues instead of the request's document: the null condition.
    """
    written = [
        Segment(
            part.modality,
            _written(vocabulary, part),
            attend="causal",
            objective="next",
            role="asked",
        )
        for part in answer.segments
    ]
    before = (given or request.document).given()
    free = request.wanted() is None
    return replace(before, segments=(*before.segments, *written), free=free)


def _answers(decoder: Decoder, requests: Sequence[Request], batched: bool) -> list[Answer]:
    seeded = []
    for number, request in enumerate(requests):
        sampling = request.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=number)
        seeded.append(replace(request, sampling=sampling))
    engine = Engine(decoder)
    answers = engine.generate(seeded, batch_size=max(1, len(seeded)) if batched else 1)
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    return answers


def _cached(
    decoder: Decoder, requests: Sequence[Request], answers: Sequence[Answer], tolerance: float
) -> float:
    worst, place = 0.0, ""
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        expected = _whole_pass(decoder, request, answer)
        for at, (found, forced) in enumerate(zip(answer.logprobs, answer.forced, strict=True)):
            if forced:
                continue
            gap = _gap(found, expected[at])
            if _is_worse(gap, worst):
                worst = gap
                place = f"request {number}, id {at} of the answer: {found} against {expected[at]}"
    return _verdict("cached and uncached generation", worst, place, tolerance)


def _encoded_answer(
    decoder: Decoder, request: Request, answer: Answer, given: Document | None = None
) -> EncodedDocument:
    document = answered_document(decoder.vocabulary, request, answer, given)
    (encoded,) = _encode(decoder, [document])
    if encoded.ids[len(encoded) - len(answer.ids) :].tolist() != answer.ids:
        raise CertificateError("The answer's ids are not those of its document.")
    return encoded


def _whole_pass(decoder: Decoder, request: Request, answer: Answer) -> list[float]:
    """Log-probability of each id of the answer by one uncached pass; NaN where none is defined."""
    encoded = _encoded_answer(decoder, request, answer)
    nll = _nll(decoder, [encoded], len(encoded))
    first = len(encoded) - len(answer.ids)
    # The target of an id stands one position before it.
    has = encoded.targets != NO_TARGET
    places = range(first - 1, len(encoded) - 1)
    return [-float(nll[p]) if p >= 0 and bool(has[p]) else float("nan") for p in places]


@torch.no_grad()
def _two_passes(decoder: Decoder, request: Request, answer: Answer) -> list[float]:
    """Log-probability of each id of the answer after guidance, by one uncached pass a branch."""
    if not request.sampling.is_guided:
        return _whole_pass(decoder, request, answer)
    own = _encoded_answer(decoder, request, answer)
    null = _encoded_answer(decoder, request, answer, request.null)
    hidden = [_hidden(decoder, encoded) for encoded in (own, null)]
    back = [len(encoded) - len(answer.ids) - 1 for encoded in (own, null)]
    codes = [range(span.content, span.stop) for span in own.spans]
    expected = []
    for at, token in enumerate(answer.ids):
        place = back[0] + at
        if place < 0 or int(own.targets[place]) == NO_TARGET:
            expected.append(float("nan"))
            continue
        number = int(own.head_set[place])
        own_logits, null_logits = (
            decoder.logits(h[b + at][None], number)[0] for h, b in zip(hidden, back, strict=True)
        )
        ids = decoder.head_set(number).ids
        if any(place + 1 in content for content in codes):
            inner = decoder.vocabulary.head_sets[number].ids
            is_end = ids == decoder.vocabulary.control("end")
            legal = torch.isin(ids, inner)
            scale = request.sampling.guidance
            own_logits = _guided(own_logits, null_logits, scale, is_end, legal)
        expected.append(float(torch.log_softmax(own_logits, dim=0)[ids == token]))
    return expected


def _guided(own: Tensor, null: Tensor, scale: float, is_end: Tensor, legal: Tensor) -> Tensor:
    """Logits after guidance; the end keeps its odds against the codes."""
    guided = null + scale * (own - null)
    codes = legal & ~is_end
    if bool((is_end & legal).any()):
        odds = own[is_end] - own[codes].logsumexp(dim=0)
        guided[is_end] = odds + guided[codes].logsumexp(dim=0)
    return guided


def _hidden(decoder: Decoder, encoded: EncodedDocument) -> Tensor:
    with inference(decoder):
        batch = collate([[encoded]], len(encoded), decoder.vocabulary).to(decoder.device)
        return decoder(batch)[0].cpu()


def _check_some(is_there: bool, what: str) -> None:
    if not is_there:
        raise ConfigError(f"Nothing is compared: the certificate needs {what}.")


def _has_target(documents: Sequence[EncodedDocument]) -> bool:
    return any(bool((document.targets != NO_TARGET).any()) for document in documents)


def _written(vocabulary: Vocabulary, part: Written) -> Any:
    """The value, if it encodes to the written ids; else their tokens."""
    modality = vocabulary.modality(part.modality)
    tokens = _tokens(vocabulary, part.modality, part.ids)
    try:
        again = modality.encode(part.value)
    except UnimodalError:  # a value that the encoder refuses
        return tokens
    if again.ids is None or not torch.equal(again.grid, tokens.grid):
        return tokens
    assert tokens.ids is not None
    found, wanted = (
        vocabulary.content_ids(part.modality, x.ids, x.span)  # type: ignore[arg-type]
        for x in (again, tokens)
    )
    return part.value if np.array_equal(found, wanted) else tokens


def _tokens(vocabulary: Vocabulary, name: str, ids: Sequence[int]) -> Tokens:
    """The tokens of written ids (header, content, end), by walking the grammar."""
    grammar = vocabulary.grammar(name)
    modality = vocabulary.modality(name)
    cursor = grammar.cursor()
    cells, content = [], []
    for token in ids:
        cell = cursor.push(token)
        if cell[0] >= 0:
            cells.append(cell)
            content.append(token)
    local, spans = vocabulary.local_ids(name, torch.tensor(content, dtype=torch.int64))
    grid = torch.from_numpy(np.array(cells, np.int32).reshape(-1, 3))
    step = modality.seconds_per_cell
    seconds = None if step is None else grid[:, 0].float() * step
    return Tokens(grid, ids=local, span=spans, seconds=seconds)


def _encode(decoder: Decoder, documents: Sequence[Document]) -> list[EncodedDocument]:
    return [
        encode_document(d, decoder.vocabulary, decoder.stream, np.random.default_rng(number))
        for number, d in enumerate(documents)
    ]


def _nll(decoder: Decoder, documents: list[EncodedDocument], length: int) -> Tensor:
    with inference(decoder):
        batch = collate([documents], length, decoder.vocabulary).to(decoder.device)
        return target_nll(decoder, batch, decoder(batch)).cpu()


def _compare(
    found: Tensor, expected: Tensor, where: str, worst: float, place: str
) -> tuple[float, str]:
    gaps = (found - expected).abs() / expected.abs().clamp(min=1)
    largest, at = gaps.max(dim=0)
    if _is_worse(float(largest), worst):
        text = f"{where}, position {int(at)}: {float(found[at])} against {float(expected[at])}"
        return float(largest), text
    return worst, place


def _is_worse(gap: float, worst: float) -> bool:
    """Whether a difference is larger; none is larger than NaN, so that it is not forgotten."""
    return not math.isnan(worst) and not gap <= worst


def _gap(a: float, b: float) -> float:
    return abs(a - b) / max(1.0, abs(b))


def _amplified(request: Request) -> float:
    """By how much guidance multiplies a rounding of either branch's logits."""
    scale = request.sampling.guidance
    return scale + abs(1 - scale)


def _apart(a: Answer, b: Answer, amplified: float) -> tuple[int | None, float, str]:
    """Where two answers part, if they do; the worst difference before, and its place.

    Args:
        a, b: Answers to one request.
        amplified: By how much guidance amplifies a difference.
    """
    differ = (at for at, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y)
    shared = min(len(a.ids), len(b.ids))
    apart = None if a.ids == b.ids else next(differ, shared)
    worst, place = 0.0, ""
    for found, right, factor in (
        (a.logprobs, b.logprobs, 1.0),
        (a.guided_logprobs, b.guided_logprobs, amplified),
    ):
        for at, (x, y) in enumerate(zip(found[:apart], right[:apart], strict=True)):
            if _is_worse(_gap(x, y) / factor, worst):
                worst, place = _gap(x, y) / factor, f"id {at}: {x} against {y}"
    return apart, worst, place


def _reseeded(request: Request) -> Request:
    seed = (request.sampling.seed or 0) + 1_000_003
    return replace(request, sampling=replace(request.sampling, seed=seed))


def _verdict(what: str, worst: float, place: str, tolerance: float) -> float:
    if not worst <= tolerance:
        raise CertificateError(
            f"{what.capitalize()} differ by {worst:.3g}, above {tolerance:g}.", subject=place
        )
    return worst
