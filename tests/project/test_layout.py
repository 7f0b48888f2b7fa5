"""The fixed top level, and the two folders that must not shadow well-known packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINKS = {"conf": "../conf", "kernels": "../kernels", "tokenizers": "../tokenizers"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def _python(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "target"), LINKS.items())
def test_links_are_relative_and_lead_to_the_top(root: Path, name: str, target: str) -> None:
    link = root / "unimodal" / name
    assert link.is_symlink()
    assert os.readlink(link) == target
    assert link.resolve() == root / name


@pytest.mark.parametrize("folder", ["tokenizers", "kernels", "tests/tokenizers", "tests/kernels"])
def test_no_init_file_makes_a_shadowing_package(root: Path, folder: str) -> None:
    assert (root / "unimodal" / "__init__.py").is_file()
    assert not (root / folder / "__init__.py").exists()


def test_no_test_folder_is_a_package(files: list[Path]) -> None:
    tests = [path for path in files if path.parts[0] == "tests"]
    assert tests
    assert [path for path in tests if path.name == "__init__.py"] == []


def test_conf_is_a_package_for_hydra(root: Path) -> None:
    assert (root / "conf" / "__init__.py").is_file()


WHERE = """
import importlib.util, pathlib
root = pathlib.Path.cwd()
for name in ("tokenizers", "kernels"):
    found = importlib.util.find_spec(name)
    origin = found and found.origin
    print(name, bool(origin) and pathlib.Path(origin).resolve().is_relative_to(root / name))
"""


def test_bare_names_do_not_resolve_to_our_files(root: Path) -> None:
    assert _python(root, "-c", WHERE).split() == ["tokenizers", "False", "kernels", "False"]


def test_bare_names_do_not_resolve_to_our_files_under_python_m_pytest(
    root: Path, tmp_path: Path
) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "import importlib.util, pathlib\n"
        f"ROOT = pathlib.Path({str(root)!r})\n"
        "def test_names():\n"
        "    for name in ('tokenizers', 'kernels'):\n"
        "        found = importlib.util.find_spec(name)\n"
        "        origin = found and found.origin\n"
        "        assert not origin or not pathlib.Path(origin).is_relative_to(ROOT / name)\n"
        "    import tokenizers\n"
        "    assert tokenizers.Tokenizer\n",
        encoding="utf-8",
    )
    ini = root / "pyproject.toml"
    out = _python(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ini), str(probe))
    assert "1 passed" in out


def test_hugging_face_tokenizers_import_from_the_root(root: Path) -> None:
    code = "import tokenizers; from tokenizers import Tokenizer; print(tokenizers.__version__)"
    assert _python(root, "-c", code).strip()


def test_our_folders_import_as_subpackages(root: Path) -> None:
    code = "import unimodal.tokenizers, unimodal.kernels, unimodal.conf; print('ok')"
    assert _python(root, "-c", code).strip() == "ok"


def test_a_checkout_without_links_finds_the_folders(root: Path, tmp_path: Path) -> None:
    package = tmp_path / "unimodal"
    package.mkdir()
    package.joinpath("__init__.py").write_bytes((root / "unimodal/__init__.py").read_bytes())
    for name, target in LINKS.items():
        package.joinpath(name).write_text(target, encoding="utf-8")
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "probe.py").write_text("VALUE = 7\n", encoding="utf-8")
    code = (
        "import unimodal.tokenizers.probe, unimodal.kernels.probe, unimodal.conf.probe as probe;"
        "print(probe.VALUE, probe.__file__)"
    )
    value, where = _python(tmp_path, "-c", code).split(maxsplit=1)
    assert value == "7"
    assert Path(where.strip()).is_relative_to(tmp_path)


def test_no_file_has_a_name_that_says_nothing(files: list[Path]) -> None:
    assert len(files) > 10
    assert [str(path) for path in files if path.stem in FORBIDDEN_NAMES] == []
