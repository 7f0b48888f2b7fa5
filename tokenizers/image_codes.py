"""Pictures as discrete codes: a patch autoencoder of the decoder's own blocks, with FSQ between.

A picture becomes square patches; blocks with full attention over them (2-D RoPE) end in a few
numbers a patch, each rounded to a few levels: the id is their joint number. Other blocks make the
patches again. There is no convolution at full resolution: that is what costs time on a CPU.

Encoding is in float32, and an id never depends on what else is in a batch: a patch whose numbers
come close to the border of two levels is decided by its picture alone.

Not here: the training loop (`unimodal.training`, experiment `tokenizer/image_codes`), files and
variations of pictures (`unimodal.tokenizers.pixels`).

References: Mentzer et al. 2023 (FSQ), van den Oord et al. 2017 (VQ-VAE), Yu et al. 2022
(ViT-VQGAN).
Differs: no adversary and no learned perceptual loss; see `ImageCodes.loss`.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unimodal.blocks import Block, BlockConfig, RMSNorm, attention_plan
from unimodal.errors import ConfigError, MediaError
from unimodal.grammar import Fixed, Grid
from unimodal.kernels.attention import AttentionPlan
from unimodal.kernels.qk_prologue import rope_tables
from unimodal.media.values import Image
from unimodal.modality import register_modality, training_only
from unimodal.patterns import Full
from unimodal.tokenizers.pixels import (
    PictureModality,
    PictureVariation,
    cells_of,
    check_patches,
    fit_frames,
    unfit_frames,
)
from unimodal.types import Coordinates, Tokens, raster_grid

HEAD_DIM = 64
ROPE_THETA = 100.0
"""Base of the rotary frequencies: grids are small."""
AT_ONCE = 64
"""Pictures that are encoded or decoded at once."""
MARGIN = 5e-5
"""Numbers before rounding that are closer than this to a border of levels are computed again, for
their picture alone; batches differ by some 4e-6."""


@dataclass(kw_only=True)
class ImageCodesConfig:
    """Sizes of the autoencoder, and how it is trained."""

    size: tuple[int, int] | None = (32, 32)
    """Height and width in pixels that every picture is resized to; None keeps its own, and a header
    states the number of patches."""

    patch_size: int = 4
    """Pixels along the side of a patch."""

    max_cells: int = 32
    """Where sizes vary: patches along a side, at most."""

    pad: str = "edge"
    """What fills the last patches on the right and at the bottom: `edge` repeats, or `white`."""

    levels: tuple[int, ...] = (8, 8, 8, 8)
    """Levels of each number that is rounded, at least 3 each; their product is the number of codes,
    at most 65,536."""

    width: int = 256
    """Width of the blocks, a multiple of 64."""

    mlp_width: int = 640
    """Inner width of their feed-forward layers."""

    encoder_layers: int = 2
    """Blocks of the encoder, at least 0."""

    decoder_layers: int = 4
    """Blocks of the decoder, at least 0. The decoder may be replaced without a new span."""

    l1_weight: float = training_only(0.1)
    """Weight of the mean absolute error in the loss, at least 0."""

    edge_weight: float = training_only(0.1)
    """Weight of the error of differences between neighbouring pixels in the loss, at least 0."""

    seed: int = training_only(0)
    """Seeds the first weights."""

    vary: PictureVariation = training_only(PictureVariation())  # noqa: RUF009 (a frozen default)
    """How training varies a picture before it is encoded."""

    def __post_init__(self) -> None:
        check_patches("image_codes", self.patch_size, self.size, self.pad)
        rules = {
            "levels": bool(self.levels) and min(self.levels) >= 3 and self.num_codes <= 2**16,
            "width": self.width >= HEAD_DIM and self.width % HEAD_DIM == 0,
            "mlp_width": self.mlp_width >= 1,
            "encoder_layers": self.encoder_layers >= 0,
            "decoder_layers": self.decoder_layers >= 0,
            "max_cells": self.max_cells >= 1,
            "l1_weight": self.l1_weight >= 0,
            "edge_weight": self.edge_weight >= 0,
        }
        for name, holds in rules.items():
            if not holds:
                raise ConfigError(
                    f"`image_codes.{name}` is out of its range: {getattr(self, name)}."
                )

    @property
    def num_codes(self) -> int:
        """Number of ids."""
        return math.prod(self.levels)


class PatchAutoencoder(nn.Module):
    """Patches to numbers to be rounded, and rounded numbers to patches.

    Parameters under `decoder.` are what may be replaced without a new span.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ImageCodesConfig):
        super().__init__()
        # Importing it takes seconds, which only those pay who use it.
        from vector_quantize_pytorch.finite_scalar_quantization import FSQ

        pixels, codes = 3 * config.patch_size**2, len(config.levels)
        self.encoder = _Stack(pixels, config, config.encoder_layers, codes)
        self.quantizer = FSQ(list(config.levels))
        self.decoder = _Stack(codes, config, config.decoder_layers, pixels)

    def numbers(
        self, patches: Float[Tensor, "n T P"], h: int, w: int
    ) -> Float[Tensor, "n T codes"]:
        """What is rounded, float32: (n, T, number of levels)."""
        return self.encoder(patches, h, w).float()

    def rounded(self, numbers: Float[Tensor, "n T codes"]) -> Float[Tensor, "n T codes"]:
        """Numbers rounded to their levels, with the gradient of the numbers passed through."""
        result: Tensor = self.quantizer.quantize(numbers)
        return result

    def ids(self, rounded: Float[Tensor, "n T codes"]) -> Int[Tensor, "n T"]:
        """The joint number of rounded numbers."""
        return self.quantizer.codes_to_indices(rounded).long()

    def patches(self, rounded: Float[Tensor, "n T codes"], h: int, w: int) -> Tensor:
        """Patches (n, T, P) from rounded numbers."""
        return self.decoder(rounded, h, w)

    def of_ids(self, ids: Int[Tensor, "n T"], h: int, w: int) -> Tensor:
        """Patches (n, T, P) from ids."""
        return self.decoder(self.quantizer.indices_to_codes(ids), h, w)


