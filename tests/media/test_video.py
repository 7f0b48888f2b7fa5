"""Moving pictures: frames, rates and sizes come out as asked; caps hold."""

from pathlib import Path

import pytest
import torch

from unimodal.errors import ConfigError, MediaError
from unimodal.media import MediaLimits, Video, read_audio, read_video, write_video


def moving(frames: int = 12, height: int = 32, width: int = 48) -> Video:
    """A white column that moves one place a frame, on a grey ground."""
    pixels = torch.full((frames, height, width, 3), 64, dtype=torch.uint8)
    for t in range(frames):
        pixels[t, :, 4 * t : 4 * t + 4] = 255
    return Video(pixels, 8.0)


@pytest.fixture
def mkv(tmp_path: Path) -> Path:
    write_video(moving(), tmp_path / "a.mkv")
    return tmp_path / "a.mkv"


def test_lossless_video_round_trips_exactly(mkv: Path) -> None:
    video = read_video(mkv)
    assert torch.equal(video.frames, moving().frames)
    assert video.frame_rate_hz == 8.0


@pytest.mark.parametrize(("suffix", "error"), [(".mp4", 12.0), (".gif", 1.0)])
def test_lossy_video_keeps_frames_and_rate(suffix: str, error: float, tmp_path: Path) -> None:
    write_video(moving(), tmp_path / f"a{suffix}")
    video = read_video(tmp_path / f"a{suffix}")
    assert video.frames.shape == moving().frames.shape
    assert abs(video.frame_rate_hz - 8.0) < 0.5
    assert (video.frames.float() - moving().frames.float()).abs().mean() < error


def test_odd_sizes_are_written(tmp_path: Path) -> None:
    write_video(moving(height=33, width=49), tmp_path / "a.mp4")
    assert read_video(tmp_path / "a.mp4").frames.shape == (12, 33, 49, 3)


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(4.0, [0, 2, 4, 6, 8, 10]), (16.0, [t // 2 for t in range(24)]), (3.0, [0, 2, 5, 8, 10])],
)
def test_a_lower_or_higher_rate_shows_what_is_on_screen(
    mkv: Path, rate: float, shown: list[int]
) -> None:
    video = read_video(mkv, frame_rate_hz=rate)
    assert video.frame_rate_hz == rate
    assert torch.equal(video.frames, moving().frames[shown])


def test_frames_are_scaled_while_decoding(mkv: Path) -> None:
    video = read_video(mkv, size=(16, 24))
    assert video.frames.shape == (12, 16, 24, 3)
    assert abs(video.frames.float().mean() - moving().frames.float().mean()) < 4.0


def test_caps_are_exact_and_name_the_way_out(mkv: Path) -> None:
    pixels = 12 * 32 * 48
    assert len(read_video(mkv, MediaLimits(max_video_frames=12, max_video_pixels=pixels)).frames)
    with pytest.raises(MediaError, match="11 frames"):
        read_video(mkv, MediaLimits(max_video_frames=11))
    with pytest.raises(MediaError, match="size="):
        read_video(mkv, MediaLimits(max_video_pixels=pixels - 1))
    with pytest.raises(MediaError, match="1 s"):
        read_video(mkv, MediaLimits(max_video_seconds=1.0))
    with pytest.raises(MediaError, match="1,535 pixels"):
        read_video(mkv, MediaLimits(max_image_pixels=32 * 48 - 1))
    small = MediaLimits(max_video_pixels=16 * 24 * 6)
    assert len(read_video(mkv, small, size=(16, 24), frame_rate_hz=4.0).frames) == 6


def test_bytes_are_read_as_the_file_is(mkv: Path) -> None:
    assert torch.equal(read_video(mkv.read_bytes()).frames, read_video(mkv).frames)


def test_a_video_without_sound_has_no_sound_track(mkv: Path) -> None:
    with pytest.raises(MediaError, match="sound track"):
        read_audio(mkv)


def test_wrong_arguments_are_named(mkv: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frame_rate_hz"):
        read_video(mkv, frame_rate_hz=0.0)
    with pytest.raises(ConfigError, match="size"):
        read_video(mkv, size=(0, 4))
    with pytest.raises(MediaError, match=r"\.avi"):
        write_video(moving(), tmp_path / "a.avi")
