"""Cuts of a sparse mask hold every pair once, share what can be shared, and merge exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_attention import stream
from unimodal.kernels.attention import attention, reference
from unimodal.kernels.attention.contract import AttentionPlan
from unimodal.kernels.attention.cuts import LEAST_LENGTH, QUERY_BLOCK, cut
from unimodal.kernels.attention.plan import CAUSAL, plan_attention, read_tasks
from unimodal.patterns import Causal, Column, Conv, Pattern, Row, Window, visible
from unimodal.types import Coordinates

PATTERNS = [Row(), Column(), Conv(3)]


def visits(mask: Tensor, silent: Tensor) -> Tensor | None:
    """How often each pair is visited."""
    cuts = cut(mask, silent)
    if cuts is None:
        return None
    found = torch.zeros(mask.shape, dtype=torch.int64)
    written = torch.zeros(mask.shape[-1], dtype=torch.bool)
    for one in cuts:
        assert bool(written[one.q_start : one.q_stop].all()) == one.merged
        assert bool(written[one.q_start : one.q_stop].any()) == one.merged
        written[one.q_start : one.q_stop] = True
        if one.mask is None:
            assert isinstance(one.keys, slice)
            pairs = torch.ones(one.q_stop - one.q_start, one.num_keys, dtype=torch.int64)
            found[:, one.q_start : one.q_stop, one.keys] += pairs.tril() if one.causal else pairs
            continue
        size = (one.q_stop - one.q_start) // one.groups
        sees = one.mask.any(dim=-1).flatten(1)
        assert bool((sees | silent[:, one.q_start : one.q_stop]).all())
        chosen = one.keys
        if isinstance(chosen, slice):
            moved = torch.arange(one.groups)[:, None] * size
            chosen = moved + torch.arange(chosen.start, chosen.stop)
        for number, keys in enumerate(chosen):
            start = one.q_start + number * size
            own = one.mask[:, number].long()
            index = keys.expand(len(mask), size, -1)
            found[:, start : start + size].scatter_add_(2, index, own)
    assert bool(written.all())
    return found


@given(
    st.integers(LEAST_LENGTH, 2 * LEAST_LENGTH + 3 * QUERY_BLOCK + 7),
    st.integers(0, 200),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_every_pair_is_visited_once(length: int, words: int, reach: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    index = torch.arange(length)
    causal = index[None] <= index[:, None]
    near = causal & ((index[None] > index[:, None] - reach) | (index[None] < words))
    holes = torch.rand(2, length, length, generator=rng) < 0.02
    blind = torch.rand(length, 1, generator=rng) < 0.1  # sees words alone
    mask = near & ~(holes & (torch.rand(1, generator=rng) < 0.5)) & ~(blind & (index >= words))
    silent = ~mask.any(dim=-1)
    silent[1, length - int(torch.randint(0, 70, (1,), generator=rng)) :] = True
    mask[silent] = False
    mask[..., 0] |= silent
    found = visits(mask, silent)
    if found is not None:
        assert torch.equal(found[~silent] > 0, mask[~silent])
        assert int(found[~silent].max()) == 1


MIXED = [[(100, (1, 20, 20), False)], [(130, (1, 20, 19), False)], [(90, (3, 8, 16), False)]]
"""Two pictures after texts of other lengths, which share a bucket, and one in three frames."""
FILLING = [[(137, (1, 25, 15), False)]] * 3
"""Documents that fill their rows, with a text that is worth a causal call."""
UNLIKE = [FILLING[0], [(137, (1, 23, 16), False)], FILLING[0]]
"""The same where one has cells of its own, and so a mask of its own."""
LONE = [[(0, (512, 1, 1), False)]] * 3
"""A series without a text: nothing is shared, and a short window is one call of all blocks."""


@pytest.mark.parametrize("rows", [MIXED, FILLING, UNLIKE], ids=["mixed", "filling", "unlike"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cut_documents_equal_the_dense_definition(
    rows: list[list[tuple[int, tuple[int, int, int], bool]]], pattern: Pattern, dtype: torch.dtype
) -> None:
    coordinates = stream(rows, 512)
    plan = plan_attention(coordinates, [Causal(), pattern], visible)
    tasks = read_tasks(plan.tensors()[-1])
    assert len(tasks) > 2
    # Documents whose text is a call of its own have windows of keys.
    leads = rows is not MIXED
    assert any(task.mode == CAUSAL for task in tasks) == leads
    assert any(task.groups > 1 and task.key_start >= 0 for task in tasks) == leads
    # Column-major cells have to be gathered.
    assert {task.in_place for task in tasks} == {int(rows is FILLING and pattern != Column())}
    check_attention(coordinates, plan, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_call_of_several_blocks_equals_the_dense_definition(dtype: torch.dtype) -> None:
    coordinates = stream(LONE, 512)
    plan = plan_attention(coordinates, [Causal(), Window(16)], visible)
    (task,) = read_tasks(plan.tensors()[-1])
    assert task.groups > 1
    check_attention(coordinates, plan, dtype)


def check_attention(coordinates: Coordinates, plan: AttentionPlan, dtype: torch.dtype) -> None:
    """Hold outputs and gradients of a plan for 3 x 512 positions to the reference in float64."""
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(3, 512, n, 32, dtype=dtype) for n in (4, 2, 2, 4))
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    held = (coordinates.document >= 0)[..., None, None]
    mine = [x.clone().requires_grad_() for x in (q, k, v)]
    out = attention(*mine, plan)
    (out * grad * held).sum().backward()
    expected, lse = reference.forward(*[x.detach() for x in wide], plan.tensors(), 32**-0.5)
    grads = reference.backward(
        (grad * held).double(), *[x.detach() for x in wide], expected, lse, plan.tensors(), 32**-0.5
    )
    bound = 2e-5 if dtype == torch.float32 else 4e-2
    assert (out.double() - expected)[held.expand_as(out)].abs().max() < bound
    for own, right in zip(mine, grads, strict=True):
        assert own.grad is not None
        assert (own.grad.double() - right).abs().max() < 20 * bound
