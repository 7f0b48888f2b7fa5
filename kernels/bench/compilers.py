"""Contenders that `torch.compile` makes, where it can."""

import functools
import os
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from unimodal.kernels.bench.spec import Contender, Missing


def compiled(device: str, formula: object, inputs: Sequence[Tensor]) -> Contender | Missing:
    """A function as `torch.compile` makes it."""
    if (missing := no_compiler(device)) is not None:
        return missing
    run = torch.compile(formula, dynamic=False)  # type: ignore[call-overload]
    return Contender(lambda: run(*inputs), note="the formula, compiled")


@functools.cache
def no_compiler(device: str) -> Missing | None:
    """Why `torch.compile` cannot be used, if it cannot."""
    if device == "cpu" and not any(
        shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name
    ):
        return Missing("torch.compile needs a C++ compiler, and none is there")
    return None
