"""No file that we load can run code: the calls through which one could are not in the package.

Pickle is allowed where nothing comes from a file: `unimodal.testing` sends an instance through it
to check that workers can have it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

BUILTINS = {"eval", "exec", "__import__", "compile"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
ATTRIBUTES = {"extractall", "load_pickle", "unsafe_load", "full_load"}
QUALIFIED = {
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "torch.hub.load",
    "torch.serialization.add_safe_globals",
    "pandas.read_pickle",
}
PICKLE_ALLOWED = ("unimodal/testing/",)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _keyword(call: ast.Call, name: str) -> object:
    for keyword in call.keywords:
        if keyword.arg == name:
            return (
                keyword.value.value if isinstance(keyword.value, ast.Constant) else "not a literal"
            )
    return None


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Local name to what it stands for: `from os import system as s` gives s: os.system."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return names


def _call_faults(call: ast.Call, aliases: dict[str, str]) -> Iterator[str]:
    written = _dotted(call.func)
    head, _, rest = written.partition(".")
    name = f"{aliases.get(head, head)}.{rest}" if rest else aliases.get(head, head)
    attribute = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name in BUILTINS or name in QUALIFIED or attribute in ATTRIBUTES:
        yield f"call of `{name or attribute}`"
    if name == "torch.load" and _keyword(call, "weights_only") is not True:
        yield "`torch.load` without `weights_only=True`"
    if _keyword(call, "shell") not in (None, False):
        yield "`shell=True`"
    if _keyword(call, "allow_pickle") not in (None, False):
        yield "`allow_pickle=True`"


def banned(path: Path, tree: ast.Module) -> list[str]:
    aliases, faults = _aliases(tree), []
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Call):
            found = list(_call_faults(node, aliases))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            allowed = str(path).startswith(PICKLE_ALLOWED)
            tops = {module.partition(".")[0] for module in modules}
            found = [f"import of `{top}`" for top in sorted(tops & MODULES) if not allowed]
        faults += [f"{path}:{getattr(node, 'lineno', 0)} {fault}" for fault in found]
    return faults


def test_the_package_calls_nothing_that_runs_a_file(code: dict[Path, ast.Module]) -> None:
    assert len(code) > 5
    assert [fault for path, tree in code.items() for fault in banned(path, tree)] == []


def test_yaml_names_no_target(root: Path, files: list[Path]) -> None:
    configs = [path for path in files if path.suffix in {".yaml", ".yml"}]
    named = [str(p) for p in configs if "_target_" in (root / p).read_text(encoding="utf-8")]
    assert named == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load\nload(path)",
        "import torch as t\nt.load(path)",
        "import pickle",
        "from pickle import loads",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "archive.extractall(folder)",
        "tarfile.open(path).extractall(folder)",
        "import os\nos.system(command)",
        "from os import system as run\nrun(command)",
        "from hydra.utils import instantiate\ninstantiate(config)",
    ],
)
def test_the_guard_sees_a_banned_call(source: str) -> None:
    assert len(banned(Path("unimodal/data/archives.py"), ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "torch.compile(model)",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "subprocess.run([name], shell=False)",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_the_guard_lets_safe_calls_pass(source: str) -> None:
    assert banned(Path("unimodal/data/archives.py"), ast.parse(source)) == []
