"""What log-mel features are: `torch.stft` in the plain form. Runs on any device and float dtype."""

import torch
from torch import Tensor

from unimodal.kernels.log_mel.bank import (
    DYNAMIC_RANGE,
    FLOOR,
    HOP_LENGTH,
    WINDOW_LENGTH,
    hann_window,
    mel_bank,
)


def log_mel(samples: Tensor, num_mels: int) -> Tensor:
    """The features [T // 160, num_mels] of one clip [T], in the dtype of `samples`."""
    window = hann_window(samples.device).to(samples.dtype)
    spectrum = torch.stft(
        samples, WINDOW_LENGTH, HOP_LENGTH, window=window, center=True, return_complex=True
    )
    power = spectrum[:, :-1].abs().square().T
    mel = power @ mel_bank(num_mels, samples.device).to(samples.dtype)
    decades = mel.clamp(min=FLOOR).log10()
    return (decades.clamp(min=decades.max() - DYNAMIC_RANGE) + 4.0) / 4.0
