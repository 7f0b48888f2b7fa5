"""Who may import whom: each layer only from those before it, read from the import statements."""

import ast
from pathlib import Path

import pytest

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "types", "registry", "shipped"}),
    frozenset({"media", "kernels", "devices"}),
    frozenset({"blocks", "patterns", "grammar", "constraints"}),
    frozenset({"modality"}),
    frozenset({"tokenizers"}),
    frozenset({"vocabulary", "stream"}),
    frozenset({"model"}),
    frozenset({"tasks", "data"}),
    frozenset({"training", "generation", "evaluation", "report"}),
    frozenset({"runtime"}),
    frozenset({"testing", "benchmarks"}),
    frozenset({"cli"}),
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
KERNELS_MAY_IMPORT = {"errors", "types", "kernels"}
KERNELS_MAY_USE = {"torch", "numpy", "triton"}
FREE = {"", "conf"}
"""The lazy public surface and the folder of YAML files: no layer of their own."""
MAY_IMPORT_SURFACE = LEVEL["testing"]
"""`import unimodal as um` reaches every layer, so only these and later ones may."""

Trees = dict[Path, ast.Module]


def unit_of(path: Path) -> str:
    """`unimodal/media/audio.py` and `kernels/mel/api.py` to `media` and `kernels`."""
    parts = path.with_suffix("").parts
    if parts[0] == "unimodal":
        return "" if parts[1] == "__init__" else parts[1]
    return parts[0]


def imported_modules(path: Path, tree: ast.Module) -> set[str]:
    """Full names of all modules that a file imports, anywhere in it, relative ones resolved."""
    parts = path.with_suffix("").parts
    module = parts if parts[0] == "unimodal" else ("unimodal", *parts)
    package = module[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *([node.module] if node.module else [])))
            if name == "unimodal":
                found |= {f"unimodal.{alias.name}" for alias in node.names}
            else:
                found.add(name)
    return found


def broken_layers(trees: Trees) -> list[str]:
    wrong = []
    for path, tree in trees.items():
        unit = unit_of(path)
        if unit in FREE or path.parts[0] == "scripts":
            continue
        if unit not in LEVEL:
            wrong.append(f"{path}: `{unit}` has no layer; give it one in {Path(__file__).name}")
            continue
        for name in sorted(imported_modules(path, tree)):
            if fault := _fault(unit, name):
                wrong.append(f"{path}: {fault}")
    return wrong


def _fault(unit: str, name: str) -> str | None:
    top, _, rest = name.partition(".")
    target = rest.partition(".")[0]
    if top != "unimodal":
        return None
    if unit == "kernels" and target not in KERNELS_MAY_IMPORT:
        return f"kernels import only errors and types of ours, not `{name}`"
    if target not in LEVEL:
        surface = target in FREE or target[:1].isupper() or target in {"load", "__version__"}
        if surface and LEVEL[unit] >= MAY_IMPORT_SURFACE:
            return None
        return f"imports the public surface `{name}`; name the module instead"
    if LEVEL[target] > LEVEL[unit]:
        return f"`{unit}` is below `{target}` and may not import `{name}`"
    return None


def foreign_imports_of_kernels(trees: Trees) -> list[str]:
    import sys

    wrong = []
    for path, tree in trees.items():
        if unit_of(path) == "kernels":
            for name in imported_modules(path, tree):
                top = name.partition(".")[0]
                if top != "unimodal" and top not in KERNELS_MAY_USE | sys.stdlib_module_names:
                    wrong.append(f"{path}: {name}")
    return wrong


def test_every_file_imports_only_from_its_layer_and_below(code: Trees) -> None:
    assert sum(unit_of(path) in LEVEL for path in code) > 5
    assert broken_layers(code) == []


def test_kernels_use_only_torch_numpy_and_triton(code: Trees) -> None:
    assert foreign_imports_of_kernels(code) == []


def test_only_triton_files_import_triton(code: Trees) -> None:
    wrong = [
        str(path)
        for path, tree in code.items()
        if not path.name.startswith("triton")
        and any(name.partition(".")[0] == "triton" for name in imported_modules(path, tree))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "source", "is_fine"),
    [
        ("unimodal/patterns.py", "from unimodal.types import Tokens", True),
        ("unimodal/patterns.py", "from unimodal.model import Decoder", False),
        ("unimodal/patterns.py", "def f():\n    import unimodal.training.loop", False),
        ("unimodal/media/audio.py", "from ..data import recipes", False),
        ("unimodal/media/audio.py", "from .values import Audio", True),
        ("unimodal/media/audio.py", "from unimodal import cli", False),
        ("unimodal/media/audio.py", "import unimodal as um", False),
        ("unimodal/cli/main.py", "import unimodal as um", True),
        ("unimodal/cli/main.py", "from unimodal import load", True),
        ("tokenizers/text.py", "from unimodal.training import loop", False),
        ("tokenizers/text.py", "from unimodal.model import Decoder", False),
        ("tokenizers/text.py", "import tokenizers", True),
        ("kernels/mel/api.py", "from unimodal.registry import Registry", False),
        ("kernels/mel/api.py", "from unimodal.kernels.mel.reference import mel", True),
        ("unimodal/somewhere/new.py", "import math", False),
    ],
)
def test_the_guard_sees_a_wrong_import(path: str, source: str, is_fine: bool) -> None:
    assert (broken_layers({Path(path): ast.parse(source)}) == []) is is_fine


def test_the_guard_sees_a_foreign_import_in_a_kernel() -> None:
    trees = {Path("kernels/mel/api.py"): ast.parse("import math\nimport einops\nimport torch")}
    assert foreign_imports_of_kernels(trees) == ["kernels/mel/api.py: einops"]
