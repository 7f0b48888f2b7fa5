"""The optimizer: AdamW, or Muon for the matrices of the blocks; its state as named tensors."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unimodal.errors import CheckpointError
from unimodal.training.config import OptimizerConfig

NOT_DECAYED = ("embeddings.", "outputs.")
"""Rows of a vocabulary: a rare id would shrink between the steps in which it appears."""


class Optimizer:
    """Several of torch's optimizers that step as one.

    Args:
        parts: Each over parameters of its own.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self.parts = parts
        self._part_of = {
            parameter: part
            for part in parts
            for group in part.param_groups
            for parameter in group["params"]
        }

    def step(self) -> None:
        """Update every parameter from its gradient."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate

    def state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """What is kept of one parameter; writing to it restores it. Empty for a fixed one."""
        part = self._part_of.get(parameter)
        state: dict[str, Any] = {} if part is None else part.state[parameter]
        return state


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> Optimizer:
    """The optimizer over named parameters, fused where the device has it.

    `muon` orthogonalises the momentum of the blocks' matrices (Jordan et al. 2024), scaled so that
    an AdamW learning rate fits (Liu et al. 2025); all else is AdamW's in either case.
    Differs: fused matrices (qkv, gate and up) are orthogonalised as one.

    Args:
        parameters: In a fixed order; those without a gradient are left out.
        config: Its numbers; the schedule scales the learning rate.
    """
    orthogonal: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or name.startswith(NOT_DECAYED):
            kept.append(parameter)
        elif config.kind == "muon" and parameter.ndim == 2 and "blocks." in name:
            orthogonal.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    devices = {parameter.device.type for parameter in (*decayed, *kept)}
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=devices <= {"cpu", "cuda", "mps"},
        )
    ]
    if orthogonal:
        parts.append(
            torch.optim.Muon(
                orthogonal,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return Optimizer(parts)


def optimizer_state(
    optimizer: Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state as `KIND:PARAMETER`."""
    found = {}
    for name, parameter in parameters:
        for kind, value in optimizer.state_of(parameter).items():
            found[f"{kind}:{name}"] = torch.as_tensor(value)
    return found


def load_optimizer_state(
    optimizer: Optimizer,
    parameters: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Restore what `optimizer_state` returned.

    Raises:
        CheckpointError: if a tensor belongs to no parameter, or has another shape.
    """
    known = dict(parameters)
    for key, tensor in tensors.items():
        kind, _, name = key.partition(":")
        parameter = known.get(name)
        if parameter is None or (kind != "step" and tensor.shape != parameter.shape):
            raise CheckpointError(
                f"Optimizer state `{key}` with shape {tuple(tensor.shape)} fits no parameter.",
                remedy="Resume with the settings of the run, or choose another `run_dir`.",
            )
        # A step count stays where the optimizer makes it: on the CPU, unless it is fused elsewhere.
        optimizer.state_of(parameter)[kind] = tensor.to(parameter.device).clone()
