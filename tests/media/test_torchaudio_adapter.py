"""The torchaudio adapter: right resampling, seeded masks, clear errors, no harm to transformers."""

import sys
import threading

import numpy as np
import pytest
import torch

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.media import Audio
from unimodal.media import torchaudio_adapter as adapter

torchaudio_is_there = adapter.importlib.util.find_spec("torchaudio") is not None
needs_torchaudio = pytest.mark.skipif(not torchaudio_is_there, reason="needs the extra `speech`")


def sine(rate: int, seconds: float = 0.5, hz: float = 440.0) -> Audio:
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return Audio((0.5 * torch.sin(2 * torch.pi * hz * time)).float(), rate)


@needs_torchaudio
@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 22_254, 44_100, 48_000, 767_999])
def test_a_tone_stays_the_same_tone(rate: int) -> None:
    source = sine(rate)
    got = adapter.resample(source, 16_000)
    length = adapter.resampled_length(len(source.samples), rate, 16_000)
    expected = sine(16_000, seconds=1.0).samples[: len(got.samples)]
    inner = slice(1_000, -1_000)
    assert got.sample_rate_hz == 16_000
    assert len(got.samples) == length
    assert abs(length - 8_000) <= 1
    assert (got.samples - expected)[inner].abs().max() < 1e-3


@needs_torchaudio
def test_what_lies_above_half_the_new_rate_is_removed() -> None:
    got = adapter.resample(sine(48_000, hz=12_000.0), 16_000)
    assert got.samples[1_000:-1_000].abs().max() < 1e-3


def test_sound_at_the_rate_is_returned_untouched_without_torchaudio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "load", lambda: pytest.fail("torchaudio was asked for"))
    audio = sine(16_000)
    assert adapter.resample(audio, 16_000) is audio


def test_a_missing_torchaudio_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"unimodal\[speech\]"):
        adapter.load.__wrapped__()


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ConfigError, match="sample_rate_hz"):
        adapter.resample(sine(16_000), 10)


@needs_torchaudio
def test_masks_follow_the_seed_and_leave_torchs_generator_alone() -> None:
    features = torch.randn(60, 80)
    before = torch.random.get_rng_state()
    first, again, other = (
        adapter.spec_augment(features, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@needs_torchaudio
def test_masks_do_not_depend_on_what_other_threads_draw() -> None:
    features = torch.randn(60, 80)
    expected = adapter.spec_augment(features, np.random.default_rng(0))
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            torch.manual_seed(7)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        masks = [adapter.spec_augment(features, np.random.default_rng(0)) for _ in range(300)]
    finally:
        done.set()
        other.join()
    assert all(torch.equal(mask, expected) for mask in masks)


@needs_torchaudio
def test_masks_are_whole_bands_and_runs_of_bounded_size() -> None:
    features = torch.randn(60, 80)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        masked = adapter.spec_augment(
            features,
            rng,
            num_frequency_masks=1,
            max_frequency_bands=9,
            num_time_masks=1,
            max_time_share=0.2,
        )
        hidden = masked != features
        rows, columns = hidden.all(dim=1), hidden.all(dim=0)
        assert torch.equal(hidden, rows[:, None] | columns[None, :])
        assert rows.sum() <= 12
        assert columns.sum() <= 9
        assert masked[hidden].unique().numel() <= 1


@needs_torchaudio
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_clips_shorter_than_a_mask_are_fine(frames: int) -> None:
    features = torch.randn(frames, 5)
    masked = adapter.spec_augment(features, np.random.default_rng(0), max_time_share=1.0)
    assert masked.shape == features.shape
    assert masked.isfinite().all()


def test_wrong_mask_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="max_time_share"):
        adapter.spec_augment(torch.zeros(4, 4), np.random.default_rng(0), max_time_share=0.0)


@needs_torchaudio
def test_what_needs_the_extension_says_so() -> None:
    functional = adapter.load().functional
    if adapter.has_extension():
        pytest.skip("this torchaudio has its extension")
    for name in ("forced_align", "rnnt_loss"):
        with pytest.raises(BackendUnavailableError, match=name):
            getattr(functional, name)(None, None)


@needs_torchaudio
def test_transformers_imports_after_the_adapter() -> None:
    pytest.importorskip("transformers")
    adapter.load()
    from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor

    assert WhisperFeatureExtractor(feature_size=80).n_fft == 400
