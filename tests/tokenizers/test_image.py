"""Pictures of any size become whole patches in raster order, with values in [-1, 1]."""

import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.media.values import Image
from unimodal.modality import build_modality
from unimodal.testing import check_modality
from unimodal.tokenizers.image import ImageConfig, ImagePatches


def picture(height: int, width: int) -> Image:
    pixels = torch.arange(height * width * 3) % 256
    return Image(pixels.reshape(height, width, 3).to(torch.uint8))


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(),
        ImageConfig(patch_size=5, pad="white"),
        ImageConfig(patch_size=4, size=(12, 16)),
    ],
    ids=str,
)
def test_every_setting_holds_the_contract(config: ImageConfig) -> None:
    assert check_modality(ImagePatches(config)).ok


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (9, 7), (16, 24), (3, 40)])
def test_the_grid_covers_the_picture(height: int, width: int) -> None:
    tokens = ImagePatches(ImageConfig(patch_size=8)).encode(picture(height, width))
    rows, columns = -(-height // 8), -(-width // 8)
    assert len(tokens) == rows * columns
    assert tokens.grid[-1].tolist() == [0, rows - 1, columns - 1]


def test_patches_hold_their_own_pixels() -> None:
    value = picture(4, 6)
    tokens = ImagePatches(ImageConfig(patch_size=2)).encode(value)
    assert tokens.features is not None
    second_row_last = value.pixels[2:4, 4:6].float().reshape(-1) / 127.5 - 1
    assert torch.equal(tokens.features[5], second_row_last)
    assert tokens.features.min() >= -1
    assert tokens.features.max() <= 1


def test_padding_repeats_the_edge_or_is_white() -> None:
    value = Image(torch.zeros(1, 1, 3, dtype=torch.uint8))
    edge = ImagePatches(ImageConfig(patch_size=2)).encode(value).features
    white = ImagePatches(ImageConfig(patch_size=2, pad="white")).encode(value).features
    assert edge is not None
    assert white is not None
    assert (edge == -1).all()
    assert white[0].tolist() == [-1.0] * 3 + [1.0] * 9


def test_a_size_makes_every_picture_as_long() -> None:
    modality = ImagePatches(ImageConfig(patch_size=4, size=(8, 12)))
    assert {len(modality.encode(picture(*s))) for s in [(1, 1), (8, 12), (50, 3)]} == {6}


def test_a_constant_picture_stays_constant_when_resized() -> None:
    value = Image(torch.full((5, 7, 3), 200, dtype=torch.uint8))
    features = ImagePatches(ImageConfig(patch_size=4, size=(8, 8))).encode(value).features
    assert features is not None
    assert torch.allclose(features, torch.tensor(200 / 127.5 - 1))


@pytest.mark.parametrize(
    "values", [{"patch_size": 0}, {"size": [0, 4]}, {"size": [4]}, {"pad": "black"}]
)
def test_a_config_out_of_bounds_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        build_modality("image", values)


def test_an_image_is_input_only_and_names_its_partner() -> None:
    modality = ImagePatches(ImageConfig())
    with pytest.raises(ConfigError, match="image_codes"):
        modality.decode(modality.encode(picture(8, 8)))


def test_a_shown_picture_is_enlarged_and_self_contained() -> None:
    shown = ImagePatches(ImageConfig()).show(picture(4, 4))
    assert 'src="data:image/png;base64,' in shown
    assert "image-rendering:pixelated" in shown
    assert 'width="160"' in shown
