"""What the ranks of a data-parallel run agree on. Without `torch.distributed`, one rank of one."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


def world_size() -> int:
    """Number of ranks."""
    return distributed.get_world_size() if _is_on() else 1


def rank() -> int:
    """Number of this rank."""
    return distributed.get_rank() if _is_on() else 0


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of each value over all ranks: how ranks agree on the time and on stopping."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64).to(device)
    distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
    return tensor.tolist()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum every gradient over all ranks, as one flat tensor."""
    if world_size() == 1:
        return
    gradients = [
        torch.zeros_like(p) if p.grad is None else p.grad for p in parameters if p.requires_grad
    ]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    start = 0
    for parameter in (p for p in parameters if p.requires_grad):
        count = parameter.numel()
        parameter.grad = flat[start : start + count].view_as(parameter).clone()
        start += count


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if world_size() > 1:
        distributed.barrier()


def _is_on() -> bool:
    return distributed.is_available() and distributed.is_initialized()
