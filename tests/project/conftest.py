"""The files of this checkout, for the guards that walk them."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("unimodal", "tokenizers", "kernels", "conf", "scripts")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """All files that git tracks or would track, relative to the root; links as themselves."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the guards compare with what git tracks")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = sorted({Path(name) for name in listed.split("\0") if name})
    return [path for path in found if (ROOT / path).exists() or (ROOT / path).is_symlink()]


@pytest.fixture(scope="session")
def code(files: list[Path]) -> dict[Path, ast.Module]:
    """Python files of the package (tests left out), parsed."""
    chosen = [path for path in files if path.suffix == ".py" and path.parts[0] in CODE]
    assert chosen
    return {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in chosen}
