"""Attention: the plan against the dense mask, every implementation against float64."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.numeric import worst
from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.attention import (
    AttentionPlan,
    attention,
    attention_with_lse,
    cpu,
    plan_attention,
    reference,
)
from unimodal.kernels.attention import plan as plan_module
from unimodal.kernels.attention.plan import read_tasks
from unimodal.kernels.attention.tokens import TokenPlan
from unimodal.kernels.dispatch import choice
from unimodal.patterns import (
    Causal,
    Cells,
    Column,
    Conv,
    Full,
    Nearby3D,
    Pattern,
    Prefix,
    Row,
    Window,
    visible,
)
from unimodal.types import CONTROL_CELL, Coordinates, raster_grid


@dataclass(frozen=True)
class EverySecond(Pattern):
    """A pattern from outside: cells whose raster distance is even."""

    def allows(self, q: Cells, k: Cells) -> Tensor:
        return (q.index - k.index) % 2 == 0


@dataclass(frozen=True)
class Elsewhere(Pattern):
    """A pattern that forbids a cell to see itself, so that the first one sees nothing."""

    def allows(self, q: Cells, k: Cells) -> Tensor:
        return (q.t != k.t) | (q.h != k.h) | (q.w != k.w)


PATTERNS = [
    Causal(),
    Full(),
    Prefix(2),
    Window(5),
    Row(),
    Column(),
    Conv(3),
    Nearby3D(1, 1, 0),
    Window(4) | Prefix(1),
    Row() & Conv(3),
    EverySecond(),
    Elsewhere(),
]


def stream(
    rows: list[list[tuple[int, tuple[int, int, int], bool]]], length: int, gaps: bool = False
) -> Coordinates:
    """Rows of documents (words before it, grid of an image-like segment, whether it is full)."""
    batch = len(rows)
    document = torch.full((batch, length), -1, dtype=torch.int32)
    segment, kind = torch.zeros_like(document), torch.zeros_like(document)
    full = torch.zeros(batch, length, dtype=torch.bool)
    grid = torch.full((batch, length, 3), CONTROL_CELL, dtype=torch.int32)
    for b, documents in enumerate(rows):
        at = 1 if gaps else 0
        for number, (words, shape, is_full) in enumerate(documents):
            cells = raster_grid(*shape)
            stop = at + words + len(cells)
            assert stop <= length
            document[b, at:stop] = number
            grid[b, at : at + words, 0] = torch.arange(words, dtype=torch.int32)
            grid[b, at : at + words, 1:] = 0
            at += words
            segment[b, at:stop] = 1
            kind[b, at:stop] = 1
            full[b, at:stop] = is_full
            grid[b, at:stop] = cells
            if len(cells) > 1:
                grid[b, at] = CONTROL_CELL
            at = stop
    index = torch.arange(length, dtype=torch.int32).expand(batch, length)
    return Coordinates(index, document, segment, kind, full, grid)


def packed() -> Coordinates:
    """Documents of odd lengths, one of length 1, an empty row, gaps of padding."""
    rows = [
        [(3, (2, 3, 4), False), (1, (1, 1, 0), False), (5, (1, 3, 3), True)],
        [],
        [(7, (1, 1, 0), False), (0, (3, 3, 3), False)],
    ]
    return stream(rows, 53, gaps=True)


def inputs(
    shape: tuple[int, int], heads: int, groups: int, size: int, dtype: torch.dtype, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = []
    for count in (heads, groups, groups):
        x = torch.randn(*shape, count, size, generator=generator, dtype=torch.float64)
        result.append(x.to(dtype).requires_grad_())
    return result


def dense_float64(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, grad: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The definition by autograd in float64, written independently of the package."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    share = q.shape[2] // k.shape[2]
    keys, values = k.repeat_interleave(share, 2), v.repeat_interleave(share, 2)
    scores = torch.einsum("bqnh,bsnh->bnqs", q, keys) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[:, None], -1e30)
    weights = scores.softmax(-1) * mask[:, None]
    out = torch.einsum("bnqs,bsnh->bqnh", weights, values)
    return out.detach(), list(torch.autograd.grad(out, (q, k, v), grad.double()))


def run(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, grad: Tensor
) -> tuple[Tensor, list[Tensor]]:
    out = attention(q, k, v, plan)
    return out.detach(), list(torch.autograd.grad(out, (q, k, v), grad.to(out.dtype)))


# Float32: sums of at most 64 rounded products and exponentials: 2 * 64 * 2 ** -24 = 8e-6.
# Bfloat16: inputs are exact, results are rounded once (2 ** -9) and probabilities once more; sums
# of cancelling terms double it.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 8e-6, torch.bfloat16: 4 * 2**-9}


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_plan_stands_for_the_dense_mask(pattern: Pattern) -> None:
    coordinates = packed()
    by_kind = [Causal(), pattern]
    plan = plan_attention(coordinates, by_kind, visible)
    rebuilt = reference.dense_mask(plan.tensors(), *plan.shape)
    assert torch.equal(rebuilt, visible(coordinates, coordinates, by_kind))


@pytest.mark.parametrize("last", [(40, (1, 16, 16), False), (8, (1, 16, 18), False)], ids=str)
@pytest.mark.parametrize("pattern", [Row(), Column(), Conv(3)], ids=str)
def test_documents_of_one_layout_share_a_mask_and_others_do_not(
    pattern: Pattern, last: tuple[int, tuple[int, int, int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three documents of 296 positions, the last laid out as the others or not."""
    asked = []

    def seen(q: Coordinates, k: Coordinates, by_kind: Sequence[Pattern]) -> Tensor:
        asked.append(len(q.index))
        return visible(q, k, by_kind)

    same = (40, (1, 16, 16), False)
    coordinates = stream([[same], [same], [last]], 300)
    by_kind = [Causal(), pattern]
    plan = plan_attention(coordinates, by_kind, seen)
    assert asked == [1 if last == same else 3]
    rebuilt = reference.dense_mask(plan.tensors(), *plan.shape)
    assert torch.equal(rebuilt, visible(coordinates, coordinates, by_kind))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_every_executor_agrees_with_float64(pattern: Pattern, dtype: torch.dtype) -> None:
    coordinates = packed()
    by_kind = [Causal(), pattern]
    mask = visible(coordinates, coordinates, by_kind)
    plan = plan_attention(coordinates, by_kind, visible)
    q, k, v = inputs(plan.shape, 6, 2, 8, dtype)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    out, grads = dense_float64(q, k, v, mask, grad)
    got, got_grads = run(q, k, v, plan, grad)
    assert worst([got, *got_grads], [out, *grads]) < TOLERANCE[dtype]

    flat = (q.detach(), k.detach(), v.detach())
    ref, lse = reference.forward(*flat, plan.tensors(), 8**-0.5)
    ref_grads = reference.backward(grad, *flat, ref, lse, plan.tensors(), 8**-0.5)
    assert worst([ref, *ref_grads], [out, *grads]) < TOLERANCE[dtype]


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (4, 4), (4, 2), (5, 1)])
@pytest.mark.parametrize("length", [1, 2, 17, 300])
def test_head_ratios_and_lengths(heads: int, groups: int, length: int) -> None:
    coordinates = stream([[(length, (1, 1, 0), False)]], length)
    plan = plan_attention(coordinates, [Causal(), Causal()], visible)
    q, k, v = inputs(plan.shape, heads, groups, 16, torch.float32)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    out, grads = dense_float64(q, k, v, visible(coordinates, coordinates, [Causal()]), grad)
    got, got_grads = run(q, k, v, plan, grad)
    assert worst([got, *got_grads], [out, *grads]) < 300 / 64 * TOLERANCE[torch.float32]