class _Stack(nn.Module):
    """A linear layer, blocks with full attention, a norm and a linear layer."""

    def __init__(self, inputs: int, config: ImageCodesConfig, depth: int, outputs: int):
        super().__init__()
        heads = config.width // HEAD_DIM
        block = BlockConfig(
            width=config.width,
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=HEAD_DIM,
            mlp_width=config.mlp_width,
            rope_theta=ROPE_THETA,
        )
        self.enter = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(Block(block, depth) for _ in range(depth))
        self.norm = RMSNorm(config.width)
        self.leave = nn.Linear(config.width, outputs)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """(n, T, inputs) to (n, T, outputs)."""
        plan, rope = _geometry(len(x), h, w, str(x.device))
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, rope, plan)
        result: Tensor = self.leave(self.norm(x))
        return result


@lru_cache(maxsize=64)
def _geometry(n: int, h: int, w: int, device: str) -> tuple[AttentionPlan, tuple[Tensor, Tensor]]:
    """Plan and rotary tables of n grids that see themselves in full."""
    shape = (n, h * w)
    grid = raster_grid(1, h, w).expand(n, -1, -1)
    zero = torch.zeros(shape, dtype=torch.int32)
    coordinates = Coordinates(
        index=torch.arange(h * w, dtype=torch.int32).expand(shape),
        document=zero,
        segment=zero,
        kind=zero,
        full=torch.ones(shape, dtype=torch.bool),
        grid=grid,
    )
    plan = attention_plan(coordinates.map(lambda x: x.to(device)), [Full()])
    cos, sin = rope_tables(grid.float().to(device), HEAD_DIM, ROPE_THETA)
    return plan, (cos, sin)


