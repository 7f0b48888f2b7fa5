"""Speed of generation against transformers' Qwen3 with its static cache, the same weights.

    python -m unimodal.benchmarks.generate [--tokens N] [--repeats N] [--compile] [--json PATH]

6 layers of 320 (5 heads of 64), vocabulary 6,000, float32, greedy, batch 1 and 16. Both continue
the same prompts, and must write the same ids: a difference is an error. Rows of their own show our
bfloat16 and int8 decoding, with the share of their ids that are those of float32, and of those
before an answer's first difference, after which it goes its own way. The contenders take turns,
the best of the repeats counts, prefill included. Tokens a CPU second (time of all threads) are
stated beside tokens a second: they hardly change when the machine is busy with other work.
`--compile` adds transformers with a compiled forward pass (it needs a C++ compiler, and minutes).
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimodal.benchmarks.train_step import Ids
from unimodal.errors import BackendUnavailableError, CertificateError, run_module
from unimodal.generation import Engine, Request, Sampling
from unimodal.media import torchaudio_adapter
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.huggingface import qwen3_config, qwen3_state
from unimodal.stream import Document, Segment, encode_document
from unimodal.testing.certificates import sharpen
from unimodal.training.trainee import check_compiler
from unimodal.vocabulary import Vocabulary

NAME = "ids"
VOCABULARY = 6_000
PROMPT_TOKENS = 16
BATCHES = (1, 16)
LOW = ("bfloat16", "int8")
"""Precisions of decoding that may write other ids than float32."""
QUIET = 1e-3
"""Factor of the rows of control ids, so that neither model ever writes one."""


@dataclass
class Measurement:
    """One contender at one batch size: tokens a second and a CPU second, of the best repeat."""

    name: str
    batch: int
    tokens_per_second: float
    tokens_per_cpu_second: float
    same_ids: float = 1.0
    """Share of the ids that are those of the first contender."""
    same_before_difference: float = 1.0
    """Share of the ids before an answer's first difference."""


def build_decoder(**options: Any) -> Decoder:
    """The decoder that is measured."""
    config = DecoderConfig(width=320, num_layers=6, mlp_width=864, **options)
    decoder = sharpen(Decoder(config, Vocabulary.of({NAME: Ids(VOCABULARY)})))
    with torch.no_grad():
        for name, table in decoder.embeddings.items():
            if name != f"{NAME}/{NAME}":
                table.mul_(QUIET)
    return decoder.eval()


def build_requests(decoder: Decoder, batch: int, tokens: int) -> tuple[list[Request], Tensor]:
    """Requests, and the ids that their prompts begin with (batch, T)."""
    rng = np.random.default_rng(0)
    requests, rows = [], []
    for _ in range(batch):
        prompt = torch.from_numpy(rng.integers(0, VOCABULARY, PROMPT_TOKENS))
        document = Document((Segment(NAME, prompt),))
        # Opener and end count, too.
        greedy = Sampling(temperature=0.0)
        requests.append(Request(document, [NAME], greedy, max_tokens=tokens + 2))
        ids = encode_document(document, decoder.vocabulary, decoder.stream).ids
        rows.append(torch.cat([ids, torch.tensor([decoder.vocabulary.opener(NAME)])]))
    return requests, torch.stack(rows)


def build_qwen3(decoder: Decoder) -> Any:
    """transformers' model with the decoder's weights, ids in ledger order.

    Raises:
        BackendUnavailableError: if transformers is not installed.
    """
    if importlib.util.find_spec("torchaudio") is not None:
        torchaudio_adapter.load()  # a torchaudio that does not load takes transformers down
    try:
        import transformers
    except ImportError:
        raise BackendUnavailableError(
            "transformers is not installed.", remedy="Install the extra `parity`."
        ) from None
    written = qwen3_config(decoder, decoder.vocabulary.spans)
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**written))
    state = qwen3_state(decoder, decoder.vocabulary.spans)
    model.load_state_dict(state, strict=False)
    model.generation_config.eos_token_id = None
    model.train(False)
    return model


