"""What every test runs under: one thread, fixed seeds, its own caches, no network, checked shapes.

The jaxtyping hook checks shapes and types of functions at run time, in tests only. A function that
refuses its arguments with an error of its own is left to raise that one. The hook's wrappers do not
pass through `torch.compile`, so the layers that are compiled are left out, and so are kernels and
what they import. `UNIMODAL_TYPECHECK=0` switches it off.
"""

import dataclasses
import functools
import importlib.util
import os
import random
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

ROOT = Path(__file__).resolve().parents[1]
NOT_CHECKED = {"kernels", "errors", "types", "registry", "patterns", "blocks", "model", "conf"}
SEED = 20260101


def _own_errors_first(jaxtyped: Any) -> Any:
    """`jaxtyped`, but a function that itself refuses the arguments raises its own error."""

    def decorate(function: Any, typechecker: Any) -> Any:
        checked = jaxtyped(function, typechecker=typechecker)
        if not isinstance(function, types.FunctionType):
            return checked

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return checked(*args, **kwargs)
            except TypeCheckError:
                function(*args, **kwargs)
                raise

        return run

    def replacement(thing: Any = None, *, typechecker: Any = None) -> Any:
        if thing is None:
            return functools.partial(replacement, typechecker=typechecker)
        if isinstance(thing, type) and dataclasses.is_dataclass(thing) and typechecker:
            thing.__init__ = decorate(thing.__init__, typechecker)  # type: ignore[misc]
            return thing
        return decorate(thing, typechecker)

    return replacement


def _install_shape_checks() -> None:
    from beartype import BeartypeConf, beartype
    from beartype.roar import BeartypeDecorHintPep3119Exception

    # An int where a float is asked for is right, as type checkers have it.
    strict = beartype(conf=BeartypeConf(is_pep484_tower=True))

    def check(decorated: Any) -> Any:
        try:
            return strict(decorated)
        except BeartypeDecorHintPep3119Exception:
            # Protocols that are not `@runtime_checkable`, which only the static checker can read.
            return decorated

    checker = types.ModuleType("unimodal_typechecker")
    checker.check = check  # type: ignore[attr-defined]
    sys.modules["unimodal_typechecker"] = checker
    jaxtyping.jaxtyped = _own_errors_first(jaxtyping.jaxtyped)
    names = {path.stem for path in (ROOT / "unimodal").iterdir() if path.stem.isidentifier()}
    checked = sorted(f"unimodal.{name}" for name in names - NOT_CHECKED if name != "__init__")
    jaxtyping.install_import_hook(checked, "unimodal_typechecker.check")


if os.environ.get("UNIMODAL_TYPECHECK", "1") != "0":
    _install_shape_checks()


def pytest_configure() -> None:
    torch.set_num_threads(1)
    if importlib.util.find_spec("torchaudio") and importlib.util.find_spec("soundfile"):
        # Before anything imports transformers, which fails beside a torchaudio that does not load.
        from unimodal.media import torchaudio_adapter

        torchaudio_adapter.load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why_not = {}
    if not torch.cuda.is_available():
        why_not["gpu"] = "needs a CUDA device"
    if not (importlib.util.find_spec("triton") and os.environ.get("TRITON_INTERPRET") == "1"):
        why_not["gates"] = "needs triton and TRITON_INTERPRET=1, as `make gates` has them"
    for item in items:
        for marker, reason in why_not.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of this session for everything that the package caches."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIMODAL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse connections to anything but this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in {
            "127.0.0.1",
            "::1",
            "localhost",
        }:
            raise RuntimeError(f"a test tried to connect to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    random.seed(SEED)
    np.random.seed(SEED % 2**32)
    torch.manual_seed(SEED)
