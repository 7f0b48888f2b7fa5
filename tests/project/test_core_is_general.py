"""The core never names a modality: a class in `tokenizers/` is all there is to one."""

import ast
from pathlib import Path

import pytest

CORE = {
    "blocks",
    "errors",
    "generation",
    "grammar",
    "kernels",
    "modality",
    "model",
    "patterns",
    "registry",
    "stream",
    "training",
    "types",
    "vocabulary",
}
NAMES = {
    "audio",
    "control",
    "dna",
    "image",
    "image_codes",
    "protein",
    "series",
    "speech",
    "speech_codes",
    "text",
    "video",
    "video_codes",
    "voxels",
}


def is_core(path: Path) -> bool:
    parts = path.with_suffix("").parts
    unit = parts[1] if parts[0] == "unimodal" and len(parts) > 1 else parts[0]
    return unit in CORE


def named_modalities(path: Path, tree: ast.Module) -> list[str]:
    """String literals that are the name of a modality (`text`, `text@2`); prose does not count."""
    return [
        f"{path}:{node.lineno} {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.partition("@")[0] in NAMES
    ]


def test_the_core_names_no_modality(code: dict[Path, ast.Module]) -> None:
    core = {path: tree for path, tree in code.items() if is_core(path)}
    assert len(core) > 4
    assert [hit for path, tree in core.items() for hit in named_modalities(path, tree)] == []


@pytest.mark.parametrize(
    ("source", "num_hits"),
    [
        ('if name == "image": pass', 1),
        ('CASES = {"dna": 1, "text@2": 2}', 2),
        ('"""What images and text have in common."""', 0),
        ('f"the image of {value}"', 0),
    ],
)
def test_the_guard_sees_a_name(source: str, num_hits: int) -> None:
    assert len(named_modalities(Path("unimodal/stream.py"), ast.parse(source))) == num_hits
