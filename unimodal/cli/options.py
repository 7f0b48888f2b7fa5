"""Arguments that several verbs share."""

import argparse


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, errors included")


def add_compute_options(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--device`."""
    add_output_options(parser)
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1; by default cuda, if it is there",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """The positional RUN."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or a shipped name")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Temperature, top-k, top-p, seed, guidance, length."""
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest id")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="draw among the K likeliest; by default all"
    )
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1: all ids")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same answer")
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="G",
        help="push the answer towards what is given: 2 to 5; 1 not at all",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=256, metavar="N", help="longest answer in ids"
    )