def measure(
    contenders: dict[str, Callable[[], list[list[int]]]],
    batch: int,
    tokens: int,
    repeats: int,
    inexact: Collection[str] = (),
) -> list[Measurement]:
    """Time contenders in turn.

    Args:
        contenders: By name; the first says which ids are right.
        batch, tokens: What each call writes.
        repeats: Timed calls of each, after one that is not counted.
        inexact: Contenders that may write other ids.

    Raises:
        CertificateError: if others write different ids.
    """
    best = {name: (float("inf"), float("inf")) for name in contenders}
    for _ in range(repeats + 1):
        written = {}
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            written[name] = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], wall), min(best[name][1], cpu)
        first, *others = written
        for name in others:
            if name not in inexact and written[name] != written[first]:
                raise CertificateError(f"{name} and {first} write different ids.")
    count = batch * tokens
    return [
        Measurement(
            name, batch, count / wall, count / cpu, *_agreement(written[name], written[first])
        )
        for name, (wall, cpu) in best.items()
    ]


def _agreement(found: list[list[int]], right: list[list[int]]) -> tuple[float, float]:
    """Shares of the ids that are right, and that come before their answer's first wrong one."""
    same = before = 0
    for ours, theirs in zip(found, right, strict=True):
        equal = [a == b for a, b in zip(ours, theirs, strict=True)]
        same += sum(equal)
        before += equal.index(False) if False in equal else len(equal)
    count = sum(map(len, right))
    return same / count, before / count


def run(tokens: int, repeats: int, compiled: bool) -> list[Measurement]:
    """All measurements.

    Raises:
        BackendUnavailableError: if `compiled` and there is no C++ compiler.
        CertificateError: if the contenders write different ids.
    """
    if compiled:
        check_compiler(torch.device("cpu"))
    decoder = build_decoder()
    engines = {"unimodal": Engine(decoder)}
    engines |= {f"unimodal, {dtype}": Engine(decoder, dtype) for dtype in LOW}
    peers = {"transformers": build_qwen3(decoder)}
    if compiled:
        peers["transformers, compiled"] = build_qwen3(decoder)
        peers["transformers, compiled"].forward = torch.compile(
            peers["transformers, compiled"].forward
        )
    found = []
    for batch in BATCHES:
        requests, prompts = build_requests(decoder, batch, tokens)
        contenders = {name: _ours(engine, requests) for name, engine in engines.items()}
        for name, model in peers.items():
            contenders[name] = peer_writes(model, prompts, tokens)
        inexact = [f"unimodal, {dtype}" for dtype in LOW]
        found += measure(contenders, batch, tokens, repeats, inexact)
    return found


def _ours(engine: Engine, requests: list[Request]) -> Callable[[], list[list[int]]]:
    def run_once() -> list[list[int]]:
        answers = engine.generate(requests, batch_size=len(requests))
        return [answer.segments[0].ids[:-1] for answer in answers]

    return run_once


def peer_writes(
    model: Any, prompts: Tensor, tokens: int, **options: Any
) -> Callable[[], list[list[int]]]:
    """A call in which transformers' model writes greedily with a static cache.

    Args:
        model: From `build_qwen3`.
        prompts: (batch, T).
        tokens: Ids that are written.
        options: More of `model.generate`.
    """

    def run_once() -> list[list[int]]:
        with torch.inference_mode():
            ids = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                cache_implementation="static",
                **options,
            )
        written: list[list[int]] = ids[:, prompts.shape[1] :].tolist()
        return written

    return run_once


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=256, help="ids written by each request")
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts")
    parser.add_argument("--compile", action="store_true", help="transformers compiled, too")
    parser.add_argument("--json", type=Path, help="where to write the measurements")
    chosen = parser.parse_args(arguments)
    found = run(chosen.tokens, chosen.repeats, chosen.compile)
    base = {m.batch: m for m in found if m.name == "transformers"}
    for m in found:
        peer = base[m.batch]
        print(
            f"batch {m.batch:2d}  {m.name:24s} {m.tokens_per_second:8.0f} tokens/s "
            f"({m.tokens_per_second / peer.tokens_per_second:.2f}x)  "
            f"{m.tokens_per_cpu_second:8.0f} tokens/CPU s "
            f"({m.tokens_per_cpu_second / peer.tokens_per_cpu_second:.2f}x)  "
            f"same ids {m.same_ids:.1%}, before the first difference {m.same_before_difference:.1%}"
        )
    if chosen.json:
        facts = {
            "command": "python -m unimodal.benchmarks.generate",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "tokens": chosen.tokens,
            "measurements": [asdict(m) for m in found],
        }
        chosen.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_module(main)
