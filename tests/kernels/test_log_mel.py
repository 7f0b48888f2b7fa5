"""Log-mel features: equal to openai-whisper's, to float64, and to themselves in batches."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.log_mel import cpu, log_mel, mel_bank, reference
from unimodal.kernels.log_mel.bank import hann_window
from unimodal.media import read_audio

CLIPS = sorted((Path(__file__).parents[1] / "media" / "clips").iterdir())
WHISPER_TOLERANCE = 1e-5


def noise(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, generator=generator) * 0.1


def whisper_features(samples: Tensor, num_mels: int) -> Tensor:
    audio = pytest.importorskip("whisper.audio")
    features: Tensor = audio.log_mel_spectrogram(samples, num_mels).T
    return features


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_features_of_real_clips_equal_whispers(path: Path, num_mels: int) -> None:
    samples = read_audio(path).samples
    expected = whisper_features(samples, num_mels)
    for features in (log_mel(samples, num_mels), reference.log_mel(samples, num_mels)):
        assert features.shape == expected.shape == (len(samples) // 160, num_mels)
        assert (features - expected).abs().max() <= WHISPER_TOLERANCE


@pytest.mark.parametrize("num_mels", [80, 128])
def test_the_filter_bank_equals_whispers(num_mels: int) -> None:
    audio = pytest.importorskip("whisper.audio")
    expected = audio.mel_filters("cpu", num_mels).T
    assert (mel_bank(num_mels) - expected).abs().max() <= 1e-8


def _symmetric_window(device: object = "cpu") -> Tensor:
    return torch.hann_window(400, periodic=False)


def _bank_off_by_a_thousandth(num_mels: int, device: object = "cpu") -> Tensor:
    return mel_bank(num_mels) * torch.linspace(1.0, 1.001, num_mels)


def _frames_one_sample_late(clip: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(clip[None], (200, 201), mode="reflect")[0]
    return padded[1:].unfold(0, 400, 160)[: len(clip) // 160]


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("hann_window", _symmetric_window),
        ("mel_bank", _bank_off_by_a_thousandth),
        ("_frames", _frames_one_sample_late),
        ("DYNAMIC_RANGE", 7.999),
        ("FLOOR", 1.001e-10),
    ],
)
def test_a_small_error_in_the_maths_breaks_the_tolerance(
    name: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half a second of digital silence with a faint click: it reaches the floor and the range.
    samples = read_audio(CLIPS[0]).samples
    if name == "FLOOR":
        samples = torch.zeros(8000).index_fill(0, torch.tensor([4000]), 1e-3)
    exact = reference.log_mel(samples, 80)
    assert (log_mel(samples) - exact).abs().max() <= WHISPER_TOLERANCE
    monkeypatch.setattr(cpu, name, broken)
    assert (log_mel(samples) - exact).abs().max() > WHISPER_TOLERANCE


@pytest.mark.parametrize("length", [201, 319, 320, 401, 16_001, 160 * 1024, 160 * 2049 + 7])
@pytest.mark.parametrize("num_mels", [1, 80, 201])
def test_every_length_agrees_with_the_reference(length: int, num_mels: int) -> None:
    samples = noise(length)
    features = log_mel(samples, num_mels)
    assert features.shape == (length // 160, num_mels)
    assert (features - reference.log_mel(samples, num_mels)).abs().max() <= 1e-6


def test_the_reference_agrees_with_float64_where_no_bin_is_quiet() -> None:
    samples = noise(16_000)
    exact = reference.log_mel(samples.double(), 80)
    # White noise spans 2 decades, so a bin's relative error is that of one 400-term transform.
    assert (reference.log_mel(samples, 80) - exact).abs().max() <= 2e-6
    assert (log_mel(samples) - exact).abs().max() <= 2e-6


def test_a_batch_gives_bit_for_bit_what_single_calls_give() -> None:
    lengths = [201, 4_000, 170_001, 16_000, 321, 99_999]
    clips = [noise(length, seed) * 10.0 ** -(seed % 3) for seed, length in enumerate(lengths)]
    together = log_mel(clips, 128)
    assert [len(features) for features in together] == [length // 160 for length in lengths]
    for clip, features in zip(clips, together, strict=True):
        assert torch.equal(features, log_mel(clip, 128))


def test_an_empty_batch_has_no_features() -> None:
    assert log_mel([]) == []


def test_strided_input_is_read_and_left_alone() -> None:
    spread = torch.full((2 * 4_001,), float("nan"))
    spread[::2] = noise(4_001)
    before = spread.clone()
    assert torch.equal(log_mel(spread[::2]), log_mel(noise(4_001)))
    assert torch.equal(spread.nan_to_num(), before.nan_to_num())


def test_silence_is_finite_and_flat() -> None:
    features = log_mel(torch.zeros(1_600))
    assert torch.equal(features, torch.full((10, 80), -1.5))


def test_the_window_is_rounded_as_torch_rounds_it() -> None:
    assert torch.equal(hann_window(), torch.hann_window(400))


@pytest.mark.parametrize(
    ("samples", "rule"),
    [
        (torch.zeros(200), "at least 201 samples"),
        (torch.zeros(2, 400), "shape \\(T,\\)"),
        (torch.zeros(400, dtype=torch.float64), "float32"),
        (torch.full((400,), float("nan")), "finite"),
        (torch.full((400,), float("inf")), "finite"),
    ],
)
def test_bad_samples_are_named(samples: Tensor, rule: str) -> None:
    with pytest.raises(ShapeError, match=rule):
        log_mel(samples)
    with pytest.raises(ShapeError, match="samples\\[1\\]"):
        log_mel([torch.zeros(400), samples])


@pytest.mark.parametrize("num_mels", [0, 202])
def test_the_number_of_mels_is_bounded(num_mels: int) -> None:
    with pytest.raises(ShapeError, match="num_mels"):
        log_mel(torch.zeros(400), num_mels)
