"""`unimodal bench`: an operator of kernels/ against what others offer; speed only of what is right.

Needs torch and numpy alone, so that it runs on a bare machine with a GPU; `rich` and matplotlib
only make it nicer (tables, `--plot`).
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimodal.cli.console import print_json
from unimodal.errors import EXIT_FAILURE, ConfigError

if TYPE_CHECKING:
    from unimodal.kernels.bench.spec import Spec

ABOUT = (
    "Time an operator against others, forward and backward, after checking its results. "
    "Exit code 1 if ours is wrong."
)
EPILOG = "Example: unimodal bench --op attention --pattern row --seq 1280 --against sdpa,dense"
COLUMNS = {
    "contender": "contender",
    "direction": "direction",
    "ms": "ms",
    "low_ms": "10 %",
    "high_ms": "90 %",
    "build_ms": "build ms",
    "tflops": "TFLOP/s",
    "gbs": "GB/s",
    "roof_share": "of roof",
    "peak_mib": "peak MiB",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--op", default="attention", help="attention, decode, cross_entropy, rms_norm, ...")
    add("--pattern", default="causal", help="of attention and decode: row, conv(size=11), ...")
    add("--batch", type=int, default=1)
    add("--seq", type=int, default=1280, help="positions of a row")
    add("--heads", type=int, default=8, help="query heads; width is heads x head-dim")
    add("--kv-heads", type=int, help="key heads; by default as many as query heads")
    add("--head-dim", type=int, default=64)
    add("--classes", type=int, default=8192, help="ids of a head, codes of a codebook")
    add("--queries", type=int, default=1, help="of decode: new positions of each row")
    add("--page", type=int, default=0, help="of decode: slots of a page; 0: a cache of one piece")
    add("--documents", type=int, default=1, help="of attention: documents packed in a row")
    add("--grid", metavar="T,H,W", help="of attention: cells at the end of each document")
    add("--dtype", help="float16, bfloat16, float32; bfloat16 on a GPU, else float32")
    add("--layers", type=int, default=12, help="layers that share one plan or mask")
    add("--against", default="", help="names joined by commas; by default all that are known")
    add("--seconds", type=float, default=2.0, help="for each contender and direction")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is busy")
    add("--device", default="auto", help="cpu or cuda; by default cuda, if it is there")
    add("--plot", metavar="PNG", type=Path, help="draw bars and roofline (needs matplotlib)")
    add("--profile", action="store_true", help="also where the time of ours goes")
    add("--base", metavar="REV", help="compare ours with the same operator at another commit")
    add(
        "--tune", action="store_true", help="on a GPU: search configs, and use the best from now on"
    )
    add("--json", action="store_true", help="print JSON, errors included")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print."""
    spec = _spec(arguments)
    if arguments.tune:
        from unimodal.kernels.bench.tune import tune

        return _show(tune(spec), arguments, _print_tuned)
    if arguments.base:
        from unimodal.kernels.bench.revisions import compare

        return _show(compare(spec, arguments.base), arguments, _print_ratios)
    from unimodal.kernels.bench.run import bench, profile

    found = bench(spec)
    is_wrong = "unimodal" in found["wrong"]
    if arguments.profile and not is_wrong:
        found["profile"] = profile(spec)
    if arguments.plot is not None and not is_wrong:
        from unimodal.report.kernel_speed import draw

        draw(found, arguments.plot)
    _show(found, arguments, print_found)
    return EXIT_FAILURE if is_wrong else 0


def _spec(arguments: argparse.Namespace) -> "Spec":
    import torch

    from unimodal.kernels.bench.spec import Spec

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"It must be cpu or cuda, but is {device}.", subject="--device")
    grid = None
    if arguments.grid:
        try:
            t, h, w = (int(n) for n in arguments.grid.split(","))
        except ValueError:
            raise ConfigError(
                f"It must be three integers T,H,W, but is {arguments.grid}.", subject="--grid"
            ) from None
        grid = (t, h, w)
    names = (
        "op",
        "pattern",
        "batch",
        "seq",
        "heads",
        "head_dim",
        "classes",
        "queries",
        "page",
        "documents",
    )
    chosen = {name: getattr(arguments, name) for name in (*names, "layers", "seconds", "clock")}
    spec = Spec(**chosen, kv_heads=arguments.kv_heads or arguments.heads, device=device, grid=grid)
    against = tuple(name for name in arguments.against.split(",") if name)
    dtype = arguments.dtype or ("bfloat16" if device == "cuda" else "float32")
    if spec.op == "log_mel" and arguments.dtype is None:
        dtype = "float32"
    return replace(spec, against=against, dtype=dtype)


def _show(found: dict[str, Any], arguments: argparse.Namespace, show: Any) -> int:
    if arguments.json:
        print_json(found)
    else:
        show(found)
    return 0


def print_found(found: dict[str, Any]) -> None:
    """One benchmark for people."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    print(
        f"{machine['card']}, {machine['threads']} threads, {versions}, commit {machine['commit']}"
    )
    print(f"clocks: {json.dumps(machine['clocks'])}")
    print(f"ours runs {found['implementation']}")
    for name, reason in found["missing"].items():
        print(f"not here: {name}: {reason}")
    for name, checks in found["wrong"].items():
        for check in checks:
            print(
                f"WRONG: {name}, {check['name']}: off by {check['error']:.3g}, "
                f"allowed {check['tolerance']:.3g}; no speed is shown",
                file=sys.stderr,
            )
    if not found["results"]:
        return
    roof = found["roof"]
    print(f"roof in this run: {roof['tflops']:.4g} TFLOP/s, {roof['gbs']:.4g} GB/s")
    print(f"{found['method']}\n")
    print_rows(list(COLUMNS.values()), [[r[c] for c in COLUMNS] for r in found["results"]])
    if "profile" in found:
        print(f"\n{found['profile']}")


def print_rows(columns: list[str], rows: list[list[Any]]) -> None:
    """A table by `rich`, or plainly where that is not installed."""
    try:
        from unimodal.cli.console import print_table

        print_table(columns, rows)
    except ImportError:
        for row in [columns, *rows]:
            cells = [
                f"{c:.4g}" if isinstance(c, float) else str("" if c is None else c) for c in row
            ]
            print("  ".join(f"{cell:>10}" for cell in cells))


def _print_ratios(found: dict[str, Any]) -> None:
    print(
        f"{found['revision']} against {found['now']['machine']['commit']}: time there / time here"
    )
    for direction, ratio in found["ratios"].items():
        print(f"{direction}: {ratio:.3f}")


def _print_tuned(found: dict[str, Any]) -> None:
    for kernel, facts in found["kernels"].items():
        best, first = facts["best"], facts["tried"][0]
        before = first["result"]
        was = f"{before:.4g} ms" if isinstance(before, float) else before
        print(f"{kernel}: {best['result']:.4g} ms with {best['config']}; was {was}")
    print(f"wrote {found['path']}, used from now on")
