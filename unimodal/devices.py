"""Which device a name means, and how it multiplies: one rule for training and the command line."""

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


def fast_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether matrix products are faster in bfloat16 than in float32 there, and why.

    On a CPU that takes AMX, or products of AVX-512 (`avx512_bf16`): a training step of the released
    mixture took 1.75 times as long in float32 on two cores of the latter (AMD, Zen 5).
    """
    if device.type == "cpu":
        for name, has in (
            ("AMX", torch.cpu._is_amx_tile_supported()),
            ("AVX-512 in bfloat16", torch.cpu._is_avx512_bf16_supported()),
        ):
            if has:
                return True, f"this CPU has {name}"
        return False, "this CPU has neither AMX nor AVX-512 in bfloat16"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return True, "this GPU computes in bf16"
    return False, f"{device.type} does not compute in bf16"
