"""Times: cold caches, warm-up, contenders in turn, median and quantiles; and peak memory.

Every sample starts with the card's last cache (or the CPU's) flushed by writing a large buffer. On
a GPU it is written several times, so that the card is still busy when the call is queued behind it:
the time is the card's, without Python's.
Contenders take turns, so that a machine that grows slower grows slower for all.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

FLUSH_BYTES = {"cuda": 256 << 20, "cpu": 64 << 20}
FLUSHES = {"cuda": 12, "cpu": 1}
"""How often it is written: on an H100 a write should take a twelfth of a millisecond."""
WARM_UP = 2
MIN_SAMPLES = 5
MAX_SAMPLES = 200

Run = Callable[[], object]

CLOCKS = ("wall", "cpu")
"""`wall`: what a user waits (device events on a GPU). `cpu`: the process's CPU time, all threads;
it hardly changes when the machine is busy with other work, and equals the wall's with one thread on
an idle core."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one contender.

    Attributes:
        median, low, high: Median, and the quantiles of a tenth and nine tenths.
        samples: How many were taken.
    """

    median: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class After:
    """A function that is timed alone, on what `setup` makes anew for each sample."""

    setup: Callable[[], Any]
    run: Callable[[Any], object]


def measure(
    runs: Mapping[str, Run | After], device: str, seconds: float, clock: str = "wall"
) -> dict[str, Times]:
    """Time functions in turn until each has had `seconds`, or `MAX_SAMPLES` samples."""
    flush = torch.empty(FLUSH_BYTES[device], dtype=torch.int8, device=device)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        warm_up(run, device)
    spent = dict.fromkeys(runs, 0.0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(MAX_SAMPLES):
            open_runs = [n for n in runs if spent[n] < seconds or len(taken[n]) < MIN_SAMPLES]
            if not open_runs:
                break
            for name in open_runs:
                run = _ready(runs[name])
                _wait(device)
                for _ in range(FLUSHES[device]):
                    flush.zero_()
                begin = time.perf_counter()
                taken[name].append(_one(run, device, clock))
                spent[name] += time.perf_counter() - begin
    finally:
        gc.enable()
    return {name: _summary(samples) for name, samples in taken.items()}


def warm_up(run: Run | After, device: str) -> None:
    """Call it as often as it takes for compilers and caches to be done."""
    for _ in range(WARM_UP):
        _ready(run)()
    _wait(device)


def _ready(run: Run | After) -> Run:
    if not isinstance(run, After):
        return run
    made, timed = run.setup(), run.run
    return lambda: timed(made)


def _one(run: Run, device: str, clock: str) -> float:
    """Milliseconds of one call."""
    if device == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(stop))
    now = time.process_time if clock == "cpu" else time.perf_counter
    begin = now()
    run()
    return 1e3 * (now() - begin)


def _summary(samples: list[float]) -> Times:
    tenths = quantiles(samples, n=10, method="inclusive")
    return Times(median(samples), tenths[0], tenths[-1], len(samples))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def keep_freed_memory() -> bool:
    """Tell glibc to keep the memory that is freed, as far as its largest blocks; False elsewhere.

    Left alone, it gives pages back to the system and takes them again within one backward pass: 4
    us each in a virtual machine, from nothing to a fifth of a sparse pattern's time. A training
    step, in which other tensors keep the heap large, has next to no such faults.
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        limit = ctypes.CDLL(None).mallopt
        return bool(limit(mmap_threshold, 1 << 25)) and bool(limit(trim_threshold, 1 << 30))
    except (OSError, AttributeError):
        return False


def peak_memory(run: Run, device: str) -> int | None:
    """Bytes that one call needs beyond what is held before it; None where that cannot be known.

    On the CPU it is the growth of the resident set of the process, on Linux only.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # What the allocator keeps for later would hide what the call needs.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        run()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError, LookupError):
        return None


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise LookupError(field)
