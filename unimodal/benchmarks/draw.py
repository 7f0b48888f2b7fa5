"""Images a second: codes of pictures from a short text, cached, guided and not, beside peers.

    python -m unimodal.benchmarks.draw [--repeats N] [--dalle FOLDER] [--json PATH]

64 codes out of 4,096 after 12 text tokens; 6 layers of 320 (5 heads of 64), float32 (ours with
matrices in bfloat16 and int8, too), greedy, batch 1 and 16. transformers' Qwen3 has the same
weights and a static cache, and must write the same ids in float32, or nothing is reported; its
guidance is its own (`guidance_scale`, whose null branch has a cache of its own). Positions are one-
dimensional in both, as Qwen3 has no others. Not counted: the decoder of a codec, which is the same
for all. DALLE-pytorch (`--dalle`: a folder that holds it, see `dalle_peer`) has the same width,
depth and heads but weights of its own, so its ids are not compared; it has no cache where nothing
is guided. The contenders take turns, the best repeat counts, prefill included.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimodal.benchmarks.generate import LOW, build_qwen3, measure, peer_writes
from unimodal.benchmarks.train_step import Ids
from unimodal.errors import BackendUnavailableError, run_module
from unimodal.generation import Engine, Request, Sampling
from unimodal.grammar import Fixed
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment, encode_document
from unimodal.testing.certificates import sharpen
from unimodal.vocabulary import Vocabulary

TEXT, PICTURE = "ids", "codes"
"""Modalities; both have the span `ids`."""
TEXT_SIZE, PICTURE_SIZE = 6_000, 4_096
PROMPT_TOKENS = 12
CODES = 64
"""Of one picture."""
GUIDANCE = 3.0
BATCHES = (1, 16)
QUIET = 1e-3
"""Factor of the output rows of all that is no code, so that neither model ever writes it."""


class Codes(Ids):
    """Bare codes of a picture of one size."""

    layout = Fixed(CODES)  # type: ignore[assignment]


@dataclass
class Drawn:
    """One contender at one batch size."""

    name: str
    batch: int
    guidance: float
    images_per_second: float
    same_ids: float | None
    """Share of its ids that are the first contender's; None where weights differ."""


def build_decoder(**options: Any) -> Decoder:
    """The decoder that is measured."""
    shape = {"width": 320, "num_layers": 6, "mlp_width": 864} | options
    vocabulary = Vocabulary.of({TEXT: Ids(TEXT_SIZE), PICTURE: Codes(PICTURE_SIZE)})
    decoder = sharpen(Decoder(DecoderConfig(tie_embeddings=False, **shape), vocabulary))
    with torch.no_grad():
        for name, table in decoder.outputs.items():
            if name != f"{PICTURE}/{TEXT}":
                table.mul_(QUIET)
    return decoder.eval()


def build_requests(
    decoder: Decoder, batch: int, guidance: float
) -> tuple[list[Request], Tensor, Tensor]:
    """Requests; the ids that their prompts begin with (batch, T), and those of the null one."""
    rng = np.random.default_rng(0)
    opener = torch.tensor([decoder.vocabulary.opener(PICTURE)])
    sampling = Sampling(temperature=0.0, guidance=guidance)
    null = Document(())
    requests, rows = [], []
    for _ in range(batch):
        text = torch.from_numpy(rng.integers(0, TEXT_SIZE, PROMPT_TOKENS))
        document = Document((Segment(TEXT, text),))
        requests.append(Request(document, [PICTURE], sampling, max_tokens=CODES + 1, null=null))
        ids = encode_document(document, decoder.vocabulary, decoder.stream).ids
        rows.append(torch.cat([ids, opener]))
    return requests, torch.stack(rows), opener.repeat(batch, 1)


def run(repeats: int, dalle: Path | None = None, batches: Sequence[int] = BATCHES) -> list[Drawn]:
    """All measurements.

    Args:
        repeats: Timed runs of each, after one that is not counted; the best counts.
        dalle: Folder that holds DALLE-pytorch; None leaves it out.
        batches: Pictures drawn at once.

    Raises:
        BackendUnavailableError: if transformers or DALLE-pytorch does not load.
        CertificateError: if contenders of the same weights write different ids.
    """
    decoder = build_decoder()
    engines = {"unimodal": Engine(decoder)}
    engines |= {f"unimodal, {dtype}": Engine(decoder, dtype) for dtype in LOW}
    peer = build_qwen3(decoder)
    found = []
    for batch in batches:
        for guidance in (1.0, GUIDANCE):
            requests, prompts, null = build_requests(decoder, batch, guidance)
            contenders = {name: _ours(engine, requests) for name, engine in engines.items()}
            contenders["transformers"] = _theirs(peer, prompts, null, guidance)
            for m in measure(contenders, batch, CODES, repeats, list(engines)[1:]):
                speed = m.tokens_per_second / CODES
                found.append(Drawn(m.name, batch, guidance, speed, m.same_ids))
    if dalle is not None:
        found += _dalle(decoder, dalle, repeats, batches)
    return found


def _ours(engine: Engine, requests: list[Request]) -> Callable[[], list[list[int]]]:
    def run_once() -> list[list[int]]:
        answers = engine.generate(requests, batch_size=len(requests))
        return [answer.segments[0].ids for answer in answers]

    return run_once


def _theirs(
    model: Any, prompts: Tensor, null: Tensor, guidance: float
) -> Callable[[], list[list[int]]]:
    guided = {}
    if guidance != 1.0:
        guided = {
            "guidance_scale": guidance,
            "negative_prompt_ids": null,
            "negative_prompt_attention_mask": torch.ones_like(null),
        }

    return peer_writes(model, prompts, CODES, **guided)


def _dalle(decoder: Decoder, folder: Path, repeats: int, batches: Sequence[int]) -> list[Drawn]:
    config = decoder.config
    facts = {
        "width": config.width,
        "depth": config.num_layers,
        "heads": config.num_heads,
        "head_dim": config.head_dim,
        "size": PICTURE_SIZE,
        "codes": CODES,
        "text_size": TEXT_SIZE,
        "prompt": PROMPT_TOKENS,
        "batches": list(batches),
        "guidance": GUIDANCE,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }
    script = Path(__file__).with_name("dalle_peer.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), json.dumps(facts)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackendUnavailableError(
            f"DALLE-pytorch did not run: {done.stderr.strip().splitlines()[-1:]}.",
            subject=str(folder),
            remedy=f"See how to install it at the top of {script.name}.",
        )
    return [
        Drawn("DALLE-pytorch", m["batch"], m["guidance"], m["batch"] / m["seconds"], None)
        for m in json.loads(done.stdout.splitlines()[-1])
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts")
    parser.add_argument("--dalle", type=Path, metavar="FOLDER", help="holds DALLE-pytorch")
    parser.add_argument("--json", type=Path, help="where to write the measurements")
    chosen = parser.parse_args(arguments)
    found = run(chosen.repeats, chosen.dalle)
    base = {(m.batch, m.guidance): m for m in found if m.name == "transformers"}
    for m in found:
        times = m.images_per_second / base[m.batch, m.guidance].images_per_second
        same = "" if m.same_ids is None else f"  same ids {m.same_ids:.1%}"
        print(
            f"batch {m.batch:2d}  guidance {m.guidance:.1f}  {m.name:18s} "
            f"{m.images_per_second:8.3f} images/s ({times:.2f}x){same}"
        )
    if chosen.json:
        facts = {
            "command": "python -m unimodal.benchmarks.draw",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "codes": CODES,
            "measurements": [asdict(m) for m in found],
        }
        chosen.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_module(main)
