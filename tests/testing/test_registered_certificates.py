"""Every registered modality that can be written is certified: guided, after a switch, in a mix."""

import numpy as np
import pytest
import torch

from unimodal.generation import Request, Sampling
from unimodal.modality import build_modality, fit, modalities
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

OURS = sorted(
    name
    for name in modalities.names()
    if modalities.get(name).__module__.startswith("unimodal.tokenizers.")
)
SENTENCES = ["a red apple on a table", "two small dogs and 3 birds"] * 4
PATTERNS = [
    None,
    *(
        pytest.param(pattern, marks=pytest.mark.soak)
        for pattern in (
            ["causal"],
            ["row", "column", "conv(size=3)"],
            ["window(size=5)"],
            ["nearby_3d"],
        )
    ),
]


def make_decoder(pattern):
    built = {name: build_modality(name) for name in OURS}
    for modality in built.values():
        if modality.needs_fit:
            fit(modality, SENTENCES)
    discrete = [name for name, modality in built.items() if modality.is_discrete]
    patterns = {} if pattern is None else dict.fromkeys(discrete, pattern)
    shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
    config = DecoderConfig(**shape, num_layers=3, patterns=patterns)
    torch.manual_seed(0)
    return sharpen(Decoder(config, Vocabulary.of(built, openers=discrete))), discrete


def make_requests(decoder, discrete, guidance):
    """Each modality that can be written, after each that can be given, and then another."""
    requests = []
    for seed, given in enumerate(OURS):
        modality = decoder.vocabulary.modality(given)
        segment = Segment(given, modality.example(np.random.default_rng(3)))
        name, other = discrete[seed % len(discrete)], discrete[(seed + 1) % len(discrete)]
        least = 2 + sum(decoder.vocabulary.grammar(n).shortest() for n in (name, other))
        requests.append(
            Request(
                Document([segment]),
                [name, other],
                Sampling(seed=seed, guidance=guidance if seed % 3 else 1.0),
                max_tokens=least + 8,
                null=Document([]),
            )
        )
    return requests


def test_all_modalities_are_there():
    assert {"dna", "image", "image_codes", "speech", "text", "video"} <= set(OURS)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_modality_is_certified_guided_and_over_switches(pattern):
    decoder, discrete = make_decoder(pattern)
    requests = make_requests(decoder, discrete, 2.0)
    written = {name for request in requests for name in request.asked}
    assert written == set(discrete)
    assert certify_guided(decoder, requests) <= 1e-5
    assert certify_switches(decoder, requests) <= 1e-5


@pytest.mark.soak
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_modality_is_certified_in_a_batch(pattern):
    decoder, discrete = make_decoder(pattern)
    requests = make_requests(decoder, discrete, 2.0)
    assert certify_cached(decoder, requests) <= 1e-5
    assert certify_batched(decoder, requests) <= 1e-5
