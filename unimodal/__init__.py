"""The public names of unimodal, each resolved when it is first used (PEP 562).

So `import unimodal` costs milliseconds and imports no torch; `unimodal --help` depends on it. One
table below says where a public name lives. CamelCase names of registered modalities (`um.Text`,
`um.ImageCodes`) are not in it: they make a segment of that modality, and any registered one works.
Tested by tests/project/test_import.py.
"""

import importlib
import re
from pathlib import Path
from typing import Any

__version__ = "0.1.0.dev0"

_PUBLIC: dict[str, tuple[str, str | None]] = {
    "Decoder": ("unimodal.model.decoder", "Decoder"),
    "Document": ("unimodal.stream", "Document"),
    "Fixed": ("unimodal.grammar", "Fixed"),
    "Grid": ("unimodal.grammar", "Grid"),
    "Modality": ("unimodal.modality", "Modality"),
    "Open": ("unimodal.grammar", "Open"),
    "Segment": ("unimodal.stream", "Segment"),
    "Tokens": ("unimodal.types", "Tokens"),
    "Vocabulary": ("unimodal.vocabulary", "Vocabulary"),
    "errors": ("unimodal.errors", None),
    "load": ("unimodal.runtime", "load"),
    "patterns": ("unimodal.patterns", None),
    "register_modality": ("unimodal.modality", "register_modality"),
}
"""Public name to (module, attribute); the module itself where the attribute is None."""

__all__ = list(_PUBLIC)


def _extend_path() -> None:
    """Find `tokenizers`, `kernels` and `conf` at the repository root where links do not work.

    A checkout without support for symbolic links holds small text files in their places.
    """
    here = Path(__file__).resolve().parent
    names = ("tokenizers", "kernels", "conf")
    if not all((here / name).is_dir() for name in names):
        if all((here.parent / name).is_dir() for name in names):
            __path__.append(str(here.parent))


_extend_path()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        found = importlib.import_module(module)
        value = found if attribute is None else getattr(found, attribute)
    elif re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        value = _segment_factory(name)
    else:
        raise AttributeError(f"module 'unimodal' has no attribute '{name}'")
    globals()[name] = value
    return value


def _segment_factory(name: str) -> Any:
    """`ImageCodes` makes segments of the modality `image_codes`."""
    from unimodal.errors import ConfigError
    from unimodal.stream import segment_factory

    registered = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    try:
        return segment_factory(registered)
    except ConfigError as error:
        raise AttributeError(f"module 'unimodal' has no attribute '{name}': {error}") from error


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *(name for name in globals() if name.startswith("__"))})
