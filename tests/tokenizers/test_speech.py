"""The speech modality: the contract, the features of Whisper, rates, stem, SpecAugment."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.media import Audio, read_audio
from unimodal.modality import build_modality
from unimodal.testing import check_modality
from unimodal.tokenizers.speech import Speech, SpeechConfig, SpeechStem

CLIPS = sorted((Path(__file__).parents[1] / "media" / "clips").iterdir())


def tone(seconds: float, rate: int, hz: float = 300.0) -> Audio:
    time = torch.arange(int(seconds * rate)) / rate
    return Audio(0.5 * torch.sin(2 * torch.pi * hz * time), rate)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_speech_keeps_the_contract(num_mels: int) -> None:
    report = check_modality(Speech(SpeechConfig(num_mels=num_mels)))
    assert report.ok, str(report)


def test_it_is_registered_and_built_by_name() -> None:
    speech = build_modality("speech", {"num_mels": 128})
    assert isinstance(speech, Speech)
    assert speech.feature_shape == (2, 128)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_features_are_those_of_whisper_after_padding_to_whole_positions(path: Path) -> None:
    audio = pytest.importorskip("whisper.audio")
    speech = Speech(SpeechConfig())
    clip = speech.read(path)
    tokens = speech.encode(clip)
    padding = -len(clip.samples) % 320
    expected = audio.log_mel_spectrogram(clip.samples, 80, padding=padding).T
    assert tokens.features is not None
    assert tokens.features.shape == (len(expected) // 2, 2, 80)
    assert (tokens.features.flatten(0, 1) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("rate", [100, 8_000, 11_025, 16_000, 22_050, 22_254, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.02, 0.7])
def test_length_is_known_without_encoding_at_any_rate(rate: int, seconds: float) -> None:
    speech = Speech(SpeechConfig())
    clip = tone(seconds, rate)
    tokens = speech.encode(clip)
    assert speech.length(clip) == len(tokens)
    assert abs(len(tokens) - clip.seconds / 0.02) <= 1.0
    assert tokens.seconds is not None
    assert torch.allclose(tokens.seconds, torch.arange(len(tokens)) * 0.02)
    assert speech.raw_units(clip) == clip.seconds


def test_the_same_sound_at_two_rates_has_nearly_the_same_features() -> None:
    speech = Speech(SpeechConfig())
    at_16, at_48 = speech.encode(tone(0.5, 16_000)), speech.encode(tone(0.5, 48_000))
    other = speech.encode(tone(0.5, 16_000, hz=600.0))
    assert at_16.features is not None
    assert at_48.features is not None
    assert other.features is not None
    inner = slice(3, -3)  # the edges differ: resampling sees zeros there
    same = (at_16.features - at_48.features)[inner].abs().mean()
    assert same < 0.1 * (at_16.features - other.features)[inner].abs().mean()


def test_a_batch_gives_what_single_calls_give() -> None:
    speech = Speech(SpeechConfig())
    clips = [read_audio(path) for path in CLIPS] + [tone(0.001, 16_000), tone(0.3, 8_000)]
    for clip, together in zip(clips, speech.encode_batch(clips), strict=True):
        alone = speech.encode(clip)
        assert alone.features is not None
        assert together.features is not None
        assert torch.equal(alone.features, together.features)


def test_the_stem_keeps_the_length_and_equals_whispers() -> None:
    stem = SpeechStem(80, 24)
    features = torch.randn(3, 7, 2, 80)
    frames = features.flatten(1, 2).transpose(1, 2)
    conv1, conv2 = stem.conv1, stem.conv2
    hidden = torch.nn.functional.gelu(
        torch.conv1d(frames, conv1.weight, conv1.bias, stride=1, padding=1)
    )
    expected = torch.nn.functional.gelu(
        torch.conv1d(hidden, conv2.weight, conv2.bias, stride=2, padding=1)
    )
    assert stem(features).shape == (3, 7, 24)
    assert torch.allclose(stem(features), expected.transpose(1, 2), atol=1e-6)


def test_augment_masks_by_the_seed_and_only_when_asked() -> None:
    clip = read_audio(CLIPS[0])
    plain = Speech(SpeechConfig())
    tokens = plain.encode(clip)
    assert plain.augment(tokens, np.random.default_rng(0)) is tokens
    masking = Speech(SpeechConfig(num_frequency_masks=2, num_time_masks=2))
    first, again, other = (masking.augment(tokens, np.random.default_rng(s)) for s in (0, 0, 1))
    assert tokens.features is not None
    assert first.features is not None
    assert again.features is not None
    assert other.features is not None
    assert first.features.shape == tokens.features.shape
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, other.features)
    assert 0.0 < (first.features != tokens.features).float().mean() < 0.9


def test_a_report_shows_a_player() -> None:
    speech = Speech(SpeechConfig())
    assert speech.show(tone(0.1, 16_000)).startswith('<audio controls src="data:audio/wav;base64,')


@pytest.mark.parametrize(
    "wrong", [{"num_mels": 0}, {"num_time_masks": -1}, {"max_time_share": 0.0}]
)
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SpeechConfig(**wrong)  # type: ignore[arg-type]
