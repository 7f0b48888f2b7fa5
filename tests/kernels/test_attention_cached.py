"""Attention against a cache without Triton: integers and masks stand for the same pairs; pages."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimodal.errors import BackendUnavailableError, ShapeError
from unimodal.kernels.attention import (
    MaskPlan,
    SlotPlan,
    attend_cached,
    cached,
    plan_cached,
    reference,
)
from unimodal.kernels.attention.forms import number_programs
from unimodal.kernels.dispatch import using
from unimodal.model.cache import unpack
from unimodal.patterns import (
    Causal,
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

PATTERNS = [
    Causal(),
    Full(),
    Prefix(2),
    Window(2),
    Row(),
    Column(),
    Conv(3),
    Nearby3D(1, 1, 0),
    Window(2) | Prefix(1),
    Row() & Conv(3),
]
SIMPLE = st.sampled_from(PATTERNS)


def slot_plan(
    queries: Tensor, keys: Tensor, by_kind: list[Pattern], lengths: Tensor | None = None
) -> SlotPlan:
    programs = number_programs([None if p.is_dense else p.form() for p in by_kind])
    assert programs is not None
    return SlotPlan(queries, keys, lengths, *cached._program_tensors(programs, torch.device("cpu")))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.builds(lambda a, b: a | b, SIMPLE, SIMPLE) | SIMPLE, max_size=3), st.data())
def test_integers_of_slots_stand_for_the_patterns_mask(
    by_kind: list[Pattern], data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    # Anything at all, but for what a cell's number may be.
    table = torch.randint(-1, 4, (2, 30, 8), generator=generator, dtype=torch.int32)
    table[..., 0] = torch.rand(2, 30, generator=generator).argsort(1)
    table[..., 4] = table[..., 4] > 1
    queries, keys = table[:, :5], table[:, 3:]
    mask = slot_plan(queries, keys, by_kind).visible()
    assert torch.equal(mask, visible(unpack(queries), unpack(keys), by_kind))


def test_slots_behind_a_rows_length_are_not_seen(random_slots):
    queries, keys = random_slots(2, 3, 20, 0)
    whole = slot_plan(queries, keys, [Row()]).visible()
    lengths = torch.tensor([20, 7], dtype=torch.int32)
    cut = slot_plan(queries, keys, [Row()], lengths).visible()
    assert torch.equal(cut[0], whole[0])
    assert torch.equal(cut[1, :, :7], whole[1, :, :7])
    assert whole[1, :, 7:].any()
    assert not cut[1, :, 7:].any()


def caches(batch: int, slots: int, groups: int, size: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, slots, groups, size)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in "kv"]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_cpu_equals_the_dense_definition(heads: int, groups: int, new: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, new, heads, 8, generator=generator)
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in caches(batch, 23, groups, 8))
    mask = torch.rand(batch, new, 23, generator=generator) < 0.5
    mask[0, 0] = False
    exact = [x.double() for x in (q, k, v)]
    for seen in (mask, torch.ones_like(mask)):
        expected, _ = reference.attend_dense(*exact, seen, 8**-0.5)
        plans = [MaskPlan.of(seen)] + [MaskPlan(None)] * bool(seen.all())
        for plan in plans:
            for keys, values in ((k, v), (k.contiguous(), v.contiguous())):
                got = attend_cached(q, keys, values, plan)
                assert (got.double() - expected).abs().max() < 2e-6
                again = attend_cached(*exact, plan)
                assert (again - expected).abs().max() < 1e-14
    assert (attend_cached(q, k, v, MaskPlan.of(mask))[0, 0] == 0).all()


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_last_axis_that_is_not_contiguous_gives_the_same(which: int, new: int) -> None:
    tensors = [torch.randn(2, new, 4, 16), *caches(2, 9, 2, 16)]
    plan = MaskPlan.of(torch.rand(2, new, 9) > 0.4)
    expected = attend_cached(*tensors, plan)
    strided = tensors[which].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert strided.stride(-1) != 1
    tensors[which] = strided
    torch.testing.assert_close(attend_cached(*tensors, plan), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("new", [1, 2])
def test_an_empty_cache_gives_zeros(new: int) -> None:
    q, (k, v) = torch.randn(1, new, 2, 8), caches(1, 0, 1, 8)
    got = attend_cached(q, k, v, MaskPlan.of(torch.zeros(1, new, 0, dtype=torch.bool)))
    assert torch.equal(got, torch.zeros_like(q))


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", cached.PAGE_SIZES)
def test_pages_in_any_order_equal_the_static_cache(
    size: int, dtype: torch.dtype, impl: str, random_slots, to_pages
) -> None:
    queries, keys = random_slots(2, 3, 77, size)
    used = torch.tensor([77, 41], dtype=torch.int32)
    mask = slot_plan(queries, keys, [Causal(), Conv(3)], used).visible()
    q = torch.randn(2, 3, 4, 8).to(dtype)
    k, v = caches(2, 77, 2, 8, dtype)
    (k_pages, table), (v_pages, _) = (to_pages(x, size, used, seed=size) for x in (k, v))
    with using(impl):
        expected = attend_cached(q, k, v, MaskPlan.of(mask))
        assert torch.equal(attend_cached(q, k_pages, v_pages, MaskPlan.of(mask), table), expected)
        table[0] = table[0].flip(0)
        if size < 64:
            wrong = attend_cached(q, k_pages, v_pages, MaskPlan.of(mask), table)
            assert not torch.equal(wrong, expected)


def test_a_mask_is_made_where_no_kernel_runs(random_slots) -> None:
    queries, keys = random_slots(1, 2, 9, 0)
    plan = MaskPlan(None)
    assert plan_cached(queries, keys, [Row()], lambda by_kind: plan) is plan
    with pytest.raises(BackendUnavailableError, match="cannot run on Triton"), using("triton"):
        plan_cached(queries, keys, [Row()], lambda by_kind: plan)


def test_what_does_not_fit_is_refused(random_slots) -> None:
    q, (k, v) = torch.zeros(1, 1, 4, 8), caches(1, 32, 2, 8)
    plan = MaskPlan.of(torch.ones(1, 1, 32, dtype=torch.bool))
    table = torch.tensor([[0, 1]], dtype=torch.int32)
    pages = torch.zeros(2, 16, 2, 8)
    attend_cached(q, pages, pages, plan, table)
    with pytest.raises(ShapeError, match=r"`q` must have shape \(B, Tq, N, H\)"):
        attend_cached(q[0], k, v, plan)
    with pytest.raises(ShapeError, match=r"floating dtypes, but have .*, torch.int8, torch.int8"):
        attend_cached(q, k.to(torch.int8), v.to(torch.int8), plan)
    with pytest.raises(ShapeError, match="dividing 4"):
        attend_cached(q, *[x[:, :, :1].expand(1, 32, 3, 8) for x in (k, v)], plan)
    with pytest.raises(ShapeError, match="must have the rows of `q`"):
        attend_cached(q, pages, pages, plan)
    with pytest.raises(ShapeError, match=r"`plan` must be made for .* = \(1, 1, 31\), .* 32\)"):
        attend_cached(q, k[:, :31], v[:, :31], plan)
    with pytest.raises(ShapeError, match=r"16\) slots at most, but is for"):
        attend_cached(q, pages, pages, plan, table[:, :1])
    with pytest.raises(ShapeError, match="pages of 16, 32, 64, 128, 256 slots, but has pages of 8"):
        attend_cached(q, pages[:, :8], pages[:, :8], plan, table)
    with pytest.raises(ShapeError, match=r"`block_table` must be int32 of shape \(1, pages\)"):
        attend_cached(q, pages, pages, plan, table.long())
    with pytest.raises(ShapeError, match=r"pages of 0 to 1 wherever .* \[0, 1\] is 2"):
        attend_cached(q, pages, pages, plan, table + 1)
    queries, keys = random_slots(1, 2, 9, 0)
    for name, arguments in {
        "queries": (queries.long(), keys),
        "keys": (queries, keys[..., :7]),
        "rows of `queries`": (queries, keys.repeat(2, 1, 1)),
    }.items():
        with pytest.raises(ShapeError, match=name):
            plan_cached(*arguments, [Row()], lambda by_kind: plan)
    with pytest.raises(ShapeError, match="`lengths`"):
        plan_cached(queries, keys, [Row()], lambda by_kind: plan, torch.tensor([9]))
