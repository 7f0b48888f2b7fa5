"""Compiles kernels for targets that are not there: a driver that only names a target.

`kernel.warmup` takes the path of a launch up to the launch itself, so types, alignments and
constants are specialised as they would be. Compiled kernels are cached by device, hence one device
number for each target. Runs in a process of its own with an empty `TRITON_CACHE_DIR`.
"""

import functools
import importlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from unimodal.kernels.compile_gate import resources
from unimodal.kernels.compile_gate.targets import TARGETS, Measured, Target
from unimodal.kernels.dispatch import GateCase, tables


class TargetDriver:
    """The part of a driver that compiling asks for."""

    def __init__(self, target: Target):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        """The target to compile for."""
        return GPUTarget(self.target.backend, self.target.arch, self.target.warp_size)

    def get_current_device(self) -> int:
        """The target's own device number."""
        return TARGETS.index(self.target)

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


def cases(op: str, head_dim: int, dtype: torch.dtype, target: Target) -> list[GateCase]:
    """The cases of one operator with the configs that it uses on a target."""
    module = importlib.import_module(f"unimodal.kernels.{op}.triton")
    with tables.pretending(target.name):
        found: list[GateCase] = module.gate_cases(head_dim, dtype)
    names = [case.name for case in found]
    if len(set(names)) < len(names):
        raise ValueError(f"{op}: names of gate cases must differ, but are {sorted(names)}.")
    return found


def compile_all(
    ops: list[str], head_dims: list[int], dtypes: list[torch.dtype], targets: list[Target]
) -> Iterator[Measured | str]:
    """Compile and measure; what does not compile comes as a message instead of a row."""
    seen: set[tuple[str, str, str]] = set()
    for op in ops:
        for target in targets:
            for dtype in dtypes:
                for head_dim in head_dims:
                    try:
                        asked = cases(op, head_dim, dtype, target)
                    except Exception as error:  # one broken operator must not hide the others
                        yield f"{op} has no gate cases: {type(error).__name__}: {error}"
                        continue
                    for case in asked:
                        # Operators without heads give the same cases for every head size.
                        if (key := (op, case.name, target.name)) not in seen:
                            seen.add(key)
                            yield measure(op, case, target)


def measure(op: str, case: GateCase, target: Target) -> Measured | str:
    """Compile one case for one target, or say why that fails."""
    triton.runtime.driver.set_active(TargetDriver(target))
    config = {**case.constexprs, "num_warps": case.num_warps, "num_stages": case.num_stages}
    try:
        compiled = case.kernel.warmup(*case.args, grid=case.grid, **config)
    except Exception as error:  # a compiler may fail with anything; the gate reports all of it
        text = " ".join(str(error).split())[-600:]
        return f"{op}, {case.name}, {target.name}: {type(error).__name__}: {text}"
    if target.backend == "cuda":
        ptx = compiled.asm["ptx"]
        registers, spills = resources.cuda_usage(_cuobjdump(compiled.asm["cubin"]))
        wgmma, tma = resources.wgmma_count(ptx), resources.tma_count(ptx)
    else:
        registers, spills = resources.amd_usage(compiled.asm["amdgcn"])
        wgmma = tma = 0
    is_hopper = target.name == "sm90"
    ttir = compiled.asm["ttir"]
    return Measured(
        op=op,
        kernel=case.kernel.fn.__name__,
        case=case.name,
        config={name: _plain(value) for name, value in config.items()},
        target=target.name,
        triton=triton.__version__,
        registers=registers,
        spills=spills,
        shared=compiled.metadata.shared,
        wgmma=wgmma,
        tma=tma,
        wants_wgmma=is_hopper and resources.wants_wgmma(ttir, case.num_warps),
        wants_tma=is_hopper and resources.wants_tma(ttir),
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _cuobjdump(binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [_cuobjdump_path(), "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def _cuobjdump_path() -> str:
    """The one that Triton brings."""
    root = os.path.dirname(triton.__file__)
    return os.path.join(root, "backends", "nvidia", "bin", "cuobjdump")
