"""Exponential moving average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from unimodal.errors import CheckpointError


class Ema:
    """average <- d x average + (1 - d) x weights, with d = min(decay, (1 + step) / (10 + step)).

    Args:
        weights: Live ones by name; those of floating point are averaged, in their dtype and place.
        decay: In (0, 1).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        self.decay = decay
        self._live = dict(weights)
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        moving = [n for n, t in self._live.items() if t.is_floating_point()]
        averages = [self.average[name] for name in moving]
        torch._foreach_lerp_(averages, [self._live[name].detach() for name in moving], rate)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a saved average.

        Raises:
            CheckpointError: if it is of other weights.
        """
        if tensors.keys() != self.average.keys():
            odd = min(tensors.keys() ^ self.average.keys())
            raise CheckpointError(
                f"The saved average and the model differ in weight `{odd}`.",
                remedy="Resume with the settings of the run, or choose another `run_dir`.",
            )
        for name, tensor in tensors.items():
            self.average[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights, and the weights back afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            held = live.detach().clone()
            live.copy_(self.average[name])
            self.average[name].copy_(held)
