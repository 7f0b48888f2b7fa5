"""The benchmark compares equals: the same documents, the same loss, whole batches."""

import pytest
import torch

from unimodal.benchmarks import cross_entropy, train_step


def test_both_contenders_have_the_same_loss_and_gradient() -> None:
    pytest.importorskip("transformers")
    result = train_step.check(200)
    assert abs(result["unimodal"] - result["transformers"]) < 1e-4
    assert abs(result["unimodal_grad"] - result["transformers_grad"]) < 1e-5


def test_every_document_is_packed_once_and_padded_little() -> None:
    values = train_step.documents(500, 9_000)
    rows = train_step.pack(values)
    assert sorted(id(v) for row in rows for v in row) == sorted(id(v) for v in values)
    assert all(sum(map(len, row)) <= train_step.ROW_LENGTH for row in rows)
    batches = train_step.by_length(values)
    held = sum(int((labels != -100).sum()) for _, labels in batches)
    assert held == sum(map(len, values))
    assert held / sum(ids.numel() for ids, _ in batches) > 0.85


def test_the_heads_under_test_agree() -> None:
    functions = cross_entropy.contenders(40, 90)
    expected = functions.pop("autocast")()
    for run in functions.values():
        for got, right in zip(run(), expected, strict=True):
            # A few bfloat16 roundings of the largest gradient.
            assert (got.float() - right).abs().max() < 4 * 2**-8 * right.abs().max()
    assert torch.isfinite(expected[0]).all()
