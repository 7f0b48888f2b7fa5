"""`unimodal data`: list, fetch, prepare, validate and count data sets."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimodal.cli.console import print_json, print_table
from unimodal.cli.options import add_output_options
from unimodal.errors import EXIT_USAGE, ConfigError

ABOUT = "List data sets, fetch and prepare recipes, check your own data, count records."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|fetch|prepare|validate|stats"
    )
    add_output_options(actions.add_parser("list", help="embedded data sets and recipes"))
    for name, about in (
        ("fetch", "download the packages of recipes into the cache"),
        ("prepare", "fetch what is missing and write what training reads"),
    ):
        action = actions.add_parser(name, help=about)
        names = "recipes; with KEY=VALUE after one, its options" if name == "prepare" else "recipes"
        action.add_argument("names", nargs="+", metavar="NAME", help=names)
        action.add_argument(
            "--from",
            dest="files",
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help="archives that you have already",
        )
        action.add_argument(
            "--accept-other", action="store_true", help="take versions of another hash"
        )
        if name == "prepare":
            action.add_argument("--force", action="store_true", help="prepare again")
        add_output_options(action)
    validate = actions.add_parser("validate", help="check a manifest, file or folder")
    validate.add_argument("paths", nargs="+", metavar="PATH")
    validate.add_argument(
        "--require", nargs="+", default=[], metavar="FIELD", help="fields that every record needs"
    )
    validate.add_argument("--quick", action="store_true", help="do not decode files")
    add_output_options(validate)
    stats = actions.add_parser("stats", help="records, fields and commonest texts of a data set")
    stats.add_argument("name", metavar="NAME|PATH")
    stats.add_argument("--sample", type=int, default=200, metavar="N", help="records to look at")
    add_output_options(stats)


def run(arguments: argparse.Namespace) -> int:
    """Run one action."""
    actions = {
        "list": _list,
        "fetch": _fetch,
        "prepare": _prepare,
        "validate": _validate,
        "stats": _stats,
    }
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from unimodal.data.commands import list_data

    rows = list_data()
    if arguments.json:
        print_json(rows)
        return 0
    print_table(
        ["name", "about", "licence", "ready"],
        [
            [r["name"], r["about"], r["license"], "yes" if r["ready"] else "to prepare"]
            for r in rows
        ],
    )
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from unimodal.data.commands import fetch

    results = [
        fetch(name, arguments.files, accept_other=arguments.accept_other)
        for name in arguments.names
    ]
    if arguments.json:
        print_json(results)
        return 0
    for result in results:
        print(f"{result['name']} (licence: {result['license']})")
        for package, file in result["files"].items():
            print(f"  {package}: {file}")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from unimodal.data.commands import prepare
    from unimodal.training.signals import stop_on_signals

    with stop_on_signals() as flag:
        results = [
            prepare(
                name,
                arguments.files,
                accept_other=arguments.accept_other,
                force=arguments.force,
                should_stop=lambda: bool(flag),
                **options,
            )
            for name, options in _with_options(arguments.names)
        ]
    if arguments.json:
        print_json(results)
        return 0
    for result in results:
        counts = ", ".join(f"{key}: {value:,}" for key, value in result["counts"].items())
        print(f"{result['name']} (licence: {result['license']})\n  {result['folder']}\n  {counts}")
    return 0


def _with_options(words: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Names with the `key=value` that follow each; values are JSON, or else text.

    Raises:
        ConfigError: if an option comes before any name.
    """
    named: list[tuple[str, dict[str, Any]]] = []
    for word in words:
        key, is_option, value = word.partition("=")
        if not is_option:
            named.append((word, {}))
        elif named:
            try:
                named[-1][1][key] = json.loads(value)
            except ValueError:
                named[-1][1][key] = value
        else:
            raise ConfigError(
                f"`{word}` stands before any recipe.", remedy="Write NAME first, then its options."
            )
    return named


def _validate(arguments: argparse.Namespace) -> int:
    from unimodal.data.commands import validate

    results = [
        validate(path, required=arguments.require, quick=arguments.quick)
        for path in arguments.paths
    ]
    if arguments.json:
        print_json(results)
    else:
        for result in results:
            _print_findings(result)
    return 0 if all(result["ok"] for result in results) else EXIT_USAGE


def _print_findings(result: Mapping[str, Any]) -> None:
    if result["ok"]:
        print(f"{result['path']}: {result['kind']}, {result['records']:,} records, no fault")
        return
    kind, number = result["kind"] or "no data set", len(result["findings"])
    print(f"{result['path']}: {kind}, {number} {'fault' if number == 1 else 'faults'}")
    for found in result["findings"]:
        line = f":{found['line']}" if found["line"] is not None else ""
        place = f"{found['file'] or result['path']}{line}"
        value = f" ({found['value'].rstrip('.')})" if found["value"] is not None else ""
        name = f" [{found['id']}]" if found["id"] else ""
        print(f"  {place}{name}: {found['rule']}{value}. {found['remedy'] or ''}".rstrip())


def _stats(arguments: argparse.Namespace) -> int:
    from unimodal.data.commands import stats

    if arguments.sample < 1:
        raise ConfigError(f"`--sample` must be at least 1, but is {arguments.sample}.")
    result = stats(arguments.name, sample=arguments.sample)
    if arguments.json:
        print_json(result)
        return 0
    rows = []
    for split, facts in result["splits"].items():
        texts = ", ".join(f"{text[:24]!r} x {n}" for text, n in facts.get("commonest texts", []))
        keys = " ".join(facts.get("keys", [])) or facts.get("note", "")
        rows.append([split, facts["records"], keys, texts])
    print_table(["split", "records", "fields", "commonest texts of a sample"], rows)
    print(f"licence: {result.get('license', 'unknown')}")
    return 0
