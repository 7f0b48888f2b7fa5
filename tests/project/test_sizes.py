"""Files stay readable: a hard limit of 800 lines, and a reason for every one over 500.

Functions likewise: 60 lines, or 150 for a Triton kernel, or a reason.
"""

import ast
from pathlib import Path

HARD_LIMIT = 800
SOFT_LIMIT = 500
FUNCTION_LIMIT = 60
KERNEL_LIMIT = 150
SUFFIXES = {".py", ".sh", ".yaml", ".toml", ".md"}

LONG_FILES: dict[str, str] = {}
"""Path to the reason why it is one file."""

LONG_FUNCTIONS: dict[str, str] = {}
"""`path:name` to the reason why it is one function."""


def _num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(path: Path, tree: ast.Module) -> list[str]:
    limit = KERNEL_LIMIT if path.name.startswith("triton") else FUNCTION_LIMIT
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {f"{path}:{f.name}": (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    return [name for name, size in sizes.items() if size > limit]


def test_no_file_is_too_long(root: Path, files: list[Path]) -> None:
    lines = {str(f): _num_lines(root / f) for f in files if f.suffix in SUFFIXES}
    assert len(lines) > 10
    assert {path: n for path, n in lines.items() if n > HARD_LIMIT} == {}
    over = {path for path, n in lines.items() if n > SOFT_LIMIT}
    assert over == set(LONG_FILES), "split the file, or say in LONG_FILES why it is one"


def test_no_function_is_too_long(code: dict[Path, ast.Module]) -> None:
    over = {name for path, tree in code.items() for name in long_functions(path, tree)}
    assert over == set(LONG_FUNCTIONS), "split the function, or say in LONG_FUNCTIONS why it is one"


def test_the_guard_sees_a_long_function() -> None:
    source = "def run():\n" + "    pass\n" * FUNCTION_LIMIT
    assert long_functions(Path("a.py"), ast.parse(source)) == ["a.py:run"]
    assert long_functions(Path("triton.py"), ast.parse(source)) == []
