"""The certificates hold for text and DNA after pictures, sound and moving pictures."""

import numpy as np
import pytest

from unimodal.generation import Request, Sampling
from unimodal.modality import build_modality, fit
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment
from unimodal.testing.certificates import certify_batched, certify_cached, certify_packed, sharpen
from unimodal.vocabulary import Vocabulary

GIVEN = ("image", "speech", "video", "dna", "text")


@pytest.fixture(scope="module")
def decoder():
    modalities = {name: build_modality(name) for name in GIVEN}
    fit(modalities["text"], ["a red apple on a table", "two small dogs and 3 birds"] * 4)
    shape = {"width": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "mlp_width": 96}
    config = DecoderConfig(**shape, num_layers=2)
    return sharpen(Decoder(config, Vocabulary.of(modalities, openers=["text", "dna"])))


def example(decoder, name):
    return Segment(name, decoder.vocabulary.modality(name).example(np.random.default_rng(3)))


def test_generation_is_certified(decoder):
    requests = []
    for seed, name in enumerate(GIVEN):
        document = Document([example(decoder, name)], id=name)
        asked = ["text", "dna"] if seed % 2 else ["dna"]
        sampling = Sampling(seed=seed, top_k=50, top_p=0.95)
        requests.append(Request(document, asked, sampling, max_tokens=40))
    requests.append(Request(Document([example(decoder, "image")]), None, max_tokens=30))
    assert certify_cached(decoder, requests) <= 1e-5
    assert certify_batched(decoder, requests) <= 1e-5


def test_packing_is_certified(decoder):
    documents = [
        Document([example(decoder, name), Segment("text", "a red dog", objective="next")])
        for name in GIVEN
    ]
    assert certify_packed(decoder, documents) <= 1e-5
