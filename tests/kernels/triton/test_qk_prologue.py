"""The prologue of attention on interpreted Triton: against float64, forward and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unimodal.kernels.dispatch import tables, using
from unimodal.kernels.interpreter import assert_as_exact, guarded, guarded_allocations
from unimodal.kernels.qk_prologue import qk_prologue, rope_tables

pytestmark = pytest.mark.gates

NAMES = ("q", "k", "v", *(f"grad of {name}" for name in ("q", "k", "v", "q_weight", "k_weight")))


class Problem:
    """Inputs of one call; 74 tokens unless said otherwise."""

    def __init__(
        self,
        heads: tuple[int, int] = (3, 1),
        size: int = 16,
        dtype: torch.dtype = torch.float32,
        shape: tuple[int, int] = (2, 37),
        norm: bool = True,
        ordered: bool = False,
    ):
        generator = torch.Generator().manual_seed(size)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator, dtype=torch.float64)

        q, k = (normal(*shape, n, size).to(dtype) for n in heads)
        flow = [normal(*x.shape).to(dtype) for x in (q, k)]
        weights = [normal(size).float() for _ in range(2 if norm else 0)]
        position = torch.randint(500, (*shape, 3), generator=generator).float()
        v, flow_v = (normal(*k.shape).to(dtype) for _ in range(2))
        self.flow = [*flow, flow_v]
        self.inputs = [x.requires_grad_() for x in (q, k, v, *weights)]
        self.tables = list(rope_tables(position, size))
        places = torch.randperm(shape[0] * shape[1], generator=generator)
        self.order = places if ordered else None

    def run(self, impl: str, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Results and gradients, all in another dtype if asked."""
        inputs, flow, table = self.inputs, self.flow, self.tables
        if dtype is not None:
            inputs = [x.detach().to(dtype).requires_grad_() for x in inputs]
            flow, table = [x.to(dtype) for x in flow], [x.to(dtype) for x in table]
        weights = inputs[3:] or [None, None]
        results = qk_prologue(*inputs[:3], *weights, *table, order=self.order, impl=impl)
        return [*(r.detach() for r in results), *torch.autograd.grad(results, inputs, flow)]


def check(problem: Problem) -> None:
    exact = problem.run("reference", torch.float64)
    plain = problem.run("reference")
    for name in ("inputs", "flow", "tables"):
        setattr(problem, name, [guarded(x) for x in getattr(problem, name)])
    if problem.order is not None:
        problem.order = guarded(problem.order)
    with guarded_allocations():
        got = problem.run("triton")
    assert_as_exact(got, plain, exact, NAMES[: len(got)])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_float32_is_as_exact_as_torch(norm: bool, ordered: bool) -> None:
    check(Problem(norm=norm, ordered=ordered))


@pytest.mark.parametrize(
    ("heads", "size", "shape"),
    [((1, 1), 2, (1, 1)), ((5, 2), 6, (1, 7)), ((4, 4), 80, (3, 5)), ((7, 1), 64, (1, 13))],
)
def test_odd_sizes(heads: tuple[int, int], size: int, shape: tuple[int, int]) -> None:
    check(Problem(heads, size, shape=shape, ordered=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_exact_as_torch(dtype: torch.dtype) -> None:
    check(Problem((4, 2), 32, dtype, ordered=True))


def test_programs_that_take_several_blocks_sum_the_same_gradient() -> None:
    config = {"ELEMENTS": 32, "PROGRAMS": 3, "num_warps": 4, "num_stages": 1}
    with tables.overriding("qk_prologue.backward", config):
        check(Problem(shape=(1, 9), ordered=True))


def test_views_of_a_fused_projection_are_read_where_they_lie() -> None:
    problem = Problem(ordered=True)
    right = problem.run("triton")
    fused = torch.full((2, 37, 8, 16), torch.nan)
    for n, part in enumerate((slice(1, 4), slice(5, 6), slice(7, 8))):
        fused[:, :, part] = problem.inputs[n].detach()
        problem.inputs[n] = fused[:, :, part].requires_grad_()
    problem.tables = [torch.cat((x, x), -1) for x in problem.tables]
    problem.flow = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in problem.flow]
    got = problem.run("triton")
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))


@pytest.mark.parametrize("norm", [True, False])
def test_no_tokens_give_no_rows(norm: bool) -> None:
    problem = Problem(shape=(2, 0), norm=norm, ordered=norm)
    got = problem.run("triton")
    assert [x.shape for x in got] == [x.shape for x in problem.run("reference")]
    assert all(not x.any() for x in got)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(2 * HALF) + eps", "(2 * HALF) + 20 * eps"),
        ("b_second * b_cos + b_first * b_sin", "b_second * b_cos + b_first * b_sin * 1.00001"),
        ("b_grad_1 * b_cos + b_grad_2 * b_sin", "b_grad_1 * b_cos - b_grad_2 * b_sin"),
        ("b_first * b_mean", "b_first * b_mean * 1.0001"),
        ("b_sum_2 += tl.sum(b_flow_2", "b_sum_2 += tl.sum(b_flow_1"),
        ("m_row[:, None] & m_h[None, :]", "m_row[:, None]"),
        ("o_row < num_tokens * HEADS", "o_row <= num_tokens * HEADS"),
        ("o_token = o_row // HEADS", "o_token = o_row // HEADS + 1"),
        ("(o_row % HEADS) * stride_head", "(o_row % 2) * stride_head"),
        ("o_out = (o_token * HEADS + o_row % HEADS)", "o_out = (o_token * HEADS)"),
        ("if not BACK", "if BACK"),
        ("p_x + o_x + HALF, mask", "p_x + o_x, mask"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("qk_prologue", old, new)
    with pytest.raises(AssertionError):
        check(Problem(size=6, ordered=True))


@pytest.mark.parametrize("ordered", [True, False])
def test_the_operators_keep_torchs_rules(ordered: bool) -> None:
    problem = Problem(shape=(1, 3), size=4, ordered=ordered)
    q, k, v, *weights = (x.detach() for x in problem.inputs)
    moved = v if ordered else None
    given = (q, k, moved, *weights, *problem.tables, problem.order, 1e-6)
    flow = problem.flow if ordered else [*problem.flow[:2], q.new_empty(0)]
    torch.library.opcheck(torch.ops.unimodal.qk_prologue.default, (*given, "triton"))
    torch.library.opcheck(
        torch.ops.unimodal.qk_prologue_backward.default, (*given, *flow, "triton")
    )


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_it_is_one_operator_without_a_break() -> None:
    problem = Problem(ordered=True)
    right = problem.run("triton")
    compiled = torch.compile(qk_prologue, fullgraph=True, backend="aot_eager")
    with using("triton"):
        results = compiled(*problem.inputs, *problem.tables, order=problem.order)
        grads = torch.autograd.grad(results, problem.inputs, problem.flow)
    got = [*(r.detach() for r in results), *grads]
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
