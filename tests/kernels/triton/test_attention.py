"""Attention on interpreted Triton: forward and every gradient, for every pattern, and its tiles."""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimodal.errors import BackendUnavailableError
from unimodal.kernels.attention import (
    attention,
    attention_with_lse,
    plan_attention,
    reference,
)
from unimodal.kernels.attention.contract import AttentionPlan
from unimodal.kernels.attention.tokens import TokenPlan
from unimodal.kernels.dispatch import GateCase, is_interpreted, tables, using
from unimodal.kernels.interpreter import assert_as_exact, guarded, guarded_allocations
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

pytestmark = pytest.mark.gates

if is_interpreted():
    from unimodal.kernels.attention import triton as triton_attention
    from unimodal.kernels.attention import triton_forward, triton_schedule

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
    Column() & Conv(3),
]
NAMES = ("out", "gradient of q", "gradient of k", "gradient of v")

Document = tuple[int, tuple[int, int, int], bool]


def stream(rows: Sequence[Sequence[Document]], length: int, gap: int = 0) -> Coordinates:
    """Rows of documents: words of kind 0, a control token, cells of kind 1 that may be full."""
    batch = len(rows)
    document = torch.full((batch, length), -1, dtype=torch.int32)
    segment, kind = torch.zeros_like(document), torch.zeros_like(document)
    full = torch.zeros(batch, length, dtype=torch.bool)
    grid = torch.full((batch, length, 3), CONTROL_CELL, dtype=torch.int32)
    for b, documents in enumerate(rows):
        at = gap
        for number, (words, shape, is_full) in enumerate(documents):
            cells = raster_grid(*shape)
            middle, stop = at + words, at + words + 1 + len(cells)
            assert stop <= length
            document[b, at:stop] = number
            grid[b, at:middle] = torch.tensor([[n, 0, 0] for n in range(words)]).reshape(-1, 3)
            segment[b, middle:stop] = kind[b, middle:stop] = 1
            full[b, middle:stop] = is_full
            grid[b, middle + 1 : stop] = cells
            at = stop
    index = torch.arange(length, dtype=torch.int32).expand(batch, length)
    return Coordinates(index, document, segment, kind, full, grid)


def packed() -> Coordinates:
    """Documents of odd lengths, a full one, one of a control token alone, an empty row, padding."""
    first = [(3, (2, 3, 4), False), (0, (0, 0, 0), False), (4, (1, 4, 4), True)]
    return stream([first, [(50, (1, 5, 4), False), (9, (0, 0, 0), False)]], 83, gap=1)


def inputs(
    shape: tuple[int, int], heads: int, groups: int, size: int, dtype: torch.dtype, seed: int = 0
) -> list[Tensor]:
    """Queries, keys, values, and the gradient of the result."""
    generator = torch.Generator().manual_seed(seed)
    counts = (heads, groups, groups, heads)
    tensors = (
        torch.randn(*shape, n, size, generator=generator, dtype=torch.float64) for n in counts
    )
    return [x.to(dtype).requires_grad_(n < 3) for n, x in enumerate(tensors)]


def run(tensors: Sequence[Tensor], plan: AttentionPlan) -> list[Tensor]:
    q, k, v, grad = tensors
    out = attention(q, k, v, plan)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def plain(tensors: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """The definition in the precision of the inputs: every product rounded to it."""
    q, k, v, grad = tensors
    share = q.shape[2] // k.shape[2]
    keys, values = k.repeat_interleave(share, 2), v.repeat_interleave(share, 2)
    scores = torch.einsum("bqnh,bsnh->bnqs", q, keys) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    weights = weights.masked_fill(~mask[:, None], 0)
    out = torch.einsum("bnqs,bsnh->bqnh", weights, values)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def doubled(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]


def check(coordinates: Coordinates, by_kind: list[Pattern], tensors: list[Tensor]) -> None:
    """Interpreted kernels between guard bands, padding poisoned, against float64."""
    mask = visible(coordinates, coordinates, by_kind)
    exact, same = plain(doubled(tensors), mask), plain(tensors, mask)
    held = coordinates.document >= 0
    poisoned = []
    for x in tensors:
        y = guarded(x).detach()
        y[~held] = torch.nan
        poisoned.append(y.requires_grad_(x.requires_grad))
    with using("triton"), guarded_allocations():
        plan = plan_attention(coordinates, by_kind, visible)
        got = run(poisoned, plan)
    assert isinstance(plan, TokenPlan)
    assert_as_exact(got, same, exact, NAMES)
    assert all((x[~held] == 0).all() for x in got)


@pytest.fixture(autouse=True)
def large_tiles() -> Iterator[None]:
    """Tiles of 64 x 64: the interpreter's time goes by their number."""
    config = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 1}
    with contextlib.ExitStack() as stack:
        for kernel in ("forward", "backward_q", "backward_kv"):
            # Tensor descriptors in the kernels that have them, where the inputs allow it.
            mine = config | {"TMA": 1} if kernel == "forward" else config
            for sort in ("dense", "sparse"):
                stack.enter_context(tables.overriding(f"attention.{kernel}_{sort}", mine))
        yield


