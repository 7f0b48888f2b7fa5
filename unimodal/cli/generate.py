"""`unimodal generate`: one value from another, written to a file or printed."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimodal.cli.console import print_json
from unimodal.cli.options import add_compute_options, add_run, add_sampling_options

if TYPE_CHECKING:
    from unimodal.evaluation.progress import ProgressBar
    from unimodal.generation import Answer
    from unimodal.modality import Modality

ABOUT = "Generate a value: a caption of a picture, a sequence from a name, the rest of a text."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate`."""
    add_run(parser)
    parser.add_argument(
        "value", nargs="?", metavar="VALUE", help="a file, or a text; none generates from nothing"
    )
    parser.add_argument(
        "--from", dest="source", metavar="NAME", help="modality of VALUE; by default found out"
    )
    parser.add_argument(
        "--to", metavar="NAME", help="modality to write; by default what --task writes, else text"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the value")
    parser.add_argument("--n", type=int, default=1, help="answers to draw; the best is taken")
    parser.add_argument(
        "--rank",
        default="likelihood",
        choices=("likelihood", "reverse"),
        help="the best of --n: the likeliest, or that after which what is given is likeliest",
    )
    parser.add_argument(
        "--prefix", metavar="VALUE", help="what the answer begins with: a file, or a text"
    )
    parser.add_argument(
        "--prefix-cells",
        type=int,
        metavar="N",
        help="how many of its cells are given, row by row; by default all",
    )
    parser.add_argument("--task", metavar="NAME", help="task of the run whose template to use")
    parser.add_argument(
        "--dtype",
        default="float32",
        metavar="NAME",
        help="float32, or faster and less exact: bfloat16, int8",
    )
    add_sampling_options(parser)
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generate and write."""
    from unimodal.cli.inputs import Input, check_out, naming, read_word
    from unimodal.evaluation.progress import ProgressBar

    check_out(arguments.out)
    from unimodal.runtime import AUTO, load
    from unimodal.stream import Segment

    model = load(arguments.run, arguments.device, dtype=arguments.dtype)
    found: list[Input] = []
    if arguments.value is not None:
        found = [read_word(arguments.value, model.vocabulary, arguments.source)]
    prefix = None
    if arguments.prefix is not None:
        # A file is read by the modality that is written.
        is_file = Path(arguments.prefix).is_file()
        prefix = Path(arguments.prefix) if is_file else arguments.prefix
    with naming(found), ProgressBar(quiet=arguments.json) as bar:
        answer = model.generate(
            [Segment(item.modality, item.value) for item in found],
            to=arguments.to or AUTO,
            n=arguments.n,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            seed=arguments.seed,
            guidance=arguments.guidance,
            max_tokens=arguments.max_tokens,
            prefix=prefix,
            prefix_cells=arguments.prefix_cells,
            rank=arguments.rank,
            task=arguments.task,
            on_progress=_after_a_second(bar),
        )
    written = answer.segments[0].modality
    modality = model.vocabulary.modality(written)
    if arguments.out is not None:
        model.save(answer, arguments.out)
    _print(answer, arguments, modality)
    return 0


def _after_a_second(bar: "ProgressBar") -> Callable[[int, int], None]:
    """Moves a bar of ids, if the work takes longer."""
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        if time.monotonic() - start > 1:
            bar("ids", done, total)

    return show


def _print(answer: "Answer", arguments: argparse.Namespace, modality: "Modality[Any, Any]") -> None:
    is_string, written = modality.value_type is str, modality.name
    units = f"{modality.raw_units(answer.value):g} {modality.raw_unit}s"
    value: Any = answer.value if is_string else f"{type(answer.value).__name__} of {units}"
    if arguments.json:
        out = str(arguments.out) if arguments.out is not None else None
        facts = {"to": written, "value": value, "file": out, "num_ids": len(answer.ids)}
        print_json({**facts, "nats": -answer.logprob, "is_truncated": answer.is_truncated})
    elif arguments.out is not None:
        print(arguments.out)
    elif is_string:
        print(value)
    else:
        print(f"{value}, by {len(answer.ids)} ids of `{written}`. Give --out FILE to write it.")
