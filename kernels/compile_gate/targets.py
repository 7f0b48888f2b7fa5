"""The targets of the gate and their limits, and what is measured of one compiled kernel.

Not here: compiling (`triton_compile`), the table (`table`).
"""

from dataclasses import asdict, dataclass
from typing import Any

KIB = 1024

IEEE_SPILLS = 128
"""What a kernel may spill (see `Measured`) whose products are exact float32, off the tensor cores:
there compilers let some registers go for more programs at once."""


@dataclass(frozen=True)
class Target:
    """One architecture to compile for.

    Attributes:
        name: As `tables.architecture` has it.
        backend: Triton's backend, `cuda` or `hip`.
        arch: Triton's name of the architecture: a number or a string.
        warp_size: Threads of a warp.
        max_shared: Shared memory that one program may use, bytes.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    max_shared: int


TARGETS = (
    Target("sm80", "cuda", 80, 32, 163 * KIB),
    Target("sm90", "cuda", 90, 32, 227 * KIB),
    Target("gfx942", "hip", "gfx942", 64, 64 * KIB),
)
"""NVIDIA A100 and H100, AMD MI300. Their position is the device number of the fake driver."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table.

    Attributes:
        op: Folder of the operator.
        kernel: Name of the Triton function.
        case: Name of the case, unique among the operator's.
        config: Constants, warps and stages that it was compiled with.
        target: Name of the target.
        triton: Version of the compiler.
        registers: Of one thread.
        spills: Bytes of the thread's stack on NVIDIA, spilled vector registers on AMD.
        shared: Shared memory, bytes.
        wgmma, tma: Instructions in the assembly: tensor-core products of warp groups, and bulk
            tensor copies.
        wants_wgmma, wants_tma: Whether the kernel has products (64 rows or more of 16-bit numbers,
            four warps or more) or descriptors that should become such instructions.
    """

    op: str
    kernel: str
    case: str
    config: dict[str, Any]
    target: str
    triton: str
    registers: int
    spills: int
    shared: int
    wgmma: int = 0
    tma: int = 0
    wants_wgmma: bool = False
    wants_tma: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The row, JSON-ready; the wishes are not part of the table."""
        row = asdict(self)
        del row["wants_wgmma"], row["wants_tma"]
        return row

    def faults(self) -> list[str]:
        """What is wrong with it, each as a clause."""
        limit = next(t.max_shared for t in TARGETS if t.name == self.target)
        found = []
        is_exact = self.config.get("PRECISION") == "ieee"
        if self.spills > (IEEE_SPILLS if is_exact else 0):
            found.append(f"spills {self.spills}")
        if self.shared > limit:
            found.append(f"needs {self.shared} bytes of shared memory, {limit} are there")
        if self.wants_wgmma and not self.wgmma:
            found.append("its products do not become wgmma")
        if self.wants_tma and not self.tma:
            found.append("its descriptors do not become TMA copies")
        return found
