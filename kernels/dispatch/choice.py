"""Which implementation of an operator runs on which tensors, and why.

The rule, under `auto`: CUDA tensors take Triton where the operator has a kernel for them and triton
can be imported, CPU tensors the operator's CPU path where it has one; everything else takes the
reference. What falls back says so once in the log. `using("triton")` with TRITON_INTERPRET=1 set
runs kernels on CPU tensors, in Triton's interpreter.

Operators register themselves when their package is imported; `explain` lists them for
`unimodal doctor`. Not here: tile sizes and warps (`tables`). Tested in
`tests/kernels/test_dispatch.py`.
"""

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from unimodal.errors import BackendUnavailableError, ConfigError, ShapeError

IMPLS = ("auto", "reference", "cpu", "triton")
"""What a caller may ask for."""

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)
_registered: dict[str, tuple[str, ...]] = {}
_told: set[tuple[str, str]] = set()
# Of the whole process, like torch's own backend flags: a thread of autograd must see it as well.
_default = "auto"


@dataclass(frozen=True)
class Explanation:
    """What runs for one operator on one device.

    Attributes:
        op: Name of the operator.
        device: `cpu` or `cuda`.
        implementation: `reference`, `cpu` or `triton`.
        reason: Why, as one clause.
    """

    op: str
    device: str
    implementation: str
    reason: str


def register(op: str, implementations: Iterable[str]) -> None:
    """Say which implementations an operator has.

    Args:
        op: The operator, named like its folder in `kernels/`.
        implementations: Of `reference` (needed), `cpu`, `triton`.

    Raises:
        ConfigError: if a name is none of these, or the reference is missing.
    """
    names = tuple(implementations)
    if not set(names) <= set(IMPLS[1:]) or "reference" not in names:
        raise ConfigError(
            f"`implementations` of {op} must be of {IMPLS[1:]}, reference included, "
            f"but are {names}."
        )
    _registered[op] = names


def choose(
    op: str, *tensors: Tensor, impl: str | None = None, unsupported: str | None = None
) -> str:
    """The implementation for these tensors: `reference`, `cpu` or `triton`.

    Args:
        op: A registered operator.
        tensors: Its inputs, all on one device; at least one.
        impl: What the caller wants; by default what `using` set, else `auto`.
        unsupported: Why the Triton kernel cannot take these inputs (a clause), if it cannot.

    Raises:
        ConfigError: if `impl` or the operator is unknown.
        ShapeError: if the tensors are on several devices.
        BackendUnavailableError: if `triton` was asked for by name and cannot run here.
    """
    if op not in _registered:
        raise ConfigError(
            f"`op` must be one of {', '.join(sorted(_registered)) or 'none'}, but is {op!r}.",
            remedy="Register it with `dispatch.register`, or import its package.",
        )
    wanted = _default if impl is None else impl
    device = tensors[0].device
    if any(tensor.device != device for tensor in tensors):
        raise ShapeError(
            f"Inputs of {op} must be on one device, but are on "
            f"{', '.join(sorted({str(tensor.device) for tensor in tensors}))}."
        )
    if wanted not in IMPLS:
        raise ConfigError(f"`impl` must be one of {', '.join(IMPLS)}, but is {wanted!r}.")
    if wanted == "auto":
        name, reason = _automatic(op, device.type, unsupported)
        if name == "reference" and device.type == "cuda":
            _tell_once(op, reason)
        return name
    if wanted == "triton":
        fault = _why_no_triton(op, device.type) or unsupported
        if fault is not None:
            raise BackendUnavailableError(
                f"{op} cannot run on Triton: {fault}.", remedy="Use impl=auto."
            )
        return wanted
    if wanted == "cpu" and (device.type != "cpu" or "cpu" not in _registered[op]):
        return "reference"
    return wanted


@contextmanager
def using(impl: str) -> Iterator[None]:
    """Make `impl` the default of all calls inside, in the whole process.

    Args:
        impl: One of `IMPLS`. `cpu` means the CPU path where an operator has one.

    Raises:
        ConfigError: if the name is unknown.
    """
    global _default
    if impl not in IMPLS:
        raise ConfigError(f"`impl` must be one of {', '.join(IMPLS)}, but is {impl!r}.")
    before, _default = _default, impl
    try:
        yield
    finally:
        _default = before


def on_own_device(run: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Run an operator with its first argument's card as the current one.

    Triton launches on the current card, whichever its inputs are on, and torch changes it for no
    operator that is written in Python.
    """

    @functools.wraps(run)
    def there(first: Tensor, /, *rest: P.args, **named: P.kwargs) -> R:
        if first.device.type != "cuda":
            return run(first, *rest, **named)
        with torch.cuda.device(first.device):
            return run(first, *rest, **named)

    return there


def explain() -> list[Explanation]:
    """What runs for every operator on the CPU and, where there is one, on the CUDA device."""
    package = importlib.import_module("unimodal.kernels")
    for folder in (Path(folder) for folder in package.__path__):
        for api in sorted(folder.glob("*/api.py")):
            importlib.import_module(f"unimodal.kernels.{api.parent.name}.api")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [
        Explanation(op, device, *_automatic(op, device, None))
        for op in sorted(_registered)
        for device in devices
    ]


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter. It must be set before triton is imported."""
    if torch.compiler.is_compiling():
        return _WAS_INTERPRETED
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _automatic(op: str, device: str, unsupported: str | None) -> tuple[str, str]:
    if device == "cuda":
        fault = _why_no_triton(op, device) or unsupported
        if fault is None:
            return "triton", "a CUDA device and triton are there"
        return "reference", fault
    if device == "cpu" and "cpu" in _registered[op]:
        return "cpu", "the operator's path for the CPU"
    if device == "cpu":
        return "reference", "plain torch is its path for the CPU"
    return "reference", f"no kernel knows the device {device}"


def _why_no_triton(op: str, device: str) -> str | None:
    if "triton" not in _registered[op]:
        return "it has no Triton kernel yet"
    if not _can_import_triton():
        return "triton is not installed (extra `gpu`)"
    if device != "cuda" and not (device == "cpu" and is_interpreted()):
        return f"its inputs are on the {device}, and TRITON_INTERPRET=1 is not set"
    return None


def _can_import_triton() -> bool:
    return _IS_FOUND if torch.compiler.is_compiling() else _imports_triton()


@functools.cache
def _imports_triton() -> bool:
    try:
        importlib.import_module("triton")
    except ImportError:
        return False
    return True


# Compilers cannot trace an import, nor a look at the environment: they take what was so before.
_IS_FOUND = importlib.util.find_spec("triton") is not None
_WAS_INTERPRETED = is_interpreted()


def _tell_once(op: str, reason: str) -> None:
    if (op, reason) not in _told and not torch.compiler.is_compiling():
        _told.add((op, reason))
        _log.warning("%s runs the reference: %s.", op, reason)
