"""The plan that kernels read: seven integers a token, and nothing that grows with pairs.

Made on the device of the coordinates without a synchronisation. Kernels work out from it which
tiles they visit (`triton_schedule`); `dense_mask` says in torch what it stands for, and is what the
reference uses where a kernel cannot take the input. Tested against the patterns' predicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unimodal.kernels.attention.contract import AttentionPlan
from unimodal.kernels.attention.forms import (
    BEFORE,
    BOX,
    CODE_BITS,
    COLUMN,
    ROW,
    Programs,
)

if TYPE_CHECKING:
    from unimodal.types import Coordinates

FIELDS = 7
"""Integers a token: index, document (-1 on padding), segment (unique in its row), code
(number of the program, plus `IS_FULL`), t (negative on control positions), h, w."""

SLOT_FIELDS = 8
"""Integers of a slot of a cache: index, document (-1 where it is empty), segment, kind, full (0 or
1), and the cell t, h, w (negative on control positions)."""

TOKEN_TENSORS = 3
"""Tensors of a `TokenPlan`, which tell it from other plans."""

IS_FULL = 256
"""Added to a token's code where its segment attends in both directions."""


@dataclass(frozen=True)
class TokenPlan(AttentionPlan):
    """The plan of a batch of B x T positions for kernels.

    Attributes:
        tokens: `FIELDS` integers of each position, in the order in which kernels visit them. int32
            [FIELDS, B, T].
        parameters: Three integers of each condition, after its opcode. int32 [conditions, 4].
        visits: `order`, empty if it is stream order. int64 [B * T] or [0].
        codes: Compile-time codes of the conditions, on the CPU. int64 [conditions].
        shape: (B, T).
    """

    tokens: Tensor
    parameters: Tensor
    visits: Tensor
    codes: Tensor
    shape: tuple[int, int]

    @property
    def order(self) -> Tensor | None:
        """Flat position that each visited place holds, if not stream order."""
        return self.visits if len(self.visits) else None

    def tensors(self) -> list[Tensor]:
        """What the operators take; they work in the order of the plan."""
        return [self.tokens, self.parameters, self.codes]

    def to(self, device: torch.device | str) -> "TokenPlan":
        """The plan with its tensors on `device`; the codes stay on the CPU."""
        names = ("tokens", "parameters", "visits")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def plan_tokens(coordinates: "Coordinates", programs: Programs) -> TokenPlan:
    """The plan of a batch for one layer's programs.

    Args:
        coordinates: Of every position, each tensor [B, T] (grid [B, T, 3]).
        programs: From `forms.number_programs`.
    """
    tokens = token_table(coordinates, programs)
    device = tokens.device
    order = torch.zeros(0, dtype=torch.int64, device=device)
    if any(programs.column_major):
        order = _column_order(tokens, programs)
        tokens = tokens.flatten(1).index_select(1, order).view_as(tokens)
    rows = [list(condition) for condition in programs.conditions]
    return TokenPlan(
        tokens=tokens,
        parameters=_on(device, rows, torch.int32).reshape(-1, 4),
        visits=order,
        codes=torch.tensor(programs.codes, dtype=torch.int64),
        shape=(tokens.shape[1], tokens.shape[2]),
    )


def token_table(coordinates: "Coordinates", programs: Programs) -> Tensor:
    """`FIELDS` integers of each position in stream order. int32 [FIELDS, B, T]."""
    c = coordinates
    of_kind = _on(c.kind.device, programs.of_kind, torch.int32)
    segments = c.segment.amax() + 1 if c.segment.numel() else 1
    segment = c.document * segments + c.segment
    t, h, w = (x.to(torch.int32) for x in c.grid.unbind(-1))
    code = _codes(c.kind, c.full, t, of_kind)
    rows = (c.index, c.document, segment, code, t, h, w)
    return torch.stack([row.to(torch.int32) for row in rows]).contiguous()


