"""Who meets an error about a file, a data set or a checkpoint is told what to do about it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ABOUT_WHAT_USERS_BRING = {"MediaError", "DataError", "CheckpointError"}
FAKES = Path("unimodal/testing/fixtures.py")


def without_remedy(path: Path, tree: ast.Module) -> Iterator[str]:
    """Errors of those classes that are made without `remedy`."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in ABOUT_WHAT_USERS_BRING:
            if not any(keyword.arg in ("remedy", None) for keyword in node.keywords):
                yield f"{path}:{node.lineno}"


def test_every_error_about_what_users_bring_has_a_remedy(code: dict[Path, ast.Module]) -> None:
    checked = {path: tree for path, tree in code.items() if path != FAKES}
    assert [place for path, tree in checked.items() for place in without_remedy(path, tree)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise MediaError("It is cut.", subject=name)', ["x.py:1"]),
        ('raise MediaError("It is cut.", remedy="Fetch it again.")', []),
        ("raise CheckpointError(message, **told)", []),
        ('raise GrammarError("Not legal.")', []),
    ],
)
def test_the_guard_sees_a_missing_remedy(source: str, found: list[str]) -> None:
    assert list(without_remedy(Path("x.py"), ast.parse(source))) == found


def test_no_message_puts_an_article_before_the_name_of_a_modality(root: Path) -> None:
    """A name may begin with a vowel: `A segment of `image`` reads right for each."""
    names = r"(modality|grammar\.name|g\.name|target)"
    article = re.compile(rf"\b[Aa]n? `\{{[\w.]*{names}\}}` (segment|value)")
    files = [*(root / "unimodal").rglob("*.py"), *(root / "tokenizers").rglob("*.py")]
    assert len(files) > 100
    assert [str(path) for path in files if article.search(path.read_text("utf-8"))] == []