def test_long_documents_stay_in_bfloat16_and_are_as_exact_as_sdpa() -> None:
    coordinates = stream([[(400, (1, 1, 0), False)]], 400)
    plan = plan_attention(coordinates, [Causal(), Causal()], visible)
    q, k, v = inputs(plan.shape, 2, 2, 64, torch.bfloat16)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    out, grads = dense_float64(q, k, v, visible(coordinates, coordinates, [Causal()]), grad)
    got, got_grads = run(q, k, v, plan, grad)
    sdpa = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True
    ).transpose(1, 2)
    sdpa_grads = torch.autograd.grad(sdpa, (q, k, v), grad)
    band = 2 * worst([sdpa.detach(), *sdpa_grads], [out, *grads])
    assert worst([got, *got_grads], [out, *grads]) <= band


def long_local() -> tuple[Coordinates, list[Pattern]]:
    return stream([[(20, (1, 22, 22), False)], [(30, (1, 20, 20), True)]], 510), [
        Causal(),
        Conv(5),
    ]


def test_the_additive_mask_is_built_once_for_all_layers_and_goes_with_its_plan() -> None:
    before = len(cpu._biases)
    plan = plan_attention(*long_local(), visible)
    q, k, v = (x.requires_grad_() for x in inputs(plan.shape, 4, 2, 8, torch.float32))
    attention(q, k, v, plan).sum().backward()
    (built,) = cpu._biases[plan.mask].values()
    attention(q, k, v, plan).sum().backward()
    assert list(map(id, cpu._biases[plan.mask].values())) == [id(built)]
    assert len(cpu._biases) == before + 1
    del plan
    gc.collect()
    assert len(cpu._biases) == before