def _on(device: torch.device, values: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """A tensor of a few numbers. A copy to a GPU waits for all work there unless it is pinned."""
    made = torch.tensor(values, dtype=dtype)
    if device.type == "cuda" and torch.cuda.is_available():
        made = made.pin_memory()
    return made.to(device, non_blocking=True)


def of_slots(slots: Tensor, of_kind: Tensor) -> tuple[Tensor, ...]:
    """The `FIELDS` integers, each [B, T], of a cache's slots int32 [B, T, `SLOT_FIELDS`].

    Segments are those of their documents: enough for pairs, of which only those of one document
    are compared.
    """
    index, document, segment, kind, full, t, h, w = slots.unbind(-1)
    return index, document, segment, _codes(kind, full == 1, t, of_kind), t, h, w


def _codes(kind: Tensor, full: Tensor, t: Tensor, of_kind: Tensor) -> Tensor:
    """Number of each position's program (0 for kinds that nothing was said of), plus `IS_FULL`."""
    if not len(of_kind):
        return IS_FULL * full.to(torch.int32)
    known = (kind >= 0) & (kind < len(of_kind)) & (t >= 0)
    program = torch.where(known, of_kind[kind.clamp(0, len(of_kind) - 1).long()], 0)
    return program + IS_FULL * full


def _column_order(tokens: Tensor, programs: Programs) -> Tensor:
    """Flat positions with the cells of column-major programs ordered by (t, w, h) in their slots.

    One stable sort of all positions by (row, segment run, t, w, h): a position outside such
    programs is a run of its own, so that it stays where it is.
    """
    _, batch, length = tokens.shape
    device = tokens.device
    wants = _on(device, (False, *programs.column_major), torch.bool)
    moves = wants[(tokens[3] % IS_FULL).long()]
    same = torch.zeros_like(moves)
    same[:, 1:] = moves[:, 1:] & moves[:, :-1] & (tokens[2, :, 1:] == tokens[2, :, :-1])
    run = (~same).flatten().cumsum(0)
    order = torch.arange(batch * length, device=device)
    for field in (5, 6, 4):
        key = torch.where(moves, tokens[field], 0).flatten()
        order = order[key[order].argsort(stable=True)]
    return order[run[order].argsort(stable=True)]


def dense_mask(plan: Sequence[Tensor]) -> Tensor:
    """The mask bool [B, T, T], in the order of visits, that a plan's tensors stand for."""
    tokens, parameters, codes = plan
    q, k = tokens[:, :, :, None].unbind(0), tokens[:, :, None, :].unbind(0)
    return visible_tokens(q, k, parameters, codes)


def visible_tokens(
    q: Sequence[Tensor], k: Sequence[Tensor], parameters: Tensor, codes: Tensor
) -> Tensor:
    """Who sees whom, from `FIELDS` integers of queries and of keys that broadcast."""
    earlier = k[0] <= q[0]
    inside = earlier | (q[3] >= IS_FULL)
    always = torch.ones_like(earlier)
    clause, allowed = always, ~always
    for code, condition in zip(codes.tolist(), parameters.unbind(0), strict=True):
        clause = clause & _holds(code & 7, q, k, condition[1:])
        if code >> 3 & 1:
            clause, allowed = always, allowed | clause
        if code >> 4 & 1:
            free = (q[3] % IS_FULL != code >> 5) | (k[4] < 0)
            inside, allowed = inside & (free | allowed), ~always
    visible = torch.where(q[2] == k[2], inside, earlier)
    return visible & (q[1] == k[1]) & (q[1] >= 0)


def compile_time_code(codes: Sequence[int]) -> int:
    """All codes in one integer, the first in the lowest bits: what kernels specialise on."""
    return sum(code << CODE_BITS * place for place, code in enumerate(codes))


def _holds(opcode: int, q: Sequence[Tensor], k: Sequence[Tensor], limits: Tensor) -> Tensor:
    (qi, _, _, _, qt, qh, qw), (ki, _, _, _, kt, kh, kw) = q, k
    if opcode == BOX:
        near = [(a - b).abs() <= r for a, b, r in zip((qt, qh, qw), (kt, kh, kw), limits)]  # noqa: B905
        return near[0] & near[1] & near[2]
    if opcode == BEFORE:
        return (kt < limits[0]) & (qt == qt)
    if opcode == COLUMN:
        qh, qw, kh, kw = qw, qh, kw, kh
    else:
        assert opcode == ROW
    same = (qh == kh) & ((kw <= qw) | (ki > qi))
    above = (kh == qh - 1) & (kw >= qw)
    return (qt == kt) & (same | above)
