"""What the loop trains, and in which precision: decoders, and whatever else has a loss."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unimodal.devices import fast_bfloat16
from unimodal.errors import BackendUnavailableError
from unimodal.model.decoder import LossOutput

Placed = tuple[Sequence[str], Tensor, Tensor, Tensor]
"""Losses of some places: names of tasks, which of them each place has, nats, weights."""


class StepBatch(Protocol):
    """A micro-batch; `unimodal.stream.Batch` and `unimodal.training.values.ValueBatch` are."""

    @property
    def samples(self) -> list[tuple[str, str]]:
        """Task and id of each sample."""
        ...

    def to(self, device: torch.device | str) -> "StepBatch":
        """The batch with its tensors on `device`."""
        ...

    def placed(self, losses: Sequence[Tensor]) -> Iterator[Placed]:
        """`LossOutput.nll` of this batch by task."""
        ...


class Trainee(Protocol):
    """A module with a loss; `unimodal.model.decoder.Decoder` is one."""

    def loss(self, batch: Any) -> LossOutput:
        """sum(weight x nll) of a batch, with gradient, and its parts."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its parameters, in a fixed order."""
        ...

    def state_dict(self, *, keep_vars: bool) -> Mapping[str, Tensor]:
        """Its weights by name; with `keep_vars` themselves, for averaging."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout and the like on or off."""
        ...


@dataclass(frozen=True)
class Precision:
    """What matrix products are computed in; weights and sums stay in float32.

    Attributes:
        name: `fp32` or `bf16`.
        reason: Why, for the log.
    """

    name: str
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The precision of a run.

    Args:
        wanted: `auto`, `fp32` or `bf16`.
        device: Where it runs.
    """
    if wanted != "auto":
        return Precision(wanted, "asked for")
    fast, reason = fast_bfloat16(device)
    return Precision("bf16" if fast else "fp32", reason)


def check_compiler(device: torch.device) -> None:
    """See to it that torch.compile can work.

    Raises:
        BackendUnavailableError: on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise BackendUnavailableError(
            "Compiling needs a C++ compiler on a CPU.",
            remedy="Install g++, or do not compile.",
        )
