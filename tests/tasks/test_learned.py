"""Options `objective` and `free`: documents as training sees them, and a tiny run that learns."""

from typing import Any

import numpy as np
import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import collate, encode_document
from unimodal.tasks import TaskConfig, build_task
from unimodal.vocabulary import SWITCH, Vocabulary

RECORDS = [
    {"id": str(n), "text": word, "cells": torch.full((2, 2), n)}
    for n, word in enumerate(["red apple", "blue boat", "green car"])
]
TEMPLATES: dict[str, dict[str, Any]] = {
    "model": {},
    "translate": {"source": "cells"},
    "continue": {},
}


@pytest.fixture
def listed(vocabulary: Vocabulary) -> Vocabulary:
    return Vocabulary.of(
        {name: type(m)(m.config) for name, m in vocabulary.modalities.items()},
        openers=["text", "cells"],
    )


@pytest.mark.parametrize(
    "options", [{"objective": "masked"}, {"free": True}], ids=["masked", "free"]
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tiny_run_learns(listed: Vocabulary, template: str, options: dict[str, Any]) -> None:
    config = TaskConfig(template=template, options=options, **TEMPLATES[template])
    task = build_task("job", config, listed)
    shape = {"width": 32, "num_heads": 1, "num_kv_heads": 1, "head_dim": 32, "mlp_width": 64}
    decoder = Decoder(DecoderConfig(**shape, num_layers=1), listed).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        rng = np.random.default_rng(step)
        documents = [task.document(record, rng) for record in RECORDS]
        encoded = [encode_document(d, listed, decoder.stream, rng) for d in documents]
        loss = decoder.loss(collate([encoded], 128, listed)).total
        weight = sum(float(e.loss_weight.sum()) for e in encoded)
        (loss / weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()) / weight)
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    asked = documents[0].segments[-1]
    if options.get("free"):
        assert (encoded[0].head_set == listed.head_numbers[SWITCH]).any()
        assert int(encoded[0].ids[-1]) == listed.control("stop")
    else:
        assert (asked.objective, asked.attend) == ("masked", "full")
    assert all(
        s.objective != "masked" for d in task.scored_documents(RECORDS[0]) for s in d.segments
    )
    assert not task.request(RECORDS[0]).free


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective": "none"}, "next or masked"),
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"free": True}, "openers"),
    ],
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_wrong_options_are_refused(
    vocabulary: Vocabulary, template: str, options: dict[str, Any], match: str
) -> None:
    config = TaskConfig(template=template, options=options, **TEMPLATES[template])
    with pytest.raises(ConfigError, match=match):
        build_task("job", config, vocabulary)


def test_modelling_has_no_null_condition(vocabulary: Vocabulary) -> None:
    task = build_task("job", TaskConfig(), vocabulary)
    with pytest.raises(ConfigError, match="no null condition"):
        task.null(task.scored_documents(RECORDS[0])[0])
