"""Low precision of the decode step is as close to float32 as the same model under autocast."""

import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.generation import Engine, Request, Sampling
from unimodal.generation.engine import inference
from unimodal.generation.matrices import ByteMatrix, HalfMatrix
from unimodal.generation.step import Stepper
from unimodal.model.cache import pack
from unimodal.stream import Document, collate, encode_document

DISCRETE = ("fake_line", "fake_residual", "fake_grid", "fake_events")


def last_states(decoder, documents, dtype):
    """Final-normed hidden states of the last tokens, each fed by itself through the step."""
    stepper = Stepper(decoder, dtype)
    encoded = [encode_document(d, decoder.vocabulary, decoder.stream) for d in documents]
    batch = collate([[e] for e in encoded], min(map(len, encoded)), decoder.vocabulary)
    packed = pack(batch.coordinates)
    cache = decoder.new_cache(len(documents), 1, stepper._matrix.cache_dtype)
    for step in range(batch.ids.shape[1]):
        here = slice(step, step + 1)
        turns = stepper.tables(batch.position[:, here])
        hidden = stepper.step(batch.ids[:, here], turns, packed[:, here], cache)
    return decoder.norm(hidden)


def errors(decoder, documents, dtype):
    """Largest deviation from float32: of the step, and of autocast to bfloat16."""
    encoded = [encode_document(d, decoder.vocabulary, decoder.stream) for d in documents]
    batch = collate([[e] for e in encoded], min(map(len, encoded)), decoder.vocabulary)
    with inference(decoder):
        exact = decoder(batch)[:, -1]
        step = last_states(decoder, documents, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            peer = decoder(batch)[:, -1].float()
    return float((step - exact).norm()), float((peer - exact).norm())


@pytest.mark.parametrize("rows", [1, 5])
def test_bfloat16_errs_at_most_twice_as_much_as_autocast(build_decoder, given, rows):
    decoder = build_decoder(width=64, mlp_width=96, num_layers=3)
    documents = [Document([given(decoder, "fake_grid", 3)]) for _ in range(rows)]
    step, peer = errors(decoder, documents, "bfloat16")
    assert 0 < step <= 2 * peer


def test_a_step_that_is_a_little_wrong_errs_more(build_decoder, given, monkeypatch):
    decoder = build_decoder(width=64, mlp_width=96, num_layers=3)
    documents = [Document([given(decoder, "fake_grid", 3)]) for _ in range(5)]
    multiply = HalfMatrix.__call__
    monkeypatch.setattr(HalfMatrix, "__call__", lambda self, x: multiply(self, x) * 0.95)
    step, peer = errors(decoder, documents, "bfloat16")
    assert step > 2 * peer


@pytest.mark.parametrize("tokens", [1, 3])
def test_bytes_are_wrong_by_half_a_quantum_and_a_rounding(tokens):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator)
    x = torch.randn(64, tokens, generator=generator).bfloat16().float()
    found = ByteMatrix(weight)(x.t() if tokens == 1 else x).float()
    exact = weight @ x
    quantum = weight.abs().amax(1, keepdim=True) / 127
    # The scale (2^-9 of the largest weight), the weights for many tokens, and the sum are rounded.
    bound = (0.5 * quantum + 2**-7 * weight.abs()) @ x.abs() + 2**-8 * exact.abs()
    assert ((found.t() if tokens == 1 else found) - exact).abs().le(bound).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_answers_in_low_precision_are_valid(build_decoder, given, dtype, batch_size):
    decoder = build_decoder()
    requests = [
        Request(Document([given(decoder, "fake_line", seed)]), [name], Sampling(seed=seed))
        for seed, name in enumerate(DISCRETE)
    ]
    for answer in Engine(decoder, dtype).generate(requests, batch_size=batch_size):
        assert answer.error is None
        assert answer.segments


def test_another_precision_is_refused(build_decoder):
    with pytest.raises(ConfigError, match="float32, bfloat16, int8"):
        Engine(build_decoder(), "float8")
