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

Key = tuple[str, int, torch.dtype]
"""Kernel, and the size and dtype that its config turns on."""


def tune(spec: Spec) -> dict[str, Any]:
    """Tune the kernels of an operator for the sizes and the dtype of a benchmark.

    Returns:
        `path` of the table, and for each kernel `tried` (config, milliseconds or why not) and
        `best`.

    Raises:
        BackendUnavailableError: without a GPU, or if no config of a kernel runs.
        ConfigError: if the operator has no kernel with candidates.
    """
    if spec.device != "cuda" or not torch.cuda.is_available():
        raise BackendUnavailableError(
            "Tuning times Triton kernels on a GPU, and none is used here.", subject="--tune"
        )
    return search(spec)


def search(spec: Spec) -> dict[str, Any]:
    """What `tune` does, wherever kernels run: tests search in the interpreter."""
    problem = problem_of(replace(spec, against=()))
    right = numerics.truth(problem)
    with tables.recording() as seen:
        _checked(problem, right)
    keys = sorted((key for key in seen if tables.candidates(key[0])), key=str)
    if not keys:
        raise ConfigError(f"No kernel of {spec.op} declares candidates to try.", subject="--tune")
    found: dict[str, Any] = {}
    rows: dict[tuple[str, int, str], tables.Config] = {}
    for key in keys:
        kernel, size, dtype = key
        tried: list[dict[str, Any]] = [
            {"config": config, "result": _time(problem, right, kernel, config, spec)}
            for config in _configs(key)
        ]
        timed = [t for t in tried if isinstance(t["result"], float)]
        if not timed:
            raise BackendUnavailableError(
                f"No config of {kernel} runs here: {tried[0]['result']}.", subject="--tune"
            )
        best = min(timed, key=lambda t: t["result"])
        rows[kernel, size, str(dtype).removeprefix("torch.")] = best["config"]
        found[kernel] = {"tried": tried, "best": best}
    path: Path = tables.write_tuned(tables.card_name(), rows)
    return {"path": str(path), "kernels": found}


def _configs(key: Key) -> list[dict[str, int]]:
    """Today's config first, then the others."""
    today = tables.lookup(*key)
    return [today, *(dict(c) for c in tables.candidates(key[0]) if dict(c) != today)]


def _checked(problem: Problem, right: numerics.Truth) -> tuple[Contender, bool]:
    """Ours, prepared, and whether all of its results are right."""
    contender = problem.makers[OURS]()
    assert isinstance(contender, Contender)
    if contender.prepare is not None:
        contender.prepare()
    checks = numerics.check(problem, contender, right, bool(problem.grads))
    return contender, all(check.is_right for check in checks)


def _time(
    problem: Problem, right: numerics.Truth, kernel: str, config: dict[str, int], spec: Spec
) -> float | str:
    """Milliseconds of forward and backward with one config, or why it is out."""
    with tables.overriding(kernel, config):
        try:
            contender, is_right = _checked(problem, right)
        except Exception as error:  # a config that does not fit fails in many ways
            return f"{type(error).__name__}: {str(error)[:200]}"
        if not is_right:
            return "its results are wrong"
        run = timed_run(problem, contender, "both" if problem.grads else "forward")
        return timing.measure({"ours": run}, spec.device, spec.seconds)["ours"].median
