"""`unimodal embed`: a vector of each file, as one NumPy array."""

import argparse
from pathlib import Path

from unimodal.cli.console import print_json
from unimodal.cli.options import add_compute_options, add_run
from unimodal.errors import ConfigError

ABOUT = "Turn files into vectors: the mean of the model's last hidden states."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `embed`."""
    add_run(parser)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a FASTA file gives a row a record"
    )
    parser.add_argument("--from", dest="source", metavar="NAME", help="modality of the files")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a .npy file (float32)")
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Embed all files."""
    if arguments.out is None and not arguments.json:
        raise ConfigError(
            "The vectors need a place to go.", remedy="Give --out FILE.npy, or --json."
        )
    import numpy as np

    from unimodal.cli.inputs import Failures, check_out, read_files
    from unimodal.runtime import load
    from unimodal.stream import Segment

    check_out(arguments.out)
    model = load(arguments.run, arguments.device)
    failures = Failures()
    names, rows = [], []
    for found in read_files(arguments.files, model.vocabulary, arguments.source, failures):
        with failures.of(found.name):
            rows.append(model.embed([Segment(found.modality, found.value)])[0].numpy())
            names.append(found.name)
    code = failures.finish(len(rows))
    vectors = np.stack(rows) if rows else np.empty((0, model.decoder.config.width))
    if arguments.out is not None and rows:
        with arguments.out.open("wb") as file:  # np.save would add a suffix to a path
            np.save(file, vectors.astype(np.float32), allow_pickle=False)
    if arguments.json:
        file_name = str(arguments.out) if arguments.out is not None else None
        facts = {"names": names, "shape": list(vectors.shape), "file": file_name}
        facts["errors"] = failures.as_dicts()
        print_json(facts if arguments.out is not None else facts | {"vectors": vectors.tolist()})
    else:
        print(f"{arguments.out}: {vectors.shape[0]} x {vectors.shape[1]}")
    return code
