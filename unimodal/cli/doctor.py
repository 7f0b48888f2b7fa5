"""`unimodal doctor`: what this machine has, which kernels run and why. Exit code 1 on a fault."""

import argparse
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from unimodal import __version__
from unimodal.cli.console import print_json, print_table
from unimodal.cli.options import add_output_options
from unimodal.errors import EXIT_FAILURE, BackendUnavailableError

ABOUT = "Show what this machine has: Python, torch, devices, kernels, optional packages, cache."

REQUIRED = (
    "torch",
    "numpy",
    "hydra-core",
    "omegaconf",
    "pyyaml",
    "sentencepiece",
    "tokenizers",
    "safetensors",
    "soundfile",
    "pillow",
    "av",
    "einops",
    "biopython",
    "jaxtyping",
    "rich",
    "vector-quantize-pytorch",
)
OPTIONAL = {
    "triton": "gpu",
    "torchaudio": "speech",
    "pyarrow": "data",
    "resvg-py": "data",
    "espeakng-loader": "data",
    "matplotlib": "report",
    "tensorboard": "report",
    "jiwer": "eval",
    "sacrebleu": "eval",
    "scikit-learn": "eval",
    "peft": "finetune",
    "transformers": "parity",
}
"""Packages to the extra that brings them."""

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `doctor`."""
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings."""
    found = examine()
    if arguments.json:
        print_json(found)
    else:
        _print(found)
    return EXIT_FAILURE if found["faults"] else 0


def examine() -> dict[str, Any]:
    """Everything that `doctor` reports, JSON-ready."""
    required = {name: _version(name) for name in REQUIRED}
    faults = [
        f"The package `{name}` is missing: install unimodal again."
        for name, version in required.items()
        if version is None
    ]
    cache = _cache()
    if not cache["writable"]:
        faults.append(f"The cache folder {cache['folder']} cannot be written: set UNIMODAL_CACHE.")
    found: dict[str, Any] = {
        "unimodal": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "packages": required,
        "optional": {
            name: {"version": _version(name), "extra": extra} for name, extra in OPTIONAL.items()
        },
        "cache": cache,
    }
    if required["torch"] is None:
        return {**found, "devices": [], "kernels": [], "faults": faults}
    return {**found, "devices": _devices(), "kernels": _kernels(), "faults": faults}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    import torch

    from unimodal.devices import fast_bfloat16

    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.partition(":")[2].split())
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fast, why = fast_bfloat16(torch.device("cpu"))
    trains = f"in {'bf16' if fast else 'fp32'}: {why}"
    return {
        "cores": cores,
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "trains": trains,
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.processor() or platform.machine()}
    ]
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        devices.append(
            {
                "device": f"cuda:{number}",
                "name": facts.name,
                "memory_gib": round(facts.total_memory / 2**30, 1),
            }
        )
    return devices


def _kernels() -> list[dict[str, str]]:
    """Which implementation of each operator runs on the CPU and, if there is one, on the GPU."""
    from unimodal.kernels.dispatch import explain

    return [
        {"op": e.op, "device": e.device, "runs": e.implementation, "why": e.reason}
        for e in explain()
    ]


def _cache() -> dict[str, Any]:
    try:
        from unimodal.data.cache import cache_folder

        folder = cache_folder()
    except (ImportError, BackendUnavailableError) as error:
        return {"folder": "unknown", "writable": False, "why": str(error)}
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return {"folder": str(folder), "writable": os.access(existing, os.W_OK)}


def _print(found: dict[str, Any]) -> None:
    print(f"unimodal {found['unimodal']}, Python {found['python']}, {found['platform']}")
    flags = " ".join(found["cpu"]["flags"]) or "none of those that matter"
    print(f"CPU: {found['cpu']['cores']} cores; {flags}")
    print(f"     trains {found['cpu']['trains']}")
    print(f"cache: {found['cache']['folder']}\n")
    print_table(
        ["device", "name", "memory"],
        [[d["device"], d["name"], d.get("memory_gib")] for d in found["devices"]],
    )
    print()
    print_table(
        ["kernel", "device", "runs", "because"],
        [[k["op"], k["device"], k["runs"], k["why"]] for k in found["kernels"]],
    )
    print()
    rows = [[name, version or "MISSING", "required"] for name, version in found["packages"].items()]
    for name, facts in found["optional"].items():
        missing = f"not installed: pip install 'unimodal[{facts['extra']}]'"
        rows.append([name, facts["version"] or missing, f"extra {facts['extra']}"])
    print_table(["package", "version", "needed"], rows)
    for fault in found["faults"]:
        print(f"FAULT: {fault}", file=sys.stderr)
