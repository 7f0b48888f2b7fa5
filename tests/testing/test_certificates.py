"""Certificates hold on sharpened models, and each fails on the fault that it is there to find."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import CertificateError, ConfigError
from unimodal.generation import Request, Sampling
from unimodal.generation.branches import Branch
from unimodal.model.cache import Cache, LayerCache
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment, encoding
from unimodal.testing import certificates
from unimodal.testing.certificates import (
    certify_batched,
    certify_cached,
    certify_packed,
    certify_padded,
    sharpen,
)
from unimodal.vocabulary import Vocabulary

DISCRETE = ("fake_line", "fake_residual", "fake_grid", "fake_events")


def make_decoder(**options):
    shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
    names = [*DISCRETE, "fake_continuous", "fake_masked"]
    vocabulary = Vocabulary.of(names, openers=["fake_line", "fake_grid"])
    return sharpen(Decoder(DecoderConfig(**(shape | {"num_layers": 2} | options)), vocabulary))


def segment(decoder, name, seed=0, **options):
    modality = decoder.vocabulary.modality(name)
    return Segment(name, modality.example(np.random.default_rng(seed)), **options)


def make_requests(decoder):
    requests = []
    for seed, name in enumerate((*DISCRETE, "fake_masked")):
        given = [segment(decoder, "fake_continuous", seed), segment(decoder, "fake_line", seed)]
        document = Document(given[: seed % 3], id=name)
        sampling = Sampling(seed=seed)
        # Rows leave the batch one after the other.
        budget = 30 + 5 * seed
        requests.append(Request(document, [name, "fake_line"], sampling, max_tokens=budget))
    line = Document([segment(decoder, "fake_line", 9)])
    requests.append(Request(line, None, Sampling(seed=3), max_tokens=40))
    return requests


def make_documents(decoder):
    return [
        Document(
            [
                segment(decoder, "fake_continuous", seed, attend="full"),
                segment(decoder, name, seed + 1, objective="next", attend="causal"),
            ]
        )
        for seed, name in enumerate((*DISCRETE, "fake_masked"))
    ]


CERTIFICATES = {
    "cached": lambda d: certify_cached(d, make_requests(d)),
    "batched": lambda d: certify_batched(d, make_requests(d)),
    "packed": lambda d: certify_packed(d, make_documents(d)),
    "padded": lambda d: certify_padded(d, make_documents(d)),
}


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_heads": 2, "num_kv_heads": 2, "tie_embeddings": False, "qk_norm": False},
        {"head": "full"},
        {"patterns": {"fake_grid": ["row", "column", "conv(size=3)"], "fake_line": ["window"]}},
    ],
    ids=["plain", "mha_untied_no_norm", "full_head", "patterns"],
)
def test_a_sound_model_is_certified(name, options):
    assert 0 <= CERTIFICATES[name](make_decoder(**options)) <= 1e-5


def test_a_sharpened_model_has_peaked_logits():
    decoder = make_decoder()
    hidden = torch.randn(64, 32)
    normed = decoder.norm(hidden)
    number = decoder.vocabulary.head_numbers["fake_line.letter+end"]
    assert 2 < float(decoder.logits(normed, number).detach().std()) < 5


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_position_off_by_one_is_found(monkeypatch, shift):
    plan = Branch.plan

    def shifted(self, cursor, count):
        position, coordinates = plan(self, cursor, count)
        return position + np.float32(shift), coordinates

    monkeypatch.setattr(Branch, "plan", shifted)
    with pytest.raises(CertificateError, match="Cached and uncached"):
        CERTIFICATES["cached"](make_decoder())


def test_a_leaked_document_is_found(monkeypatch):
    plan = Decoder.plan

    def leaking(self, coordinates):
        joined = torch.where(coordinates.document >= 0, 0, -1).to(torch.int32)
        return plan(self, type(coordinates)(**{**vars(coordinates), "document": joined}))

    decoder = make_decoder()
    monkeypatch.setattr(Decoder, "plan", leaking)
    with pytest.raises(CertificateError, match="Packed and separate"):
        CERTIFICATES["packed"](decoder)


def test_a_stale_cache_slot_is_found(monkeypatch):
    update = LayerCache.update

    def forgetful(self, k, v):
        if self.stop - self.start == 1 and self.stop % 5 == 0:
            k, v = self.keys[:, :, self.start - 1 : self.start], v
            k = k.transpose(1, 2).clone()
        return update(self, k, v)

    monkeypatch.setattr(LayerCache, "update", forgetful)
    with pytest.raises(CertificateError, match="Cached and uncached"):
        CERTIFICATES["cached"](make_decoder())


def test_a_cache_that_mixes_up_its_rows_is_found(monkeypatch):
    keep = Cache.keep
    monkeypatch.setattr(Cache, "keep", lambda self, rows: keep(self, rows.flip(0)))
    with pytest.raises(CertificateError, match="Batched and single"):
        CERTIFICATES["batched"](make_decoder())


@pytest.mark.parametrize(("wrong", "is_found"), [({0}, False), ({0, 1}, False), ({0, 1, 2}, True)])
def test_a_draw_on_the_border_of_two_ids_is_drawn_again(monkeypatch, wrong, is_found):
    answers, batches = certificates._answers, []

    def other_last_id(decoder, requests, batched):
        found = answers(decoder, requests, batched)
        if batched and len(batches) in wrong:
            found[1] = replace(found[1], ids=[*found[1].ids[:-1], -1])
        batches.extend([batched] if batched else [])
        return found

    monkeypatch.setattr(certificates, "_answers", other_last_id)
    if is_found:
        with pytest.raises(CertificateError, match=r"request 1, id .*the ids differ from here on"):
            CERTIFICATES["batched"](make_decoder())
    else:
        assert 0 <= CERTIFICATES["batched"](make_decoder()) <= 1e-5
    assert len(batches) == min(3, len(wrong) + 1)


def test_what_is_no_number_is_not_forgotten(monkeypatch):
    answers = certificates._answers

    def broken(decoder, requests, batched):
        found = answers(decoder, requests, batched)
        if batched:
            found[0] = replace(found[0], logprobs=[math.nan, *found[0].logprobs[1:]])
        return found

    monkeypatch.setattr(certificates, "_answers", broken)
    with pytest.raises(CertificateError, match="differ by nan"):
        CERTIFICATES["batched"](make_decoder())


def test_visible_padding_is_found(monkeypatch):
    decoder = make_decoder()
    plan = Decoder.plan

    def seeing(self, coordinates):
        shown = coordinates.document.clamp(min=0)
        full = torch.ones_like(coordinates.full)
        changed = {**vars(coordinates), "document": shown, "full": full}
        changed["segment"] = torch.zeros_like(coordinates.segment)
        return plan(self, type(coordinates)(**changed))

    monkeypatch.setattr(Decoder, "plan", seeing)
    with pytest.raises(CertificateError, match="Padded and unpadded"):
        CERTIFICATES["padded"](decoder)


def test_the_message_names_the_place_and_the_difference(monkeypatch):
    decoder = make_decoder()
    with pytest.raises(CertificateError, match=r"request \d+, id \d+ .*differ by .*above 0"):
        certify_cached(decoder, make_requests(decoder), tolerance=0.0)


def test_one_document_cannot_be_certified_as_packed():
    decoder = make_decoder()
    with pytest.raises(ConfigError):
        certify_packed(decoder, make_documents(decoder)[:1])


@pytest.mark.parametrize(
    "certify",
    [
        lambda d: certify_cached(d, []),
        lambda d: certify_batched(d, []),
        lambda d: certify_packed(d, [Document([segment(d, "fake_line")])] * 2),
        lambda d: certify_padded(d, [Document([segment(d, "fake_line")])]),
    ],
    ids=CERTIFICATES,
)
def test_a_certificate_that_compares_nothing_fails(certify):
    with pytest.raises(ConfigError, match="Nothing is compared"):
        certify(make_decoder())


def test_features_fed_where_generation_fed_ids_are_found(monkeypatch):
    decoder = make_decoder()
    requests = [Request(Document([segment(decoder, "fake_line")]), ["fake_masked"])]
    assert certify_cached(decoder, requests) <= 1e-5
    frame = encoding._frame

    def with_features(asked, modality, tokens, *rest):
        piece = frame(asked, modality, tokens, *rest)
        if tokens.features is not None:
            piece.inputs[piece.inside] = decoder.vocabulary.control("pad")
            piece.features = tokens.features
        return piece

    monkeypatch.setattr(encoding, "_frame", with_features)
    with pytest.raises(CertificateError):
        certify_cached(decoder, requests)


def test_a_failing_request_raises_its_own_error():
    decoder = make_decoder()
    with pytest.raises(ConfigError, match="max_tokens"):
        certify_cached(decoder, [Request(Document([]), ["fake_line"], max_tokens=1)])
