"""AdamW with decay on matrices only, and its state as named tensors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from unimodal.errors import CheckpointError
from unimodal.training.config import OptimizerConfig

NOT_DECAYED = ("embeddings.", "outputs.")
"""Rows of a vocabulary: a rare id would shrink between the steps in which it appears."""


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.AdamW:
    """AdamW over named parameters, fused where the device has it.

    Args:
        parameters: In a fixed order; those without a gradient are left out.
        config: Its numbers; the schedule scales the learning rate.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.startswith(NOT_DECAYED)
            (decayed if is_matrix else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    devices = {parameter.device.type for parameter in (*decayed, *kept)}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=devices <= {"cpu", "cuda", "mps"},
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state as `KIND:PARAMETER`."""
    found = {}
    for name, parameter in parameters:
        for kind, value in optimizer.state.get(parameter, {}).items():
            found[f"{kind}:{name}"] = torch.as_tensor(value)
    return found


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
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
                f"Optimizer state `{key}` with shape {tuple(tensor.shape)} fits no parameter."
            )
        # A step count stays where the optimizer makes it: on the CPU, unless it is fused elsewhere.
        optimizer.state[parameter][kind] = tensor.to(parameter.device).clone()
