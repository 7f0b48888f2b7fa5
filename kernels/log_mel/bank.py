"""The constants of the log-mel features and their mel filter bank.

The bank is built in float64 and rounded once: built in float32, as some libraries do, the features
miss by 2.9e-4 at 128 mels.
"""

from functools import lru_cache

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
WINDOW_LENGTH = 400
"""Samples in a frame (25 ms), and the length of the Fourier transform."""

HOP_LENGTH = 160
"""Samples from frame to frame (10 ms)."""

MIN_SAMPLES = WINDOW_LENGTH // 2 + 1
"""Shortest clip: the reflection at its ends needs half a window and one sample."""

FLOOR = 1e-10
"""Smallest power before the logarithm."""

DYNAMIC_RANGE = 8.0
"""Decades kept below the loudest value of the clip."""


@lru_cache(maxsize=16)
def mel_bank(num_mels: int, device: torch.device | str = "cpu") -> Tensor:
    """Triangular filters of unit area on Slaney's mel scale, 0 to 8,000 Hz.

    Args:
        num_mels: Number of filters, at least 1.
        device: Where the result lies.

    Returns:
        float32 [201, num_mels]: power spectrum bins to mel energies.

    References:
        Slaney 1998, Auditory Toolbox: linear up to 1,000 Hz, then logarithmic with 27 filters per
        factor 6.4. Differs: none; equal to librosa's bank with `norm="slaney"`.
    """
    bins = torch.linspace(0.0, SAMPLE_RATE_HZ / 2, WINDOW_LENGTH // 2 + 1, dtype=torch.float64)
    top = _hz_to_mel(torch.tensor(SAMPLE_RATE_HZ / 2, dtype=torch.float64))
    edges = _mel_to_hz(torch.linspace(0.0, float(top), num_mels + 2, dtype=torch.float64))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0) * (2.0 / (high - low))
    return filters.float().contiguous().to(device)


@lru_cache(maxsize=4)
def hann_window(device: torch.device | str = "cpu") -> Tensor:
    """float32 [400]: the periodic Hann window, rounded as torch rounds it.

    A window computed in float64 and then rounded differs in the last bit, and quiet bins beside
    loud ones then differ by up to 2e-5 in the features.
    """
    return torch.hann_window(WINDOW_LENGTH).to(device)


def _hz_to_mel(hz: Tensor) -> Tensor:
    logarithmic = 15.0 + 27.0 * torch.log(hz.clamp(min=1000.0) / 1000.0) / torch.log(
        torch.tensor(6.4, dtype=torch.float64)
    )
    return torch.where(hz < 1000.0, hz * 3.0 / 200.0, logarithmic)


def _mel_to_hz(mel: Tensor) -> Tensor:
    step = torch.log(torch.tensor(6.4, dtype=torch.float64)) / 27.0
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp(step * (mel - 15.0)))