def test_large_scores_leave_gradients_finite_in_padded_buckets() -> None:
    """Slots without a result must not turn exp(score) into infinity times nothing."""
    coordinates = stream([[(60, (1, 1, 1), False)], [(64, (1, 1, 1), False)]], 65)
    plan = plan_attention(coordinates, [Causal(), Causal()], visible)
    q, k, v = (6 * x for x in inputs(plan.shape, 2, 2, 32, torch.float32))
    k = q.clone()
    held = (coordinates.document >= 0)[..., None, None]
    grad = torch.where(held, torch.randn(q.shape), 0.0)
    mask = visible(coordinates, coordinates, [Causal(), Causal()])
    got, got_grads = run(q, k, v, plan, grad)
    out, grads = dense_float64(q, k, v, mask, grad)
    assert worst([got * held, *got_grads], [out * held, *grads]) < 1e-2


def test_local_patterns_visit_fewer_pairs_and_stay_exact() -> None:
    coordinates, by_kind = long_local()
    plan = plan_attention(coordinates, by_kind, visible)
    assert plan.pairs < 0.5 * 2 * 504**2
    assert any(task.key_start < 0 for task in read_tasks(plan.tasks))
    mask = visible(coordinates, coordinates, by_kind)
    assert torch.equal(reference.dense_mask(plan.tensors(), *plan.shape), mask)
    q, k, v = inputs(plan.shape, 4, 2, 8, torch.float32)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    out, grads = dense_float64(q, k, v, mask, grad)
    got, got_grads = run(q, k, v, plan, grad)
    assert worst([got, *got_grads], [out, *grads]) < 3e-5


def test_plain_documents_carry_no_mask_and_little_padding() -> None:
    rng = np.random.default_rng(0)
    rows = [[(int(n), (1, 1, 0), False) for n in rng.integers(5, 60, 8)] for _ in range(20)]
    coordinates = stream(rows, 480)
    plan = plan_attention(coordinates, [Causal(), Row()], visible)
    held = int((coordinates.document >= 0).sum())
    assert plan.mask.numel() == 0
    assert len(plan.gather) < 1.15 * held


def test_documents_may_interleave_in_a_row() -> None:
    coordinates = stream([[(30, (1, 1, 0), False)]], 30)
    coordinates.document[0] = torch.arange(30) % 3
    plan = plan_attention(coordinates, [Causal()], visible)
    mask = visible(coordinates, coordinates, [Causal()])
    assert torch.equal(reference.dense_mask(plan.tensors(), 1, 30), mask)


def test_padding_gives_zeros_takes_no_gradient_and_is_never_read() -> None:
    coordinates = packed()
    padding = coordinates.document < 0
    plan = plan_attention(coordinates, [Causal(), Row()], visible)
    for backend in ("cpu", "reference"):
        q, k, v = inputs(plan.shape, 4, 2, 8, torch.float32)
        for x in (q, k, v):
            x.data[padding] = torch.nan
        grad = torch.ones(q.shape)
        grad[padding] = torch.nan
        if backend == "cpu":
            out, grads = run(q, k, v, plan, grad)
        else:
            flat = [x.detach() for x in (q, k, v)]
            out, lse = reference.forward(*flat, plan.tensors(), 1.0)
            grads = list(reference.backward(grad, *flat, out, lse, plan.tensors(), 1.0))
        for x in (out, *grads):
            assert torch.isfinite(x).all()
            assert (x[padding] == 0).all()


def test_a_query_that_sees_nothing_gives_zero() -> None:
    coordinates = stream([[(0, (1, 1, 5), False)]], 5)
    coordinates.grid[0, 0] = 0
    plan = plan_attention(coordinates, [Causal(), Elsewhere()], visible)
    q, k, v = inputs(plan.shape, 2, 2, 8, torch.float32)
    out, grads = run(q, k, v, plan, torch.ones(q.shape))
    assert (out[0, 0] == 0).all()
    assert (grads[0][0, 0] == 0).all()
    assert (grads[2][0, 0] != 0).any()


def test_non_contiguous_inputs() -> None:
    coordinates = packed()
    plan = plan_attention(coordinates, [Causal(), Row()], visible)
    joined = torch.randn(*plan.shape, 8, 16, generator=torch.Generator().manual_seed(0))
    views = joined.split((4, 2, 2), dim=2)
    got = attention(*views, plan)
    assert torch.equal(got, attention(*(x.contiguous() for x in views), plan))


