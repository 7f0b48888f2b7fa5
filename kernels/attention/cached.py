"""Attention of a few new positions against a cache, static or paged: plans, checks and dispatch.

A cache keeps eight integers a slot (`SLOT_FIELDS`), and each new position has the same. On a GPU
kernels evaluate the patterns' predicate from them (`SlotPlan`); on the CPU a mask, made once a step
for all layers of the same patterns, is faster (`MaskPlan`). Both stand for the same pairs, which
tests hold. The kernels are registered with torch (`torch.ops.unimodal.attend_cached`). Not here:
the kernels themselves (`triton_decode`), the cache itself.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.attention import cpu, reference, tokens
from unimodal.kernels.attention.contract import PatternLike, why_no_kernel
from unimodal.kernels.attention.forms import Programs
from unimodal.kernels.attention.plan import programs_of
from unimodal.kernels.attention.tokens import SLOT_FIELDS
from unimodal.kernels.dispatch import choose, on_own_device

_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define(
    "attend_cached(Tensor q, Tensor k_cache, Tensor v_cache, Tensor queries, Tensor keys, "
    "Tensor? lengths, Tensor parameters, Tensor of_kind, Tensor codes, Tensor? block_table)"
    " -> Tensor"
)

PAGE_SIZES = (16, 32, 64, 128, 256)
"""Slots that a page may have."""


@dataclass(frozen=True)
class MaskPlan:
    """A plan that holds every pair.

    Attributes:
        bias: 0 where a query sees a slot, else minus infinity. float32 [B, Tq, S], or None where
            every query sees every slot.
    """

    bias: Tensor | None

    @classmethod
    def of(cls, visible: Tensor) -> "MaskPlan":
        """The plan of a bool mask [B, Tq, S]."""
        bias = torch.zeros(visible.shape, device=visible.device)
        return cls(bias.masked_fill_(~visible, -torch.inf))

    def visible(self, q: Tensor, slots: int) -> Tensor:
        """The mask, bool [B, Tq, S]."""
        if self.bias is None:
            return torch.ones(*q.shape[:2], slots, dtype=torch.bool, device=q.device)
        return self.bias == 0


@dataclass(frozen=True)
class SlotPlan:
    """A plan of a few integers a slot: nothing is made for it, nothing grows with pairs.

    Attributes:
        queries: Integers of the new positions. int32 [B, Tq, SLOT_FIELDS].
        keys: Integers of the slots, read when the kernel runs. int32 [B, S, SLOT_FIELDS].
        lengths: Slots in use of each row, if not all; what lies behind is not read. int32 [B].
        parameters: As in a `TokenPlan`. int32 [conditions, 4].
        of_kind: Program of each kind. int32 [kinds].
        codes: As in a `TokenPlan`, on the CPU. int64 [conditions].
    """

    queries: Tensor
    keys: Tensor
    lengths: Tensor | None
    parameters: Tensor
    of_kind: Tensor
    codes: Tensor

    @property
    def programs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the patterns are."""
        return self.parameters, self.of_kind, self.codes

    def visible(self) -> Tensor:
        """The mask that the plan stands for, bool [B, Tq, S]."""
        q, k = (tokens.of_slots(x, self.of_kind) for x in (self.queries, self.keys))
        seen = tokens.visible_tokens(
            [x[:, :, None] for x in q], [x[:, None] for x in k], self.parameters, self.codes
        )
        if self.lengths is not None:
            place = torch.arange(seen.shape[2], device=seen.device)
            seen = seen & (place < self.lengths[:, None, None])
        return seen


CachedPlan = MaskPlan | SlotPlan
"""Who among the new positions sees which slots of a cache, for one layer's patterns."""


def plan_cached(
    queries: Tensor,
    keys: Tensor,
    by_kind: Sequence[PatternLike],
    masked: Callable[[Sequence[PatternLike]], MaskPlan],
    lengths: Tensor | None = None,
) -> CachedPlan:
    """Plan one decoding step for the layers of one set of patterns, without a synchronisation.

    A plan for kernels keeps the tensors themselves: where `keys` (and `lengths`) are filled in
    place between steps, a CUDA graph that holds the step reads what is there when it is replayed.

    Args:
        queries: Integers of the new positions. int32 [B, Tq, SLOT_FIELDS].
        keys: Integers of the cache's slots, in any order. int32 [B, S, SLOT_FIELDS].
        by_kind: The pattern of each kind.
        masked: Makes the mask where no kernel evaluates the predicate; it must respect `lengths`.
        lengths: Slots in use of each row, if not all. int32 [B], on the device of the rest.

    Raises:
        ShapeError: if a table of integers has another shape or dtype.
        BackendUnavailableError: if Triton was asked for by name and cannot run these patterns.
    """
    _check_slots(queries, keys, lengths)
    programs, fault = None, None
    if choose("attention", queries) == "triton":
        programs, fault = programs_of(by_kind)
        choose("attention", queries, unsupported=fault)
    if programs is None:
        return masked(by_kind)
    return SlotPlan(queries, keys, lengths, *_program_tensors(programs, queries.device))


