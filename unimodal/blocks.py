"""The Transformer block: pre-norm attention and SwiGLU, in the shape of Qwen3.

Used by the decoder and by trainable tokenizers alike. No biases; grouped-query attention; RMS norm
of each query and key head. Projections are fused: one matrix for queries, keys and values, one for
gate and up. Not here: embeddings, heads, who sees whom (`unimodal.patterns`).

Parameters of a `Block`, and the transformers Qwen3 names that they hold, in row order:

    attention_norm.weight      input_layernorm
    attention.qkv.weight       self_attn.q_proj, k_proj, v_proj
    attention.q_norm.weight    self_attn.q_norm
    attention.k_norm.weight    self_attn.k_norm
    attention.out.weight       self_attn.o_proj
    mlp_norm.weight            post_attention_layernorm
    mlp.gate_up.weight         mlp.gate_proj, up_proj
    mlp.down.weight            mlp.down_proj

Tested against transformers' Qwen3 layer, and cached against uncached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unimodal.errors import ConfigError
from unimodal.kernels.attention import (
    AttentionPlan,
    attention,
    plan_attention,
)
from unimodal.kernels.qk_prologue import qk_prologue
from unimodal.kernels.rms_norm import add_rms_norm, rms_norm
from unimodal.kernels.swiglu import swiglu
from unimodal.patterns import Pattern, visible
from unimodal.types import Coordinates

Rope = tuple[Tensor, Tensor]
"""Cosines and sines [B, T, H / 2] from `unimodal.kernels.qk_prologue.rope_tables`."""


@dataclass(kw_only=True)
class BlockConfig:
    """Sizes of a block."""

    width: int = 320
    """Width D of the residual stream."""
    num_heads: int = 5
    """Query heads N."""
    num_kv_heads: int = 5
    """Key and value heads K; divides `num_heads`."""
    head_dim: int = 64
    """Head size H, even; 64 or 128 are fast."""
    mlp_width: int = 864
    """Inner width of the feed-forward layer."""
    norm_eps: float = 1e-6
    """Added to mean squares in norms, above 0."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies, above 0."""
    dropout: float = 0.0
    """Share of the updates of the residual stream that training drops, in [0, 1)."""
    qk_norm: bool = True
    """Whether query and key heads are normalised."""

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "num_kv_heads", "head_dim", "mlp_width"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {value}.")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"`num_heads` must be a multiple of `num_kv_heads` ({self.num_kv_heads}), "
                f"but is {self.num_heads}."
            )
        if self.head_dim % 2:
            raise ConfigError(f"`head_dim` must be even, but is {self.head_dim}.")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"`{name}` must be above 0, but is {value}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"`dropout` must be in [0, 1), but is {self.dropout}.")


