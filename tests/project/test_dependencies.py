"""What the code imports is declared, what is declared is pinned, and pins are bare."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMPORT_NAMES = {
    "av": "av",
    "biopython": "Bio",
    "box2d": "Box2D",
    "espeakng-loader": "espeakng_loader",
    "hydra-core": "hydra",
    "more-itertools": "more_itertools",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "resvg-py": "resvg_py",
    "scikit-learn": "sklearn",
    "vector-quantize-pytorch": "vector_quantize_pytorch",
}
NOT_IN_AN_EXTRA = {"openai-whisper": "whisper"}
"""Installed without its dependencies by the test command, so no extra can name it."""


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, str]:
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = (line for line in lines if line and not line.startswith("#"))
    return dict(line.partition(";")[0].strip().split("==") for line in pinned)


def _requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = (line for lines in project["optional-dependencies"].values() for line in lines)
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def test_extras_are_the_documented_ones(project: dict[str, Any]) -> None:
    expected = "control data dev eval finetune gpu parity report speech"
    assert sorted(project["optional-dependencies"]) == expected.split()


def test_every_requirement_is_pinned_within_its_range(
    project: dict[str, Any], pins: dict[str, str]
) -> None:
    requirements = _requirements(project)
    assert len(requirements) > 20
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in requirements.lock: run scripts/lock.sh"
        assert requirement.specifier.contains(pins[name], prereleases=True), requirement
    assert set(NOT_IN_AN_EXTRA) <= set(pins)


def test_the_lock_holds_names_and_exact_versions_only(root: Path) -> None:
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    form = re.compile(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*(; python_version < '3\.14')?")
    assert len(pinned) > 50
    assert [line for line in pinned if not form.fullmatch(line)] == []
    assert pinned == sorted(pinned, key=lambda line: line.partition("=")[0])


def test_torch_and_triton_fit_each_other(pins: dict[str, str]) -> None:
    assert (pins["torch"], pins["triton"]) == ("2.13.0", "3.7.1")


def test_every_import_is_declared(project: dict[str, Any], code: dict[Path, ast.Module]) -> None:
    names = {canonicalize_name(r.name) for r in _requirements(project)} | set(NOT_IN_AN_EXTRA)
    known = IMPORT_NAMES | NOT_IN_AN_EXTRA
    allowed = {known.get(name, name.replace("-", "_")) for name in names}
    allowed |= sys.stdlib_module_names | {"unimodal"}
    undeclared = []
    for path, tree in code.items():
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            tops = {module.partition(".")[0] for module in modules}
            undeclared += [f"{path}:{node.lineno} {top}" for top in sorted(tops - allowed)]
    assert undeclared == []
