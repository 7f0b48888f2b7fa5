"""The machine that is measured: card, clocks, versions, commit, and its roof in this very run."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from unimodal.kernels.bench.timing import measure

PACKAGES = ("torch", "triton", "numpy", "liger-kernel", "flash-attn")


@dataclass(frozen=True)
class Roof:
    """What the machine reaches on the two simplest jobs.

    Attributes:
        flops: Operations a second of a large matrix product in the benchmark's dtype.
        bandwidth: Bytes a second of a large copy, read and written.
    """

    flops: float
    bandwidth: float

    def seconds(self, flops: float, num_bytes: float) -> float:
        """The least time for this much work."""
        return max(flops / self.flops, num_bytes / self.bandwidth)


def measure_roof(
    device: str, dtype: torch.dtype, seconds: float = 1.0, clock: str = "wall"
) -> Roof:
    """Time a large matrix product and a large copy."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype, device=device)
    source = torch.zeros(
        (1 << 30) if device == "cuda" else (1 << 26), device=device, dtype=torch.int8
    )
    target = torch.empty_like(source)
    runs = {
        "product": lambda: torch.mm(a, b, out=out),
        "copy": lambda: target.copy_(source),
    }
    times = measure(runs, device, seconds, clock)
    # The best that was seen: a roof is not lowered by a neighbour's work.
    return Roof(
        flops=2.0 * size**3 / (times["product"].low / 1e3),
        bandwidth=2.0 * source.numel() / (times["copy"].low / 1e3),
    )


def describe(device: str) -> dict[str, Any]:
    """Card, driver, clocks, versions and commit, JSON-ready."""
    facts: dict[str, Any] = {
        "device": device,
        "card": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "commit": commit(),
        "clocks": _cuda_clocks() if device == "cuda" else _cpu_clocks(),
    }
    if device == "cuda":
        facts["cuda"] = torch.version.cuda or torch.version.hip
        facts["sms"] = torch.cuda.get_device_properties(0).multi_processor_count
    return facts


def commit(folder: Path | None = None) -> str:
    """The commit of the sources, with `+` if they differ from it; `unknown` outside a checkout."""
    place = folder or Path(__file__).resolve().parent
    try:
        name = _git(place, "rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git(place, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_clocks() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    speeds = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"mhz": [round(speed) for speed in speeds], "load": load}


def _cuda_clocks() -> dict[str, Any]:
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return {"unknown": f"nvidia-smi: {error}"}
    return dict(zip(fields.split(","), (v.strip() for v in printed.split(",")), strict=False))
