"""Training: one loop for everything that has a loss, resumable bitwise.

    from unimodal.training import compose, train
    result = train(compose(["experiment=dna", "training.max_minutes=5"]))

Names are resolved when first used, so importing this package costs nothing.
"""

import importlib
from typing import Any

_PUBLIC = {
    "ExperimentConfig": "config",
    "RunResult": "run",
    "compose": "main",
    "read_experiment": "run",
    "train": "run",
}
__all__ = ["ExperimentConfig", "RunResult", "compose", "read_experiment", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"unimodal.training.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'unimodal.training' has no attribute '{name}'")