def attend_cached(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: CachedPlan,
    block_table: Tensor | None = None,
) -> Tensor:
    """Attention of new positions over a cache, for decoding; scale H ** -0.5, no gradient.

    The cache is read where it lies, in any layout; best laid out [B, K, S, H] in memory and handed
    over transposed. On the CPU float32 is the fast precision for this. A paged cache holds pages of
    all rows; slot s of row b is slot s % P of page `block_table[b, s // P]`.

    Args:
        q: [B, Tq, N, H].
        k_cache, v_cache: [B, S, K, H], or pages [pages, P, K, H] with P of `PAGE_SIZES`. On the CPU
            what is not visible must be finite unless it is paged; kernels do not read it.
        plan: From `plan_cached`, or a `MaskPlan`. A query that sees nothing gets zeros.
        block_table: Pages of each row, int32 [B, n] with n * P at least S of the plan; entries of
            pages that no query sees may be any number. Kernels see nothing on pages that are not
            there, other implementations raise.

    Returns:
        [B, Tq, N, H] in the dtype of `q`.

    Raises:
        ShapeError: if shapes, dtypes or numbers of pages do not fit.
    """
    slots = _check_cache(q, k_cache, v_cache, block_table)
    _check_plan(q, plan, slots, paged=block_table is not None)
    if not q.numel() or not slots:
        # torch's CPU attention divides by the number of keys.
        return torch.zeros_like(q)
    if isinstance(plan, SlotPlan):
        # On the CPU it was asked for by name, when the plan was made.
        impl = None if q.device.type == "cuda" else "triton"
        read = (q, k_cache, v_cache, plan.queries, plan.keys)
        if choose("attention", *read, impl=impl, unsupported=why_no_kernel(q)) == "triton":
            tensors = (plan.queries, plan.keys, plan.lengths, *plan.programs)
            result: Tensor = torch.ops.unimodal.attend_cached(
                q, k_cache, v_cache, *tensors, block_table
            )
            return result
        plan = MaskPlan.of(plan.visible())
    if block_table is not None:
        slots = slots if plan.bias is None else plan.bias.shape[2]
        visible = plan.visible(q, slots)
        k_cache, v_cache = _gathered(k_cache, v_cache, block_table, visible)
    if choose("attention", q, unsupported="its plan holds a mask") == "cpu":
        if q.shape[1] == 1 or q.dtype in (torch.float32, torch.float64):
            return cpu.attend_cached(q, k_cache, v_cache, plan.bias)
    visible = plan.visible(q, k_cache.shape[1])
    return reference.attend_dense(q, k_cache, v_cache, visible, q.shape[3] ** -0.5)[0]


