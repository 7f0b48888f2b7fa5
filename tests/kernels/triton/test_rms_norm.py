"""RMS norm on interpreted Triton: against float64, forward and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unimodal.kernels.dispatch import tables, using
from unimodal.kernels.interpreter import assert_as_exact, guarded, guarded_allocations
from unimodal.kernels.rms_norm import add_rms_norm, rms_norm

pytestmark = pytest.mark.gates

NAMES = ("total", "normed", "grad of x", "grad of update", "grad of weight")
Problem = tuple[list[Tensor], tuple[Tensor, Tensor]]


def problem(
    rows: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    update_dtype: torch.dtype | None = None,
) -> Problem:
    """x, update, weight; gradients of the sum and of the norm."""
    generator = torch.Generator().manual_seed(rows * width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    update_dtype = update_dtype or dtype
    inputs = [
        normal(rows, width).to(dtype),
        normal(rows, width).to(update_dtype),
        normal(width).to(torch.float32),
    ]
    return [x.requires_grad_() for x in inputs], (
        normal(rows, width).to(dtype),
        normal(rows, width).to(dtype),
    )


def run(inputs: list[Tensor], flow: tuple[Tensor, Tensor], impl: str) -> list[Tensor]:
    results = add_rms_norm(*inputs, impl=impl)
    grads = torch.autograd.grad(results, inputs, flow)
    return [*(r.detach() for r in results), *grads]


def check(inputs: list[Tensor], flow: tuple[Tensor, Tensor]) -> None:
    with guarded_allocations():
        given = (guarded(flow[0]), guarded(flow[1]))
        got = run([guarded(x) for x in inputs], given, "triton")
    wide = [x.detach().double().requires_grad_() for x in inputs]
    exact = run(wide, (flow[0].double(), flow[1].double()), "reference")
    assert_as_exact(got, run(inputs, flow, "reference"), exact, NAMES)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 7), (5, 128), (131, 33), (3, 4099)])
def test_float32_is_as_exact_as_torch(rows: int, width: int) -> None:
    check(*problem(rows, width))


@pytest.mark.parametrize(
    ("dtype", "update_dtype"),
    [
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
    ],
    ids=str,
)
def test_low_precision_is_as_exact_as_torch(dtype: torch.dtype, update_dtype: torch.dtype) -> None:
    check(*problem(67, 33, dtype, update_dtype))


def test_programs_that_take_several_blocks_sum_the_same_gradient() -> None:
    config = {"ELEMENTS": 64, "PROGRAMS": 3, "num_warps": 4, "num_stages": 1}
    with tables.overriding("rms_norm.backward", config):
        check(*problem(23, 33))


def test_alone_it_is_the_norm_of_its_input() -> None:
    (x, _, weight), (_, flow) = problem(9, 33)
    results = []
    for dtype, impl in (
        (torch.float32, "triton"),
        (torch.float32, "reference"),
        (torch.float64, "reference"),
    ):
        inputs = [y.detach().to(dtype).requires_grad_() for y in (x, weight)]
        normed = rms_norm(inputs[0], inputs[1], impl=impl)
        grads = torch.autograd.grad(normed, inputs, flow.to(dtype))
        results.append([normed.detach(), *grads])
    assert_as_exact(*results, ("normed", "grad of x", "grad of weight"))


def test_the_sum_alone_passes_its_gradient_on() -> None:
    inputs, (flow, _) = problem(3, 33)
    total, _ = add_rms_norm(*inputs, impl="triton")
    grads = torch.autograd.grad(total, inputs[:2], flow)
    assert all(torch.equal(grad, flow) for grad in grads)


def test_strided_inputs_and_gradients_are_read_where_they_lie() -> None:
    inputs, flow = problem(6, 33)
    right = run(inputs, flow, "triton")
    strided = []
    for x in inputs[:2]:
        spread = torch.full((6, 40), torch.nan)
        spread[:, :33] = x.detach()
        strided.append(spread[:, :33].requires_grad_())
    columns = (flow[0].T.contiguous().T, flow[1].T.contiguous().T)
    got = run([*strided, inputs[2]], columns, "triton")
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_no_rows_give_no_rows(shape: tuple[int, ...]) -> None:
    x, update = torch.zeros(shape, requires_grad=True), torch.zeros(shape)
    weight = torch.ones(5, requires_grad=True)
    total, normed = add_rms_norm(x, update, weight, impl="triton")
    assert total.shape == normed.shape == shape
    assert torch.equal(torch.autograd.grad(normed.sum(), weight)[0], torch.zeros(5))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/ WIDTH + eps)  # [BR]", "/ WIDTH + 1.01 * eps + 1e-6)"),
        ("b_unit * b_mean)", "b_unit * b_mean * 1.0001)"),
        ("b_flow * b_unit, 0)", "b_flow * b_total, 0)"),
        ("b_inverse[:, None] * b_weight", "(b_inverse[:, None] + 1e-5) * b_weight"),
        ("mask = (o_row < num_rows)[:, None] & m_d[None, :]", "mask = m_d[None, :]"),
        ("o_d < WIDTH)[None, :]", "o_d <= WIDTH)[None, :]"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("rms_norm", old, new)
    with pytest.raises(AssertionError):
        check(*problem(67, 33))


def test_the_operators_keep_torchs_rules() -> None:
    (x, update, weight), (grad_total, grad_normed) = problem(3, 5)
    x, update, weight = x.detach(), update.detach(), weight.detach()
    for added in (update, None):
        torch.library.opcheck(
            torch.ops.unimodal.add_rms_norm.default,
            (x, added, weight, 1e-6, torch.bfloat16, "triton"),
        )
    for given, dtype in ((grad_total, torch.bfloat16), (None, None)):
        torch.library.opcheck(
            torch.ops.unimodal.add_rms_norm_backward.default,
            (x, weight, given, grad_normed, 1e-6, dtype, "triton"),
        )


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_it_is_one_operator_without_a_break() -> None:
    inputs, flow = problem(9, 33)
    right = run(inputs, flow, "triton")
    compiled = torch.compile(add_rms_norm, fullgraph=True, backend="aot_eager")
    with using("triton"):
        results = compiled(*inputs)
        grads = torch.autograd.grad(results, inputs, flow)
    got = [*(r.detach() for r in results), *grads]
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
