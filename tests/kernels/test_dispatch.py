"""Which implementation runs, and what is said of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from unimodal.errors import BackendUnavailableError, ConfigError, ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.dispatch import choice


@pytest.fixture(autouse=True)
def operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_registered", {})
    monkeypatch.setattr(choice, "_told", set())
    monkeypatch.setattr(choice, "_can_import_triton", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.register("both", ("reference", "cpu", "triton"))
    dispatch.register("plain", ("reference",))


def cuda() -> torch.Tensor:
    """A tensor that says it is on a GPU, without one."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(2, device="cuda")


def test_the_device_decides() -> None:
    assert dispatch.choose("both", torch.ones(1)) == "cpu"
    assert dispatch.choose("plain", torch.ones(1)) == "reference"
    assert dispatch.choose("both", cuda()) == "triton"
    assert dispatch.choose("both", torch.ones(1, device="meta")) == "reference"


def test_a_fallback_on_a_gpu_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert dispatch.choose("plain", cuda()) == "reference"
            assert dispatch.choose("both", cuda(), unsupported="it is float64") == "reference"
    assert [r.getMessage() for r in caplog.records] == [
        "plain runs the reference: it has no Triton kernel yet.",
        "both runs the reference: it is float64.",
    ]


def test_operators_run_with_the_card_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []

    @contextmanager
    def device(card: torch.device) -> Iterator[None]:
        current.append(card)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)

    @dispatch.on_own_device
    def run(first: torch.Tensor, *, named: int) -> tuple[list[torch.device], int]:
        return list(current), named

    assert run(torch.ones(1), named=1) == ([], 1)
    assert run(cuda(), named=2) == ([torch.device("cuda:0")], 2)
    assert not current


@pytest.mark.parametrize("interpreted", [True, False])
def test_triton_on_the_cpu_needs_the_interpreter(
    interpreted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if interpreted:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert dispatch.choose("both", torch.ones(1), impl="triton") == "triton"
        assert dispatch.choose("both", torch.ones(1)) == "cpu"
    else:
        with pytest.raises(BackendUnavailableError, match="TRITON_INTERPRET=1 is not set"):
            dispatch.choose("both", torch.ones(1), impl="triton")


def test_triton_by_name_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match="no Triton kernel yet"):
        dispatch.choose("plain", cuda(), impl="triton")
    with pytest.raises(BackendUnavailableError, match="it is float64"):
        dispatch.choose("both", cuda(), impl="triton", unsupported="it is float64")
    monkeypatch.setattr(choice, "_can_import_triton", lambda: False)
    with pytest.raises(BackendUnavailableError, match="extra `gpu`"):
        dispatch.choose("both", cuda(), impl="triton")


def test_a_default_holds_inside_and_ends() -> None:
    with dispatch.using("reference"):
        assert dispatch.choose("both", torch.ones(1)) == "reference"
        with dispatch.using("cpu"):
            assert dispatch.choose("both", torch.ones(1)) == "cpu"
            assert dispatch.choose("plain", torch.ones(1)) == "reference"
        assert dispatch.choose("both", torch.ones(1), impl="auto") == "cpu"
    assert dispatch.choose("both", torch.ones(1)) == "cpu"


def test_wrong_names_and_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="'cudnn'"):
        dispatch.choose("both", torch.ones(1), impl="cudnn")
    with pytest.raises(ConfigError, match="'cudnn'"), dispatch.using("cudnn"):
        pass
    with pytest.raises(ConfigError, match="reference included"):
        dispatch.register("op", ("cpu",))
    with pytest.raises(ShapeError, match="cpu, meta"):
        dispatch.choose("both", torch.ones(1), torch.ones(1, device="meta"))


def test_an_operator_that_is_not_registered_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"`op` must be one of both, plain, but is 'bth'"):
        dispatch.choose("bth", torch.ones(1))


def test_explain_lists_every_operator_with_a_reason() -> None:
    found = {(e.op, e.device): e for e in dispatch.explain()}
    assert found["both", "cpu"].implementation == "cpu"
    assert found["plain", "cpu"].implementation == "reference"
    assert all(e.reason for e in found.values())
