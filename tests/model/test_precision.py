"""Weights in bfloat16: loss, generation and growth work, and stay near float32."""

import pytest
import torch

from unimodal.generation import Request, Sampling, generate
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import grow
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.testing.certificates import sharpen
from unimodal.vocabulary import Vocabulary

NAMES = ["fake_line", "fake_grid", "fake_continuous"]
SHAPE = {"width": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
SIGNAL = Segment("fake_continuous", torch.linspace(-1, 1, 15).view(5, 3))
LINE = Segment("fake_line", "hello", objective="next")
DOCUMENTS = {
    "with features": [Document([SIGNAL, LINE])],
    "without": [Document([LINE]), Document([Segment("fake_line", "abc", objective="next")])],
}


def decoder(dtype: torch.dtype, tie: bool = True) -> Decoder:
    config = DecoderConfig(**SHAPE, mlp_width=48, tie_embeddings=tie)
    return sharpen(Decoder(config, Vocabulary.of(NAMES))).to(dtype)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("documents", DOCUMENTS.values(), ids=DOCUMENTS)
def test_loss_and_gradients(documents: list[Document], tie: bool) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model = decoder(dtype, tie).train()
        encoded = [encode_document(d, model.vocabulary, model.stream) for d in documents]
        total = model.loss(collate([encoded], 40, model.vocabulary)).total
        total.backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())
        losses.append(float(total.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_generation_after_a_continuous_value() -> None:
    request = Request(Document([SIGNAL]), ["fake_grid"], sampling=Sampling(seed=0))
    (answer,) = generate(decoder(torch.bfloat16), [request])
    assert answer.error is None
    assert answer.segments[0].value.ndim == 2


def test_growth_keeps_the_precision() -> None:
    model = decoder(torch.bfloat16)
    grown = grow(model, Vocabulary.of([*NAMES, "fake_events"]))
    assert {p.dtype for p in grown.parameters()} == {torch.bfloat16}
    assert torch.equal(grown.embeddings["fake_line/letter"], model.embeddings["fake_line/letter"])
