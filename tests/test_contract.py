"""Each mechanism of the contract goes the whole way: packing, loss, random walks, growth."""

import os
import socket
import subprocess
import sys
import textwrap
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.generation import Request, Sampling, generate
from unimodal.modality import build_modality, fit
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import grow
from unimodal.stream import Document, Packer, PackingConfig, Segment, collate, encode_document
from unimodal.testing.certificates import certify_packed, sharpen
from unimodal.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
MECHANISMS = {
    "fake_line": "next",
    "fake_residual": "next",
    "fake_grid": "next",
    "fake_events": "next",
    "fake_masked": "masked",
    "fake_continuous": "none",
    "fake_codec": "next",
    "fake_words": "next",
}


def build(name):
    modality = build_modality(name)
    if modality.needs_fit:
        fit(modality, ["one two three", "two three four"])
    return modality


@pytest.fixture(scope="module")
def decoder():
    vocabulary = Vocabulary.of({name: build(name) for name in MECHANISMS})
    return sharpen(Decoder(DecoderConfig(**SHAPE, num_layers=2), vocabulary))


def documents_of(decoder, name, count=8):
    """Documents in which the modality is learned, or given before a line that is."""
    modality, rng = decoder.vocabulary.modality(name), np.random.default_rng(0)
    made = []
    for _ in range(count):
        segments = [Segment(name, modality.example(rng), objective=MECHANISMS[name])]
        if MECHANISMS[name] == "none":
            segments.append(Segment("fake_line", "abc", objective="next"))
        made.append(Document(segments))
    return made


@pytest.mark.parametrize("name", MECHANISMS)
def test_it_packs_and_learns(decoder, name):
    rng = np.random.default_rng(0)
    encoded = [
        encode_document(d, decoder.vocabulary, decoder.stream, rng)
        for d in documents_of(decoder, name)
    ]
    longest = max(map(len, encoded))
    numbered = enumerate(encoded)
    packing = PackingConfig(row_length=2 * longest, look_ahead=4)
    packer = Packer(packing, lambda count: islice(numbered, count))
    rows = []
    while row := packer.row():
        rows.append(row)
    batch = collate(rows, 2 * longest, decoder.vocabulary)
    learner = Decoder(DecoderConfig(**SHAPE, num_layers=2), decoder.vocabulary)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        result = learner.loss(batch)
        loss = result.total / result.weight
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in learner.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", MECHANISMS)
def test_it_is_the_same_packed_and_alone(decoder, name):
    documents = [*documents_of(decoder, name, 3), *documents_of(decoder, "fake_line", 2)]
    if MECHANISMS[name] == "masked":  # hidden places are drawn document by document
        documents = documents[:2] + documents[3:]
    assert certify_packed(decoder, documents) <= 1e-5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [n for n, o in MECHANISMS.items() if o != "none"])
def test_random_weights_always_write_a_valid_value(name, seed):
    vocabulary = Vocabulary.of({n: build(n) for n in (name, "fake_continuous")})
    drawn = DecoderConfig(**SHAPE, num_layers=1, seed=seed)
    decoder = sharpen(Decoder(drawn, vocabulary), attention=1.0 + seed)
    rng = np.random.default_rng(seed)
    modality = vocabulary.modality(name)
    least = vocabulary.grammar(name).shortest() + 1
    requests = []
    for number in range(6):
        given = [Segment("fake_continuous", vocabulary.modality("fake_continuous").example(rng))]
        requests.append(
            Request(
                Document(given[: number % 2]),
                [name] * (1 + number % 3),
                Sampling(
                    temperature=float(rng.choice([0, 0.5, 1, 3])),
                    top_k=int(rng.integers(1, 9)) if number % 2 else None,
                    top_p=float(rng.uniform(0.1, 1)),
                    seed=number,
                ),
                max_tokens=least * 3 + int(rng.integers(0, 40)),
            )
        )
    for request, answer in zip(requests, generate(decoder, requests), strict=True):
        assert answer.error is None
        assert len(answer.ids) <= request.max_tokens
        for value in answer.values:
            assert isinstance(value, modality.value_type)
            again = modality.encode(value)  # what is written can be read
            assert len(modality.encode(modality.decode(again))) == len(again)


@pytest.mark.parametrize("name", MECHANISMS)
def test_it_joins_a_trained_ledger_without_moving_it(name):
    first = "fake_line" if name != "fake_line" else "fake_grid"
    old = sharpen(Decoder(DecoderConfig(**SHAPE, num_layers=1), Vocabulary.of([first])))
    larger = Vocabulary.of({n: build(n) for n in (first, name)})
    new = grow(old, larger)
    document = documents_of(old, first, 1)[0]
    nll = []
    for decoder in (old, new):
        encoded = encode_document(document, decoder.vocabulary, decoder.stream)
        batch = collate([[encoded]], len(encoded), decoder.vocabulary)
        with torch.no_grad():
            nll.append(torch.cat(decoder.eval().loss(batch).nll))
    assert torch.equal(nll[0], nll[1])


def test_a_retrained_tokenizer_is_a_span_of_its_own():
    both = Vocabulary.of({"fake_codec": build("fake_codec"), "fake_codec@2": build("fake_codec")})
    decoder = Decoder(DecoderConfig(**SHAPE, num_layers=1), both)
    answers = generate(
        decoder,
        [
            Request(Document([]), [n], Sampling(seed=0), max_tokens=80)
            for n in ("fake_codec", "fake_codec@2")
        ],
    )
    for name, answer in zip(("fake_codec", "fake_codec@2"), answers, strict=True):
        assert answer.error is None
        assert answer.ids[0] == both.opener(name)
        span = both.span(f"{name}.code")
        content = [i for i in answer.ids[1:] if span.start <= i < span.stop]
        assert content


RANKS = """
import os, sys
import numpy as np, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import unimodal.testing.fixtures
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.vocabulary import Vocabulary

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
vocabulary = Vocabulary.of(["fake_line", "fake_grid", "fake_continuous"])
shape = dict(width=32, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=48, num_layers=1)
def documents():
    rng = np.random.default_rng(0)
    signal = Segment("fake_continuous", vocabulary.modality("fake_continuous").example(rng))
    grid = Segment("fake_grid", vocabulary.modality("fake_grid").example(rng), objective="next")
    yield Document([signal, grid])
    yield Document([Segment("fake_line", "abcdef", objective="next")])
def batch_of(chosen, decoder):
    encoded = [encode_document(d, vocabulary, decoder.stream) for d in chosen]
    return collate([encoded], sum(map(len, encoded)), vocabulary)
class Loss(torch.nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder
    def forward(self, batch):
        return self.decoder.loss(batch).total
TIED = sys.argv[1] == "tied"
decoder = Decoder(DecoderConfig(**shape, tie_embeddings=TIED), vocabulary)
model = DistributedDataParallel(Loss(decoder))
chosen = list(documents())
model(batch_of([chosen[rank]], decoder)).backward()
if rank == 0:
    alone = Decoder(DecoderConfig(**shape, tie_embeddings=TIED), vocabulary)
    alone.loss(batch_of(chosen, alone)).total.backward()
    for (name, ours), theirs in zip(decoder.named_parameters(), alone.parameters()):
        assert ours.grad is not None, name
        torch.testing.assert_close(ours.grad * 2, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    print("gradients agree")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("embeddings", ["tied", "untied"])
def test_a_modality_may_be_absent_on_one_of_two_ranks(embeddings, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(script), embeddings],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert "gradients agree" in outputs[0]
