"""On a GPU, in under ten minutes: every operator against float64, then its speed against others.

    python -m unimodal.kernels.bench.gpu [--op NAME ...] [--minutes 9]

Needs torch, triton and numpy alone. First it names the card. Then every case is checked twice
(outputs and gradients must be right, and bit-equal in both runs); then, while time is left, the
cases are timed. Everything goes to `kernels/bench/results/<card>.json`, which is written anew after
each case. Exit code 1 if anything of ours is wrong, 2 without a GPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unimodal.errors import run_module
from unimodal.kernels import dispatch
from unimodal.kernels.bench import machine, numerics
from unimodal.kernels.bench.run import ONLY_FLOAT32, PROBLEMS, bench, gradients, problem_of
from unimodal.kernels.bench.spec import OURS, Contender, Spec
from unimodal.kernels.dispatch import tables

RESULTS = Path(__file__).resolve().parent / "results"
PATTERNS = (
    "causal",
    "full",
    "window(size=64)",
    "prefix(length=4)",
    "row",
    "column",
    "conv(size=11)",
)
BIG = {"batch": 1, "seq": 16_384, "heads": 16, "kv_heads": 16}


def checked_specs() -> list[Spec]:
    """What is checked: every pattern, head size and ratio of heads, and all other operators."""
    base = Spec(
        op="attention", dtype="bfloat16", device="cuda", seq=1280, batch=2, heads=4, kv_heads=2
    )
    specs = [
        replace(base, pattern=pattern, head_dim=size) for pattern in PATTERNS for size in (64, 128)
    ]
    specs += [
        replace(base, pattern="nearby_3d(t=3, h=3, w=3)", grid=(5, 16, 16)),
        replace(base, pattern="row & conv(size=3)"),
        replace(base, documents=5, kv_heads=4),
        replace(base, dtype="float16"),
        replace(base, dtype="float32"),
        replace(base, head_dim=32),
        replace(base, head_dim=96),
        replace(base, head_dim=256),
        replace(base, seq=1279, kv_heads=1),
    ]
    cached = replace(base, op="decode", pattern="row", kv_heads=2)
    specs += [replace(cached, queries=n, head_dim=size) for n in (1, 8) for size in (64, 128)]
    specs += [replace(cached, pattern="causal"), replace(cached, page=64)]
    specs.append(replace(base, op="qk_prologue", pattern="column"))
    return specs + _others(base)


def timed_specs() -> list[Spec]:
    """What is timed: the sizes that papers report, each sparse pattern, every other operator."""
    base = Spec(op="attention", dtype="bfloat16", device="cuda", seconds=0.4, **BIG)  # type: ignore[arg-type]
    specs = [
        replace(base, pattern=pattern, head_dim=size, heads=2048 // size, kv_heads=2048 // size)
        for pattern in ("causal", "full")
        for size in (64, 128)
    ]
    picture = replace(base, batch=16, seq=1280)
    specs += [replace(picture, pattern=p) for p in ("row", "column", "conv(size=11)")]
    specs.append(
        replace(picture, pattern="nearby_3d(t=3, h=3, w=3)", seq=2816, batch=8, grid=(10, 16, 16))
    )
    specs.append(replace(base, documents=32))
    others = replace(base, seq=8192, heads=32, kv_heads=8, head_dim=128, classes=32_768)
    specs += [replace(others, op="decode", batch=batch, queries=1) for batch in (1, 16)]
    return specs + _others(others)


def _others(base: Spec) -> list[Spec]:
    """The operators that know no patterns."""
    return [
        replace(base, op=op, dtype="float32" if op in ONLY_FLOAT32 else "bfloat16")
        for op in PROBLEMS
        if op not in ("attention", "decode")
    ]


def check_twice(spec: Spec) -> dict[str, Any]:
    """Numerics of one case, and whether two runs agree to the bit.

    Returns:
        `spec`, `checks`, `is_right`, `same_twice`.
    """
    problem = problem_of(spec)
    made = problem.makers[OURS]()
    assert isinstance(made, Contender)
    if made.prepare is not None:
        made.prepare()
    right = numerics.truth(problem)
    checks = numerics.check(problem, made, right, bool(problem.grads))
    first, second = (gradients(problem, made) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    again = numerics.check(problem, made, right, bool(problem.grads))
    return {
        "spec": asdict(spec),
        "checks": [asdict(check) for check in checks],
        "is_right": all(check.is_right for check in (*checks, *again)),
        "same_twice": same,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.kernels.bench.gpu")
    parser.add_argument("--op", nargs="+", choices=sorted(PROBLEMS), help="these operators only")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no benchmark after this")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("bench-gpu: torch sees no CUDA device here; nothing was measured.", file=sys.stderr)
        return 2
    start = time.monotonic()
    card = tables.card_name()
    facts = machine.describe("cuda")
    print(f"{facts['card']}, {tables.architecture()}, {json.dumps(facts['clocks'])}")
    for said in dispatch.explain():
        if said.device == "cuda":
            print(f"  {said.op} runs {said.implementation}: {said.reason}")
    wanted = set(options.op or PROBLEMS)
    results: dict[str, Any] = {"machine": facts, "checked": [], "timed": [], "not_timed": []}
    path = RESULTS / f"{card}.json"
    failed = 0

    def keep() -> None:
        results["seconds"] = round(time.monotonic() - start, 1)
        text = json.dumps(results, indent=1, default=str) + "\n"
        path.write_text(text, encoding="utf-8")

    for spec in checked_specs():
        if spec.op in wanted:
            failed += _check(spec, results)
            keep()
    for spec in timed_specs():
        if spec.op not in wanted:
            continue
        if time.monotonic() - start > 60 * options.minutes:
            results["not_timed"].append(_name(spec))
            print(f"no time left for {_name(spec)}")
            continue
        failed += _time(spec, results)
        keep()
    keep()
    print(f"wrote {path} after {results['seconds']:.0f} s, {failed} faults")
    return 1 if failed else 0


def _check(spec: Spec, results: dict[str, Any]) -> int:
    try:
        found = check_twice(spec)
    except Exception as error:  # a kernel that does not compile must not cost the other cases
        found = {
            "spec": asdict(spec),
            "is_right": False,
            "error": f"{type(error).__name__}: {error}",
        }
    results["checked"].append(found)
    verdict = "right" if found["is_right"] else f"WRONG {found.get('error', found.get('checks'))}"
    print(f"check {_name(spec)}: {verdict}; same twice: {found.get('same_twice')}", flush=True)
    return not (found["is_right"] and found.get("same_twice", False))


def _time(spec: Spec, results: dict[str, Any]) -> int:
    try:
        found = bench(spec)
    except Exception as error:
        results["timed"].append({"spec": asdict(spec), "error": f"{type(error).__name__}: {error}"})
        print(f"bench {_name(spec)}: {type(error).__name__}: {error}", flush=True)
        return 1
    results["timed"].append(found)
    print(f"bench {_name(spec)}")
    for name, reason in found["missing"].items():
        print(f"  {name}: {reason}")
    for name in found["wrong"]:
        print(f"  {name}: WRONG, no speed")
    for row in found["results"]:
        print(
            f"  {row['direction']:<8} {row['contender']:<10} {row['ms']:9.3f} ms "
            f"{row['tflops']:7.1f} TFLOP/s {row['gbs']:7.0f} GB/s {row['roof_share']:6.1%} of roof",
            flush=True,
        )
    torch.cuda.empty_cache()
    return OURS in found["wrong"]


def _name(spec: Spec) -> str:
    reads = spec.op in ("attention", "decode", "qk_prologue")
    what = f"{spec.op} {spec.pattern}" if reads else spec.op
    size = f"{spec.batch}x{spec.seq}, {spec.heads}/{spec.kv_heads} heads of {spec.head_dim}"
    paged = f", pages of {spec.page}" if spec.page else ""
    return f"{what}, {size}, {spec.documents} documents, {spec.dtype}{paged}"


if __name__ == "__main__":
    run_module(main)
