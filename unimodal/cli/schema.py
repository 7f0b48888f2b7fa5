"""`unimodal schema`: spans, modalities, grammar and tasks of a run."""

import argparse
from typing import Any

from unimodal.cli.console import print_json, print_table
from unimodal.cli.options import add_compute_options, add_run

ABOUT = "Show what a run understands and writes: spans, modalities, grammar, tasks."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `schema`."""
    add_run(parser)
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    from unimodal.runtime import load

    schema = load(arguments.run, arguments.device).schema()
    if arguments.json:
        print_json(schema)
        return 0
    print(f"{schema['num_parameters']:,} parameters, {schema['vocabulary_size']:,} ids\n")
    rows = [_modality(name, facts) for name, facts in schema["modalities"].items()]
    print_table(["modality", "values", "raw unit", "reads as", "writes", "lossless"], rows)
    print()
    tasks = [[n, t["template"], t["source"], t["target"]] for n, t in schema["tasks"].items()]
    print_table(["task", "template", "given", "asked for"], tasks)
    print()
    spans = [[s["name"], s["start"], s["stop"] - s["start"], s["owner"]] for s in schema["spans"]]
    print_table(["span", "first id", "ids", "owner"], spans)
    return 0


def _modality(name: str, facts: dict[str, Any]) -> list[Any]:
    shape = " x ".join(map(str, facts["feature_shape"]))
    reads = f"features {shape}" if shape else f"{sum(facts['spans'].values()):,} ids"
    writes = "yes" if "grammar" in facts else "input only"
    lossless = "yes" if facts["lossless"] else "no"
    return [name, facts["value_type"], facts["raw_unit"], reads, writes, lossless]
