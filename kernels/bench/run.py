"""One benchmark: numerics first, then times, then what they mean. Returns plain values.

A contender that is wrong gets no time; it is listed with its errors. The share of the roof is the
least time for the work at the speed of a large product and a large copy, measured in the same run,
over the time that was taken.
"""

import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.kernels import dispatch
from unimodal.kernels.bench import machine, numerics, timing
from unimodal.kernels.bench.spec import (
    OURS,
    Contender,
    Missing,
    Problem,
    Spec,
    choose,
)

PROBLEMS = {
    "attention": "attention:problem",
    "cross_entropy": "losses:cross_entropy",
    "decode": "decode:problem",
    "dna_ngrams": "sequences:ngrams",
    "linear_nll": "losses:nll",
    "log_mel": "signals:mel",
    "nearest_code": "losses:nearest",
    "qk_prologue": "elementwise:prologue",
    "rms_norm": "elementwise:rms_norm",
    "swiglu": "elementwise:gated",
}
"""What can be timed, and the function that states each one's problem."""

OPERATOR = {"decode": "attention", "linear_nll": "cross_entropy"}
"""The operator that is dispatched, where it has another name."""

ONLY_FLOAT32 = {"log_mel"}


def problem_of(spec: Spec) -> Problem:
    """The problem of an operator.

    Raises:
        ConfigError: if there is no such operator, or it does not take the dtype.
        BackendUnavailableError: if the device is not there.
    """
    if spec.op not in PROBLEMS:
        raise ConfigError(f"`op` must be one of {', '.join(PROBLEMS)}, but is {spec.op}.")
    if spec.op in ONLY_FLOAT32 and spec.dtype != "float32":
        raise ConfigError(f"`dtype` of {spec.op} must be float32, but is {spec.dtype}.")
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "There is no CUDA device here.", subject="device", remedy="Use --device cpu."
        )
    module, _, name = PROBLEMS[spec.op].partition(":")
    make: Callable[[Spec], Problem]
    make = getattr(importlib.import_module(f"unimodal.kernels.bench.{module}"), name)
    return make(spec)


def bench(spec: Spec) -> dict[str, Any]:
    """Run one benchmark.

    Returns:
        JSON-ready: `machine`, `spec`, `implementation` (which of ours ran), `roof`, `results` (one
        for each contender and direction), `missing` (name to reason), `wrong` (name to errors).

    Raises:
        ConfigError: if the operator, a contender or a size is not known or does not fit.
        BackendUnavailableError: if the device is not there.
    """
    keeps_memory = timing.keep_freed_memory()
    # Compilers count the sizes that they have seen, and stop compiling after some: begin anew.
    torch.compiler.reset()
    problem = problem_of(spec)
    contenders, missing = _contenders(problem, spec)
    right = numerics.truth(problem)
    checks, wrong = _check_all(problem, contenders, missing, right)
    del right
    found: dict[str, Any] = {
        "machine": machine.describe(spec.device),
        "spec": asdict(spec),
        "implementation": _implementation(spec),
        "facts": dict(problem.facts),
        "checks": checks,
        "missing": missing,
        "wrong": wrong,
        "method": (
            f"caches flushed before each sample ({timing.FLUSH_BYTES[spec.device] >> 20} MiB "
            f"written), {timing.WARM_UP} runs to warm up, contenders in turn, median and tenths; "
            f"{spec.clock} clock; forward without gradients; "
            f"{'freed memory is kept' if keeps_memory else 'the allocator as it is'}; "
            f"a plan or mask counts by 1/{spec.layers} of its build"
        ),
        "results": [],
    }
    if OURS not in contenders:
        return found
    roof = machine.measure_roof(spec.device, spec.torch_dtype, clock=spec.clock)
    found["roof"] = {"tflops": roof.flops / 1e12, "gbs": roof.bandwidth / 1e9}
    builds = _builds(contenders, spec)
    for direction in problem.directions if problem.grads else ("forward",):
        able = {n: c for n, c in contenders.items() if c.has_backward or direction == "forward"}
        runs = _warm(problem, able, missing, direction, spec.device)
        times = timing.measure(runs, spec.device, spec.seconds, spec.clock)
        for name, run in runs.items():
            peak = None
            if not isinstance(run, timing.After):
                peak = timing.peak_memory(run, spec.device)
            found["results"].append(
                {
                    "contender": name,
                    "note": able[name].note,
                    "direction": direction,
                    **_figures(problem, times[name], direction, builds[name], spec, roof),
                    "peak_mib": None if peak is None else round(peak / 2**20, 1),
                }
            )
    return found


def _contenders(problem: Problem, spec: Spec) -> tuple[dict[str, Contender], dict[str, str]]:
    contenders: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, make in choose(problem.makers, spec.against).items():
        made = make()
        if isinstance(made, Missing):
            missing[name] = made.reason
        else:
            contenders[name] = made
    return contenders, missing