@on_own_device
def _attend_cached(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    # The decoding kernels' own module, so that nobody without triton imports it.
    decode = importlib.import_module("unimodal.kernels.attention.triton_decode")
    *plan, block_table = rest
    result: Tensor = decode.attend_cached(q, k, v, SlotPlan(*plan), block_table)
    return result


def _fake_attend_cached(q: Tensor, *_: Tensor | None) -> Tensor:
    return q.new_empty(q.shape)


for _key in ("CPU", "CUDA"):
    _library.impl("attend_cached", _attend_cached, _key)
torch.library.register_fake("unimodal::attend_cached", _fake_attend_cached, lib=_library)


def _gathered(
    k_pages: Tensor, v_pages: Tensor, block_table: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """A paged cache as [B, S, K, H], zeros where no query sees it."""
    pages, size = k_pages.shape[:2]
    place = torch.arange(visible.shape[2], device=block_table.device)
    page = block_table[:, place // size]
    seen = visible.any(1)
    wrong = seen & ((page < 0) | (page >= pages))
    if wrong.any():
        row, slot = (int(x) for x in wrong.nonzero()[0])
        raise ShapeError(
            f"`block_table` must hold pages of 0 to {pages - 1} wherever a query sees, but entry "
            f"[{row}, {slot // size}] is {int(page[row, slot])}."
        )
    flat = torch.where(seen, page * size + place % size, 0).long()
    held = seen[..., None, None]
    k, v = (torch.where(held, x.flatten(0, 1)[flat], 0) for x in (k_pages, v_pages))
    return k, v


@lru_cache(maxsize=64)
def _program_tensors(programs: Programs, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, programs of the kinds, and codes: made once, since a copy to a GPU waits."""
    rows = [list(condition) for condition in programs.conditions]
    return (
        torch.tensor(rows, dtype=torch.int32, device=device).reshape(-1, 4),
        torch.tensor(programs.of_kind, dtype=torch.int32, device=device),
        torch.tensor(programs.codes, dtype=torch.int64),
    )


def _check_slots(queries: Tensor, keys: Tensor, lengths: Tensor | None) -> None:
    for name, x in (("queries", queries), ("keys", keys)):
        if x.ndim != 3 or x.shape[2] != SLOT_FIELDS or x.dtype != torch.int32:
            raise ShapeError(
                f"`{name}` must be int32 of shape (B, slots, {SLOT_FIELDS}), but is {x.dtype} of "
                f"shape {tuple(x.shape)}."
            )
    if queries.shape[0] != keys.shape[0]:
        raise ShapeError(
            f"`keys` must have the rows of `queries` ({queries.shape[0]}), but has {keys.shape[0]}."
        )
    if lengths is not None and (
        lengths.shape != keys.shape[:1] or lengths.dtype != torch.int32 or lengths.stride(0) > 1
    ):
        raise ShapeError(
            f"`lengths` must be contiguous int32 of shape ({keys.shape[0]},), but is "
            f"{lengths.dtype} of shape {tuple(lengths.shape)}."
        )


def _check_cache(q: Tensor, k: Tensor, v: Tensor, block_table: Tensor | None) -> int:
    """Slots of a row."""
    if q.ndim != 4 or k.ndim != 4:
        raise ShapeError(
            "`q` must have shape (B, Tq, N, H) and `k_cache` (B, S, K, H), but they have "
            f"{tuple(q.shape)} and {tuple(k.shape)}."
        )
    if not all(x.is_floating_point() for x in (q, k, v)):
        raise ShapeError(
            "`q`, `k_cache` and `v_cache` must have floating dtypes, but have "
            f"{q.dtype}, {k.dtype}, {v.dtype}."
        )
    batch, _, heads, size = q.shape
    groups = k.shape[2]
    if not groups or heads % groups or k.shape != v.shape or k.shape[3] != size:
        raise ShapeError(
            f"`k_cache` and `v_cache` must have shape (B, S, K, {size}) with K dividing {heads}, "
            f"but have {tuple(k.shape)} and {tuple(v.shape)}."
        )
    if block_table is None:
        if k.shape[0] != batch:
            raise ShapeError(
                f"`k_cache` must have the rows of `q` ({batch}), but has {k.shape[0]}.",
                remedy="Give `block_table` if it holds pages.",
            )
        return int(k.shape[1])
    if k.shape[1] not in PAGE_SIZES:
        raise ShapeError(
            f"`k_cache` must have pages of {', '.join(map(str, PAGE_SIZES))} slots, "
            f"but has pages of {k.shape[1]}."
        )
    fits = block_table.ndim == 2 and block_table.shape[0] == batch
    if not fits or block_table.dtype != torch.int32 or block_table.device != q.device:
        raise ShapeError(
            f"`block_table` must be int32 of shape ({batch}, pages) on {q.device}, but is "
            f"{block_table.dtype} of shape {tuple(block_table.shape)} on {block_table.device}."
        )
    return int(block_table.shape[1] * k.shape[1])


def _check_plan(q: Tensor, plan: CachedPlan, slots: int, paged: bool) -> None:
    """Static caches have the plan's slots, pages at least as many."""
    if isinstance(plan, SlotPlan):
        planned = (*plan.queries.shape[:2], plan.keys.shape[1])
    elif plan.bias is None:
        return
    else:
        planned = tuple(plan.bias.shape)
    wanted = (*q.shape[:2], slots)
    fits = planned == wanted or (paged and planned[:2] == wanted[:2] and planned[2] <= slots)
    if not fits:
        raise ShapeError(
            f"`plan` must be made for (B, Tq, S) = {wanted}{' slots at most' * paged}, "
            f"but is for {planned}."
        )
