"""scripts/setup.sh: an active environment keeps its torch, and a second call installs nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Stands for the interpreter of an environment: it notes what pip is asked, and installs nothing.
INTERPRETER = """#!/bin/sh
case "$*" in
    "-m pip --version") exit 0 ;;
    "-m pip install"*) echo "$*" >> "{notes}/calls"
        for word in "$@"; do
            [ "$last" != --constraint ] || cp "$word" "{notes}/constraints"
            last=$word
        done
        exit 0 ;;
esac
exec "{python}" -I -S -c 'import sys; sys.path.insert(0, "{packages}"); \
sys.argv = ["-", *sys.argv[2:]]; exec(compile(sys.stdin.read(), "-", "exec"))' "$@"
"""


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A copy with what set-up reads, in a folder whose name has a space."""
    copy = tmp_path / "a checkout"
    (copy / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", "scripts/setup.sh"):
        shutil.copy(root / name, copy / name)
    return copy


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment that has torch 2.12.1 for CUDA, which needs its own triton."""
    folder = tmp_path / "environment"
    info = folder / "packages" / "torch-2.12.1+cu130.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.12.1+cu130\n"
        "Requires-Dist: triton==3.6.1; platform_system == 'Linux'\n",
        encoding="utf-8",
    )
    interpreter = folder / "bin" / "python"
    interpreter.parent.mkdir()
    interpreter.write_text(
        INTERPRETER.format(notes=folder, packages=folder / "packages", python=sys.executable),
        encoding="utf-8",
    )
    interpreter.chmod(0o755)
    return folder


def _setup(checkout: Path, environment: Path, *extras: str) -> list[str]:
    """Run set-up in the active `environment`; the calls of pip that it made."""
    calls = environment / "calls"
    calls.unlink(missing_ok=True)
    subprocess.run(
        [checkout / "scripts" / "setup.sh", *extras],
        env=os.environ | {"VIRTUAL_ENV": str(environment)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def test_an_active_environment_keeps_its_torch(checkout: Path, environment: Path) -> None:
    (call,) = _setup(checkout, environment, "report", "eval")
    assert call.endswith("--editable .[report,eval]")
    pins = (environment / "constraints").read_text(encoding="utf-8").splitlines()
    assert [pin for pin in pins if pin.startswith(("torch==", "triton=="))] == [
        "torch==2.12.1+cu130"
    ]
    assert any(pin.startswith("safetensors==") for pin in pins)


def test_a_second_call_installs_nothing(checkout: Path, environment: Path) -> None:
    assert _setup(checkout, environment, "report", "eval")
    assert _setup(checkout, environment, "eval") == []
    assert _setup(checkout, environment) == []
    assert _setup(checkout, environment, "eval", "data")


def test_a_changed_lock_installs_again(checkout: Path, environment: Path) -> None:
    assert _setup(checkout, environment, "eval")
    with (checkout / "requirements.lock").open("a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    assert _setup(checkout, environment, "eval")


def test_whisper_comes_without_its_dependencies(checkout: Path, environment: Path) -> None:
    _, whisper = _setup(checkout, environment, "parity")
    assert whisper.endswith("--no-deps openai-whisper")
