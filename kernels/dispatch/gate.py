"""What the compile gate asks of an operator's Triton module: how to warm a kernel up.

Every `kernels/<op>/triton.py` has `gate_cases(head_dim, dtype) -> list[GateCase]`; operators
without heads ignore `head_dim`, or take it for the size that they specialise on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GateCase:
    """One kernel with one configuration, ready for `kernel.warmup(*args, grid=grid, ...)`.

    Attributes:
        name: Unique among the operator's cases: kernel, head size, dtype, what is special.
        kernel: The plain `@triton.jit` function.
        args: Positional arguments: CPU tensors (never read), numbers.
        constexprs: The arguments that the kernel specialises on.
        grid: Of the launch.
        num_warps: Warps a program.
        num_stages: Stages of the software pipeline.
    """

    name: str
    kernel: Any
    args: tuple[Any, ...]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[int, ...] = (1,)
    num_warps: int = 4
    num_stages: int = 2


def launch(case: GateCase) -> None:
    """Launch a kernel as the compile gate sees it."""
    case.kernel[case.grid](
        *case.args, **case.constexprs, num_warps=case.num_warps, num_stages=case.num_stages
    )
