"""Devices by name: one rule for every part that computes."""

import pytest
import torch

from unimodal.devices import choose_device
from unimodal.errors import BackendUnavailableError, ConfigError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """As many CUDA devices as the test says, and an mps that PyTorch would offer."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    return count


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["gpus"],
)
def test_a_name_means_a_device_and_auto_never_means_mps(gpus: int, name: str, device: str) -> None:
    assert choose_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (0, "mps")], indirect=["gpus"]
)
def test_a_device_that_is_not_there_is_unavailable(gpus: int, name: str) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        choose_device(name)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cpu:0", "gpu", "", " cuda"])
def test_a_name_of_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="`device` must be"):
        choose_device(name)
