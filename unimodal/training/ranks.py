"""The ranks of a data-parallel run, and what they agree on. Without a launcher, one rank of one.

`torchrun --nproc-per-node N -m unimodal.cli.main train ...` starts N processes; `joined_ranks`
makes one group of them.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from unimodal.devices import choose_device
from unimodal.errors import ConfigError, UnimodalError

TIMEOUT = timedelta(hours=12)
"""Ranks wait for rank 0 while it samples and scores; the launcher ends those of a dead one."""


@contextmanager
def joined_ranks(name: str) -> Iterator[torch.device]:
    """Join the group of the launcher's processes, if there is one, and leave it at the end.

    A group that the caller has made is used as it is.

    Args:
        name: Of the device; with several ranks `cuda` is the one of LOCAL_RANK.

    Yields:
        The device of this rank.

    Raises:
        ConfigError: if the launcher's environment is incomplete, or several ranks ask for one GPU.
        BackendUnavailableError: if the device is not there.
    """
    world = launched_world()
    device = choose_device(name)
    if world > 1 and device.type == "cuda":
        if device.index is not None:
            raise ConfigError(f"{world} ranks cannot share `{name}`.", remedy="Use device=cuda.")
        device = choose_device(f"cuda:{_from_launcher('LOCAL_RANK')}")
        torch.cuda.set_device(device)
    joins = world > 1 and not _is_on()
    if joins:
        for variable in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            _from_launcher(variable)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    if rank() > 0:
        logging.getLogger("unimodal").setLevel(logging.WARNING)
    yield device
    # After an error the process ends without it: leaving could wait for ranks that are gone.
    if joins:
        distributed.destroy_process_group()


def launched_world() -> int:
    """Number of processes that a launcher started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the launcher's first process, or the only one: who prints the result."""
    return os.environ.get("RANK", "0") == "0" or launched_world() == 1


def first_rank_alone(action: Callable[[], int], device: torch.device) -> int:
    """What `action` gives on rank 0, at least -1, told to all ranks.

    Raises:
        UnimodalError: on the other ranks, if it failed on rank 0; there, its own error.
    """
    value, failure = -1, None
    if rank() == 0:
        try:
            value = action()
        except BaseException as error:  # the others are told, then it goes on its way
            failure = error
    found, failed = largest([value, failure is not None], device)
    if failure is not None:
        raise failure
    if failed:
        raise UnimodalError("Rank 0 cannot begin.", remedy="Its own message says why.")
    return int(found)


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


def _from_launcher(variable: str) -> str:
    value = os.environ.get(variable)
    if value is None:
        raise ConfigError(
            f"WORLD_SIZE is {launched_world()}, but {variable} is not set.",
            remedy="Start several processes with torchrun, or unset WORLD_SIZE.",
        )
    return value


def _is_on() -> bool:
    return distributed.is_available() and distributed.is_initialized()
