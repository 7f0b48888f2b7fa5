"""Sound: every format and channel count becomes the right mono signal; damage is seen."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from unimodal.errors import MediaError, ShapeError
from unimodal.media import Audio, MediaLimits, read_audio, write_audio

CLIPS = sorted((Path(__file__).parent / "clips").iterdir())


def tone(samples: int = 16_000, rate: int = 16_000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_real_clips_are_read_whole(path: Path) -> None:
    audio = read_audio(path)
    expected, rate = soundfile.read(path, dtype="float32")
    assert audio.sample_rate_hz == rate == 16_000
    assert np.array_equal(audio.samples.numpy(), expected)
    assert read_audio(path.read_bytes()).samples.equal(audio.samples)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_16_bit_files_round_trip_to_half_a_step(suffix: str, tmp_path: Path) -> None:
    audio = Audio(torch.from_numpy(tone()), 16_000)
    write_audio(audio, tmp_path / f"a{suffix}")
    back = read_audio(tmp_path / f"a{suffix}")
    assert back.sample_rate_hz == 16_000
    assert (back.samples - audio.samples).abs().max() <= 1.01 / 32_768


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_lossy_files_keep_the_tone(suffix: str, tmp_path: Path) -> None:
    write_audio(Audio(torch.from_numpy(tone()), 16_000), tmp_path / f"a{suffix}")
    back = read_audio(tmp_path / f"a{suffix}")
    spectrum = torch.fft.rfft(back.samples).abs()
    peak_hz = int(spectrum.argmax()) * 16_000 / len(back.samples)
    assert abs(peak_hz - 440) < 5
    assert abs(len(back.samples) - 16_000) < 4_000


def test_channels_are_mixed_by_their_mean() -> None:
    left, right = tone(), 0.5 * tone()
    mono = read_audio(encoded(np.stack([left, right], axis=1), subtype="FLOAT")).samples
    assert np.allclose(mono.numpy(), 0.75 * tone(), atol=1e-6)
    eight = read_audio(encoded(np.repeat(left[:, None], 8, axis=1), subtype="FLOAT")).samples
    assert np.allclose(eight.numpy(), left, atol=1e-6)


@pytest.mark.parametrize(("subtype", "error"), [("PCM_U8", 0.01), ("PCM_24", 1e-6), ("FLOAT", 0)])
def test_sample_widths_are_read(subtype: str, error: float) -> None:
    samples = read_audio(encoded(tone(), subtype=subtype)).samples
    assert np.abs(samples.numpy() - tone()).max() <= error


def test_small_overshoots_are_clipped_and_large_ones_refused() -> None:
    loud = tone() * 4.0
    assert read_audio(encoded(loud, subtype="FLOAT")).samples.abs().max() == 1.0
    with pytest.raises(MediaError, match=r"\[-1, 1\]"):
        read_audio(encoded(tone() * 10.0, subtype="FLOAT"))


def test_the_length_cap_is_exact() -> None:
    data = encoded(tone())
    assert read_audio(data, MediaLimits(max_audio_seconds=1.0)).seconds == 1.0
    with pytest.raises(MediaError, match="16,000"):
        read_audio(data, MediaLimits(max_audio_seconds=0.999))
    with pytest.raises(MediaError, match="15,999"):
        read_audio(data, MediaLimits(max_audio_samples=15_999))
    with pytest.raises(MediaError, match="channels"):
        read_audio(
            encoded(np.repeat(tone()[:, None], 3, axis=1)), MediaLimits(max_audio_channels=2)
        )


def test_long_sounds_are_read_across_blocks() -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 700_001).astype(np.float32)
    assert np.array_equal(read_audio(encoded(samples, subtype="FLOAT")).samples.numpy(), samples)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
)
def test_a_cut_anywhere_is_refused(kind: str, subtype: str) -> None:
    data = encoded(tone(), kind, subtype)
    for length in np.random.default_rng(0).integers(0, len(data) - 1, 60):
        with pytest.raises(MediaError):
            read_audio(data[:length])


def test_an_mp3_cut_between_frames_is_seen_by_its_frame_count() -> None:
    from unimodal.media.audio_containers import _mp3_header

    data = encoded(tone(), "MP3", "MPEG_LAYER_III")
    at, starts = 0, []
    while at < len(data):
        starts.append(at)
        length = _mp3_header(data, at)
        assert length is not None
        at += length
    assert at == len(data)
    read_audio(data)
    for start in starts[2:]:
        with pytest.raises(MediaError, match="declares"):
            read_audio(data[:start])


def test_tags_round_an_mp3_are_no_damage() -> None:
    data = encoded(tone(), "MP3", "MPEG_LAYER_III")
    tagged = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + data + b"TAG" + bytes(125)
    assert read_audio(tagged).samples.equal(read_audio(data).samples)


def test_m4a_and_g722_go_through_pyav(tmp_path: Path) -> None:
    import av

    for name, codec, rate in (("a.m4a", "aac", 16_000), ("a.g722", "g722", 16_000)):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            wide = (tone()[None] * 32_767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wide, format="s16", layout="mono")
            frame.sample_rate = rate
            resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
            for part in resampler.resample(frame):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        audio = read_audio(tmp_path / name)
        assert audio.sample_rate_hz == rate
        assert abs(audio.seconds - 1.0) < 0.15
        assert 0.2 < audio.samples.square().mean().sqrt() < 0.5


def test_what_is_not_written_is_named(tmp_path: Path) -> None:
    audio = Audio(torch.from_numpy(tone()), 16_000)
    with pytest.raises(MediaError, match=r"\.aac"):
        write_audio(audio, tmp_path / "a.aac")
    with pytest.raises(MediaError, match="cannot be written"):
        write_audio(audio, tmp_path / "absent" / "a.wav")


@pytest.mark.parametrize("rate", [0, 99, 768_001])
def test_impossible_rates_are_no_audio(rate: int) -> None:
    with pytest.raises(ShapeError, match="sample_rate_hz"):
        Audio(torch.zeros(10), rate)


def test_empty_samples_are_no_audio() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        Audio(torch.zeros(0), 16_000)