@pytest.mark.parametrize("change", ["scale", "mask", "head"])
def test_the_tolerance_notices_broken_maths(change: str) -> None:
    coordinates = packed()
    mask = visible(coordinates, coordinates, [Causal(), Causal()])
    plan = plan_attention(coordinates, [Causal(), Causal()], visible)
    q, k, v = inputs(plan.shape, 4, 2, 8, torch.float32)
    out, _ = dense_float64(q, k, v, mask, torch.ones(q.shape))
    if change == "scale":
        got = attention(q, k, v, plan, scale=8**-0.5 * 1.001)
    elif change == "mask":
        shifted = coordinates.map(lambda x: x.clone())
        shifted.document[0, 1] = -1
        got = attention(q, k, v, plan_attention(shifted, [Causal(), Causal()], visible))
    else:
        got = attention(q, k.flip(2), v, plan)
    assert worst([got.detach()], [out]) > TOLERANCE[torch.float32]


def test_opcheck() -> None:
    coordinates = packed()
    plan = plan_attention(coordinates, [Causal(), Row()], visible)
    q, k, v = (x.detach() for x in inputs(plan.shape, 4, 2, 8, torch.float32))
    arguments = (q, k, v, plan.tensors(), 0.3)
    torch.library.opcheck(torch.ops.unimodal.attention.default, arguments)
    out, lse = torch.ops.unimodal.attention(*arguments)
    back = (torch.ones_like(out), q, k, v, out, lse, plan.tensors(), 0.3)
    torch.library.opcheck(torch.ops.unimodal.attention_backward.default, back)


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_forward_and_backward_without_a_break() -> None:
    coordinates = packed()
    plan = plan_attention(coordinates, [Causal(), Row()], visible)
    q, k, v = inputs(plan.shape, 4, 2, 8, torch.float32)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    grad = torch.ones(q.shape)
    out, grads = run(q, k, v, plan, grad)
    got = compiled(q, k, v, plan)
    got_grads = torch.autograd.grad(got, (q, k, v), grad)
    assert torch.equal(got, out)
    assert all(torch.equal(a, b) for a, b in zip(grads, got_grads, strict=True))


def test_shapes_and_plans_that_do_not_fit_are_refused() -> None:
    plan = plan_attention(packed(), [Causal(), Causal()], visible)
    q, k, v = inputs(plan.shape, 4, 2, 8, torch.float32)
    with pytest.raises(ShapeError, match="divides 4"):
        attention(q, k[:, :, :1].expand(-1, -1, 3, -1), v[:, :, :1].expand(-1, -1, 3, -1), plan)
    with pytest.raises(ShapeError, match="head size of at least 1"):
        attention(q[..., :0], k[..., :0], v[..., :0], plan)
    with pytest.raises(ShapeError, match="one floating dtype"):
        attention(q, k, v.double(), plan)
    with pytest.raises(ShapeError, match="must be made for the batch"):
        attention(q[:1], k[:1], v[:1], plan)
    with pytest.raises(ShapeError, match=r"shape \(B, T\)"):
        plan_attention(packed()[0], [Causal()], visible)


def test_a_pattern_without_a_form_takes_the_reference_on_a_gpu_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def on_a_gpu(op: str, _: Tensor, unsupported: str | None = None) -> str:
        asked.append(unsupported)
        with FakeTensorMode():
            return dispatch.choose(op, torch.empty(1, device="cuda"), unsupported=unsupported)

    monkeypatch.setattr(plan_module, "choose", on_a_gpu)
    monkeypatch.setattr(choice, "_can_import_triton", lambda: True)
    monkeypatch.setattr(choice, "_told", set())
    with caplog.at_level("WARNING"):
        for _ in range(2):
            plan_attention(packed(), [Causal(), EverySecond()], visible)
        assert isinstance(plan_attention(packed(), [Causal(), Row()], visible), TokenPlan)
    assert asked == ["the pattern EverySecond() has no form for kernels"] * 2 + [None]
    assert [record.message for record in caplog.records] == [
        "attention runs the reference: the pattern EverySecond() has no form for kernels."
    ]


def test_log_sums_come_with_the_result_and_no_gradient() -> None:
    coordinates = packed()
    plan = plan_attention(coordinates, [Causal(), Row()], visible)
    q, k, v = inputs(plan.shape, 4, 2, 8, torch.float32)
    out, lse = attention_with_lse(q, k, v, plan)
    mask = visible(coordinates, coordinates, [Causal(), Row()])
    _, exact = reference.attend_dense(q.double(), k.double(), v.double(), mask, 8**-0.5)
    assert torch.equal(out, attention(q, k, v, plan))
    assert not lse.requires_grad
    assert torch.equal(lse == -torch.inf, exact == -torch.inf)
    assert (lse.double() - exact.detach()).nan_to_num().abs().max().item() < 1e-5