def shape_of(coordinates: Coordinates) -> tuple[int, int]:
    return coordinates.document.shape[0], coordinates.document.shape[1]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_pattern_is_as_exact_as_torch(pattern: Pattern) -> None:
    coordinates = packed()
    tensors = inputs(shape_of(coordinates), 2, 1, 16, torch.float32)
    check(coordinates, [Causal(), pattern], tensors)


def test_inputs_in_the_order_of_the_plan_give_the_same_result_in_stream_order() -> None:
    coordinates = packed()
    shape = shape_of(coordinates)
    q, k, v, grad = inputs(shape, 2, 1, 16, torch.float32)
    with using("triton"):
        plan = plan_attention(coordinates, [Causal(), Column()], visible)
        assert plan.order is not None
        assert not torch.equal(plan.order, plan.order.sort().values)
        right = run((q, k, v, grad), plan)
        moved = [x.detach().flatten(0, 1)[plan.order].view(x.shape) for x in (q, k, v)]
        moved = [x.requires_grad_() for x in moved]
        out = attention(*moved, plan, ordered=True)
        grads = torch.autograd.grad(out, moved, grad)
    assert torch.equal(out.detach(), right[0])
    for got, expected in zip(grads, right[1:], strict=True):
        assert torch.equal(got.flatten(0, 1), expected.flatten(0, 1)[plan.order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_exact_as_torch(dtype: torch.dtype) -> None:
    coordinates = stream([[(20, (1, 5, 5), False)]], 47)
    check(coordinates, [Causal(), Row()], inputs((1, 47), 2, 2, 64, dtype))


@pytest.mark.parametrize(
    ("heads", "groups", "size", "length"), [(1, 1, 8, 9), (3, 1, 40, 65), (4, 2, 256, 17)]
)
def test_odd_sizes_and_ratios_of_heads(heads: int, groups: int, size: int, length: int) -> None:
    coordinates = stream([[(length - 1, (0, 0, 0), False)]], length)
    check(
        coordinates, [Causal(), Causal()], inputs((1, length), heads, groups, size, torch.float32)
    )


def test_a_single_token_gives_its_own_value_and_no_gradient_to_scores() -> None:
    tensors = inputs((1, 1), 1, 1, 8, torch.float32)
    q, k, v, grad = (x.detach() for x in tensors)
    with using("triton"):
        plan = plan_attention(stream([[(0, (0, 0, 0), False)]], 1), [Causal()], visible)
        out, grad_q, grad_k, grad_v = run(tensors, plan)
    assert torch.equal(out, v)
    assert torch.equal(grad_v, grad)
    # The gradient of the score is a difference of two equal sums, each rounded at most eight times.
    band = 2 * 8 * torch.finfo(torch.float32).eps * (grad * v).abs().sum() * 8**-0.5
    assert (grad_q.abs() <= band * k.abs()).all()
    assert (grad_k.abs() <= band * q.abs()).all()


def test_a_row_without_documents_gives_zeros() -> None:
    coordinates = stream([[], [(5, (1, 2, 2), False)]], 20)
    check(coordinates, [Causal(), Conv(3)], inputs((2, 20), 2, 1, 16, torch.float32))


SIMPLE = st.sampled_from(PATTERNS)
DOCUMENTS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
        st.booleans(),
    ),
    max_size=2,
)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(SIMPLE, SIMPLE, st.booleans(), st.lists(DOCUMENTS, min_size=1, max_size=2))
def test_random_patterns_and_documents(
    left: Pattern, right: Pattern, both: bool, rows: list[list[Document]]
) -> None:
    pattern = left & right if both else left | right
    coordinates = stream(rows, 107)
    tensors = inputs(shape_of(coordinates), 2, 1, 16, torch.float32)
    check(coordinates, [Window(4), pattern], tensors)