class LayerCache(Protocol):
    """Keys and values of one layer, kept between steps of decoding."""

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, Tq, K, H] and return all keys and values [B, S, K, H].

        Rotated keys in stream order. A cache that lies [B, K, S, H] in memory and is returned
        transposed is read without a copy.
        """
        ...


def attention_plan(coordinates: Coordinates, by_kind: Sequence[Pattern]) -> AttentionPlan:
    """The plan of a batch for one layer's patterns; make it once for layers that share them.

    Args:
        coordinates: Of the batch, (B, T).
        by_kind: The pattern of each kind (modality).
    """
    return plan_attention(coordinates, by_kind, visible)  # type: ignore[arg-type]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x ** 2) + eps) * weight over the last axis, in float32.

    Args:
        width: Size D of the last axis.
        eps: Added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """The norm of x, in the autocast dtype under autocast."""
        return rms_norm(x, self.weight, self.eps)

    def after_adding(
        self, x: Float[Tensor, "... D"], update: Float[Tensor, "... D"]
    ) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
        """x + update, and its norm."""
        return add_rms_norm(x, update, self.weight, self.eps)


class SelfAttention(nn.Module):
    """The two sides of grouped-query self-attention, whose queries and keys are normed and rotated.

    What lies between is an operator without weights (`unimodal.kernels.attention`), which the block
    calls: over a batch, or over a cache.

    Args:
        config: Sizes.
        depth: Layers of the stack, for the scale of the initial output matrix.
    """

    def __init__(self, config: BlockConfig, depth: int = 1):
        super().__init__()
        self.config = config
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = _linear(config.width, heads * config.head_dim)
        self.out = _linear(config.num_heads * config.head_dim, config.width, 2 * depth)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def project(
        self, x: Float[Tensor, "B T D"], rope: Rope, order: Tensor | None = None
    ) -> tuple[Float[Tensor, "B T N H"], Float[Tensor, "B T K H"], Float[Tensor, "B T K H"]]:
        """Queries, keys (both normalised and rotated) and values.

        Args:
            x: Normalised input.
            rope: Tables of its positions.
            order: Of the plan, if the tokens shall come as attention visits them.
        """
        config = self.config
        groups = config.num_kv_heads
        qkv = self.qkv(x).unflatten(-1, (-1, config.head_dim))
        q, k, v = qkv.split((config.num_heads, groups, groups), dim=2)
        q_weight = None if self.q_norm is None else self.q_norm.weight
        k_weight = None if self.k_norm is None else self.k_norm.weight
        return qk_prologue(q, k, v, q_weight, k_weight, *rope, config.norm_eps, order=order)

    def join(self, attended: Float[Tensor, "B T N H"]) -> Float[Tensor, "B T D"]:
        """The update of the residual stream from what the heads found."""
        result: Tensor = self.out(attended.flatten(2))
        return result


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)).

    Args:
        width: Input and output width D.
        inner: Width between.
        depth: Layers of the stack, for the scale of the initial output matrix.
    """

    def __init__(self, width: int, inner: int, depth: int = 1):
        super().__init__()
        self.gate_up = _linear(width, 2 * inner)
        self.down = _linear(inner, width, 2 * depth)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """The feed-forward layer."""
        result: Tensor = self.down(swiglu(self.gate_up(x)))
        return result


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        config: Sizes.
        depth: Layers of the stack; outputs are initialised smaller by sqrt(2 x depth).
    """

    def __init__(self, config: BlockConfig, depth: int = 1):
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = SelfAttention(config, depth)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.mlp_width, depth)
        self._compiled: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def compile_around_attention(self, backend: str = "inductor") -> None:
        """Let torch.compile fuse what lies before and after attention, in training only.

        Attention itself is one operator with a plan of another size in every batch: compiling it
        too would compile anew for each batch.

        Args:
            backend: Of torch.compile; `inductor` needs a C++ compiler on a CPU.
        """
        self._compiled = (
            torch.compile(self._enter, dynamic=False, backend=backend),
            torch.compile(self._leave, dynamic=False, backend=backend),
        )

    def forward(
        self, x: Float[Tensor, "B T D"], rope: Rope, plan: AttentionPlan
    ) -> Float[Tensor, "B T D"]:
        """One layer over packed documents.

        Args:
            x: Residual stream, float32.
            rope: Tables of the batch.
            plan: Plan of the batch for this layer's patterns.
        """
        enter, leave = self._enter, self._leave
        if self._compiled is not None and self.training:
            enter, leave = self._compiled
        q, k, v = enter(x, rope, plan.order)
        return leave(x, attention(q, k, v, plan, ordered=True))

    def prefill(
        self, x: Float[Tensor, "B T D"], rope: Rope, plan: AttentionPlan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, with the layer's rotated keys and values (B, T, K, H), for a cache."""
        q, k, v = self._enter(x, rope, None)
        return self._leave(x, attention(q, k, v, plan)), k, v

    def _enter(self, x: Tensor, rope: Rope, order: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.project(self.attention_norm(x), rope, order)

    def _leave(self, x: Tensor, attended: Tensor) -> Tensor:
        update = self._drop(self.attention.join(attended))
        x, normed = self.mlp_norm.after_adding(x, update)
        return x + self._drop(self.mlp(normed))

    def _drop(self, update: Tensor) -> Tensor:
        if self.dropout and self.training:
            return dropout(update, self.dropout)
        return update


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate` and scale the others by 1 / (1 - rate).

    As `torch.nn.functional.dropout`, but an element's random bits are a hash of its position and of
    two numbers from torch's generator, so they cost some integer operations on all cores and are
    fused by torch.compile. torch draws one number an element, on one thread: on a CPU that was a
    quarter of a compiled step (docs/log.md).

    Args:
        x: Any shape, of floats; fewer than 2^31 elements.
        rate: In [0, 1).
    """
    keys = torch.randint(-(2**31), 2**31, (2,), device=x.device).to(torch.int32)
    bits = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    # Multiply and xor-shift, twice, with the constants of Wellons' `lowbias32`; shifts of signed
    # integers repeat the sign, which the masks cut off.
    bits = bits.add_(keys[0]).mul_(0x7FEB352D)
    bits = bits.bitwise_xor_((bits >> 15) & 0x1FFFF).bitwise_xor_(keys[1]).mul_(0x846CA68B - 2**32)
    bits = bits.bitwise_xor_((bits >> 16) & 0xFFFF)
    kept = bits >= int(rate * 2**32) - 2**31
    return x * kept * (1 / (1 - rate))


def _linear(inputs: int, outputs: int, shrink: int = 1) -> nn.Linear:
    """A matrix whose outputs have variance 1 / shrink for inputs of variance 1."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=(inputs * shrink) ** -0.5)
    return layer
