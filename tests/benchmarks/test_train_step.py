"""The benchmark compares equals: the same documents, the same loss, whole batches."""

import pytest

from unimodal.benchmarks import train_step


def test_both_contenders_have_the_same_loss_and_gradient() -> None:
    pytest.importorskip("transformers")
    result = train_step.check(200)
    assert abs(result["unimodal"] - result["transformers"]) < 1e-4
    assert abs(result["unimodal_grad"] - result["transformers_grad"]) < 1e-5


def test_the_peer_gets_the_same_targets_and_little_padding() -> None:
    values = train_step.documents(train_step.build_decoder(500).vocabulary, 9_000)
    batches = train_step.by_length(values)
    held = sum(int((labels != train_step.IGNORED).sum()) for _, labels in batches)
    assert held == train_step.num_targets(values)
    assert sum(map(len, values)) / sum(ids.numel() for ids, _ in batches) > 0.85
