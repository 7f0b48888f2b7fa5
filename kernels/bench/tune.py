"""Searches the configs of an operator's kernels on the card at hand, and keeps the best.

Kernels declare what may be tried (`tables.declare(..., candidates=...)`). Each candidate is checked
against the reference before it is timed; one that is wrong or does not run is passed over. The
result goes to the user's cache folder and is used from then on, until the kernels change.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.kernels.bench import numerics, timing
from unimodal.kernels.bench.run import problem_of, timed_run
from unimodal.kernels.bench.spec import OURS, Contender, Problem, Spec
from unimodal.kernels.dispatch import tables

BY_HEAD = {"attention", "qk_prologue", "nearest_code"}
"""Operators whose configs turn on the head size; those of the others turn on the width."""


def tune(spec: Spec) -> dict[str, Any]:
    """Tune the kernels of an operator for one head size and dtype.

    Returns:
        `path` of the table, and for each kernel `tried` (config, milliseconds or why not) and
        `best`.

    Raises:
        BackendUnavailableError: without a GPU.
        ConfigError: if the operator has no kernel with candidates.
    """
    if spec.device != "cuda" or not torch.cuda.is_available():
        raise BackendUnavailableError(
            "Tuning times Triton kernels on a GPU, and none is used here.", subject="--tune"
        )
    problem = problem_of(replace(spec, against=()))
    right = numerics.truth(problem)
    kernels = [k for k in tables.declared() if k.partition(".")[0] == spec.op]
    kernels = [k for k in kernels if tables.candidates(k)]
    if not kernels:
        raise ConfigError(f"No kernel of {spec.op} declares candidates to try.", subject="--tune")
    found: dict[str, Any] = {}
    rows: dict[tuple[str, int, str], tables.Config] = {}
    for kernel in kernels:
        tried: list[dict[str, Any]] = []
        for config in _configs(kernel, spec):
            milliseconds = _time(problem, right, kernel, config, spec)
            tried.append({"config": config, "result": milliseconds})
        timed = [t for t in tried if isinstance(t["result"], float)]
        if not timed:
            raise BackendUnavailableError(
                f"No config of {kernel} runs here: {tried[0]['result']}.", subject="--tune"
            )
        best = min(timed, key=lambda t: t["result"])
        rows[kernel, size_of(spec), spec.dtype] = best["config"]
        found[kernel] = {"tried": tried, "best": best}
    path: Path = tables.write_tuned(tables.card_name(), rows)
    return {"path": str(path), "kernels": found}


def size_of(spec: Spec) -> int:
    """The size that an operator's configs turn on: of a head, or of a row."""
    return spec.head_dim if spec.op in BY_HEAD else spec.width


def _configs(kernel: str, spec: Spec) -> list[dict[str, int]]:
    """Today's config first, then the others."""
    today = tables.lookup(kernel, size_of(spec), spec.torch_dtype)
    return [today, *(dict(c) for c in tables.candidates(kernel) if dict(c) != today)]


def _time(
    problem: Problem, right: numerics.Truth, kernel: str, config: dict[str, int], spec: Spec
) -> float | str:
    """Milliseconds of forward and backward with one config, or why it is out."""
    with tables.overriding(kernel, config):
        try:
            contender = problem.makers[OURS]()
            assert isinstance(contender, Contender)
            if contender.prepare is not None:
                contender.prepare()
            checks = numerics.check(problem, contender, right, bool(problem.grads))
        except Exception as error:  # a config that does not fit fails in many ways
            return f"{type(error).__name__}: {str(error)[:200]}"
        if not all(check.is_right for check in checks):
            return "its results are wrong"
        run = timed_run(problem, contender, "both" if problem.grads else "forward")
        return timing.measure({"ours": run}, spec.device, spec.seconds)["ours"].median
