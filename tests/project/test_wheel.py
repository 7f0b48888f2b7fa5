"""The wheel holds every file of the package: `package-data` knows every suffix that is tracked."""

import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from setuptools import PEP420PackageFinder

PACKAGE_FOLDERS = {"unimodal": "unimodal"} | {
    name: f"unimodal/{name}" for name in ("tokenizers", "kernels", "conf")
}


@pytest.fixture(scope="module")
def expected(files: list[Path]) -> set[str]:
    """Names inside the wheel of all tracked files of the package."""
    inside = {
        str(Path(PACKAGE_FOLDERS[path.parts[0]], *path.parts[1:]))
        for path in files
        if path.parts[0] in PACKAGE_FOLDERS and str(path) not in PACKAGE_FOLDERS.values()
    }
    assert len(inside) > 5
    return inside


def test_packages_and_package_data_cover_every_file(root: Path, expected: set[str]) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    tool = settings["tool"]["setuptools"]
    find = tool["packages"]["find"]
    packages = set(
        PEP420PackageFinder.find(str(root), exclude=find["exclude"], include=find["include"])
    )
    patterns = [*tool["package-data"]["*"], "*.py"]
    missing = [
        name
        for name in sorted(expected)
        if ".".join(Path(name).parts[:-1]) not in packages
        or not any(fnmatch(Path(name).name, pattern) for pattern in patterns)
    ]
    assert missing == []
    assert not [package for package in packages if "__pycache__" in package]


def test_a_built_wheel_holds_every_file_and_nothing_else(
    root: Path, expected: set[str], files: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for path in files:
        target = copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / path).is_symlink():
            target.symlink_to((root / path).readlink())
        else:
            target.write_bytes((root / path).read_bytes())
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("unimodal/")}
    assert names == expected
