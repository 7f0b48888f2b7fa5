"""The decoder: cached as uncached for any split, losses by head set, weights by name."""

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import ConfigError, VocabularyError
from unimodal.generation.engine import inference
from unimodal.generation.step import Stepper
from unimodal.model.cache import Cache, pack, unpack
from unimodal.model.config import DecoderConfig, dalle_order
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.testing.certificates import sharpen
from unimodal.vocabulary import Vocabulary

SHAPE = {"width": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "mlp_width": 48}
NAMES = ["fake_line", "fake_grid", "fake_continuous", "fake_masked"]
PATTERNS = {"fake_grid": ["row", "column", "conv(size=3)"], "fake_line": ["window(size=3)"]}


def build(**options):
    config = DecoderConfig(**(SHAPE | {"num_layers": 3} | options))
    return sharpen(Decoder(config, Vocabulary.of(NAMES))).eval()


def encode(decoder, names, seed=0, objective="next"):
    rng = np.random.default_rng(seed)
    segments = []
    for name in names:
        discrete = name in ("fake_line", "fake_grid")
        value = decoder.vocabulary.modality(name).example(rng)
        segments.append(Segment(name, value, objective=objective if discrete else "none"))
    return encode_document(Document(segments), decoder.vocabulary, decoder.stream, rng)


def batch_of(decoder, documents):
    return collate([documents], sum(map(len, documents)), decoder.vocabulary)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patterns": PATTERNS},
        {"num_kv_heads": 4, "qk_norm": False, "tie_embeddings": False},
        {"head_dim": 64, "norm_eps": 1e-3},
    ],
    ids=["gqa", "patterns", "mha_no_norm", "head_64"],
)
@pytest.mark.parametrize("size", [1, 4])
def test_prefill_and_steps_give_the_hidden_states_of_one_pass(options, size):
    decoder = build(**options)
    with torch.no_grad():
        for block in decoder.blocks:
            block.attention_norm.weight.uniform_(0.5, 2)
            block.mlp_norm.weight.uniform_(0.5, 2)
    parts = [
        (["fake_continuous", "fake_line"], ["fake_grid", "fake_line"]),
        (["fake_grid"], ["fake_line", "fake_grid"]),
        (["fake_masked"], ["fake_line", "fake_line"]),
    ]
    prompts = [encode(decoder, first, seed) for seed, (first, _) in enumerate(parts)]
    wholes = [encode(decoder, a + b, seed) for seed, (a, b) in enumerate(parts)]
    assert bool(prompts[2].full.any())
    stepper = Stepper(decoder)
    with inference(decoder):
        batches = [batch_of(decoder, [whole]) for whole in wholes]
        expected = [decoder(batch)[0] for batch in batches]
        cache, hidden = stepper.prefill(prompts, 2)
        for prompt, one, other in zip(prompts, decoder.norm(hidden), expected, strict=True):
            torch.testing.assert_close(one, other[len(prompt) - 1], rtol=1e-5, atol=1e-5)
        steps = min(len(w) - len(p) for w, p in zip(wholes, prompts, strict=True))
        assert steps > 2 * size
        for at in range(0, steps - size + 1, size):
            here = [slice(len(p) + at, len(p) + at + size) for p in prompts]
            pairs = list(zip(wholes, here, strict=True))
            ids = torch.stack([whole.ids[place] for whole, place in pairs])
            position = torch.stack([whole.position[place] for whole, place in pairs])
            coordinates = [pack(b.coordinates)[0, h] for b, h in zip(batches, here, strict=True)]
            found = stepper.step_all(ids, stepper.tables(position), torch.stack(coordinates), cache)
            for row, place in enumerate(here):
                torch.testing.assert_close(
                    decoder.norm(found[row]), expected[row][place], rtol=2e-5, atol=2e-5
                )
            last = torch.stack([e[h.stop - 1] for e, h in zip(expected, here, strict=True)])
            for number in range(len(decoder.vocabulary.head_sets)):
                torch.testing.assert_close(
                    stepper.logits(found[:, -1], number),
                    decoder.logits(last, number),
                    rtol=5e-5,
                    atol=5e-5,
                )


