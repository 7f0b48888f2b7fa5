"""Which device a name means: one rule for training, inference and the command line."""

import re

import torch

from unimodal.errors import BackendUnavailableError, ConfigError

_NAME = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def check_device(name: str) -> None:
    """Check the spelling of a device; whether it is there is not looked at.

    Raises:
        ConfigError: if it is none of `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"`device` must be auto, cpu, cuda or cuda:N, but is {name!r}.")


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` takes cuda where there is one, else cpu.

    Raises:
        ConfigError: if the name is no device.
        BackendUnavailableError: if the device is not there, or nothing has been tested on it (mps).
    """
    check_device(name)
    if name == "mps":
        raise BackendUnavailableError(
            "Nothing has been tested on mps: attention has kernels for CPUs and CUDA alone.",
            remedy="Use device=cpu.",
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= there:
        raise BackendUnavailableError(
            f"`device` is {name}, but PyTorch finds {there} CUDA devices on this machine.",
            remedy="Use device=cpu, or install a PyTorch build for the device.",
        )
    return device
