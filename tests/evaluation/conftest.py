"""A small world: a curve of a level (low, high) that a word names, and words with a rhythm."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.data.sources import SOURCES, ListSource
from unimodal.modality import NoConfig
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import StreamConfig, collate, encode_document
from unimodal.tasks import DataConfig, Task, TaskConfig, build_task
from unimodal.testing.fixtures import FakeContinuous, FakeLine
from unimodal.vocabulary import Vocabulary

WORDS = ("low", "middle", "high")

SMALL = DecoderConfig(
    width=64, num_layers=2, num_heads=1, num_kv_heads=1, head_dim=64, mlp_width=128
)


def records(split: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(len(split))
    made = []
    for number in range(60):
        level = number % 3
        curve = torch.from_numpy(rng.normal(2.0 * level, 0.1, (3, 3)))
        made.append({"id": f"{split}-{number}", "curve": curve, "text": WORDS[level]})
    return made


@pytest.fixture(scope="session", autouse=True)
def source() -> Iterator[str]:
    @SOURCES.register("test/levels")
    def levels(split: str) -> ListSource:
        return ListSource(records(split), name="test/levels", license="CC0-1.0", split=split)

    yield "test/levels"
    SOURCES._entries.pop("test/levels")


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary.of({"text": FakeLine(NoConfig()), "curve": FakeContinuous(NoConfig())})


@pytest.fixture(scope="session")
def tasks(vocabulary: Vocabulary) -> dict[str, Task]:
    data = DataConfig(name="test/levels")
    configs = {
        "describe": TaskConfig(template="translate", source="curve", data=data),
        "classify": TaskConfig(template="classify", source="curve", data=data),
        "spell": TaskConfig(template="model", data=data),
    }
    return {name: build_task(name, config, vocabulary) for name, config in configs.items()}


@pytest.fixture(scope="session")
def untrained(vocabulary: Vocabulary) -> Decoder:
    return Decoder(SMALL, vocabulary)


@pytest.fixture(scope="session")
def trained(vocabulary: Vocabulary, tasks: dict[str, Task]) -> Decoder:
    decoder = Decoder(SMALL, vocabulary)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    documents = [t.document(r, rng) for r in records("train")[:15] for t in tasks.values()]
    encoded = [encode_document(d, vocabulary, StreamConfig()) for d in documents]
    batch = collate([encoded], sum(map(len, encoded)), vocabulary)
    for _ in range(80):
        output = decoder.loss(batch)
        optimizer.zero_grad()
        (output.total / output.weight).backward()
        optimizer.step()
    return decoder
