"""A tiny mixture over fake modalities: letters to model, and pictures to describe in letters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.data.sources import SOURCES, ListSource, Record, Source
from unimodal.training.config import ExperimentConfig
from unimodal.training.main import from_dict

LENGTHS = {"train": 37, "validation": 9}


def _letters(rng: np.random.Generator) -> str:
    """Runs of the alphabet: something that can be learned."""
    start, length = int(rng.integers(26)), int(rng.integers(3, 14))
    return "".join(chr(ord("a") + (start + i) % 26) for i in range(length))


@SOURCES.register("test/pictures")
def pictures(split: str = "train", **options: Any) -> Source:
    """Pictures of letters; `bad` records cannot be used."""
    import torch

    rng = np.random.default_rng(len(split))
    records: list[Record] = []
    for number in range(int(options.get("count", LENGTHS[split]))):
        colour = int(rng.integers(4))
        records.append(
            {
                "id": f"{split}-{number}",
                "fake_grid": torch.full((2, 3), colour),
                "fake_line": "abcd"[colour] * 3,
                "letters": "A" if number in options.get("bad", ()) else _letters(rng),
            }
        )
    return ListSource(records, name="test/pictures", license="CC0-1.0", split=split)


BASE: dict[str, Any] = {
    "name": "tiny",
    "modalities": {"fake_line": {}, "fake_grid": {}},
    "tasks": {
        "letters": {
            "target": "fake_line",
            "data": {"name": "test/pictures"},
            "options": {"target_field": "letters"},
            "weight": 2.0,
        },
        "describe": {
            "template": "translate",
            "source": "fake_grid",
            "target": "fake_line",
            "data": {"name": "test/pictures"},
            "loss_weight": 0.5,
        },
    },
    "model": {
        "width": 32,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "mlp_width": 48,
        "num_layers": 2,
        "dropout": 0.1,
    },
    "packing": {"row_length": 96, "look_ahead": 12},
    "optimizer": {"learning_rate": 0.01},
    "schedule": {"warmup_steps": 3},
    "training": {
        "max_steps": 6,
        "rows_per_step": 4,
        "rows_per_batch": 2,
        "precision": "fp32",
        "log_every": 1,
        "evaluate_every": 0,
        "evaluation_documents": 8,
        "save_every": 1000,
        "ema_decay": 0.9,
        "prefetch": 0,
    },
    "device": "cpu",
    "progress": False,
}

Make = Callable[..., ExperimentConfig]


@pytest.fixture
def experiment(tmp_path: Path) -> Make:
    """Builds the tiny experiment with dotted settings changed: `experiment({"a.b": 1})`."""

    def make(changes: dict[str, Any] | None = None) -> ExperimentConfig:
        return from_dict(BASE, {"run_dir": str(tmp_path / "run"), **(changes or {})})

    return make