@pytest.mark.parametrize(("size", "wants_tma"), [(16, 1), (16, 0), (6, 1)])
def test_with_and_without_descriptors(
    size: int, wants_tma: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[int] = []
    original = triton_attention.launch

    def noted(case: GateCase) -> None:
        launched.extend(v for n, v in case.constexprs.items() if n == "TMA")
        original(case)

    monkeypatch.setattr(triton_attention, "launch", noted)
    config = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 1, "TMA": wants_tma}
    # Keys behind each other, so that whole tiles, boundary tiles and padding are visited.
    coordinates = stream([[(229, (0, 0, 0), False)]], 256, gap=1)
    with tables.overriding("attention.forward_dense", config):
        check(coordinates, [Causal()], inputs((1, 256), 2, 1, size, torch.float32))
    # Strides of 24 bytes are not multiples of 16: pointers.
    assert launched == [int(wants_tma and size == 16)]


def test_which_tensors_take_descriptors() -> None:
    x = torch.zeros(2, 8, 4, 16)
    assert triton_attention._takes_tma(x)
    assert triton_attention._takes_tma(x[:, 1:, 2:])
    assert not triton_attention._takes_tma(torch.zeros(2, 8, 1, 6))
    assert not triton_attention._takes_tma(x[:, :1].expand(-1, 8, -1, -1))
    assert not triton_attention._takes_tma(x.flatten()[1:-15].view(-1)[: 8 * 64].view(1, 8, 4, 16))


