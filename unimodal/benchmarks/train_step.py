"""Speed and memory of a training step against transformers' Qwen3 of equal shape.

    python -m unimodal.benchmarks.train_step [--steps N] [--compile] [--json PATH]

Both train on the same documents (random ids; lengths log-normal, median 80, up to 640; at least
16,384 tokens a step) with the same softmax over the whole vocabulary, tied embeddings and AdamW,
under bfloat16 autocast where the CPU is fast at it. Ours packs them into rows with the library's
own packer and accumulates over batches of four rows; the peer gets them in batches of similar
length, padded, and accumulates over those, which is the best that it can do. Tokens a CPU second
(time of all threads) are stated beside tokens a second: they hardly change when the machine is busy
with other work.
Each contender runs in a process of its own, so that its peak memory is its own; the memory of an
idle process that has imported the same modules is stated beside it. `--compile` adds both compiled
(it needs a C++ compiler). First, both compute the loss of the same documents with the same weights
in float32; a difference above 1e-3 is an error.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimodal.devices import fast_bfloat16
from unimodal.errors import CertificateError, run_module
from unimodal.grammar import Open
from unimodal.media import torchaudio_adapter
from unimodal.modality import Modality, NoConfig
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import (
    Document,
    EncodedDocument,
    Packer,
    PackingConfig,
    Segment,
    StreamConfig,
    collate,
    encode_document,
)
from unimodal.types import Tokens, line_grid
from unimodal.vocabulary import Vocabulary

STEP_TOKENS = 16_384
PACKING = PackingConfig(row_length=1_024, look_ahead=256)
MICRO_ROWS = 4
IGNORED = -100
CHECK_TOKENS = 600
TOLERANCE = 1e-3
NAMES = ("unimodal", "transformers")


class Ids(Modality[Tensor, NoConfig]):
    """Bare ids, so that the decoder has a vocabulary of any size."""

    value_type = Tensor
    raw_unit = "step"
    layout = Open()

    def __init__(self, size: int):
        super().__init__(NoConfig())
        self.spans = {"ids": size}

    def encode(self, value: Tensor) -> Tokens:
        return Tokens(grid=line_grid(len(value)), ids=value)

    def decode(self, tokens: Tokens) -> Tensor:
        assert tokens.ids is not None
        return tokens.ids

    def example(self, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.integers(0, self.spans["ids"], 5))


@dataclass
class Measurement:
    """One contender: tokens a second and a CPU second by the median step, and mebibytes."""

    name: str
    vocabulary: int
    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_mib: float
    idle_mib: float
    step_tokens: int
    first_step_seconds: float


def documents(ledger: Vocabulary, tokens: int, seed: int = 0) -> list[EncodedDocument]:
    """Documents of random ids with at least `tokens` positions together, encoded for training."""
    rng = np.random.default_rng(seed)
    result: list[EncodedDocument] = []
    while sum(map(len, result)) < tokens:
        length = int(np.clip(rng.lognormal(np.log(80), 0.8), 4, 640))
        ids = torch.from_numpy(rng.integers(0, ledger.modality("ids").spans["ids"], length))
        document = Document([Segment("ids", ids, objective="next")], id=str(len(result)))
        result.append(encode_document(document, ledger, StreamConfig()))
    return result


def build_decoder(vocabulary: int) -> Decoder:
    """Ours: 6 layers of 320, 5 heads of 64, a head over the whole vocabulary."""
    config = DecoderConfig(
        width=320, num_heads=5, num_kv_heads=5, head_dim=64, mlp_width=864, num_layers=6,
        head="full",
    )  # fmt: skip
    ledger = Vocabulary.of({"ids": Ids(vocabulary)})
    return Decoder(config, ledger)


def build_peer(vocabulary: int) -> Any:
    """transformers' Qwen3 of the same shape."""
    if importlib.util.find_spec("torchaudio"):
        # A torchaudio that does not load would take transformers down with it.
        torchaudio_adapter.load()
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=64,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return Qwen3ForCausalLM(config)


def copy_weights(model: Decoder, peer: Any) -> None:
    """Give the peer our weights."""
    config = model.config
    heads = [n * config.head_dim for n in (config.num_heads, *[config.num_kv_heads] * 2)]
    state = {"model.embed_tokens.weight": model.embedding_table()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    state["model.norm.weight"] = model.norm.weight
    theirs = {
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.q_norm": ("self_attn.q_norm",),
        "attention.k_norm": ("self_attn.k_norm",),
        "attention.out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down": ("mlp.down_proj",),
    }
    for number, block in enumerate(model.blocks):
        for ours, names in theirs.items():
            weight = block.get_parameter(f"{ours}.weight")
            sizes = heads if len(names) == 3 else [len(weight) // len(names)] * len(names)
            for name, part in zip(names, weight.split(sizes), strict=True):
                state[f"model.layers.{number}.{name}.weight"] = part
    peer.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()})


def by_length(values: Sequence[EncodedDocument]) -> list[tuple[Tensor, Tensor]]:
    """Padded batches (ids, labels) of documents of similar length, at least 0.85 filled."""
    batches: list[list[EncodedDocument]] = []
    for value in sorted(values, key=len, reverse=True):
        if batches and len(value) >= 0.85 * len(batches[-1][0]):
            batches[-1].append(value)
        else:
            batches.append([value])
    pad = torch.nn.utils.rnn.pad_sequence
    return [
        (
            pad([value.ids for value in batch], batch_first=True),
            pad([labels(value) for value in batch], batch_first=True, padding_value=IGNORED),
        )
        for batch in batches
    ]