def _check_all(
    problem: Problem,
    contenders: dict[str, Contender],
    missing: dict[str, str],
    right: numerics.Truth,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Prepare and check every contender; those that fail leave `contenders`."""
    checks: dict[str, Any] = {}
    wrong: dict[str, Any] = {}
    for name, contender in list(contenders.items()):
        try:
            if contender.prepare is not None:
                contender.prepare()
            found = numerics.check(problem, contender, right, contender.has_backward)
        except Exception as error:  # others' packages fail with anything; ours must not
            if name == OURS:
                raise
            missing[name] = _failure(error)
            del contenders[name]
            continue
        rows = [asdict(check) for check in found]
        checks[name] = rows
        if not all(check.is_right for check in found):
            wrong[name] = [asdict(check) for check in found if not check.is_right]
            del contenders[name]
    return checks, wrong


def _warm(
    problem: Problem,
    able: dict[str, Contender],
    missing: dict[str, str],
    direction: str,
    device: str,
) -> dict[str, timing.Run | timing.After]:
    """Those that run in this direction, warm; what fails (for want of memory, say) is missing."""
    runs = {}
    for name, contender in able.items():
        run = timed_run(problem, contender, direction)
        try:
            timing.warm_up(run, device)
        except Exception as error:
            if name == OURS:
                raise
            missing[f"{name} {direction}"] = _failure(error)
            continue
        runs[name] = run
    return runs


def _failure(error: Exception) -> str:
    return f"it fails here: {type(error).__name__}: {str(error)[:200]}"


def _builds(contenders: dict[str, Contender], spec: Spec) -> dict[str, timing.Times | None]:
    runs = {name: c.prepare for name, c in contenders.items() if c.prepare is not None}
    times = timing.measure(runs, spec.device, spec.seconds / 2, spec.clock) if runs else {}
    return {name: times.get(name) for name in contenders}


def timed_run(problem: Problem, contender: Contender, direction: str) -> timing.Run | timing.After:
    """One direction of a contender, ready to be timed."""
    leaves = [x for x in contender.inputs or problem.inputs if x.requires_grad]
    if direction == "forward":
        return torch.no_grad()(contender.forward)

    def graph() -> tuple[list[Tensor], list[Tensor]]:
        outputs = list(contender.forward())[: len(problem.grads)]
        return outputs, [g.to(o.dtype) for g, o in zip(problem.grads, outputs, strict=True)]

    def backward(made: tuple[list[Tensor], list[Tensor]]) -> object:
        return torch.autograd.grad(made[0], leaves, made[1])

    if direction == "backward":
        # A graph of its own each time: compiled ones cannot be gone through twice.
        return timing.After(graph, backward)
    return lambda: backward(graph())


def gradients(problem: Problem, contender: Contender) -> list[Tensor]:
    """Outputs and gradients of one run, detached."""
    outputs = list(contender.forward())
    found = [x.detach() for x in outputs]
    if problem.grads:
        made = outputs[: len(problem.grads)]
        grads = [g.to(o.dtype) for g, o in zip(problem.grads, made, strict=True)]
        leaves = [x for x in contender.inputs or problem.inputs if x.requires_grad]
        found += torch.autograd.grad(made, leaves, grads)
    return found


def _figures(
    problem: Problem,
    times: timing.Times,
    direction: str,
    build: timing.Times | None,
    spec: Spec,
    roof: machine.Roof,
) -> dict[str, Any]:
    """What a time means; every time counts the layer's share of what is built for all layers."""
    share = build.median / spec.layers if build and direction != "backward" else 0.0
    factors = {
        "forward": (1.0, 1.0),
        "backward": (problem.backward_flops, problem.backward_bytes),
        "both": (1.0 + problem.backward_flops, 1.0 + problem.backward_bytes),
    }
    flops = problem.flops * factors[direction][0]
    moved = problem.num_bytes * factors[direction][1]
    seconds = (times.median + share) / 1e3
    return {
        "ms": times.median + share,
        "low_ms": times.low + share,
        "high_ms": times.high + share,
        "build_ms": build.median if build else 0.0,
        "samples": times.samples,
        "tflops": flops / seconds / 1e12,
        "gbs": moved / seconds / 1e9,
        "roof_share": roof.seconds(flops, moved) / seconds,
        "flops_per_byte": flops / moved,
    }


def _implementation(spec: Spec) -> str:
    op = OPERATOR.get(spec.op, spec.op)
    for said in dispatch.explain():
        if (said.op, said.device) == (op, spec.device):
            return f"{said.implementation}: {said.reason}"
    return "plain torch"


def profile(spec: Spec, rows: int = 15) -> str:
    """Where the time of ours goes, forward and backward, as the profiler's table."""
    problem = problem_of(replace(spec, against=()))
    contender = problem.makers[OURS]()
    assert isinstance(contender, Contender)
    if contender.prepare is not None:
        contender.prepare()
    run = timed_run(problem, contender, "both" if problem.grads else "forward")
    assert not isinstance(run, timing.After)
    run()
    on_cuda = spec.device == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_cuda:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        run()
        if on_cuda:
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=rows))