@register_modality("image_codes")
class ImageCodes(PictureModality[ImageCodesConfig]):
    """Pictures as the codes of a trained autoencoder."""

    round_trip_error = 1.0
    """Any picture may be given, so no more can be promised than the whole range; what the codec
    does to real ones stands in the report of its run."""

    def __init__(self, config: ImageCodesConfig):
        super().__init__(config)
        self.spans = {"code": config.num_codes}
        self.layout = _layout(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.autoencoder = PatchAutoencoder(config)
        self.network = self.autoencoder

    def encode(self, value: Image) -> Tokens:
        """The code of each patch, in raster order.

        Raises:
            MediaError: if sizes vary and the picture has more than `max_cells` along a side.
        """
        return self.encode_batch([value])[0]

    @torch.no_grad()
    def encode_batch(self, values: Sequence[Image]) -> list[Tokens]:
        """`encode` of each picture, many at once."""
        found: list[Tokens | None] = [None] * len(values)
        for (h, w), places in self._alike(values).items():
            for start in range(0, len(places), AT_ONCE):
                chosen = places[start : start + AT_ONCE]
                patches = torch.cat([self._patches(values[i]) for i in chosen])
                for place, ids in zip(chosen, self._ids(patches, h, w).cpu(), strict=True):
                    found[place] = Tokens(grid=raster_grid(1, h, w), ids=ids)
        return [tokens for tokens in found if tokens is not None]

    def decode(self, tokens: Tokens) -> Image:
        """The picture of any codes."""
        return self.decode_batch([tokens])[0]

    @torch.no_grad()
    def decode_batch(self, tokens: Sequence[Tokens]) -> list[Image]:
        """`decode` of each picture, many at once: a colour may differ by one level of 256."""
        cells, codes = [], []
        for one in tokens:
            assert one.ids is not None
            _, h, w = (one.grid.max(dim=0).values + 1).tolist()
            cells.append((h, w))
            codes.append(one.ids)
        found: dict[int, Image] = {}
        for (h, w), places in _by_cells(cells).items():
            for start in range(0, len(places), AT_ONCE):
                chosen = places[start : start + AT_ONCE]
                ids = torch.stack([codes[place] for place in chosen])
                with _in_float32(self._device):
                    patches = self.autoencoder.of_ids(ids.to(self._device), h, w)
                frames = self._frames(patches, h, w).cpu()
                if self.config.size is not None:
                    frames = frames[:, : self.config.size[0], : self.config.size[1]]
                for place, pixels in zip(chosen, unfit_frames(frames), strict=True):
                    found[place] = Image(pixels.clone())  # a view would keep the whole batch
        return [found[place] for place in range(len(tokens))]

    def loss(self, values: Sequence[Image]) -> Float[Tensor, ""]:
        """Mean over pictures of d^2 + l1_weight |d| + edge_weight |difference of d|.

        d is the error of a colour in [-1, 1]; its difference to the neighbour below and on the
        right is zero where an edge is right, though its place in the range be wrong: eyes see
        edges. The absolute error keeps flat regions clean, where squares are small. Sums in
        float32.
        """
        total = torch.zeros((), device=self._device)
        for (h, w), places in self._alike(values).items():
            patches = torch.cat([self._patches(values[i]) for i in places])
            rounded = self.autoencoder.rounded(self.autoencoder.numbers(patches, h, w))
            made = self.autoencoder.patches(rounded, h, w).float()
            error = self._frames(made - patches, h, w)
            part = error.square().mean() + self.config.l1_weight * error.abs().mean()
            edges = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
            total = total + (part + self.config.edge_weight * edges) * (len(places) / len(values))
        return total

    def length(self, value: Image) -> int:
        """Number of patches."""
        return math.prod(self._cells(value))

    def distance(self, a: Image, b: Image) -> float:
        """Root of the mean squared error over the range of colours, at the codec's size: 0 to 1."""
        one, other = (self._fitted(value) for value in (a, b))
        if one.shape != other.shape:
            return float("inf")
        return float((one - other).square().mean().sqrt() / 2)

    def fidelity(self, value: Image, decoded: Image) -> Mapping[str, tuple[float, str]]:
        """`psnr_db`: peak signal over noise at the codec's size, 60 at most."""
        return {"psnr_db": (-20 * math.log10(max(self.distance(value, decoded), 1e-3)), "higher")}

    def rivals(
        self, values: Sequence[Image], bits: float
    ) -> Mapping[str, tuple[list[Image], float]]:
        """WebP and JPEG of one sheet of all pictures, so that headers are shared: at the best
        quality that stays within `bits`, else at the worst."""
        if len({self._cells(value) for value in values}) != 1:
            return {}
        frames = torch.cat([unfit_frames(self._fitted(value)) for value in values])
        return {name: _sheet_coded(frames, name.upper(), bits) for name in ("WebP", "JPEG")}

    @property
    def _device(self) -> torch.device:
        return self.autoencoder.encoder.norm.weight.device

    def _ids(self, patches: Float[Tensor, "n T P"], h: int, w: int) -> Int[Tensor, "n T"]:
        network = self.autoencoder
        with _in_float32(self._device):
            numbers = network.numbers(patches, h, w)
            ids = network.ids(network.rounded(numbers))
            if len(patches) > 1:
                low, high = network.rounded(numbers - MARGIN), network.rounded(numbers + MARGIN)
                for place in (low != high).flatten(1).any(dim=1).nonzero().flatten().tolist():
                    ids[place] = self._ids(patches[place : place + 1], h, w)[0]
        return ids

    def _patches(self, value: Image) -> Float[Tensor, "1 T P"]:
        p = self.config.patch_size
        patches = rearrange(self._fitted(value), "n (h p) (w q) c -> n (h w) (p q c)", p=p, q=p)
        return patches.to(self._device)

    def _frames(self, patches: Tensor, h: int, w: int) -> Tensor:
        p = self.config.patch_size
        return rearrange(patches, "n (h w) (p q c) -> n (h p) (w q) c", h=h, w=w, p=p, q=p)

    def _fitted(self, value: Image) -> Float[Tensor, "1 H W 3"]:
        c = self.config
        return fit_frames(value.pixels[None], c.size, c.patch_size, c.pad)

    def _cells(self, value: Image) -> tuple[int, int]:
        c = self.config
        h, w = cells_of(value.height, value.width, c.size, c.patch_size)
        if c.size is None and max(h, w) > c.max_cells:
            raise MediaError(
                f"A picture of {value.width} x {value.height} pixels has {w} x {h} patches, but "
                f"may have {c.max_cells} along a side.",
                remedy="Resize it, or set `image_codes.size` or `image_codes.max_cells`.",
            )
        return h, w

    def _alike(self, values: Sequence[Image]) -> dict[tuple[int, int], list[int]]:
        """Places of the values by their numbers of rows and columns of patches."""
        return _by_cells([self._cells(value) for value in values])


def _by_cells(cells: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """The places of each number of rows and columns."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, own in enumerate(cells):
        places.setdefault(own, []).append(place)
    return places


def _layout(config: ImageCodesConfig) -> Fixed | Grid:
    if config.size is None:
        return Grid(max_size=(1, config.max_cells, config.max_cells))
    return Fixed((1, *cells_of(1, 1, config.size, config.patch_size)))


def _in_float32(device: torch.device) -> Any:
    return torch.autocast(device.type, enabled=False)


def _sheet_coded(frames: Tensor, kind: str, bits: float) -> tuple[list[Image], float]:
    """Frames (n, H, W, 3) after a trip through one coded sheet of them, and its bits."""
    columns = math.ceil(len(frames) ** 0.5)
    blank = frames.new_full((-len(frames) % columns, *frames.shape[1:]), 255)
    sheet = rearrange(torch.cat([frames, blank]), "(r k) h w c -> (r h) (k w) c", k=columns).numpy()

    def coded(quality: int) -> bytes:
        buffer = io.BytesIO()
        PIL.Image.fromarray(sheet).save(buffer, format=kind, quality=quality)
        return buffer.getvalue()

    best = _highest(lambda quality: 8 * len(coded(quality)) <= bits)
    data = coded(best)
    with PIL.Image.open(io.BytesIO(data)) as file:
        again = torch.from_numpy(np.array(file.convert("RGB")))
    cells = rearrange(again, "(r h) (k w) c -> (r k) h w c", k=columns, h=frames.shape[1])
    return [Image(cell.contiguous()) for cell in cells[: len(frames)]], 8.0 * len(data)


def _highest(holds: Callable[[int], bool], low: int = 0, high: int = 95) -> int:
    """The largest number of a range for which something holds; the smallest if it never does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
