"""Clips of any size and duration become whole tubelets that know their second."""

import base64
import io
import re

import PIL.Image
import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.media.values import Video
from unimodal.modality import build_modality
from unimodal.testing import check_modality
from unimodal.tokenizers.video import VideoConfig, VideoTubelets


def clip(frames: int, height: int = 4, width: int = 4, rate: float = 10.0) -> Video:
    values = torch.arange(frames * height * width * 3) % 256
    return Video(values.reshape(frames, height, width, 3).to(torch.uint8), rate)


@pytest.mark.parametrize(
    "config",
    [
        VideoConfig(),
        VideoConfig(frames=3, patch_size=5, pad="white", attend="causal"),
        VideoConfig(frames=1, patch_size=4, size=(8, 12)),
    ],
    ids=str,
)
def test_every_setting_holds_the_contract(config: VideoConfig) -> None:
    assert check_modality(VideoTubelets(config)).ok


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 9), (8, 8)])
def test_the_grid_covers_the_clip(frames: int, height: int, width: int) -> None:
    modality = VideoTubelets(VideoConfig(frames=2, patch_size=4))
    tokens = modality.encode(clip(frames, height, width))
    size = [-(-frames // 2), -(-height // 4), -(-width // 4)]
    assert (tokens.grid[-1] + 1).tolist() == size
    assert len(tokens) == size[0] * size[1] * size[2]


def test_tubelets_hold_their_own_pixels_and_the_last_frame_is_repeated() -> None:
    value = clip(3)
    tokens = VideoTubelets(VideoConfig(frames=2, patch_size=2)).encode(value)
    assert tokens.features is not None
    expected = value.frames[0:2, 2:4, 0:2].float().reshape(-1) / 127.5 - 1
    assert torch.equal(tokens.features[2], expected)
    last = tokens.features[-1].reshape(2, -1)
    assert torch.equal(last[0], last[1])


def test_seconds_are_the_start_of_the_tubelet_on_the_clip_s_own_clock() -> None:
    tokens = VideoTubelets(VideoConfig(frames=2, patch_size=4)).encode(clip(5, rate=25.0))
    assert tokens.seconds is not None
    assert tokens.seconds.tolist() == pytest.approx([0.0, 0.08, 0.16])


def test_attention_is_full_or_causal_by_config() -> None:
    assert VideoTubelets(VideoConfig()).attend == "full"
    assert VideoTubelets(VideoConfig(attend="causal")).attend == "causal"


@pytest.mark.parametrize(
    "values", [{"frames": 0}, {"patch_size": 0}, {"size": [4, 0]}, {"attend": "some"}]
)
def test_a_config_out_of_bounds_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        build_modality("video", values)


def test_a_shown_clip_moves() -> None:
    shown = VideoTubelets(VideoConfig()).show(clip(3))
    found = re.search(r"base64,([^\"]+)", shown)
    assert found is not None
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert picture.n_frames == 3
