"""`import unimodal` and `unimodal --help` are quick, quiet and offline; public names resolve."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import unimodal

HEAVY = ("torch", "triton", "transformers", "torchaudio", "numpy", "hydra")
HELP_SECONDS = 0.5
TRIES = 5

# Run in a new interpreter: any socket is an error, and what got imported is printed.
QUIET = """
import socket, sys
def refuse(*a, **k): raise RuntimeError("opened a socket")
socket.socket.__init__ = refuse
socket.create_connection = refuse
{statement}
print(" ".join(name for name in {heavy!r} if name in sys.modules))
"""


def _quiet(root: Path, statement: str) -> subprocess.CompletedProcess[str]:
    code = QUIET.format(statement=statement, heavy=HEAVY)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)


def test_import_is_light_and_opens_no_socket(root: Path) -> None:
    done = _quiet(root, "import unimodal; dir(unimodal); unimodal.__version__")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_the_whole_public_surface_imports_without_triton_or_transformers(root: Path) -> None:
    done = _quiet(root, "import unimodal as um\nfor name in um.__all__: getattr(um, name)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "torch" in loaded
    assert not {"triton", "transformers", "torchaudio"} & set(loaded)


def test_the_guard_sees_a_socket_and_a_heavy_import(root: Path) -> None:
    assert "opened a socket" in _quiet(root, "socket.socket()").stderr
    assert _quiet(root, "import numpy").stdout.split() == ["numpy"]


@pytest.mark.parametrize("name", unimodal.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(unimodal, name) is not None
    assert name in dir(unimodal)


def test_registered_modalities_resolve_by_camel_case() -> None:
    segment = unimodal.Text("a red apple")
    assert isinstance(segment, unimodal.Segment)
    assert segment.value == "a red apple"
    assert unimodal.Dna("ACGT").modality == "dna"


@pytest.mark.parametrize("name", ["NoSuchModality", "no_such_name", "_private"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    assert not hasattr(unimodal, name)
    with pytest.raises(AttributeError, match=name):
        getattr(unimodal, name)


def _help(root: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    start = time.perf_counter()
    command = [sys.executable, "-m", "unimodal.cli.main", "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    return time.perf_counter() - start, done


def test_help_answers_at_once(root: Path) -> None:
    seconds = []
    for _ in range(TRIES):
        elapsed, done = _help(root)
        assert done.returncode == 0, done.stderr
        assert "unimodal" in done.stdout
        seconds.append(elapsed)
        if elapsed <= HELP_SECONDS:
            break
    assert min(seconds) <= HELP_SECONDS
