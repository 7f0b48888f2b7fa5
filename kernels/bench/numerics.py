"""Whether a contender's results are right: outputs and gradients against a wide reference.

    tolerance = 2 x (error of plain torch in the same precision + rounding of the result)

Errors are the largest absolute difference from the reference, for each output and each gradient.
The rounding of a result is half a unit in the last place of its largest element, and, where larger
numbers are summed into small results (attention's values), half a unit of those in float32, in
which sums are taken. Integers must be equal; where several are right (a codebook's near ties), the
problem's `judge` says what to compare.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimodal.kernels.bench.spec import Contender, Problem


@dataclass(frozen=True)
class Check:
    """One tensor's comparison.

    Attributes:
        name: `output 0`, `gradient 2`.
        error: Largest absolute difference from the reference.
        tolerance: What was allowed.
    """

    name: str
    error: float
    tolerance: float

    @property
    def is_right(self) -> bool:
        """False also for NaN."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Truth:
    """The reference's tensors and what each may differ by."""

    names: list[str]
    values: list[Tensor]
    tolerances: list[float]


def truth(problem: Problem) -> Truth:
    """Compute the reference and the tolerances of a problem, once for all contenders."""
    values = _results(problem, problem.exact, torch.float64)
    plain = _results(problem, problem.plain or problem.exact, None)
    # Outputs come first; what follows are gradients.
    outputs = len(values) - (sum(x.requires_grad for x in problem.inputs) if problem.grads else 0)
    names = [f"output {n}" for n in range(outputs)]
    names += [f"gradient {n}" for n in range(len(values) - outputs)]
    tolerances = []
    for number, (value, other) in enumerate(zip(values, plain, strict=True)):
        if not value.is_floating_point() or not value.numel():
            tolerances.append(0.0)
            continue
        dtype = problem.inputs[0].dtype if problem.judge else other.dtype
        rounding = torch.finfo(dtype).eps / 2 * float(value.abs().max())
        if number < outputs:
            rounding += torch.finfo(torch.float32).eps / 2 * problem.largest_term
        tolerances.append(2 * (_error(other, value) + rounding))
    return Truth(names, values, tolerances)


def check(problem: Problem, contender: Contender, right: Truth, backward: bool) -> list[Check]:
    """Compare a contender with the reference: every output and, with `backward`, every gradient."""
    inputs = contender.inputs or problem.inputs
    outputs = list(contender.forward())
    found = list(problem.judge(outputs)) if problem.judge else list(outputs)
    if backward and problem.grads:
        leaves = [x for x in inputs if x.requires_grad]
        grads = [g.to(o.dtype) for g, o in zip(problem.grads, outputs, strict=False)]
        found += torch.autograd.grad(outputs[: len(grads)], leaves, grads)
    return [
        Check(name, _error(mine, value), tolerance)
        for name, mine, value, tolerance in zip(
            right.names, found, right.values, right.tolerances, strict=False
        )
    ]


def _results(
    problem: Problem,
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    dtype: torch.dtype | None,
) -> list[Tensor]:
    leaves = []
    for x in problem.inputs:
        wide = x.detach().to(dtype) if dtype is not None and x.is_floating_point() else x.detach()
        leaves.append(wide.clone().requires_grad_(x.requires_grad))
    outputs: Sequence[Tensor] = run(leaves)
    values = [x.detach() for x in (problem.judge(outputs) if problem.judge else outputs)]
    if problem.grads:
        grads = [g.to(o.dtype) for g, o in zip(problem.grads, outputs, strict=False)]
        wanted = [x for x in leaves if x.requires_grad]
        values += torch.autograd.grad(outputs[: len(grads)], wanted, grads)
    return values


def _error(found: Tensor, value: Tensor) -> float:
    if not value.numel():
        return 0.0
    if not value.is_floating_point():
        return float((found.to(value.dtype) != value).sum())
    return float((found.detach().to(value.dtype) - value).abs().max())
