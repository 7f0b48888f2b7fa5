"""`unimodal modality`: list what is registered, check a class, begin a new one."""

import argparse
import importlib
import importlib.util
import keyword
import sys
import traceback
from pathlib import Path
from typing import Any

from unimodal.cli.console import print_json, print_table
from unimodal.cli.options import add_output_options
from unimodal.errors import EXIT_FAILURE, ConfigError

ABOUT = "List modalities, hold a class to the contract, or write the file of a new one."

TEMPLATE = '''"""{title}: sequences of numbers in [0, 1], as one id of 256 a step.

Change `encode`, `decode` and `example` to what your values are, then run
`unimodal modality check {file}:{kind}`.
"""

import numpy as np
import torch

from unimodal import Modality, Open, Tokens, register_modality
from unimodal.errors import MediaError
from unimodal.modality import NoConfig
from unimodal.types import line_grid


@register_modality("{name}")
class {kind}(Modality[np.ndarray, NoConfig]):
    value_type = np.ndarray
    raw_unit = "step"
    spans = {{"levels": 256}}
    layout = Open(min_cells=1)
    round_trip_error = 1 / 510 + 1e-6

    def encode(self, value: np.ndarray) -> Tokens:
        if value.ndim != 1 or not len(value) or not ((value >= 0) & (value <= 1)).all():
            raise MediaError("A value must be a row of numbers in [0, 1].")
        ids = torch.from_numpy((value * 255).round().astype("int64"))
        return Tokens(line_grid(len(value)), ids)

    def decode(self, tokens: Tokens) -> np.ndarray:
        return np.asarray(tokens.ids) / 255.0

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        return float(abs(a - b).max()) if a.shape == b.shape else float("inf")

    def raw_units(self, value: np.ndarray) -> float:
        return len(value)

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return rng.random(int(rng.integers(1, 30)))
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `modality`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check|new")
    add_output_options(actions.add_parser("list", help="all registered modalities"))
    check = actions.add_parser("check", help="hold a class to the contract")
    check.add_argument(
        "name",
        metavar="NAME|PKG:CLASS",
        help="a registered name, package.module:Class, file.py:Class",
    )
    check.add_argument("--seed", type=int, default=0, help="of examples and random walks")
    check.add_argument("--examples", type=int, default=8, help="values to draw")
    add_output_options(check)
    new = actions.add_parser("new", help="write the file of a new modality")
    new.add_argument("name", help="its registered name, e.g. voltage")
    new.add_argument("--out", type=Path, default=None, help="the file; by default NAME.py")
    add_output_options(new)


def run(arguments: argparse.Namespace) -> int:
    """List, check or begin."""
    if arguments.action == "new":
        return _new(arguments)
    return _list(arguments) if arguments.action == "list" else _check(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from unimodal.modality import modalities

    rows = []
    for name in modalities.names():
        kind = modalities.get(name)
        about = (kind.__doc__ or "").strip().partition("\n")[0]
        rows.append(
            {"name": name, "class": f"{kind.__module__}:{kind.__qualname__}", "about": about}
        )
    if arguments.json:
        print_json(rows)
    else:
        print_table(["name", "class", "about"], [list(row.values()) for row in rows])
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from unimodal.testing import check_modality

    if arguments.examples < 1:
        raise ConfigError(f"`--examples` must be at least 1, but is {arguments.examples}.")
    kind = find_class(arguments.name)
    report = check_modality(kind, seed=arguments.seed, num_examples=arguments.examples)
    if arguments.json:
        print_json(report.as_dict())
    else:
        print(report)
    return 0 if report.ok else EXIT_FAILURE


def find_class(name: str) -> Any:
    """The class of a registered name, of `package.module:Class` or of `file.py:Class`.

    Raises:
        ConfigError: if there is none, or it is no modality.
    """
    from unimodal.modality import Modality, modalities

    where, colon, class_name = name.rpartition(":")
    if not colon:
        return modalities.get(name)
    module = _module_of_file(Path(where)) if where.endswith(".py") else _module_of_name(where)
    kind = getattr(module, class_name, None)
    if kind is None:
        from unimodal.registry import did_you_mean

        known = [n for n, v in vars(module).items() if isinstance(v, type) and v is not Modality]
        raise ConfigError(
            f"There is no class `{class_name}`.",
            subject=where,
            remedy=did_you_mean(class_name, known),
        )
    if not (isinstance(kind, type) and issubclass(kind, Modality)):
        raise ConfigError(
            "This is not a class of modality.",
            subject=name,
            remedy="Derive it from `unimodal.Modality[Value, Config]`.",
        )
    return kind


def _module_of_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The module cannot be imported: {error}.",
            subject=name,
            remedy="Install the package, or name the file: file.py:Class.",
        ) from None
    except Exception as error:
        raise _failed_import(error, name) from error


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError("There is no such file.", subject=str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError("This is not a Python file.", subject=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pickling an instance looks its class up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise _failed_import(error, str(path)) from error
    return module


def _failed_import(error: Exception, subject: str) -> ConfigError:
    """What a user's module raised while it was imported, with the line of it that did."""
    if isinstance(error, SyntaxError):
        file, line, message = error.filename, error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = next((f for f in reversed(frames) if f.filename == subject), frames[-1])
        file, line, message = own.filename, own.lineno, str(error)
    return ConfigError(
        f"The module cannot be imported ({type(error).__name__}: {message.rstrip('.')}).",
        subject=f"{file}, line {line}",
        remedy=getattr(error, "remedy", None)
        or f"Correct this line; `python {file}` runs it, too.",
    )


def _new(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ConfigError(
            "A modality's name must be a lower-case identifier.",
            subject=name,
            remedy="Use letters, digits and underscores: `heart_rate`.",
        )
    path = arguments.out or Path(f"{name}.py")
    if path.exists():
        raise ConfigError("The file exists already.", subject=str(path), remedy="Choose --out.")
    title = name.replace("_", " ").capitalize()
    kind = "".join(part.capitalize() for part in name.split("_"))
    path.write_text(TEMPLATE.format(title=title, name=name, kind=kind, file=path), encoding="utf-8")
    if arguments.json:
        print_json({"file": str(path), "class": kind})
    else:
        print(f"Wrote {path}. Next: unimodal modality check {path}:{kind}")
    return 0
