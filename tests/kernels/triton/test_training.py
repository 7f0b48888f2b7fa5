"""Three steps of training on interpreted Triton leave every parameter where the reference does."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.kernels.dispatch import choice, using
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Batch, Document, Segment, collate, encode_document
from unimodal.vocabulary import Vocabulary

pytestmark = pytest.mark.gates

STEPS = 3
LEARNING_RATE = 0.05
OF_THE_DECODER = {"attention", "cross_entropy", "qk_prologue", "rms_norm", "swiglu"}
NAMES = ["fake_line", "fake_grid", "fake_continuous"]
SLACK = 2e-4
"""Of a parameter's own way: float32 sums of some hundred terms, three times over."""


def decoder() -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        num_layers=2,
        width=64,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        mlp_width=96,
        patterns={"fake_grid": ["row", "column"], "fake_line": ["window(size=3)"]},
    )
    return Decoder(config, Vocabulary.of(NAMES)).train()


def batch(of: Decoder) -> Batch:
    """Two rows of packed documents, one of them padded."""
    rng = np.random.default_rng(0)
    rows = []
    for names in (["fake_line", "fake_grid"], ["fake_continuous", "fake_line"]):
        segments = []
        for name in names:
            value = of.vocabulary.modality(name).example(rng)
            objective = "none" if name == "fake_continuous" else "next"
            segments.append(Segment(name, value, objective=objective))
        document = encode_document(Document(segments), of.vocabulary, of.stream, rng)
        rows.append([document, document])
    length = max(sum(map(len, row)) for row in rows) + 3
    return collate(rows, length, of.vocabulary)


def train(impl: str) -> dict[str, Tensor]:
    model = decoder()
    data = batch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    with using(impl):
        for _ in range(STEPS):
            result = model.loss(data)
            (result.total / result.weight).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def differences(found: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """Parameters that ended elsewhere, by more than `SLACK` of their way and their rounding."""
    start = {name: value.detach() for name, value in decoder().named_parameters()}
    wrong = []
    for name, value in right.items():
        moved = float((value - start[name]).abs().max())
        rounding = STEPS * torch.finfo(value.dtype).eps * float(value.abs().max())
        error = float((found[name] - value).abs().max())
        if not error <= SLACK * moved + rounding:
            wrong.append(f"{name}: off by {error:.3g}, moved by {moved:.3g}")
    return wrong


def test_three_steps_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    original = choice._why_no_triton

    def noted(op: str, device: str) -> str | None:
        asked.add(op)
        return original(op, device)

    monkeypatch.setattr(choice, "_why_no_triton", noted)
    found = train("triton")
    with_kernel = {op for op, names in choice._registered.items() if "triton" in names}
    assert asked == OF_THE_DECODER & with_kernel
    assert asked
    right = train("reference")
    assert differences(found, right) == []


def test_a_kernel_that_is_off_by_a_hundredth_is_seen(
    mutate: Callable[[str, str, str], None],
) -> None:
    right = train("reference")
    assert differences(train("reference"), right) == []
    mutate("rms_norm", "/ WIDTH + eps)  # [BR]", "/ WIDTH * 1.01 + eps)  # [BR]")
    assert differences(train("triton"), right)