def labels(value: EncodedDocument) -> Tensor:
    """Our targets as transformers' labels: it predicts the label of the next position."""
    targets = torch.where(value.loss_weight > 0, value.targets, IGNORED)
    return torch.cat([torch.tensor([IGNORED]), targets[:-1]])


def num_targets(values: Sequence[EncodedDocument]) -> int:
    """Positions that carry loss."""
    return sum(int((value.loss_weight > 0).sum()) for value in values)


def our_loss(model: Decoder) -> Callable[[Sequence[EncodedDocument]], float]:
    """Forward and backward of the mean loss of documents, packing and planning included."""

    def run(values: Sequence[EncodedDocument]) -> float:
        count = num_targets(values)
        numbered = enumerate(values)
        packer = Packer(PACKING, lambda count: islice(numbered, count))
        rows = packer.rows(len(values))
        total = 0.0
        for start in range(0, len(rows), MICRO_ROWS):
            batch = collate(rows[start : start + MICRO_ROWS], PACKING.row_length, model.vocabulary)
            loss = model.loss(batch).total / count
            loss.backward()
            total += float(loss.detach())
        return total

    return run


def peer_loss(peer: Any) -> Callable[[Sequence[EncodedDocument]], float]:
    """The same for transformers, accumulated over batches of similar length."""

    def run(values: Sequence[EncodedDocument]) -> float:
        count = num_targets(values)
        total = 0.0
        for ids, expected in by_length(values):
            loss = peer(input_ids=ids, labels=expected, num_items_in_batch=count).loss
            loss.backward()
            total += float(loss.detach())
        return total

    return run


def check(vocabulary: int) -> dict[str, float]:
    """Losses and gradient norms of both in float32, with the same weights."""
    model = build_decoder(vocabulary)
    values = documents(model.vocabulary, CHECK_TOKENS)
    peer = build_peer(model.vocabulary.size)
    copy_weights(model, peer)
    result = {"unimodal": our_loss(model)(values), "transformers": peer_loss(peer)(values)}
    for name, weight in (
        ("unimodal_grad", model.norm.weight),
        ("transformers_grad", peer.model.norm.weight),
    ):
        assert weight.grad is not None
        result[name] = float(weight.grad.norm())
    return result


def measure(name: str, vocabulary: int, steps: int, compiled: bool) -> Measurement:
    """Time whole steps of one contender in this process."""
    torch.manual_seed(0)
    model = build_decoder(vocabulary)
    ledger, size = model.vocabulary, model.vocabulary.size
    if name == "transformers":
        peer = build_peer(size)
        network, run = peer, peer_loss(torch.compile(peer, dynamic=True) if compiled else peer)
        del model
    else:
        network, run = model, our_loss(model)
        if compiled:
            model.compile_layers()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    fast, _ = fast_bfloat16(torch.device("cpu"))
    idle = _peak_mib()
    times: list[float] = []
    cpu_times: list[float] = []
    tokens = 0
    for step in range(steps + 1):
        values = documents(ledger, STEP_TOKENS)
        tokens = sum(map(len, values))
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            run(values)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
        print(f"{name} step {step}: {times[-1]:.2f} s", file=sys.stderr, flush=True)
    label = f"{name}, compiled" if compiled else name
    return Measurement(
        name=label,
        vocabulary=vocabulary,
        tokens_per_second=tokens / median(times[1:]),
        tokens_per_cpu_second=tokens / median(cpu_times[1:]),
        peak_mib=_peak_mib(),
        idle_mib=idle,
        step_tokens=tokens,
        first_step_seconds=times[0],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all contenders and print one table."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.benchmarks.train_step")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one untimed")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 6_000])
    parser.add_argument("--contender", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contender:
        size = options.vocabulary[0]
        measured = measure(options.contender, size, options.steps, options.compile)
        print(json.dumps(asdict(measured)))
        return
    results: list[dict[str, Any]] = []
    for size in options.vocabulary:
        losses = check(size)
        if abs(losses["unimodal"] - losses["transformers"]) > TOLERANCE:
            raise CertificateError(
                f"The losses of the same documents must agree within {TOLERANCE}, but are {losses}."
            )
        print(f"vocabulary {size}, float32 losses: {losses}", flush=True)
        for compiled in (False, True) if options.compile else (False,):
            for name in NAMES:
                results.append(_in_subprocess(name, size, options.steps, compiled))
                print(_line(results[-1]), flush=True)
    if options.json:
        card = {"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}
        options.json.write_text(json.dumps(card, indent=2))


def _in_subprocess(name: str, vocabulary: int, steps: int, compiled: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "unimodal.benchmarks.train_step", "--contender", name]
    command += ["--vocabulary", str(vocabulary), "--steps", str(steps)]
    command += ["--compile"] if compiled else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _line(result: dict[str, Any]) -> str:
    return (
        f"{result['name']:<24}{result['tokens_per_second']:>10,.0f} tokens/s"
        f"{result['tokens_per_cpu_second']:>10,.0f} a CPU second"
        f"{result['peak_mib']:>10,.0f} MiB peak ({result['idle_mib']:,.0f} before the first step)"
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run_module(main)
