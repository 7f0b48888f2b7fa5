"""Cross-entropy of a linear head against torch's own, forward and backward.

    python -m unimodal.benchmarks.cross_entropy [--classes N ...] [--positions N]

`autocast` materialises the logits as most code does; `torch` is `F.linear_cross_entropy`, where
torch has it, with everything in bfloat16. CPU milliseconds, the best of three.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodal.kernels.cross_entropy import linear_cross_entropy

WIDTH = 320


def best_of_three(run: Callable[[], object]) -> float:
    """CPU milliseconds of the fastest of three runs, after one that is not counted."""
    run()
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def contenders(positions: int, classes: int) -> dict[str, Callable[[], object]]:
    """Functions that each compute the loss and both gradients of the same problem."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(classes, WIDTH, generator=generator) * 0.05).requires_grad_()
    target = torch.randint(classes, (positions,), generator=generator)
    ones = torch.ones(positions)
    hidden_low, weight_low = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))

    def ours() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = linear_cross_entropy(hidden, weight, target, ones)
        return torch.autograd.grad(loss, (hidden, weight))

    def autocast() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            logits = F.linear(hidden, weight)
        loss = F.cross_entropy(logits.float(), target, reduction="sum")
        return torch.autograd.grad(loss, (hidden, weight))

    def fused() -> object:
        loss: Tensor = F.linear_cross_entropy(hidden_low, weight_low, target, reduction="sum")
        return torch.autograd.grad(loss, (hidden_low, weight_low))

    result: dict[str, Callable[[], object]] = {"unimodal": ours, "autocast": autocast}
    if hasattr(F, "linear_cross_entropy"):
        result["torch"] = fused
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line for each number of classes."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.benchmarks.cross_entropy")
    parser.add_argument("--classes", type=int, nargs="+", default=[6_000, 32_000])
    parser.add_argument("--positions", type=int, default=2_048)
    options = parser.parse_args(arguments)
    for classes in options.classes:
        times = {n: best_of_three(f) for n, f in contenders(options.positions, classes).items()}
        print(classes, ", ".join(f"{name} {ms:,.0f} ms" for name, ms in times.items()), flush=True)


if __name__ == "__main__":
    main()
