"""Benchmark of decoding: the last `queries` positions of each row against a cache of all of it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodal.errors import ConfigError
from unimodal.kernels.attention import MaskPlan, attend_cached, plan_cached
from unimodal.kernels.bench import layouts
from unimodal.kernels.bench.spec import OURS, Contender, Problem, Spec, random


def problem(spec: Spec) -> Problem:
    """Queries, a cache as decoding keeps it, who sees what, and who competes; no gradient."""
    queries = min(spec.queries, spec.seq)
    q = random((spec.batch, queries, spec.heads, spec.head_dim), spec, 0, grad=False)
    # [B, K, S, H] in memory, handed over transposed.
    shape = (spec.batch, spec.kv_heads, spec.seq, spec.head_dim)
    k, v = (random(shape, spec, seed, grad=False).transpose(1, 2) for seed in (1, 2))
    placed, by_kind = layouts.layout(spec), layouts.kinds(spec)
    new = placed.map(lambda x: x[:, -queries:])
    slots = _slots(placed)
    mask = layouts.visible(new, placed, by_kind)
    held: dict[str, Any] = {}
    read_k, read_v, block_table = (k, v, None) if not spec.page else _paged(k, v, spec.page)

    def prepare() -> None:
        held["plan"] = plan_cached(
            slots[:, -queries:],
            slots,
            by_kind,
            lambda _: MaskPlan.of(layouts.visible(new, placed, by_kind)),
        )

    def sdpa() -> tuple[Tensor]:
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask[:, None],
            enable_gqa=spec.heads != spec.kv_heads,
        )
        return (out.transpose(1, 2),)

    return Problem(
        inputs=(q, k, v),
        grads=(),
        exact=lambda tensors: (_definition(tensors, mask),),
        makers={
            OURS: lambda: Contender(
                lambda: (attend_cached(q, read_k, read_v, held["plan"], block_table),),
                prepare,
                has_backward=False,
            ),
            "sdpa": lambda: Contender(sdpa, has_backward=False, note="with a mask"),
        },
        largest_term=float(v.abs().max()),
        flops=4.0 * spec.head_dim * spec.heads * int(mask.sum()),
        num_bytes=float((2 * k.numel() + 2 * q.numel()) * q.element_size()),
        facts={"visible_pairs": int(mask.sum())},
    )


def _paged(k: Tensor, v: Tensor, page: int) -> tuple[Tensor, Tensor, Tensor]:
    """The caches as pages [B * S / P, P, K, H] in no order, and the table of each row's pages."""
    batch, slots, groups, size = k.shape
    if slots % page:
        raise ConfigError(f"`seq` must be a multiple of `page` ({page}), but is {slots}.")
    generator = torch.Generator().manual_seed(3)
    table = torch.randperm(batch * slots // page, generator=generator).to(k.device)
    pages = [x.reshape(-1, page, groups, size)[table.argsort()] for x in (k, v)]
    return pages[0], pages[1], table.view(batch, -1).int()


def _slots(placed: layouts.Layout) -> Tensor:
    """The integers of a cache's slots, int32 [B, S, 8]."""
    names = ("index", "document", "segment", "kind", "full")
    columns = [getattr(placed, name) for name in names] + list(placed.grid.unbind(-1))
    return torch.stack([column.to(torch.int32) for column in columns], dim=-1)


def _definition(tensors: Sequence[Tensor], mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(H) + mask) v in the precision of its inputs."""
    queries, keys, values = (x.transpose(1, 2) for x in tensors)
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return (scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ values).transpose(1, 2)
