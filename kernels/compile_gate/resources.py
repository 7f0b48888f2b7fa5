"""Reads registers, spills and instructions out of what compilers print.

Tested on recorded outputs in `tests/kernels/test_compile_gate.py`.
"""

import re

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
_DOT = re.compile(
    r"\btt\.dot\b.*:\s*tensor<(\d+)x\d+x(\w+)[,>].*\*\s*tensor<\d+x\d+x\w+[,>].*->\s*tensor<"
)
MIN_WGMMA_ROWS = 64
MIN_WGMMA_WARPS = 4


def cuda_usage(printed: str) -> tuple[int, int]:
    """Registers and bytes of stack of a thread, from `cuobjdump -res-usage`.

    Raises:
        ValueError: if the output names no function.
    """
    found = [(int(r), int(s)) for r, s in _USAGE.findall(printed)]
    if not found:
        raise ValueError(f"cuobjdump printed no resource usage: {printed[:200]!r}")
    return max(r for r, _ in found), max(s for _, s in found)


def amd_usage(assembly: str) -> tuple[int, int]:
    """Vector registers and spilled ones, from the metadata in AMD assembly.

    Raises:
        ValueError: if the metadata is not there.
    """
    counts = {}
    for name in ("vgpr_count", "vgpr_spill_count"):
        numbers = re.findall(rf"\.{name}:\s+(\d+)", assembly)
        if not numbers:
            raise ValueError(f"The assembly states no .{name}.")
        counts[name] = max(int(number) for number in numbers)
    return counts["vgpr_count"], counts["vgpr_spill_count"]


def wgmma_count(ptx: str) -> int:
    """Products of warp groups in PTX."""
    return ptx.count("wgmma.mma_async")


def tma_count(ptx: str) -> int:
    """Bulk tensor copies in PTX."""
    return ptx.count("cp.async.bulk.tensor")


def wants_wgmma(ttir: str, num_warps: int) -> bool:
    """Whether the kernel has a product that Hopper should do with `wgmma`."""
    if num_warps < MIN_WGMMA_WARPS:
        return False
    return any(
        int(rows) >= MIN_WGMMA_ROWS and element in ("f16", "bf16")
        for rows, element in _DOT.findall(ttir)
    )


def wants_tma(ttir: str) -> bool:
    """Whether the kernel reads or writes through descriptors."""
    return "tt.descriptor_load" in ttir or "tt.descriptor_store" in ttir