@pytest.mark.parametrize(
    ("old", "wrong"),
    [
        ("d_v.load([start, 0])", "d_v.load([start + 1, 0])"),
        ("d_k.load([start, 0])", "d_k.load([start + BLOCK_N // 2, 0])"),
        ("if TMA and not MASKED", "if TMA"),
    ],
)
def test_a_mistake_in_the_descriptors_is_seen(
    old: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(str(triton_forward.__file__)).read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "mistaken.py"
    path.write_text(source.replace(old, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mistaken", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(triton_attention, "attention_forward", module.attention_forward)
    coordinates = stream([[(229, (0, 0, 0), False)]], 256, gap=1)
    with pytest.raises(AssertionError, match=r"errs by|finite"):
        check(coordinates, [Causal()], inputs((1, 256), 2, 1, 16, torch.float32))


def test_strided_inputs_are_read_where_they_lie() -> None:
    coordinates = stream([[(30, (1, 3, 3), False)]], 40)
    tensors = inputs((1, 40), 2, 1, 16, torch.float32)
    with using("triton"):
        plan = plan_attention(coordinates, [Causal(), Column()], visible)
        right = run(tensors, plan)
        joined = torch.cat([x.detach() for x in tensors], dim=2)
        views = joined.split((2, 1, 1, 2), dim=2)
        strided = [x.requires_grad_() for x in views[:3]]
        flipped = views[3].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
        got = run([*strided, flipped], plan)
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))


def test_log_sums_are_those_of_the_scores() -> None:
    coordinates = packed()
    by_kind: list[Pattern] = [Causal(), Conv(3)]
    q, k, v, _ = inputs(shape_of(coordinates), 2, 1, 16, torch.float32)
    with using("triton"):
        plan = plan_attention(coordinates, by_kind, visible)
        _, lse = attention_with_lse(q, k, v, plan)
    mask = visible(coordinates, coordinates, by_kind)
    _, exact = reference.attend_dense(q.double(), k.double(), v.double(), mask, 0.25)
    assert torch.equal(lse == -torch.inf, exact == -torch.inf)
    seen = lse > -torch.inf
    assert (lse[seen] - exact.detach()[seen]).abs().max() < 4 * torch.finfo(torch.float32).eps * 8


@pytest.mark.parametrize("kind", ["scale", "mask", "head"])
def test_the_tolerance_notices_broken_maths(kind: str) -> None:
    coordinates = stream([[(40, (0, 0, 0), False)]], 41)
    q, k, v, grad = inputs((1, 41), 2, 2, 16, torch.float32)
    mask = visible(coordinates, coordinates, [Causal()])
    exact = plain(
        [x.detach().double().requires_grad_(x.requires_grad) for x in (q, k, v, grad)], mask
    )
    same = plain([q, k, v, grad], mask)
    if kind == "scale":
        q = (q.detach() * 1.0001).requires_grad_()
    elif kind == "mask":
        coordinates.document[0, 3] = -1
    else:
        k = k.detach().flip(2).requires_grad_()
    with using("triton"):
        got = run([q, k, v, grad], plan_attention(coordinates, [Causal()], visible))
    with pytest.raises(AssertionError, match="errs by"):
        assert_as_exact(got, same, exact, NAMES)


def picture(text: int, shape: tuple[int, int, int]) -> Coordinates:
    """Words of kind 0, and cells of kind 1 without a control token between."""
    coordinates = stream([[(text, shape, False)]], text + 1 + shape[0] * shape[1] * shape[2])
    keep = [n for n in range(coordinates.index.shape[1]) if n != text]
    return coordinates[:, keep].map(lambda x: x.contiguous())


def occupied(mask: Tensor, block_q: int, block_k: int) -> int:
    """Tiles of a mask [T, T] that hold a visible pair."""
    tiles = mask.unfold(0, block_q, block_q).unfold(1, block_k, block_k)
    return int(tiles.flatten(2).any(-1).sum())


@pytest.mark.parametrize(
    ("pattern", "text", "shape", "share"),
    [
        # DALL-E's rows reach back to the cell above; without it (its first form) they are narrower.
        (Row(), 256, (1, 32, 32), 24.4),
        (Column(), 256, (1, 32, 32), 24.4),
        (Row() & Nearby3D(0, 0, 32), 256, (1, 32, 32), 22.5),
        (Column() & Nearby3D(0, 32, 0), 256, (1, 32, 32), 22.5),
        (Conv(11), 256, (1, 32, 32), 31.4),
        (Nearby3D(1, 1, 1), 0, (10, 16, 16), 7.4),
    ],
    ids=str,
)
def test_no_tile_is_visited_in_vain(
    pattern: Pattern, text: int, shape: tuple[int, int, int], share: float
) -> None:
    coordinates = picture(text, shape)
    length = coordinates.index.shape[1]
    by_kind = [Causal(), pattern]
    with using("triton"):
        plan = plan_attention(coordinates, by_kind, visible)
    mask = visible(coordinates, coordinates, by_kind)[0]
    if plan.order is not None:
        mask = mask[plan.order][:, plan.order]
    for by_key in (False, True):
        whole, edge = triton_schedule.count_tiles(
            triton_schedule.schedule_of(plan.tensors(), 64, 32, by_key)
        )
        assert whole + edge == occupied(mask, 64, 32)
        assert round(100 * (whole + edge) / (length // 64 * (length // 32)), 1) == share
    if text:
        assert whole >= (length - text) // 64 * text // 32 - 1


def test_a_plan_that_is_filled_anew_gets_another_schedule() -> None:
    coordinates = stream([[(99, (0, 0, 0), False)]], 100)
    with using("triton"):
        plan = plan_attention(coordinates, [Causal()], visible)
    first = triton_schedule.schedule_of(plan.tensors(), 64, 64, by_key=False)
    assert triton_schedule.schedule_of(plan.tensors(), 64, 64, by_key=False) is first
    plan.tensors()[0][1].fill_(-1)
    second = triton_schedule.schedule_of(plan.tensors(), 64, 64, by_key=False)
    assert triton_schedule.count_tiles(first) != (0, 0) == triton_schedule.count_tiles(second)


def test_too_many_runs_are_joined_and_the_result_stays_right() -> None:
    coordinates = stream([[(1279, (0, 0, 0), False)]], 1280)
    # Every second stretch of 64 is another document: ten runs and more for the last blocks.
    coordinates.document[0] = (torch.arange(1280) // 64 % 2).int()
    coordinates.grid[...] = torch.arange(1280)[None, :, None]
    with using("triton"):
        plan = plan_attention(coordinates, [Causal()], visible)
    rows = triton_schedule.schedule_of(plan.tensors(), 64, 64, by_key=False)[0].tolist()
    edges = 2 + 2 * triton_schedule.RUNS
    assert rows[3][:4] == [1, 1, 1, 2]
    assert rows[3][edges : edges + 2] == [3, 4]
    assert rows[19][:2] == [0, 1]
    assert rows[19][edges : edges + 2] == [1, 20]


def test_inputs_that_kernels_cannot_take_are_refused_with_the_reason() -> None:
    coordinates = stream([[(9, (0, 0, 0), False)]], 10)
    with using("triton"):
        plan = plan_attention(coordinates, [Causal()], visible)
        wide = inputs((1, 10), 1, 1, 264, torch.float32)
        with pytest.raises(BackendUnavailableError, match="head size 264 is more than 256"):
            attention(*wide[:3], plan)
        exact = inputs((1, 10), 1, 1, 16, torch.float64)
        with pytest.raises(BackendUnavailableError, match="float64"):
            attention(*exact[:3], plan)
        with pytest.raises(BackendUnavailableError, match="no form for kernels"):
            plan_attention(coordinates, [Outside()], visible)
    empty = stream([[]], 0)
    with using("triton"):
        nothing = inputs((1, 0), 2, 1, 16, torch.float32)
        got = run(nothing, plan_attention(empty, [Causal()], visible))
    assert [x.shape for x in got] == [x.shape for x in (nothing[0], *nothing[:3])]


@dataclass(frozen=True)
class Outside(Pattern):
    """A pattern from outside, without a form for kernels."""

    def allows(self, q: Cells, k: Cells) -> Tensor:
        return (q.t - k.t) % 2 == 0
