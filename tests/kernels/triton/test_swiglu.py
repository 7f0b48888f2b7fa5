"""SwiGLU on interpreted Triton: against float64, forward and gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unimodal.kernels.dispatch import using
from unimodal.kernels.interpreter import assert_as_exact, guarded, guarded_allocations
from unimodal.kernels.swiglu import swiglu

pytestmark = pytest.mark.gates


def problem(rows: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * width)
    gate_up = torch.randn(rows, 2 * width, generator=generator, dtype=torch.float64) * 3
    flow = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return gate_up.to(dtype).requires_grad_(), flow.to(dtype)


def run(gate_up: Tensor, flow: Tensor, impl: str) -> list[Tensor]:
    out = swiglu(gate_up, impl=impl)
    return [out.detach(), *torch.autograd.grad(out, gate_up, flow)]


def check(gate_up: Tensor, flow: Tensor) -> None:
    with guarded_allocations():
        got = run(guarded(gate_up), guarded(flow), "triton")
    exact = run(gate_up.detach().double().requires_grad_(), flow.double(), "reference")
    assert_as_exact(got, run(gate_up, flow, "reference"), exact, ("out", "grad of gate and up"))


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 13), (9, 1025), (130, 64)])
def test_float32_is_as_exact_as_torch(rows: int, width: int) -> None:
    check(*problem(rows, width))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_exact_as_torch(dtype: torch.dtype) -> None:
    check(*problem(13, 67, dtype))


def test_strided_inputs_and_gradients_are_read_where_they_lie() -> None:
    gate_up, flow = problem(5, 13)
    right = run(gate_up, flow, "triton")
    spread = torch.full((5, 30), torch.nan)
    spread[:, :26] = gate_up.detach()
    for strided in (spread[:, :26], gate_up.detach().T.contiguous().T):
        got = run(strided.requires_grad_(), flow.T.contiguous().T, "triton")
        assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6), (3, 0)])
def test_nothing_in_gives_nothing_out(shape: tuple[int, ...]) -> None:
    gate_up = torch.zeros(shape, requires_grad=True)
    out = swiglu(gate_up, impl="triton")
    assert out.shape == (*shape[:-1], shape[-1] // 2)
    assert torch.autograd.grad(out.sum(), gate_up)[0].shape == shape


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b_gate * tl.sigmoid(b_gate)", "b_gate * tl.sigmoid(b_gate * 1.00001)"),
        ("(1.0 - b_sigmoid)", "(1.00001 - b_sigmoid)"),
        ("b_grad * b_gate * b_sigmoid", "b_grad * b_gate * b_slope"),
        ("(o_row < num_rows)[:, None] & (o_f < WIDTH)", "(o_row >= 0)[:, None] & (o_f < WIDTH)"),
        ("(o_f < WIDTH)", "(o_f <= WIDTH)"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("swiglu", old, new)
    with pytest.raises(AssertionError):
        check(*problem(13, 67))


def test_the_operators_keep_torchs_rules() -> None:
    gate_up, flow = problem(3, 5)
    gate_up = gate_up.detach()
    torch.library.opcheck(torch.ops.unimodal.swiglu.default, (gate_up, "triton"))
    torch.library.opcheck(torch.ops.unimodal.swiglu_backward.default, (gate_up, flow, "triton"))


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_it_is_one_operator_without_a_break() -> None:
    gate_up, flow = problem(5, 13)
    compiled = torch.compile(swiglu, fullgraph=True, backend="aot_eager")
    with using("triton"):
        out = compiled(gate_up)
        got = [out.detach(), *torch.autograd.grad(out, gate_up, flow)]
    right = run(gate_up, flow, "triton")
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
