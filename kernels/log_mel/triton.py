"""Log-mel features in one pass over the samples: frames, window, Fourier transform, mel bank and
logarithm in one program; frames, spectra and energies never lie in memory.

The transform is a matrix product with the windowed cosines and sines, in float32 (three
TensorFloat-32 products on NVIDIA cards). It rounds otherwise than a fast transform: bins 80 dB
below their loudest neighbour may differ by some 1e-5. A clip's maximum is known only at its end,
so a second small kernel applies it. Tested against float64.
"""

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.dispatch import GateCase, tables
from unimodal.kernels.log_mel.bank import (
    DYNAMIC_RANGE,
    FLOOR,
    HOP_LENGTH,
    WINDOW_LENGTH,
    hann_window,
    mel_bank,
)

NUM_BINS = WINDOW_LENGTH // 2 + 1

tables.declare(
    "log_mel.decades",
    {"BLOCK_F": 64, "BLOCK_BINS": 32, "BLOCK_K": 16, "num_warps": 8, "num_stages": 2},
    candidates=tables.grid(
        BLOCK_F=(32, 64, 128),
        BLOCK_BINS=(32, 64),
        BLOCK_K=(16, 32),
        num_warps=(8,),
        num_stages=(2,),
    ),
)


@triton.jit
def decades_kernel(
    p_samples,
    p_clips,
    p_cos,
    p_sin,
    p_bank,
    p_decades,
    p_block_max,
    blocks_a_clip,
    num_mels,
    floor,
    WINDOW: tl.constexpr,
    HOP: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK_MELS: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """log10 of the mel energies of a block of frames of one clip, and their maximum.

    `p_clips` is int64 [clips, 3]: first sample, number of samples, first row of the result.
    """
    i_program = tl.program_id(0).to(tl.int64)
    p_clip = p_clips + i_program // blocks_a_clip * 3
    first, length, row = tl.load(p_clip), tl.load(p_clip + 1), tl.load(p_clip + 2)
    num_frames = length // HOP
    o_f = i_program % blocks_a_clip * BLOCK_F + tl.arange(0, BLOCK_F)  # [BF]
    m_f = o_f < num_frames
    o_mel = tl.arange(0, BLOCK_MELS)
    m_mel = o_mel < num_mels
    b_mel = tl.zeros([BLOCK_F, BLOCK_MELS], dtype=tl.float32)  # [BF, BM]
    for i_bin in range(0, BINS, BLOCK_BINS):
        o_bin = i_bin + tl.arange(0, BLOCK_BINS)
        m_bin = o_bin < BINS
        b_real = tl.zeros([BLOCK_F, BLOCK_BINS], dtype=tl.float32)  # [BF, BB]
        b_imaginary = tl.zeros([BLOCK_F, BLOCK_BINS], dtype=tl.float32)
        for i_k in range(0, WINDOW, BLOCK_K):
            o_k = i_k + tl.arange(0, BLOCK_K)
            m_k = o_k < WINDOW
            # Both ends of a clip are reflected without repeating the end itself.
            o_sample = tl.abs(o_f[:, None] * HOP + (o_k[None, :] - WINDOW // 2))
            o_sample = tl.where(o_sample < length, o_sample, 2 * (length - 1) - o_sample)
            b_frame = tl.load(
                p_samples + first + o_sample, mask=m_f[:, None] & m_k[None, :], other=0.0
            )  # [BF, BK]
            o_table = o_k[:, None] * BINS + o_bin[None, :]
            m_table = m_k[:, None] & m_bin[None, :]
            b_cos = tl.load(p_cos + o_table, mask=m_table, other=0.0)  # [BK, BB]
            b_sin = tl.load(p_sin + o_table, mask=m_table, other=0.0)
            b_real = tl.dot(b_frame, b_cos, b_real, input_precision=PRECISION)
            b_imaginary = tl.dot(b_frame, b_sin, b_imaginary, input_precision=PRECISION)
        b_power = b_real * b_real + b_imaginary * b_imaginary
        o_bank = o_bin[:, None] * num_mels + o_mel[None, :]
        b_bank = tl.load(p_bank + o_bank, mask=m_bin[:, None] & m_mel[None, :], other=0.0)
        b_mel = tl.dot(b_power, b_bank, b_mel, input_precision=PRECISION)
    mask = m_f[:, None] & m_mel[None, :]
    b_decades = tl.log(tl.maximum(b_mel, floor)) * 0.4342944819032518
    p_out = p_decades + (row + o_f)[:, None] * num_mels + o_mel[None, :]
    tl.store(p_out, b_decades, mask=mask)
    b_masked = tl.where(mask, b_decades, float("-inf"))
    tl.store(p_block_max + i_program, tl.max(tl.max(b_masked, 1), 0))


@triton.jit
def compress_kernel(
    p_decades,
    p_clips,
    p_max,
    blocks_a_clip,
    num_mels,
    dynamic_range,
    HOP: tl.constexpr,
    BLOCK_MELS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """(max(decades, clip's maximum - range) + 4) / 4, in place."""
    i_program = tl.program_id(0).to(tl.int64)
    i_clip = i_program // blocks_a_clip
    num_frames = tl.load(p_clips + i_clip * 3 + 1) // HOP
    row = tl.load(p_clips + i_clip * 3 + 2)
    o_f = i_program % blocks_a_clip * BLOCK_F + tl.arange(0, BLOCK_F)  # [BF]
    o_mel = tl.arange(0, BLOCK_MELS)
    mask = (o_f < num_frames)[:, None] & (o_mel < num_mels)[None, :]
    p_block = p_decades + (row + o_f)[:, None] * num_mels + o_mel[None, :]
    b_decades = tl.load(p_block, mask=mask, other=0.0)  # [BF, BM]
    b_decades = tl.maximum(b_decades, tl.load(p_max + i_clip) - dynamic_range)
    tl.store(p_block, (b_decades + 4.0) * 0.25, mask=mask)


def log_mel_batch(samples: Tensor, lengths: list[int], num_mels: int) -> Tensor:
    """The features [sum of T // 160, num_mels] of clips that lie one after another."""
    frames = [length // HOP_LENGTH for length in lengths]
    out = samples.new_empty((sum(frames), num_mels))
    starts, rows, sample, row = [], [], 0, 0
    for length, count in zip(lengths, frames, strict=True):
        starts.append(sample)
        rows.append(row)
        sample, row = sample + length, row + count
    clips = torch.tensor([starts, lengths, rows], device=samples.device).T.contiguous()
    tile, launch = _config(num_mels)
    blocks = triton.cdiv(max(frames), tile["BLOCK_F"])
    block_max = samples.new_empty((len(lengths), blocks))
    grid = (len(lengths) * blocks,)
    cos, sin = _transform(samples.device)
    decades_kernel[grid](
        samples.contiguous(),
        clips,
        cos,
        sin,
        mel_bank(num_mels, samples.device),
        out,
        block_max,
        blocks,
        num_mels,
        FLOOR,
        **_constants(tile),
        **launch,
    )
    compress_kernel[grid](
        out,
        clips,
        block_max.amax(dim=1),
        blocks,
        num_mels,
        DYNAMIC_RANGE,
        HOP=HOP_LENGTH,
        BLOCK_MELS=tile["BLOCK_MELS"],
        BLOCK_F=tile["BLOCK_F"],
    )
    return out


@lru_cache(maxsize=4)
def _transform(device: torch.device) -> tuple[Tensor, Tensor]:
    """Windowed cosines and sines of the Fourier transform, float32 [400, 201]."""
    place = torch.arange(WINDOW_LENGTH, dtype=torch.float64)
    bins = torch.arange(NUM_BINS, dtype=torch.float64)
    # Whole turns are taken off while the numbers are whole.
    angle = (place[:, None] * bins) % WINDOW_LENGTH * (2 * math.pi / WINDOW_LENGTH)
    window = hann_window().double()[:, None]
    cos, sin = ((window * f(angle)).float().contiguous() for f in (torch.cos, torch.sin))
    return cos.to(device), sin.to(device)


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """Both kernels for 80 mels, for the compile gate; always float32."""
    samples, clips = torch.empty(1600), torch.zeros(1, 3, dtype=torch.int64)
    tile, launch = _config(80)
    block = {key: tile[key] for key in ("BLOCK_MELS", "BLOCK_F")}
    return [
        GateCase(
            name="decades 80 mels",
            kernel=decades_kernel,
            args=(samples, clips, *(samples for _ in range(5)), 4, 80, FLOOR),
            constexprs=_constants(tile),
            num_warps=launch["num_warps"],
            num_stages=launch["num_stages"],
        ),
        GateCase(
            name="compress 80 mels",
            kernel=compress_kernel,
            args=(samples, clips, samples, 4, 80, DYNAMIC_RANGE),
            constexprs={"HOP": HOP_LENGTH, **block},
        ),
    ]


def _config(num_mels: int) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of tiles, and how the kernel is launched."""
    tile = tables.lookup("log_mel.decades", 0, torch.float32)
    launch = {key: tile.pop(key) for key in ("num_warps", "num_stages")}
    # A product has at least 16 columns.
    return {"BLOCK_MELS": max(16, triton.next_power_of_2(num_mels)), **tile}, launch


def _constants(tile: dict[str, int]) -> dict[str, int | str]:
    precision = "tf32x3" if tables.architecture().startswith("sm") else "ieee"
    sizes = {"WINDOW": WINDOW_LENGTH, "HOP": HOP_LENGTH, "BINS": NUM_BINS}
    return {**sizes, **tile, "PRECISION": precision}
