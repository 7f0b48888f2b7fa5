"""Decoding on interpreted Triton: patterns from integers, static and paged, and whole steps."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import BackendUnavailableError
from unimodal.generation.engine import inference
from unimodal.generation.step import Stepper
from unimodal.kernels.attention import (
    MaskPlan,
    SlotPlan,
    attend_cached,
    cached,
    plan_cached,
    reference,
)
from unimodal.kernels.dispatch import is_interpreted, using
from unimodal.kernels.interpreter import assert_as_exact, guarded, guarded_allocations
from unimodal.model.cache import pack, unpack
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
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
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.vocabulary import Vocabulary

pytestmark = pytest.mark.gates

if is_interpreted():
    from unimodal.kernels.attention import triton_decode

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
    Column() & Conv(3),
]


def no_mask(_: object) -> MaskPlan:
    raise AssertionError("A mask was made.")


def plain(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """The definition in the precision of the inputs: every product rounded to it."""
    share = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(share, 2), v.repeat_interleave(share, 2)
    scores = torch.einsum("bqnh,bsnh->bnqs", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bnqs,bsnh->bqnh", weights.masked_fill(~seen[:, None], 0), v)


class Case:
    """One step of decoding, what is right, and inputs with poison wherever nobody sees.

    Args:
        random_slots: The fixture.
        shape: Rows, new positions, slots.
        heads: Query heads, key heads, head size.
    """

    def __init__(
        self,
        random_slots: Callable[..., tuple[Tensor, Tensor]],
        by_kind: list[Pattern],
        shape: tuple[int, int, int] = (2, 3, 150),
        heads: tuple[int, int, int] = (2, 1, 16),
        dtype: torch.dtype = torch.float32,
        lengths: list[int] | None = None,
    ):
        self.by_kind = by_kind
        self.queries, self.keys = random_slots(*shape, 3)
        self.lengths = torch.tensor(lengths or [shape[2]] * shape[0], dtype=torch.int32)
        self.seen = visible(unpack(self.queries), unpack(self.keys), by_kind)
        self.seen &= torch.arange(shape[2]) < self.lengths[:, None, None]
        generator = torch.Generator().manual_seed(0)
        batch, new, slots = shape
        q = torch.randn(batch, new, heads[0], heads[2], generator=generator)
        shapes = (batch, slots, heads[1], heads[2])
        k, v = (torch.randn(shapes, generator=generator) for _ in "kv")
        self.q, self.k, self.v = (x.to(dtype) for x in (q, k, v))
        exact = (x.double() for x in (self.q, self.k, self.v))
        self.exact = reference.attend_dense(*exact, self.seen, heads[2] ** -0.5)[0]
        self.same = plain(self.q, self.k, self.v, self.seen)
        self.k[~self.seen.any(1)] = self.v[~self.seen.any(1)] = torch.nan

    def plan(self) -> SlotPlan:
        with using("triton"):
            integers = guarded(self.queries), guarded(self.keys)
            plan = plan_cached(*integers, self.by_kind, no_mask, self.lengths)
        assert isinstance(plan, SlotPlan)
        return plan

    def check(self, k: Tensor, v: Tensor, table: Tensor | None = None) -> None:
        plan = self.plan()
        with guarded_allocations():
            got = attend_cached(guarded(self.q), guarded(k), guarded(v), plan, table)
        assert_as_exact([got], [self.same], [self.exact], ["out"])
        assert (got[~self.seen.any(2)] == 0).all()

    def check_static(self) -> None:
        self.check(self.k, self.v)


@pytest.mark.parametrize("pattern", PATTERNS[-3:], ids=str)
def test_patterns_are_as_exact_as_torch(pattern: Pattern, random_slots) -> None:
    Case(random_slots, [Causal(), pattern, Window(3)]).check_static()


@pytest.mark.parametrize(
    ("heads", "shape", "dtype"),
    [
        ((6, 2, 40), (1, 8, 129), torch.float32),
        ((2, 2, 64), (3, 1, 65), torch.bfloat16),
        ((1, 1, 8), (1, 1, 1), torch.float16),
        ((32, 1, 16), (1, 5, 70), torch.float32),
    ],
)
def test_odd_sizes_ratios_of_heads_and_precisions(
    heads: tuple[int, int, int], shape: tuple[int, int, int], dtype: torch.dtype, random_slots
) -> None:
    Case(random_slots, [Causal(), Row()], shape, heads, dtype).check_static()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_pages_in_random_order_for_every_pattern(pattern: Pattern, random_slots, to_pages) -> None:
    size = cached.PAGE_SIZES[PATTERNS.index(pattern) % len(cached.PAGE_SIZES)]
    # Lengths that end inside a page, on its edge, and nowhere.
    case = Case(random_slots, [Causal(), pattern], (3, 2, 150), lengths=[143, 64, 0])
    (k, table), (v, _) = (to_pages(x, size, case.lengths, seed=size) for x in (case.k, case.v))
    case.check(k, v, table)


@pytest.mark.parametrize("processors", [1, 4])
def test_lengths_cut_a_static_cache(
    processors: int, random_slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one part and in all three of 64 slots, of which rows use three, two, one and none."""
    monkeypatch.setattr(triton_decode, "_processors", lambda _: processors)
    case = Case(random_slots, [Row()], (4, 3, 150), lengths=[150, 66, 3, 0])
    case.check_static()


