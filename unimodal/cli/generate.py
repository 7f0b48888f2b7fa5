"""`unimodal generate`: one value from another, written to a file or printed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimodal.cli.console import print_json
from unimodal.cli.options import add_compute_options, add_run, add_sampling_options

if TYPE_CHECKING:
    from unimodal.generation import Answer

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
    parser.add_argument("--n", type=int, default=1, help="answers to draw; the likeliest is taken")
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

    check_out(arguments.out)
    from unimodal.runtime import AUTO, load
    from unimodal.stream import Segment

    model = load(arguments.run, arguments.device, dtype=arguments.dtype)
    found: list[Input] = []
    if arguments.value is not None:
        found = [read_word(arguments.value, model.vocabulary, arguments.source)]
    with naming(found):
        answer = model.generate(
            [Segment(item.modality, item.value) for item in found],
            to=arguments.to or AUTO,
            n=arguments.n,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            seed=arguments.seed,
            max_tokens=arguments.max_tokens,
            task=arguments.task,
        )
    written = answer.segments[0].modality
    modality = model.vocabulary.modality(written)
    if arguments.out is not None:
        modality.write(answer.value, arguments.out)
    _print(answer, arguments, written, modality.value_type)
    return 0


def _print(answer: "Answer", arguments: argparse.Namespace, written: str, value_type: type) -> None:
    value: Any = answer.value if value_type is str else repr(answer.value)
    if arguments.json:
        out = str(arguments.out) if arguments.out is not None else None
        facts = {"to": written, "value": value, "file": out, "num_ids": len(answer.ids)}
        print_json({**facts, "nats": -answer.logprob, "is_truncated": answer.is_truncated})
    elif arguments.out is not None:
        print(arguments.out)
    elif value_type is str:
        print(value)
    else:
        print(f"{value}\nGive --out FILE to write it.")
