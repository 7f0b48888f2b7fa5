"""Guidance and switches are certified for every kind of modality, and each fault is found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import CertificateError, ConfigError
from unimodal.generation import Request, Sampling
from unimodal.generation.branches import Branch
from unimodal.generation.guidance import Guides
from unimodal.generation.rows import Row
from unimodal.modality import build_modality, fit
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment
from unimodal.testing.certificates import (
    certify_batched,
    certify_cached,
    certify_guided,
    certify_switches,
    sharpen,
)
from unimodal.vocabulary import Vocabulary

NAMES = (
    "fake_line",
    "fake_residual",
    "fake_grid",
    "fake_marked",
    "fake_events",
    "fake_masked",
    "fake_codec",
    "fake_words",
)
GIVEN = ("fake_continuous", "fake_grid", "fake_line")
SOAK = pytest.mark.soak
PATTERNS = [
    pytest.param(["causal"], id="causal"),
    pytest.param(["row", "column", "conv(size=3)"], id="dalle"),
    pytest.param(["window(size=3)"], id="window", marks=SOAK),
    pytest.param(["row"], id="row", marks=SOAK),
    pytest.param(["column"], id="column", marks=SOAK),
    pytest.param(["conv(size=3)"], id="conv", marks=SOAK),
    pytest.param(["nearby_3d"], id="nearby_3d", marks=SOAK),
    pytest.param(["window(size=3) | column"], id="either", marks=SOAK),
]
HEADS = [pytest.param("span", id="span"), pytest.param("full", id="full_head", marks=SOAK)]


def make_decoder(patterns=("causal",), head="span"):
    order = list(patterns)
    modalities = {name: build_modality(name) for name in (*NAMES, "fake_continuous")}
    fit(modalities["fake_words"], ["red apple", "green apple"])
    vocabulary = Vocabulary.of(modalities, openers=list(NAMES))
    config = DecoderConfig(
        width=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_width=48,
        num_layers=3,
        head=head,
        patterns=dict.fromkeys(NAMES, order),
    )
    torch.manual_seed(0)
    return sharpen(Decoder(config, vocabulary))


@pytest.fixture(scope="module")
def decoder():
    return make_decoder()


def segment(decoder, name, seed):
    modality = decoder.vocabulary.modality(name)
    return Segment(name, modality.example(np.random.default_rng(seed)))


def guided_request(decoder, seed, asked, guidance=2.5, **options):
    """What is given, in front of it a prompt that the null condition keeps, or nothing."""
    given = [segment(decoder, GIVEN[seed % 3], seed)]
    kept = [segment(decoder, "fake_line", seed + 1)] if seed % 2 else []
    sampling = Sampling(seed=seed, guidance=guidance)
    null = Document(kept, id=f"null {seed}")
    document = Document([*kept, *given], id=f"guided {seed}")
    return Request(document, asked, sampling, max_tokens=28 + 3 * seed, null=null, **options)


def make_requests(decoder):
    """Guided and unguided ones in turn, ending one after the other."""
    requests = []
    for seed, name in enumerate(NAMES):
        for guidance in (2.5, 1.0) if seed % 2 else (0.5,):
            requests.append(guided_request(decoder, seed, [name, "fake_line"], guidance))
    return requests


def make_switches(decoder):
    requests = []
    for seed, name in enumerate(NAMES):
        given = Document([segment(decoder, "fake_line", seed)])
        both = [name, NAMES[seed - 1], name]
        budget = 3 + sum(decoder.vocabulary.grammar(n).shortest() for n in both) + 12
        requests.append(Request(given, both, Sampling(seed=seed), max_tokens=budget))
        requests.append(Request(given, None, Sampling(seed=seed), max_tokens=40))
    return requests


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("patterns", PATTERNS)
def test_guidance_is_certified(patterns, head):
    decoder = make_decoder(patterns, head)
    requests = make_requests(decoder)
    assert certify_guided(decoder, requests) <= 1e-5
    assert certify_cached(decoder, requests) <= 1e-5
    assert certify_batched(decoder, requests) <= 1e-5


@pytest.mark.parametrize("patterns", PATTERNS)
def test_switches_are_certified(patterns):
    decoder = make_decoder(patterns)
    assert certify_switches(decoder, make_switches(decoder)) <= 1e-5


def test_guidance_over_free_switches_is_certified(decoder):
    requests = [guided_request(decoder, seed, None) for seed in (1, 7, 13)]
    assert certify_guided(decoder, requests) <= 1e-5
    assert certify_switches(decoder, requests) <= 1e-5


def wrong_id(monkeypatch):
    spread = Guides.spread

    def shifted(self, drawn):
        ids = spread(self, drawn)
        ids[self.num_rows :] = ids[self.num_rows :].clamp(min=1) - 1
        return ids

    monkeypatch.setattr(Guides, "spread", shifted)


def wrong_positions(monkeypatch):
    plan = Row.plan
    monkeypatch.setattr(Row, "plan", lambda self, n: [plan(self, n)[0]] * len(self.branches))


def wrong_start(monkeypatch):
    place = Branch.place

    def late(self, token, cell, cursor):
        if self.prompt.document.id.startswith("null") and len(self.prompt) and cell[0] >= 0:
            self.at += 1
        return place(self, token, cell, cursor)

    monkeypatch.setattr(Branch, "place", late)


def wrong_rows(monkeypatch):
    of = Guides.branches_of
    monkeypatch.setattr(
        Guides, "branches_of", lambda self, m: [*m, *reversed(of(self, m)[len(m) :])]
    )


@pytest.mark.parametrize("fault", [wrong_id, wrong_positions, wrong_start, wrong_rows])
def test_a_wrong_null_branch_is_found(decoder, monkeypatch, fault):
    requests = make_requests(decoder)
    fault(monkeypatch)
    with pytest.raises(CertificateError, match="guidance"):
        certify_guided(decoder, requests)


def test_the_conditional_itself_is_not_touched_by_a_wrong_null_branch(decoder, monkeypatch):
    wrong_id(monkeypatch)
    assert certify_cached(decoder, make_requests(decoder)) <= 1e-5


def test_a_guided_header_is_found(decoder, monkeypatch):
    requests = [guided_request(decoder, seed, ["fake_grid"]) for seed in range(3)]
    assert certify_guided(decoder, requests) <= 1e-5
    every = frozenset(decoder.vocabulary.head_numbers.values())
    monkeypatch.setattr("unimodal.generation.engine.guided_head_sets", lambda _: every)
    with pytest.raises(CertificateError, match="guidance"):
        certify_guided(decoder, requests)


def test_certificates_that_compare_nothing_fail(decoder):
    plain = [guided_request(decoder, 1, ["fake_line"], guidance=1.0)]
    with pytest.raises(ConfigError, match="guidance changes"):
        certify_guided(decoder, plain)
    with pytest.raises(ConfigError, match="switches"):
        certify_switches(decoder, plain)


def test_a_stale_cache_after_a_switch_is_found(decoder, monkeypatch):
    monkeypatch.setattr(Branch, "open", lambda self, name: None)
    with pytest.raises(CertificateError, match="Cached and uncached"):
        certify_switches(decoder, make_switches(decoder))


def test_guidance_without_a_null_condition_is_refused(decoder):
    request = replace(guided_request(decoder, 1, ["fake_line"]), null=None)
    with pytest.raises(ConfigError, match="null"):
        certify_guided(decoder, [request])
