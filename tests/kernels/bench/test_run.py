"""Benchmarks: speed only of what is right, every contender named, machine and method stated."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.kernels.bench import attention, compilers, elementwise, numerics, run
from unimodal.kernels.bench.spec import OURS, PLAIN, Contender, Missing, Problem, Spec, choose

ROOT = Path(__file__).resolve().parents[3]
SMALL: dict[str, Any] = {"seq": 48, "heads": 2, "kv_heads": 1, "head_dim": 16, "classes": 64}
QUICK = Spec(op="swiglu", seconds=0.01, against=("eager",), **SMALL)


@pytest.fixture(autouse=True)
def small_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run.machine, "measure_roof", lambda *args, **kwargs: run.machine.Roof(1e12, 1e10)
    )
    monkeypatch.setattr(run.timing, "FLUSH_BYTES", {"cpu": 1024})
    monkeypatch.setattr(run.timing, "MAX_SAMPLES", 5)


@pytest.mark.parametrize("op", sorted(run.PROBLEMS))
def test_every_operator_is_right_and_timed_in_each_direction(op: str) -> None:
    other = PLAIN.get(op, "eager")
    spec = replace(QUICK, op=op, against=(other,))
    found = run.bench(spec)
    assert found["wrong"] == {}
    assert found["missing"] == {}
    rows = {(row["contender"], row["direction"]): row for row in found["results"]}
    directions = {direction for _, direction in rows}
    assert {"forward"} <= directions <= {"forward", "backward", "both"}
    assert {name for name, _ in rows} == {OURS, *spec.against}
    for row in rows.values():
        assert 0 < row["low_ms"] <= row["ms"] <= row["high_ms"]
        assert row["gbs"] > 0
    json.dumps(found)


@pytest.mark.parametrize(
    ("op", "change"),
    [("qk_prologue", {"pattern": "column", "seq": 80}), ("decode", {"page": 16, "queries": 2})],
)
def test_another_order_and_pages_are_right(op: str, change: dict[str, Any]) -> None:
    spec = replace(QUICK, op=op, against=(PLAIN.get(op, "eager"),), **change)
    found = run.bench(spec)
    assert (found["wrong"], found["missing"]) == ({}, {})
    assert len(found["checks"][OURS]) == (1 if op == "decode" else 3 + 4)


def test_every_size_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    compiles = torch.compile
    monkeypatch.setattr(compilers, "no_compiler", lambda device: None)
    monkeypatch.setattr(
        torch, "compile", lambda f, **kwargs: compiles(f, backend="eager", fullgraph=True, **kwargs)
    )
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=3):
        for seq in (16, 24, 32, 40):
            found = run.bench(replace(QUICK, seq=seq, against=("compile",)))
            assert found["missing"] == {}


def test_what_fails_only_while_it_is_timed_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_weak(spec: Spec) -> Problem:
        problem = elementwise.gated(spec)

        def forward() -> tuple[Tensor]:
            if not torch.is_grad_enabled():
                raise RuntimeError("out of memory")
            return (elementwise.swiglu(problem.inputs[0]),)

        return replace(problem, makers={**problem.makers, "weak": lambda: Contender(forward)})

    monkeypatch.setattr(run, "problem_of", with_weak)
    found = run.bench(replace(QUICK, against=("weak", "eager")))
    assert list(found["missing"]) == ["weak forward"]
    assert "out of memory" in found["missing"]["weak forward"]
    rows = {(row["contender"], row["direction"]) for row in found["results"]}
    assert {(OURS, "forward"), ("eager", "forward"), ("weak", "backward")} <= rows
    assert ("weak", "forward") not in rows


def test_the_share_of_a_build_is_counted() -> None:
    spec = replace(QUICK, op="attention", pattern="row", against=("dense",), layers=1)
    alone = run.bench(spec)["results"]
    ours = next(row for row in alone if row["contender"] == OURS and row["direction"] == "forward")
    assert ours["build_ms"] > 0
    assert ours["ms"] > ours["build_ms"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("pattern", ["column", "row"])
def test_flex_attention_is_right_in_the_order_that_ours_works_in(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "no_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    moved: list[Tensor] = []
    plan = attention.plan_tokens
    monkeypatch.setattr(
        attention, "plan_tokens", lambda *given: moved.append(plan(*given).order) or plan(*given)
    )
    problem = run.problem_of(replace(QUICK, op="attention", pattern=pattern, seq=80))
    flex = problem.makers["flex"]()
    assert isinstance(flex, Contender)
    assert flex.prepare is not None
    flex.prepare()
    checks = numerics.check(problem, flex, numerics.truth(problem), backward=False)
    assert [check.is_right for check in checks] == [True]
    assert (moved[0] is not None) == (pattern == "column")


@pytest.mark.parametrize("which", ["output", "gradient"])
def test_a_wrong_operator_gets_no_speed(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * (1 + 1e-4 * (which == "output"))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * (1 + 1e-4 * (which == "gradient"))

    right = elementwise.swiglu
    monkeypatch.setattr(elementwise, "swiglu", lambda x: Wrong.apply(right(x)))
    found = run.bench(QUICK)
    assert found["results"] == []
    assert next(check["name"] for check in found["wrong"][OURS]) == f"{which} 0"


def test_a_wrong_other_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_wrong(spec: Spec) -> Problem:
        problem = elementwise.gated(spec)
        wrong = Contender(lambda: (problem.inputs[0][:, : spec.width] * 0.5,))
        return replace(problem, makers={**problem.makers, "wrong": lambda: wrong})

    monkeypatch.setattr(run, "problem_of", with_wrong)
    found = run.bench(replace(QUICK, against=("wrong", "eager")))
    assert list(found["wrong"]) == ["wrong"]
    assert {row["contender"] for row in found["results"]} == {OURS, "eager"}


def test_what_is_not_installed_is_named_with_its_reason() -> None:
    found = run.bench(replace(QUICK, against=("liger",)))
    assert found["missing"] == {"liger": "it needs a CUDA device"}


@pytest.mark.parametrize("op", ["attention", "decode"])
@pytest.mark.parametrize("queries", [1, 3])
def test_a_millionth_of_the_values_is_noticed(op: str, queries: int) -> None:
    problem = run.problem_of(replace(QUICK, op=op, queries=queries))
    right = numerics.truth(problem)
    ours = problem.makers[OURS]()
    assert isinstance(ours, Contender)
    assert ours.prepare is not None
    ours.prepare()
    assert numerics.check(problem, ours, right, backward=False)[0].is_right
    off = float(problem.inputs[2].detach().abs().max()) * 2**-20
    moved = replace(ours, forward=lambda: (ours.forward()[0] + off,))
    assert not numerics.check(problem, moved, right, backward=False)[0].is_right


def test_nan_is_never_right() -> None:
    assert not numerics.Check("output 0", float("nan"), 1.0).is_right


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"op": "conv"}, ConfigError, "`op` must be one of attention"),
        ({"against": ("nobody",)}, ConfigError, "`against` must be of eager"),
        ({"op": "log_mel", "dtype": "bfloat16"}, ConfigError, "must be float32"),
        ({"op": "attention", "pattern": "diagonal"}, ConfigError, "`pattern` must be of"),
        ({"op": "attention", "pattern": "conv(width=3)"}, ConfigError, "conv"),
        ({"op": "attention", "documents": 5}, ConfigError, "multiple of `documents`"),
        ({"op": "attention", "grid": (9, 9, 9)}, ConfigError, "has 729"),
    ],
)
def test_wrong_requests_are_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run.bench(replace(QUICK, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="no CUDA device"):
        run.bench(replace(QUICK, device="cuda"))


@pytest.mark.parametrize(
    "change", [{"heads": 3, "kv_heads": 2}, {"seq": 0}, {"dtype": "int8"}, {"layers": 0}]
)
def test_wrong_sizes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(QUICK, **change)


def test_ours_always_competes() -> None:
    makers = {OURS: lambda: Missing(""), "a": lambda: Missing(""), "b": lambda: Missing("")}
    assert list(choose(makers, ("b",))) == [OURS, "b"]
    assert list(choose(makers, ())) == [OURS, "a", "b"]


def test_benchmarks_run_with_torch_and_numpy_alone() -> None:
    code = (
        "import sys\n"
        "class Only:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        "        if top in ('jaxtyping', 'hydra', 'omegaconf', 'einops', 'rich', 'matplotlib',\n"
        "                   'safetensors', 'transformers', 'soundfile', 'PIL', 'av'):\n"
        "            raise ImportError(f'{name} is not installed')\n"
        "sys.meta_path.insert(0, Only())\n"
        "import unimodal.cli.main as main\n"
        "import unimodal.kernels.bench.gpu\n"
        "sys.exit(main.main(['bench', '--op', 'swiglu', '--seq', '32', '--heads', '1',\n"
        "                    '--seconds', '0', '--against', 'eager']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "unimodal" in done.stdout
