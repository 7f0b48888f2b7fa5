import numpy as np
import pytest
import torch

from unimodal.blocks import Block
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.patterns import visible
from unimodal.report.attention import attention_maps
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    shape = DecoderConfig(
        width=64, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=64, mlp_width=64
    )
    decoder = Decoder(shape, Vocabulary.of(["dna"]))
    with torch.no_grad():  # sharper than at the start, so that a wrong map shows
        for block in decoder.blocks:
            block.attention.qkv.weight.mul_(3.0)  # type: ignore[union-attr, operator]
    return decoder.eval()


def test_rows_sum_to_one_and_nothing_looks_ahead(decoder: Decoder) -> None:
    document = Document([Segment("dna", "ACGTTGCA" * 3), Segment("dna", "GGA")])
    encoded = encode_document(document, decoder.vocabulary, decoder.stream)
    maps = attention_maps(decoder, encoded)
    assert len(maps) == 2
    for weights in maps:
        assert weights.shape == (len(encoded), len(encoded))
        np.testing.assert_allclose(weights.sum(dim=1), 1.0, atol=1e-5)
        assert float(weights.triu(1).abs().max()) == 0.0


def test_the_maps_are_those_that_the_layer_used(decoder: Decoder) -> None:
    """weights x values through the output matrix is what the attention of the layer gave."""
    document = Document([Segment("dna", "ACGTTGCATTAG")])
    encoded = encode_document(document, decoder.vocabulary, decoder.stream)
    batch = collate([[encoded]], len(encoded), decoder.vocabulary)
    block = decoder.blocks[-1]
    assert isinstance(block, Block)
    last = block.attention
    taken: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, args, out, name=name: taken.update({name: out}))
        for name, module in (("x", block.attention_norm), ("out", last.out))
    ]
    with torch.no_grad():
        decoder(batch)
    for hook in hooks:
        hook.remove()
    q, k, v = last.project(taken["x"], decoder.rope(batch.position))
    mask = visible(batch.coordinates, batch.coordinates, decoder.patterns[-1])[0]
    heads = []
    for head in range(2):
        scores = q[0, :, head] @ k[0, :, 0].T * 64**-0.5
        heads.append(torch.softmax(scores.masked_fill(~mask, -torch.inf), -1))
    out = torch.cat([weights @ v[0, :, 0] for weights in heads], -1) @ last.out.weight.T
    torch.testing.assert_close(out, taken["out"][0], atol=1e-4, rtol=1e-4)
    drawn = attention_maps(decoder, encoded, num_layers=1)[0]
    torch.testing.assert_close(drawn, torch.stack(heads).mean(0), atol=1e-5, rtol=1e-4)
