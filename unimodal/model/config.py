"""What a decoder is made of."""

from dataclasses import dataclass, field
from typing import Any

from unimodal.blocks import BlockConfig
from unimodal.errors import ConfigError
from unimodal.patterns import Pattern, parse_pattern
from unimodal.vocabulary import Vocabulary

DALLE = "dalle"
"""Preset of a layer order: column where (layer - 1) % 4 == 0, row elsewhere, convolution last."""


@dataclass(kw_only=True)
class DecoderConfig(BlockConfig):
    """A decoder in the shape of Qwen3, over the spans of a vocabulary."""

    num_layers: int = 6
    """Number of blocks, at least 1."""

    patterns: dict[str, Any] = field(default_factory=dict)
    """Modality name to its pattern on each layer: one for all, a list that is cycled, or the preset
    `dalle`. Modalities that are not named use `Modality.pattern` on all layers."""

    tie_embeddings: bool = True
    """Whether each span's output rows are its embedding rows."""

    head: str = "span"
    """`span`: the softmax runs over the position's head set. `full`: over every id, for
    comparison and export."""

    z_loss: float = 0.0
    """Weight of log(Z)^2, at least 0. Chameleon and Unified-IO 2 use 1e-4 to 1e-5."""

    init_std: float = 0.02
    """Standard deviation of initial embeddings, above 0. Other matrices are scaled by their inputs,
    and the outputs of a block by 1 / sqrt(2 num_layers)."""

    seed: int = 0
    """Seed of the initial weights; each parameter draws from its own name, so growth of the
    vocabulary does not change what the others draw."""

    positions_per_second: float = 50.0
    """RoPE positions a second, for tokens with time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers < 1:
            raise ConfigError(f"`num_layers` must be at least 1, but is {self.num_layers}.")
        if self.head not in ("span", "full"):
            raise ConfigError(f"`head` must be span or full, but is {self.head!r}.")
        if not self.z_loss >= 0:
            raise ConfigError(f"`z_loss` must be at least 0, but is {self.z_loss}.")
        for name in ("init_std", "positions_per_second"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be above 0, but is {getattr(self, name)}.")
        for modality, written in self.patterns.items():
            names = [written] if isinstance(written, str) else written
            if not names or not all(isinstance(name, str) for name in names):
                raise ConfigError(
                    f"`patterns.{modality}` must be a pattern or a list of them, but is "
                    f"{written!r}."
                )


def layer_patterns(config: DecoderConfig, vocabulary: Vocabulary) -> list[tuple[Pattern, ...]]:
    """The pattern of each modality (in the order of its kind) on each layer.

    Raises:
        VocabularyError: if `config.patterns` names a modality that the vocabulary lacks.
    """
    for name in config.patterns:
        vocabulary.modality(name)
    columns = []
    for name, modality in vocabulary.modalities.items():
        written = config.patterns.get(name)
        if written is None:
            columns.append([modality.pattern] * config.num_layers)
        else:
            names = [written] if isinstance(written, str) else list(written)
            names = dalle_order(config.num_layers) if names == [DALLE] else names
            columns.append([parse_pattern(names[i % len(names)]) for i in range(config.num_layers)])
    return list(zip(*columns, strict=True)) if columns else [()] * config.num_layers


def dalle_order(num_layers: int) -> list[str]:
    """DALL-E's order of image patterns (Ramesh et al. 2021)."""
    order = ["column" if (i - 1) % 4 == 0 else "row" for i in range(num_layers)]
    return [*order[:-1], "conv(size=11)"]
