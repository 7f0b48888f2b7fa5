"""The lean decode step: one token a row through all layers with as few operations as possible.

It computes what the decoder computes in one pass (tests hold the two equal), from its own copies
of the weights: norms folded into the matrices behind them, heads joined, the two features that RoPE
turns together side by side, so that a rotation is one complex product. Norms, rotations, residual
stream and logits are float32, whatever the model was trained in; matrices, and the cache with them,
are of the precision that is asked for. Also here: prefill of whole prompts, packed into one row,
which fills a cache.

Not here: which id follows (`engine`, `rows`), random numbers (`sampling`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor

from unimodal.blocks import Block
from unimodal.generation.matrices import Matrix, matrix_class
from unimodal.kernels.attention import CachedPlan, MaskPlan, attend_cached, plan_cached
from unimodal.kernels.qk_prologue import rope_tables
from unimodal.model.cache import Cache, LayerCache, pack, unpack
from unimodal.model.decoder import Decoder
from unimodal.patterns import Pattern, visible
from unimodal.stream import EncodedDocument, collate


@dataclass(frozen=True)
class _Layer:
    """Weights of one block."""

    qkv: Matrix
    qk_weight: Tensor | None
    out: Matrix
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True)
class Head:
    """A head set, joined.

    Attributes:
        matrix: (C, D), with the final norm folded in.
        ids: Global id of each column, (C,).
        allowed: Columns of the grammar's head set where the head is wider (`head: full`), (C,).
        end: Column of the id that ends a segment, if the grammar's head set holds it.
    """

    matrix: Matrix
    ids: Int[Tensor, " C"]
    allowed: Tensor | None
    end: int | None = None


class Stepper:
    """A decoder's weights, laid out for decoding. Make a new one when the weights change.

    Args:
        decoder: Whose weights to copy.
        dtype: Of the matrices: `float32`, `bfloat16` or `int8`; the cache is float32 or bfloat16.

    Raises:
        ConfigError: if the dtype is not offered.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, dtype: str = "float32"):
        self.decoder = decoder
        self._matrix = matrix_class(dtype)
        config = decoder.config
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim, self.width = config.head_dim, config.width
        self.table = decoder.embedding_table().float()
        self.layers = [_fold(block, self._matrix) for block in decoder.blocks]  # type: ignore[arg-type]
        self._heads: dict[int, Head] = {}
        device = decoder.device
        # x / rms(x) = sqrt(D) x / hypot(|x|, sqrt(D eps)); sqrt(D) is folded into the weights.
        self._floor = torch.tensor(math.sqrt(config.width * config.norm_eps), device=device)
        self._qk_floor = torch.tensor(math.sqrt(config.head_dim * config.norm_eps), device=device)

    def head(self, number: int) -> Head:
        """The joined head set of a number."""
        if number not in self._heads:
            self._heads[number] = self._join(number)
        return self._heads[number]

    def logits(self, hidden: Float[Tensor, "R D"], number: int) -> Float[Tensor, "R C"]:
        """Logits over a head set, of hidden states before the final norm."""
        x = hidden if len(hidden) == 1 else hidden.t()
        logits = self.head(number).matrix(self._normed(x)).float()
        return logits if len(hidden) == 1 else logits.t().contiguous()

    def tables(self, position: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch 1 h"]:
        """Rotary tables of positions: a unit number for each pair of features, h = H / 2."""
        config = self.decoder.config
        flat = position.reshape(1, -1, 3)
        cos, sin = rope_tables(flat, config.head_dim, config.rope_theta)
        return torch.complex(cos, sin).view(*position.shape[:-1], 1, config.head_dim // 2)

    def prefill(self, documents: Sequence[EncodedDocument], room: int) -> tuple[Cache, Tensor]:
        """Run whole prompts; none may be empty.

        Args:
            documents: One a row of the cache.
            room: Slots beyond the longest prompt for which to make room.

        Returns:
            The cache, and the hidden state before the final norm at each prompt's end, (R, D).
        """
        decoder = self.decoder
        lengths = [len(document) for document in documents]
        longest = max(lengths)
        batch = collate([documents], sum(lengths), decoder.vocabulary).to(decoder.device)
        cache = decoder.new_cache(len(documents), longest + room, self._matrix.cache_dtype)
        row = torch.repeat_interleave(
            torch.arange(len(lengths)), torch.tensor(lengths), output_size=sum(lengths)
        )
        ends = torch.tensor(lengths).cumsum(0)
        # Prompts end at a common slot, so that every row goes on at the next one.
        slot = torch.arange(len(row)) - ends[row] + longest
        coordinates = pack(batch.coordinates)[0]
        coordinates[:, 0] = slot.to(coordinates) - (longest - torch.tensor(lengths)[row]).to(
            coordinates
        )
        coordinates[:, 1] = 0
        row, slot = row.to(decoder.device), slot.to(decoder.device)
        block = torch.full_like(cache.packed[:, :longest], -1)
        block[row, slot] = coordinates
        cache.place_packed(block, has_gaps=min(lengths) < longest)
        x = decoder.embed(batch.ids, batch.features, self.table.to(decoder.norm.weight.dtype))
        rope = decoder.rope(batch.position)
        plans = decoder.plan(batch.coordinates)
        for module, plan, layer in zip(decoder.blocks, plans, cache.layers, strict=True):
            assert isinstance(module, Block)
            x, k, v = module.prefill(x, rope, plan)
            layer.keys[row, :, slot] = _paired(k[0]).to(layer.keys.dtype)
            layer.values[row, :, slot] = v[0].to(layer.values.dtype)
        return cache, x[0, ends.to(x.device) - 1].float()

    def step(
        self,
        ids: Int[Tensor, "R T"],
        turns: Complex[Tensor, "R T 1 h"],
        packed: Int[Tensor, "R T 8"],
        cache: Cache,
        has_gaps: bool = False,
    ) -> Float[Tensor, "R D"]:
        """Feed new tokens to every row, those with fewer than T have theirs last.

        Args:
            ids, turns, packed, cache, has_gaps: See `step_all`.

        Returns:
            The hidden state of each row's last token, before the final norm.
        """
        return self.step_all(ids, turns, packed, cache, has_gaps)[:, -1]

    def step_all(
        self,
        ids: Int[Tensor, "R T"],
        turns: Complex[Tensor, "R T 1 h"],
        packed: Int[Tensor, "R T 8"],
        cache: Cache,
        has_gaps: bool = False,
    ) -> Float[Tensor, "R T D"]:
        """Feed new tokens to every row.

        Args:
            ids: Global ids.
            turns: Of their positions.
            packed: Their coordinates (`model.cache.pack`); document -1 where a row has no token.
            cache: Read and written.
            has_gaps: Whether a row has fewer than T tokens.

        Returns:
            The hidden states of the tokens, before the final norm.
        """
        rows, block = ids.shape
        cache.place_packed(packed, has_gaps)
        plans = self._plans(packed, cache)
        x = F.embedding(ids.view(-1), self.table)
        single = rows * block == 1
        if not single:
            x = x.t().contiguous()
        turns = turns.view(rows * block, 1, self.head_dim // 2)
        for layer, keep, plan in zip(self.layers, cache.layers, plans, strict=True):
            x = self._layer(x, layer, turns, keep, plan, rows, block)
        return x.view(1, 1, -1) if single else x.t().reshape(rows, block, -1)

    def _normed(self, x: Tensor) -> Tensor:
        """RMSNorm without its weight and sqrt(D), of (D, M) or (1, D)."""
        norm = torch.linalg.vector_norm(x, dim=-1 if x.shape[0] == 1 else 0, keepdim=True)
        return x / torch.hypot(norm, self._floor)

    def _layer(
        self,
        x: Tensor,
        layer: _Layer,
        turns: Tensor,
        keep: LayerCache,
        plan: CachedPlan,
        rows: int,
        block: int,
    ) -> Tensor:
        heads, groups, size = self.num_heads, self.num_kv_heads, self.head_dim
        single = x.shape[0] == 1
        qkv = layer.qkv(self._normed(x)).float()
        if not single:
            qkv = qkv.t().contiguous()
        qk, v = qkv.view(rows * block, -1, size).split((heads + groups, groups), dim=1)
        if layer.qk_weight is not None:
            norm = torch.linalg.vector_norm(qk, dim=-1, keepdim=True)
            qk = (qk * layer.qk_weight).div_(torch.hypot(norm, self._qk_floor))
        pairs = torch.view_as_complex(qk.view(rows * block, -1, size // 2, 2))
        qk = torch.view_as_real(pairs * turns).view(rows, block, -1, size)
        q, k = qk.split((heads, groups), dim=2)
        keys, values = keep.update(k, v.view(rows, block, groups, size))
        out = attend_cached(q.to(keys.dtype), keys, values, plan)
        out = out.reshape(rows * block, -1)
        x = layer.out.add(x, out if single else out.t())
        gate, up = layer.gate_up(self._normed(x)).chunk(2, dim=-1 if single else 0)
        return layer.down.add(x, F.silu(gate).mul_(up))

    def _plans(self, packed: Tensor, cache: Cache) -> list[CachedPlan]:
        """Who sees what in each layer."""
        made: dict[tuple[Pattern, ...], CachedPlan] = {}
        for by_kind in self.decoder.patterns:
            if by_kind not in made:
                masked = partial(_masked, packed, cache)
                keys = cache.packed[:, : cache.length]
                made[by_kind] = plan_cached(packed, keys, by_kind, masked)
        return [made[by_kind] for by_kind in self.decoder.patterns]

    def _join(self, number: int) -> Head:
        decoder = self.decoder
        rows = torch.cat(decoder.head_weight(number)).float()
        scale = decoder.norm.weight.float() * math.sqrt(self.width)
        chosen = decoder.head_set(number)
        allowed = None
        inner = decoder.vocabulary.head_sets[number]
        if chosen is not inner:
            allowed = torch.isin(chosen.ids, inner.ids).to(rows.device)
        end = decoder.vocabulary.control("end")
        column = (chosen.ids == end).nonzero()[:, 0].tolist() if end in inner.ids else []
        return Head(self._matrix(rows * scale), chosen.ids.to(rows.device), allowed, *column)


def _masked(packed: Tensor, cache: Cache, by_kind: Sequence[Pattern]) -> MaskPlan:
    """The mask of new tokens; none where one new token sees all that its row holds."""
    if packed.shape[1] == 1:
        restricted = {kind for kind, pattern in enumerate(by_kind) if not pattern.is_dense}
        if not restricted or restricted.isdisjoint(packed[..., 3].flatten().tolist()):
            return MaskPlan(cache.gaps[:, None, : cache.length] if cache.has_gaps else None)
    return MaskPlan.of(visible(unpack(packed), cache.readable(), by_kind))


def _paired(x: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch H"]:
    """Heads with the two features that RoPE turns together side by side."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def _fold(block: Block, matrix: type[Matrix]) -> _Layer:
    attention, mlp = block.attention, block.mlp
    config = attention.config
    root = math.sqrt(config.width)
    before, between = (n.weight.float() * root for n in (block.attention_norm, block.mlp_norm))
    qk_weight = None
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = (n.weight.float() for n in (attention.q_norm, attention.k_norm))
        both = torch.cat([q.repeat(config.num_heads, 1), k.repeat(config.num_kv_heads, 1)])
        qk_weight = _paired(both * math.sqrt(config.head_dim))
    qkv = (attention.qkv.weight.float() * before).t()
    qk, v = qkv.tensor_split([(config.num_heads + config.num_kv_heads) * config.head_dim], dim=1)
    qk = _paired(qk.unflatten(1, (-1, config.head_dim))).flatten(1)
    return _Layer(
        qkv=matrix(torch.cat([qk, v], dim=1).t()),
        qk_weight=qk_weight,
        out=matrix(attention.out.weight.detach().float()),
        gate_up=matrix(mlp.gate_up.weight.float() * between),
        down=matrix(mlp.down.weight.detach().float()),
    )