def test_the_operator_keeps_torchs_rules_and_is_compiled_without_a_break(random_slots) -> None:
    case = Case(random_slots, [Causal(), Row()], (1, 2, 20), lengths=[14])
    case.k, case.v = (torch.nan_to_num(x) for x in (case.k, case.v))
    plan = case.plan()
    tensors = (plan.queries, plan.keys, plan.lengths, *plan.programs)
    torch.library.opcheck(
        torch.ops.unimodal.attend_cached.default, (case.q, case.k, case.v, *tensors, None)
    )
    with using("triton"):
        right = attend_cached(case.q, case.k, case.v, plan)
        compiled = torch.compile(attend_cached, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(case.q, case.k, case.v, plan), right)


def test_caches_are_read_where_they_lie(random_slots) -> None:
    case = Case(random_slots, [Causal(), Conv(3)])
    plan = case.plan()
    right = attend_cached(case.q, case.k, case.v, plan)
    lying = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (case.k, case.v)]
    wide = torch.stack([plan.keys, plan.keys], 2)[:, :, 0]
    across = SlotPlan(plan.queries, wide, None, plan.parameters, plan.of_kind, plan.codes)
    flipped = case.q.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert torch.equal(attend_cached(flipped, *lying, across), right)


MISTAKES = {
    "some slots of each row": ("length = slots", "length = slots - 20"),
    "the last tile of a part": (
        "first + tl.cdiv(tiles, splits), tiles",
        "first + tl.cdiv(tiles, splits) - 1, tiles",
    ),
    "kinds": ("p_of_kind + kind, mask", "p_of_kind + 0 * kind, mask"),
    "both directions": ("+ 256 * full", "+ 0 * full"),
    "cells": ("o + 6, mask", "o + 7, mask"),
    "the row's slots": ("p_key += i_b * stride_jb", "p_key += 0 * stride_jb"),
    "the row's table": ("p_table += i_b * stride_table", "p_table += 0 * stride_table"),
    "the place in a page": ("o_s % PAGE * stride_vt", "o_s % (PAGE // 2) * stride_vt"),
    "the queries of each head": ("+ o_n * stride_qn", "+ 0 * o_n * stride_qn"),
    "parts that saw nothing": ("b_peak + tl.log2(b_sum)", "tl.log2(b_sum)"),
    "weights of parts": ("tl.exp2(b_lse - shift)", "tl.exp2(0.99 * (b_lse - shift))"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_kernel_is_seen(
    mistake: str, random_slots, to_pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(random_slots, [Causal(), Nearby3D(0, 1, 4), Row()], (2, 3, 150))
    (k, table), (v, _) = (to_pages(x, 32, case.lengths, seed=0) for x in (case.k, case.v))
    old, wrong = MISTAKES[mistake]
    source = Path(str(triton_decode.__file__)).read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "mistaken.py"
    path.write_text(source.replace(old, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mistaken", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, triton_decode.__name__, module)
    # Three parts or more, so that they are joined.
    monkeypatch.setattr(module, "_processors", lambda _: 4)
    with pytest.raises(AssertionError, match=r"errs by|finite"):
        case.check(k, v, table)


@pytest.mark.parametrize("programs", [1, 16, 10_000])
@pytest.mark.parametrize("length", [1, 63, 4096, 1 << 20])
def test_a_cache_is_cut_into_parts_that_fill_the_device(length: int, programs: int) -> None:
    splits = triton_decode.split_of(length, 64, programs, 132)
    assert 1 <= splits <= min(triton_decode.MAX_SPLITS, -(-length // 64))
    if programs == 1 and length == 1 << 20:
        assert splits == triton_decode.MAX_SPLITS


def test_what_kernels_cannot_take_is_refused(random_slots) -> None:
    case = Case(random_slots, [Causal()])
    exact = [x.double() for x in (case.q, case.k, case.v)]
    with pytest.raises(BackendUnavailableError, match="float64"):
        attend_cached(*exact, case.plan())


@pytest.mark.parametrize("new", [1, 3])
def test_a_step_of_a_decoder_equals_that_on_the_cpu(new: int) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(
        num_layers=3,
        width=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_width=96,
        patterns={"fake_grid": ["row", "column", "conv(size=3)"]},
    )
    decoder = Decoder(config, Vocabulary.of(["fake_line", "fake_grid"])).eval()
    rng = np.random.default_rng(0)
    documents = []
    for names in (["fake_line", "fake_grid"], ["fake_grid", "fake_grid"]):
        values = [(name, decoder.vocabulary.modality(name).example(rng)) for name in names]
        document = Document([Segment(name, value, objective="next") for name, value in values])
        documents.append(encode_document(document, decoder.vocabulary, decoder.stream, rng))
    length = min(map(len, documents))
    batch = collate([[d] for d in documents], max(map(len, documents)), decoder.vocabulary)
    packed = pack(batch.coordinates)
    found = []
    for impl in ("auto", "triton"):
        stepper = Stepper(decoder)
        with inference(decoder):
            cache = decoder.new_cache(2, 4)
            for here in (slice(0, length - new), slice(length - new, length)):
                ids, turns = batch.ids[:, here], stepper.tables(batch.position[:, here])
                with using(impl if here.start else "auto"):
                    state = stepper.step_all(ids.contiguous(), turns, packed[:, here], cache)
        found.append(state)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