def test_the_loss_is_the_weighted_sum_over_head_sets():
    decoder = build()
    documents = [encode(decoder, ["fake_continuous", "fake_line"]), encode(decoder, ["fake_grid"])]
    documents[1].loss_weight *= 0.25
    batch = batch_of(decoder, documents)
    result = decoder.loss(batch)
    hidden = decoder(batch).flatten(0, 1)
    total, weight = torch.zeros(()), 0.0
    for head in batch.heads:
        scores = torch.log_softmax(decoder.logits(hidden[head.index], head.number), dim=-1)
        nll = -scores.gather(1, head.columns[:, None])[:, 0]
        total, weight = total + (nll * head.weight).sum(), weight + float(head.weight.sum())
    torch.testing.assert_close(result.total, total, rtol=1e-5, atol=1e-5)
    assert result.weight == pytest.approx(weight)


def test_z_loss_adds_the_squared_log_of_the_partition_sum():
    plain, with_z = build(), build(z_loss=0.01)
    documents = [encode(plain, ["fake_line"])]
    batch = batch_of(plain, documents)
    hidden = plain(batch).flatten(0, 1)
    extra = sum(
        (plain.logits(hidden[h.index], h.number).logsumexp(-1) ** 2 * h.weight).sum()
        for h in batch.heads
    )
    difference = with_z.loss(batch).total - plain.loss(batch).total
    torch.testing.assert_close(difference, 0.01 * extra, rtol=1e-4, atol=1e-4)


def test_a_full_head_normalises_over_every_id():
    span, full = build(), build(head="full")
    batch = batch_of(span, [encode(span, ["fake_line"])])
    assert full.logits(torch.zeros(1, 32), batch.heads[0].number).shape[1] == full.vocabulary.size
    for one, other in zip(span.loss(batch).nll, full.loss(batch).nll, strict=True):
        assert (other > one).all()


def test_every_parameter_takes_part_in_every_training_step():
    decoder = build(tie_embeddings=False).train()
    decoder.loss(batch_of(decoder, [encode(decoder, ["fake_line"])])).total.backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None] == []


def test_the_same_weights_are_drawn_by_name_whatever_else_there_is():
    config = DecoderConfig(**SHAPE)
    one = Decoder(config, Vocabulary.of(["fake_line"])).state_dict()
    two = Decoder(config, Vocabulary.of(["fake_line", "fake_grid"])).state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    other = Decoder(DecoderConfig(**SHAPE, seed=1), Vocabulary.of(["fake_line"])).state_dict()
    name = "blocks.0.attention.qkv.weight"
    assert not torch.equal(one[name], other[name])


def test_a_cache_grows_and_drops_rows():
    cache = Cache(2, 3, 1, 1, 4)
    for number in range(5):
        block = torch.full((3, 1, 8), number, dtype=torch.int32)
        cache.place_packed(block)
        keys = torch.arange(3.0)[:, None, None, None].expand(3, 1, 1, 4) + 10 * number
        for layer in cache.layers:
            found, _ = layer.update(keys, -keys)
    assert cache.capacity >= 5
    assert found[:, :, 0, 0].tolist() == [[10.0 * n + r for n in range(5)] for r in range(3)]
    cache.keep(torch.tensor([2, 0]))
    assert cache.batch == 2
    assert cache.layers[0].keys[:, 0, 4, 0].tolist() == [42.0, 40.0]
    assert cache.readable().index.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_coordinates_survive_packing():
    decoder = build()
    coordinates = batch_of(decoder, [encode(decoder, NAMES)]).coordinates
    back = unpack(pack(coordinates))
    for name, tensor in vars(coordinates).items():
        assert torch.equal(getattr(back, name), tensor), name


def test_patterns_name_known_modalities():
    with pytest.raises(VocabularyError, match="fake_grid"):
        build(patterns={"fake_grd": ["row"]})
    assert dalle_order(6) == ["row", "column", "row", "row", "row", "conv(size=11)"]


@pytest.mark.parametrize(
    "wrong", [{"num_layers": 0}, {"head": "half"}, {"z_loss": -1.0}, {"num_kv_heads": 3}]
)
def test_a_wrong_config_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build(**wrong)
