"""Speech as continuous log-mel features: what a model hears, not what it says.

A position is 20 ms: two mel frames of 10 ms, which Whisper's stem (two convolutions, the second of
stride 2) turns into one vector. Sound at other rates is resampled to 16 kHz through torchaudio.
`speech_codes` is the discrete partner that speaks.

Not here: the features themselves (`unimodal.kernels.log_mel`), decoding of sound files
(`unimodal.media.audio`).
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unimodal.errors import ConfigError
from unimodal.kernels.log_mel import HOP_LENGTH, SAMPLE_RATE_HZ, log_mel
from unimodal.media.audio import read_audio, write_audio
from unimodal.media.torchaudio_adapter import resample, resampled_length, spec_augment
from unimodal.media.values import Audio
from unimodal.modality import Modality, register_modality, training_only
from unimodal.types import Tokens, line_grid

FRAMES_PER_POSITION = 2
SAMPLES_PER_POSITION = FRAMES_PER_POSITION * HOP_LENGTH
SECONDS_PER_POSITION = SAMPLES_PER_POSITION / SAMPLE_RATE_HZ


@dataclass(kw_only=True)
class SpeechConfig:
    """How sound becomes features, and what training hides of them."""

    num_mels: int = 80
    """Mel bands a frame, 1 to 201; 80 and 128 are Whisper's."""

    num_frequency_masks: int = training_only(0)
    """SpecAugment: frequency masks on each training clip; 2 is usual, 0 switches it off."""

    max_frequency_bands: int = training_only(27)
    """SpecAugment: a frequency mask covers fewer than this many bands."""

    num_time_masks: int = training_only(0)
    """SpecAugment: time masks on each training clip; 2 is usual, 0 switches it off."""

    max_time_frames: int = training_only(100)
    """SpecAugment: a time mask covers fewer than this many frames of 10 ms."""

    max_time_share: float = training_only(0.2)
    """SpecAugment: a time mask covers at most this share of the clip, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_mels <= 201:
            raise ConfigError(
                f"`speech.num_mels` must lie between 1 and 201, but is {self.num_mels}."
            )
        for name in ("num_frequency_masks", "max_frequency_bands", "num_time_masks"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"`speech.{name}` must be at least 0, but is {getattr(self, name)}."
                )
        if self.max_time_frames < 0 or not 0.0 < self.max_time_share <= 1.0:
            raise ConfigError(
                "`speech.max_time_frames` must be at least 0 and `speech.max_time_share` in "
                f"(0, 1], but they are {self.max_time_frames} and {self.max_time_share}."
            )


@register_modality("speech")
class Speech(Modality[Audio, SpeechConfig]):
    """Sound as pairs of log-mel frames, 20 ms a position."""

    value_type = Audio
    raw_unit = "second"
    attend = "full"
    seconds_per_cell = SECONDS_PER_POSITION
    decoded_by = "speech_codes"

    def __init__(self, config: SpeechConfig):
        super().__init__(config)
        self.feature_shape = (FRAMES_PER_POSITION, config.num_mels)

    def encode(self, value: Audio) -> Tokens:
        """Features [T, 2, num_mels]; the end is padded with silence to whole positions."""
        return self.encode_batch([value])[0]

    def encode_batch(self, values: Sequence[Audio]) -> list[Tokens]:
        """`encode` of each clip, their transforms computed together and not padded."""
        clips = [_whole_positions(resample(value, SAMPLE_RATE_HZ).samples) for value in values]
        return [_tokens(features) for features in log_mel(clips, self.config.num_mels)]

    def length(self, value: Audio) -> int:
        """Positions of 20 ms, the last one begun."""
        samples = resampled_length(len(value.samples), value.sample_rate_hz, SAMPLE_RATE_HZ)
        return -(-samples // SAMPLES_PER_POSITION)

    def raw_units(self, value: Audio) -> float:
        """Seconds."""
        return value.seconds

    def embedder(self, width: int) -> nn.Module:
        """Whisper's stem."""
        return SpeechStem(self.config.num_mels, width)

    def augment(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """SpecAugment, as configured; the identity without masks."""
        c = self.config
        if tokens.features is None or not (c.num_frequency_masks or c.num_time_masks):
            return tokens
        masked = spec_augment(
            tokens.features.flatten(0, 1),
            rng,
            num_frequency_masks=c.num_frequency_masks,
            max_frequency_bands=c.max_frequency_bands,
            num_time_masks=c.num_time_masks,
            max_time_frames=c.max_time_frames,
            max_time_share=c.max_time_share,
        )
        return replace(tokens, features=masked.view_as(tokens.features))

    def example(self, rng: np.random.Generator) -> Audio:
        """A chirp in noise, 0.05 to 0.5 s at 16 kHz."""
        time = np.arange(int(rng.integers(800, 8000))) / SAMPLE_RATE_HZ
        tone = np.sin(2 * np.pi * (rng.uniform(100, 400) + rng.uniform(0, 2000) * time) * time)
        samples = 0.5 * tone + 0.05 * rng.standard_normal(len(time))
        return Audio(torch.from_numpy(samples.clip(-1.0, 1.0).astype(np.float32)), SAMPLE_RATE_HZ)

    def read(self, path: Path) -> Audio:
        """A sound file."""
        return read_audio(path)

    def write(self, value: Audio, path: Path) -> None:
        """A WAV, FLAC, OGG or MP3 file."""
        write_audio(value, path)

    def show(self, value: Audio) -> str:
        """A player with the sound inside the page."""
        buffer = io.BytesIO()
        samples = value.samples.clamp(-1.0, 1.0).numpy()
        soundfile.write(buffer, samples, value.sample_rate_hz, format="WAV", subtype="PCM_16")
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'


class SpeechStem(nn.Module):
    """Two convolutions over time with GELU, the second of stride 2: two mel frames to a vector.

    References:
        Radford et al. 2022 (section 2.2). Differs: no sinusoidal positions; the decoder rotates.
    """

    def __init__(self, num_mels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(num_mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)

    def forward(self, features: Float[Tensor, "n T 2 F"]) -> Float[Tensor, "n T D"]:
        """Features of whole segments to one vector a position."""
        frames = rearrange(features, "n t two f -> n f (t two)")
        hidden = functional.gelu(self.conv1(frames))
        return rearrange(functional.gelu(self.conv2(hidden)), "n d t -> n t d")


def _whole_positions(samples: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
    """The samples padded with zeros to a multiple of 20 ms."""
    return functional.pad(samples, (0, -len(samples) % SAMPLES_PER_POSITION))


def _tokens(features: Float[Tensor, "frames F"]) -> Tokens:
    grid = line_grid(len(features) // FRAMES_PER_POSITION)
    return Tokens(
        grid=grid,
        features=rearrange(features, "(t two) f -> t two f", two=FRAMES_PER_POSITION),
        seconds=grid[:, 0].float() * SECONDS_PER_POSITION,
    )
