"""The lean decode step: one token a row through all layers with as few operations as possible.

It computes what `Decoder.extend` computes (tests hold the two equal), from its own copies of the
weights: norms folded into the matrices behind them, heads joined. The residual stream is kept
features first, (D, M) for M tokens, which makes the products with few tokens a quarter faster on a
CPU. Everything is float32, whatever the model was trained in. Also here: prefill of whole prompts,
packed into one row, which fills a cache.

Not here: which id follows (`engine`, `rows`), random numbers (`sampling`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unimodal.blocks import Block
from unimodal.kernels.attention import attend_cached
from unimodal.kernels.qk_prologue import rope_tables
from unimodal.model.cache import Cache, LayerCache, pack, unpack
from unimodal.model.decoder import Decoder
from unimodal.patterns import Pattern, visible
from unimodal.stream import EncodedDocument, collate

Tables = tuple[Tensor, Tensor]
"""Cosines and signed sines, (..., 1, H), float32."""


class _Matrix:
    """A matrix that multiplies tokens laid out features first.

    Args:
        weight: (outputs, inputs).
    """

    def __init__(self, weight: Float[Tensor, "O I"]):
        self.weight = weight.contiguous()

    @cached_property
    def turned(self) -> Float[Tensor, "I O"]:
        """The transposed copy, with which one token is a fifth faster."""
        return self.weight.t().contiguous()

    def __call__(self, x: Float[Tensor, "I M"]) -> Float[Tensor, "O M"]:
        if x.shape[1] == 1:
            return torch.mm(x.t(), self.turned).t()
        return torch.mm(self.weight, x)

    def add(self, total: Float[Tensor, "O M"], x: Float[Tensor, "I M"]) -> Float[Tensor, "O M"]:
        """total + the product."""
        if x.shape[1] == 1:
            return torch.addmm(total.t(), x.t(), self.turned).t()
        return torch.addmm(total, self.weight, x)


@dataclass(frozen=True)
class _Layer:
    """Weights of one block."""

    qkv: _Matrix
    qk_weight: Tensor | None
    out: _Matrix
    gate_up: _Matrix
    down: _Matrix


@dataclass(frozen=True)
class Head:
    """A head set, joined.

    Attributes:
        weight: (D, C), with the final norm folded in.
        ids: Global id of each column, (C,).
        allowed: Columns of the grammar's head set where the head is wider (`head: full`), (C,).
    """

    weight: Float[Tensor, "D C"]
    ids: Int[Tensor, " C"]
    allowed: Tensor | None


class Stepper:
    """A decoder's weights, laid out for decoding. Make a new one when the weights change.

    Args:
        decoder: Whose weights to copy.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        config = decoder.config
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim, self.width = config.head_dim, config.width
        self.table = decoder.embedding_table().float()
        self.layers = [_fold(block) for block in decoder.blocks]  # type: ignore[arg-type]
        self._heads: dict[int, Head] = {}
        device = decoder.device
        # x / rms(x) = sqrt(D) x / hypot(|x|, sqrt(D eps)); sqrt(D) is folded into the weights.
        self._floor = torch.tensor(math.sqrt(config.width * config.norm_eps), device=device)
        self._qk_floor = torch.tensor(math.sqrt(config.head_dim * config.norm_eps), device=device)
        self._restricted = [
            frozenset(kind for kind, pattern in enumerate(by_kind) if not pattern.is_dense)
            for by_kind in decoder.patterns
        ]

    def head(self, number: int) -> Head:
        """The joined head set of a number."""
        if number not in self._heads:
            self._heads[number] = self._join(number)
        return self._heads[number]

    def logits(self, hidden: Float[Tensor, "R D"], number: int) -> Float[Tensor, "R C"]:
        """Logits over a head set, of hidden states before the final norm."""
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return torch.mm(hidden / torch.hypot(norm, self._floor), self.head(number).weight)

    def tables(self, position: Float[Tensor, "*batch 3"]) -> Tables:
        """Rotary tables of positions, (*batch, 1, H) each."""
        config = self.decoder.config
        flat = position.reshape(1, -1, 3)
        cos, sin = rope_tables(flat, config.head_dim, config.rope_theta)
        shape = (*position.shape[:-1], 1, config.head_dim)
        return torch.cat([cos, cos], -1).view(shape), torch.cat([-sin, sin], -1).view(shape)

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
        cache = decoder.new_cache(len(documents), longest + room, torch.float32)
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
            layer.keys[row, :, slot] = k[0].to(layer.keys.dtype)
            layer.values[row, :, slot] = v[0].to(layer.values.dtype)
        return cache, x[0, ends.to(x.device) - 1].float()

    def step(
        self,
        ids: Int[Tensor, "R T"],
        tables: Tables,
        packed: Int[Tensor, "R T 8"],
        cache: Cache,
        has_gaps: bool = False,
    ) -> Float[Tensor, "R D"]:
        """Feed new tokens to every row, those with fewer than T have theirs last.

        Args:
            ids, tables, packed, cache, has_gaps: See `step_all`.

        Returns:
            The hidden state of each row's last token, before the final norm.
        """
        return self.step_all(ids, tables, packed, cache, has_gaps)[:, -1]

    def step_all(
        self,
        ids: Int[Tensor, "R T"],
        tables: Tables,
        packed: Int[Tensor, "R T 8"],
        cache: Cache,
        has_gaps: bool = False,
    ) -> Float[Tensor, "R T D"]:
        """Feed new tokens to every row.

        Args:
            ids: Global ids.
            tables: Of their positions, (R, T, 1, H).
            packed: Their coordinates (`model.cache.pack`); document -1 where a row has no token.
            cache: Read and written.
            has_gaps: Whether a row has fewer than T tokens.

        Returns:
            The hidden states of the tokens, before the final norm.
        """
        rows, block = ids.shape
        cache.place_packed(packed, has_gaps)
        masks = self._masks(packed, cache)
        cos, sin = (table.view(rows * block, 1, self.head_dim) for table in tables)
        x = F.embedding(ids.view(-1), self.table).t().contiguous()
        for layer, keep, mask in zip(self.layers, cache.layers, masks, strict=True):
            x = self._layer(x, layer, cos, sin, keep, mask, rows, block)
        return x.t().reshape(rows, block, -1)

    def _layer(
        self,
        x: Tensor,
        layer: _Layer,
        cos: Tensor,
        sin: Tensor,
        keep: LayerCache,
        mask: Tensor | None,
        rows: int,
        block: int,
    ) -> Tensor:
        heads, groups, size = self.num_heads, self.num_kv_heads, self.head_dim
        norm = torch.linalg.vector_norm(x, dim=0, keepdim=True)
        qkv = layer.qkv(x / torch.hypot(norm, self._floor))
        qkv = qkv.t().contiguous().view(rows * block, -1, size)
        qk, v = qkv[:, : heads + groups], qkv[:, heads + groups :]
        if layer.qk_weight is not None:
            norm = torch.linalg.vector_norm(qk, dim=-1, keepdim=True)
            qk = (qk * layer.qk_weight).div_(torch.hypot(norm, self._qk_floor))
        turned = torch.roll(qk, size // 2, -1)
        qk = (qk * cos).addcmul_(turned, sin)
        q = qk[:, :heads].view(rows, block, heads, size)
        k = qk[:, heads:].view(rows, block, groups, size)
        keys, values = keep.update(k, v.view(rows, block, groups, size))
        if block == 1:
            # The queries that share a key head stand where a longer block's positions would.
            out = F.scaled_dot_product_attention(
                q.view(rows, groups, heads // groups, size),
                keys.transpose(1, 2),
                values.transpose(1, 2),
                attn_mask=mask,
            )
        else:
            assert mask is not None
            out = attend_cached(q, keys, values, mask)
        x = layer.out.add(x, out.reshape(rows * block, -1).t())
        norm = torch.linalg.vector_norm(x, dim=0, keepdim=True)
        gate, up = layer.gate_up(x / torch.hypot(norm, self._floor)).chunk(2, dim=0)
        return layer.down.add(x, F.silu(gate).mul_(up))

    def _masks(self, packed: Tensor, cache: Cache) -> list[Tensor | None]:
        """The mask of each layer: additive (R, 1, 1, S) for one token, bool (R, T, S) for more."""
        single = packed.shape[1] == 1
        kinds = set(packed[..., 3].flatten().tolist()) if any(self._restricted) else set()
        if single and not any(kinds & restricted for restricted in self._restricted):
            plain = cache.gaps[:, None, None, : cache.length] if cache.has_gaps else None
            return [plain] * len(self.layers)
        queries, keys = unpack(packed), cache.readable()
        made: dict[tuple[Pattern, ...], Tensor] = {}
        for by_kind in self.decoder.patterns:
            if by_kind not in made:
                seen = visible(queries, keys, by_kind)
                if single:
                    bias = torch.zeros(seen.shape, device=seen.device)
                    seen = bias.masked_fill_(~seen, -torch.inf)[:, None]
                made[by_kind] = seen
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
        return Head((rows * scale).t().contiguous(), chosen.ids.to(rows.device), allowed)


def _fold(block: Block) -> _Layer:
    attention, mlp = block.attention, block.mlp
    root = math.sqrt(attention.config.width)
    before, between = (n.weight.float() * root for n in (block.attention_norm, block.mlp_norm))
    qk_weight = None
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = (n.weight.float() for n in (attention.q_norm, attention.k_norm))
        config = attention.config
        both = torch.cat([q.repeat(config.num_heads, 1), k.repeat(config.num_kv_heads, 1)])
        qk_weight = both * math.sqrt(config.head_dim)
    return _Layer(
        qkv=_Matrix(attention.qkv.weight.float() * before),
        qk_weight=qk_weight,
        out=_Matrix(attention.out.weight.detach().float()),
        gate_up=_Matrix(mlp.gate_up.weight.float() * between),
        down=_Matrix(mlp.down.weight.detach().float()),
    )
