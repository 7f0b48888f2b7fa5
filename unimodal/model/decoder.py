"""The decoder: one Transformer over one stream of tokens, for any modality.

Embedding (span tables for ids, the modality's embedder for features), blocks with a pattern a
layer, a final norm, and head sets. Every span and embedder takes part in every forward pass of
training, by a zero-weight term where a batch lacks it, so that sharded ranks never wait for each
other.

Equal to transformers' Qwen3 for causal one-dimensional documents (see `huggingface`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unimodal.blocks import Block, RMSNorm, attention_plan
from unimodal.kernels.attention import AttentionPlan
from unimodal.kernels.cross_entropy import linear_cross_entropy
from unimodal.kernels.qk_prologue import rope_tables
from unimodal.model.cache import Cache
from unimodal.model.config import DecoderConfig, layer_patterns
from unimodal.patterns import Pattern
from unimodal.stream import Batch, FeatureGroup, StreamConfig
from unimodal.types import Coordinates
from unimodal.vocabulary import HeadSet, Vocabulary


@dataclass
class LossOutput:
    """Loss of one batch.

    Attributes:
        total: sum(weight x nll) + z-loss, with gradient; divide by the accumulated weight.
        weight: sum(weight).
        nll: Nats of each target, by head set in the order of `Batch.heads`, without gradient.
    """

    total: Float[Tensor, ""]
    weight: float
    nll: list[Float[Tensor, " P"]]


class Decoder(nn.Module):
    """A decoder over the spans of a vocabulary.

    Args:
        config: Shape, patterns, head.
        vocabulary: Its ledger; spans become parameters of their own.
    """

    def __init__(self, config: DecoderConfig, vocabulary: Vocabulary):
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.stream = StreamConfig(positions_per_second=config.positions_per_second)
        width = config.width
        self.embeddings = nn.ParameterDict()
        self.outputs = nn.ParameterDict()
        for span in vocabulary.spans:
            self.embeddings[parameter_key(span.name)] = nn.Parameter(torch.empty(span.size, width))
            if not config.tie_embeddings:
                self.outputs[parameter_key(span.name)] = nn.Parameter(torch.empty(span.size, width))
        self.embedders = nn.ModuleDict(
            {
                parameter_key(name): modality.embedder(width)
                for name, modality in vocabulary.modalities.items()
                if modality.is_continuous
            }
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(width, config.norm_eps)
        self.patterns = layer_patterns(config, vocabulary)
        self.full_head = HeadSet(
            "full",
            tuple((span.name, 0, span.size) for span in vocabulary.spans),
            torch.arange(vocabulary.size),
        )
        self.reset_parameters()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())

    def compile_layers(self) -> None:
        """Compile the blocks around their attention, for training; see `Block`."""
        for block in self.blocks:
            cast(Block, block).compile_around_attention()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw initial weights; each parameter from a generator seeded by its own name."""
        shrink = (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.is_meta or (parameter.ndim < 2 and not name.endswith("bias")):
                continue
            draw = _generator(name, self.config.seed)
            if parameter.ndim < 2:
                parameter.zero_()
            elif name.startswith(("embeddings.", "outputs.")):
                parameter.normal_(0.0, self.config.init_std, generator=draw)
            else:
                std = parameter[0].numel() ** -0.5
                std *= shrink if name.endswith(("out.weight", "down.weight")) else 1.0
                parameter.normal_(0.0, std, generator=draw)

    # Input

    def embedding_table(self) -> Float[Tensor, "V D"]:
        """All spans' embeddings, joined in id order."""
        return torch.cat([self.embeddings[parameter_key(s.name)] for s in self.vocabulary.spans])

    def embed(
        self,
        ids: Int[Tensor, "B T"],
        features: Sequence[FeatureGroup] = (),
        table: Tensor | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Embed ids, and features in their places.

        Args:
            ids: Input ids.
            features: Continuous inputs with their flat positions.
            table: `embedding_table()`, when the caller keeps it.
        """
        table = self.embedding_table() if table is None else table
        x = functional.embedding(ids, table)
        flat = x.flatten(0, 1)
        for group in features:
            embedder = self.embedders[parameter_key(group.modality)]
            embedded = embedder(group.values.to(_dtype_of(embedder))).flatten(0, 1)
            index, shown = group.index.flatten(), ~group.hidden.flatten()
            if not bool(shown.all()):
                embedded, index = embedded[shown], index[shown]
            flat = flat.index_copy(0, index, embedded.to(flat.dtype))
        return flat.view_as(x)

    # Blocks

    def plan(self, coordinates: Coordinates) -> list[AttentionPlan]:
        """Attention plans of all layers; layers with equal patterns share one."""
        plans: dict[tuple[Pattern, ...], AttentionPlan] = {}
        for by_kind in self.patterns:
            if by_kind not in plans:
                plans[by_kind] = attention_plan(coordinates, by_kind)
        return [plans[by_kind] for by_kind in self.patterns]

    def rope(self, position: Float[Tensor, "B T 3"]) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables of RoPE positions."""
        return rope_tables(position, self.config.head_dim, self.config.rope_theta)

    def forward(
        self, batch: Batch, plans: Sequence[AttentionPlan] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Hidden states after the final norm."""
        x = self.embed(batch.ids, batch.features)
        if self.training:
            x = x + self._absent(batch.features, x)
        rope = self.rope(batch.position)
        for block, plan in zip(self.blocks, plans or self.plan(batch.coordinates), strict=True):
            x = block(x, rope, plan)
        return cast(Tensor, self.norm(x))

    def new_cache(self, batch: int, capacity: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for `batch` rows, with room for `capacity` positions at first."""
        c = self.config
        return Cache(
            c.num_layers,
            batch,
            capacity,
            c.num_kv_heads,
            c.head_dim,
            dtype or self.norm.weight.dtype,
            self.device,
        )

    # Output

    def head_set(self, number: int) -> HeadSet:
        """Head set of a number that positions store; the full one with `head: full`."""
        return self.full_head if self.config.head == "full" else self.vocabulary.head_sets[number]

    def head_weight(self, number: int) -> list[Float[Tensor, "_ D"]]:
        """Output rows of a head set, in column order, as pieces."""
        tables = self.embeddings if self.config.tie_embeddings else self.outputs
        return [
            tables[parameter_key(name)][first:last]
            for name, first, last in self.head_set(number).pieces
        ]

    def columns(self, number: int, columns: Int[Tensor, " P"]) -> Int[Tensor, " P"]:
        """Columns of `head_set(number)` that columns of the vocabulary's head set stand for."""
        if self.config.head != "full":
            return columns
        return self.vocabulary.head_sets[number].ids.to(columns.device)[columns]

    def logits(self, hidden: Float[Tensor, "P D"], number: int) -> Float[Tensor, "P C"]:
        """Logits over a head set, float32."""
        pieces = [functional.linear(hidden, rows) for rows in self.head_weight(number)]
        return torch.cat(pieces, dim=-1).float()

    def loss(self, batch: Batch, plans: Sequence[AttentionPlan] | None = None) -> LossOutput:
        """Loss over all targets of a batch.

        total = sum over positions of weight x (nll + z_loss x log(Z)^2), accumulated in float32.
        """
        hidden = self(batch, plans).flatten(0, 1)
        total = hidden.new_zeros((), dtype=torch.float32)
        losses = []
        for head in batch.heads:
            part, nll = linear_cross_entropy(
                hidden[head.index],
                self.head_weight(head.number),
                self.columns(head.number, head.columns),
                head.weight,
                z_loss=self.config.z_loss,
            )
            total = total + part
            losses.append(nll)
        if self.training and not self.config.tie_embeddings:
            total = total + sum(0.0 * p.reshape(-1)[0] for p in self.outputs.values())
        return LossOutput(total, batch.weight_sum, losses)

    def _absent(self, features: Sequence[FeatureGroup], x: Tensor) -> Tensor:
        """Zero, through the embedders that the batch does not use."""
        present = {group.modality for group in features}
        zero = x.new_zeros(())
        for name, modality in self.vocabulary.modalities.items():
            if modality.is_continuous and name not in present:
                embedder = self.embedders[parameter_key(name)]
                blank = torch.zeros(1, 1, *modality.feature_shape, device=x.device)
                zero = zero + 0.0 * embedder(blank.to(_dtype_of(embedder))).sum()
        return zero


def parameter_key(name: str) -> str:
    """A span or modality name as a parameter key: torch forbids dots."""
    return name.replace(".", "/")


def _dtype_of(embedder: nn.Module) -> torch.dtype:
    """What an embedder computes in; features are float32 until they reach it."""
    return next((p.dtype for p in embedder.parameters() if p.is_floating_point()), torch.float32)


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
