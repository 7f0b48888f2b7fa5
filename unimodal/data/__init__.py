"""Data: sources of records, manifests, plain folders, recipes and the embedded sets.

`open_source(NAME_OR_PATH, split)` opens any of them. Names resolve lazily, without torch.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Finding": "manifest",
    "GenomeWindows": "genome",
    "ListSource": "sources",
    "MovingDigits": "motion",
    "RECIPES": "recipe",
    "Recipe": "recipe",
    "Record": "sources",
    "SOURCES": "sources",
    "Source": "sources",
    "Subset": "sources",
    "open_path": "folders",
    "open_source": "sources",
    "stable_split": "sources",
    "validate_manifest": "manifest",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'unimodal.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"unimodal.data.{_PUBLIC[name]}"), name)
