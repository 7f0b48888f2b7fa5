"""A training step of a decoder of DALL-E's patterns against the same decoder over dense masks.

    python -m unimodal.benchmarks.pattern_step [--batch N] [--layers N] [--json PATH]

Documents of 256 words and 32 x 32 cells; layers of row, row, column, row attention and so on, the
last one convolutional, as DALL-E has them. Both contenders run the same layers, head and optimizer
from the same weights, under autocast; one attends by plans, the other by
`scaled_dot_product_attention` with a mask for each pattern, which is what PyTorch offers for such a
layer without a compiler. What plans and masks cost to make is part of each step. The gradients are
compared before anything is timed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimodal import blocks
from unimodal.blocks import Block, BlockConfig, attention_plan
from unimodal.errors import CertificateError, run_module
from unimodal.kernels.attention import attention
from unimodal.kernels.cross_entropy import linear_cross_entropy
from unimodal.kernels.qk_prologue import rope_tables
from unimodal.patterns import Causal, Column, Conv, Pattern, Row, visible
from unimodal.types import Coordinates, raster_grid

WORDS, SIDE, CODES = 256, 32, 4096
SIZES = BlockConfig(width=320, num_heads=5, num_kv_heads=5, head_dim=64, mlp_width=864)


@dataclass(frozen=True)
class DenseMasks:
    """A plan that is a mask of all pairs, as `scaled_dot_product_attention` takes it."""

    bias: Tensor
    order: None = None


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: DenseMasks, *, ordered: bool = False
) -> Tensor:
    """Attention over all pairs; arguments as `unimodal.kernels.attention` has them."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=plan.bias).transpose(1, 2)


def patterns(layers: int) -> list[Pattern]:
    """DALL-E's: every fourth layer column attention, the last convolutional, the others row."""
    chosen: list[Pattern] = [Column() if i % 4 == 2 else Row() for i in range(layers - 1)]
    return [*chosen, Conv(11)]


def documents(batch: int) -> Coordinates:
    """Words, then the cells of a picture as a segment of its own, one document a row."""
    cells = SIDE * SIDE
    of_grid = torch.arange(WORDS + cells) >= WORDS
    words = torch.zeros(WORDS, 3, dtype=torch.int32)
    words[:, 0] = torch.arange(WORDS)
    grid = torch.cat([words, raster_grid(1, SIDE, SIDE).int()])
    one = Coordinates(
        index=torch.arange(len(grid), dtype=torch.int32),
        document=torch.zeros(len(grid), dtype=torch.int32),
        segment=of_grid.int(),
        kind=of_grid.int(),
        full=torch.zeros(len(grid), dtype=torch.bool),
        grid=grid,
    )
    return one.map(lambda x: x.expand(batch, *x.shape).contiguous())


class Contender:
    """Layers, a head and an optimizer, and how its plans are made."""

    def __init__(self, batch: int, layers: int, dense: bool):
        torch.manual_seed(0)
        self.dense, self.by_layer = dense, patterns(layers)
        self.coordinates = documents(batch)
        self.blocks = nn.ModuleList(Block(SIZES, layers) for _ in range(layers))
        self.head = nn.Parameter(torch.randn(CODES, SIZES.width) * SIZES.width**-0.5)
        parameters = [*self.blocks.parameters(), self.head]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        shape = self.coordinates.index.shape
        self.x = torch.randn(*shape, SIZES.width)
        self.target = torch.randint(CODES, (shape.numel(),))
        position = self.coordinates.grid.float()
        self.rope = rope_tables(position, SIZES.head_dim)

    def plan(self, pattern: Pattern) -> Any:
        """What the layers of one pattern attend by."""
        by_kind = [Causal(), pattern]
        if not self.dense:
            return attention_plan(self.coordinates, by_kind)
        mask = visible(self.coordinates, self.coordinates, by_kind)[:, None]
        bias = torch.zeros(mask.shape, dtype=torch.bfloat16)
        return DenseMasks(bias.masked_fill_(~mask, -torch.inf))

    def step(self) -> float:
        """Forward, backward and update; the loss."""
        self.optimizer.zero_grad()
        made: dict[Pattern, Any] = {}
        attend = dense_attention if self.dense else attention
        with torch.autocast("cpu", torch.bfloat16), mock.patch.object(blocks, "attention", attend):
            x = self.x
            for block, pattern in zip(self.blocks, self.by_layer, strict=True):
                if pattern not in made:
                    made[pattern] = self.plan(pattern)
                x = block(x, self.rope, made[pattern])
            ones = torch.ones(len(self.target))
            loss, _ = linear_cross_entropy(x.flatten(0, 1), self.head, self.target, ones)
            loss = loss / len(self.target)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def gradient(self) -> Tensor:
        """All gradients of the last step, flat."""
        parameters = [*self.blocks.parameters(), self.head]
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def check(ours: Contender, theirs: Contender) -> float:
    """Relative difference of the gradients of one step.

    Raises:
        CertificateError: if they differ by more than bfloat16 explains.
    """
    ours.step()
    theirs.step()
    difference = (ours.gradient() - theirs.gradient()).norm() / theirs.gradient().norm()
    # Each of some dozen products in a row rounds to 2 ** -9.
    if not difference < 24 * 2**-9:
        raise CertificateError(
            f"The gradients of both contenders differ by {float(difference):.3f}."
        )
    return float(difference)


def seconds(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median of the steps of each, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.benchmarks.pattern_step")
    parser.add_argument("--batch", type=int, default=4, help="documents of 1,280 positions")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    ours, theirs = (Contender(options.batch, options.layers, dense) for dense in (False, True))
    difference = check(ours, theirs)
    found = seconds({"unimodal": ours.step, "dense masks": theirs.step}, options.repeats)
    ratio = found["dense masks"] / found["unimodal"]
    print(
        f"{options.batch} x {WORDS + SIDE * SIDE} positions, {options.layers} layers, "
        f"{torch.get_num_threads()} threads: unimodal {found['unimodal']:.2f} s a step, "
        f"dense masks {found['dense masks']:.2f} s ({ratio:.2f}x); "
        f"gradients differ by {difference:.4f}"
    )
    if options.json is not None:
        entry = {**vars(options), "json": str(options.json), "seconds": found, "ratio": ratio}
        options.json.write_text(json.dumps(entry | {"difference": difference}, indent=1) + "\n")


if __name__ == "__main__":
    run_module(main)
