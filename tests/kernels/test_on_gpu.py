"""On a CUDA device: every operator in bfloat16 against float64, gradients too, twice for races."""

from dataclasses import replace
from typing import Any

import pytest

from unimodal.kernels import dispatch
from unimodal.kernels.bench import gpu
from unimodal.kernels.bench.spec import Spec

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("spec", gpu.checked_specs(), ids=gpu._name)
def test_outputs_and_gradients_are_right_twice(spec: Spec) -> None:
    found: dict[str, Any] = gpu.check_twice(spec)
    assert found["is_right"], found["checks"]
    assert found["same_twice"]


def test_triton_runs_on_the_device() -> None:
    runs = {e.op: e.implementation for e in dispatch.explain() if e.device == "cuda"}
    assert {op for op, how in runs.items() if how == "triton"}


@pytest.mark.parametrize("op", ["rms_norm", "swiglu", "qk_prologue"])
def test_sizes_that_fill_no_block_are_right(op: str) -> None:
    spec = replace(gpu.checked_specs()[0], op=op, seq=37, batch=3, heads=3, kv_heads=1)
    assert gpu.check_twice(spec)["is_right"]
