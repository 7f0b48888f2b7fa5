"""What interpreted tests share: mended arithmetic, and kernels with a mistake in them."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from unimodal.kernels.dispatch import is_interpreted

if is_interpreted():
    from unimodal.kernels.interpreter import triton_patch

    triton_patch.patch()


@pytest.fixture
def mutate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Make `op` run a copy of its Triton module in which `old` is replaced by `new`.

    The operator's api must get its implementation by `_module(impl)`.
    """

    def replace(op: str, old: str, new: str) -> None:
        original = importlib.import_module(f"unimodal.kernels.{op}.triton")
        source = Path(str(original.__file__)).read_text(encoding="utf-8")
        assert old in source, f"the kernels of {op} have no {old!r}"
        path = tmp_path / f"triton_{op}.py"
        path.write_text(source.replace(old, new), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"mutated_{op}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def pick(impl: str) -> ModuleType:
            assert impl == "triton"
            return module

        monkeypatch.setattr(importlib.import_module(f"unimodal.kernels.{op}.api"), "_module", pick)

    return replace
