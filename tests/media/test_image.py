"""Pictures: every mode becomes the right RGB, sizes are capped, writing and reading agree."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from unimodal.errors import MediaError, ShapeError
from unimodal.media import Image, MediaLimits, image_from_array, read_image, write_image


def noise(height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return read_image(data).pixels.numpy()


def test_png_round_trips_exactly(tmp_path: Path) -> None:
    image = image_from_array(noise())
    write_image(image, tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png").pixels, image.pixels)


def test_jpeg_round_trips_nearly(tmp_path: Path) -> None:
    flat = image_from_array(np.full((16, 16, 3), 130, np.uint8))
    write_image(flat, tmp_path / "a.jpg")
    got = read_image(tmp_path / "a.jpg").pixels.int()
    assert (got - flat.pixels.int()).abs().max() <= 2


def test_alpha_is_composited_on_white() -> None:
    rgba = noise(channels=4)
    alpha = rgba[:, :, 3:].astype(np.float64) / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels_of(saved(PIL.Image.fromarray(rgba))) - expected).max() <= 1.0


def test_transparent_palette_entries_become_white() -> None:
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    got = pixels_of(saved(picture, transparency=0))
    assert got.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_grey_and_alpha_become_rgb_on_white() -> None:
    picture = PIL.Image.new("LA", (1, 1), (100, 0))
    assert pixels_of(saved(picture)).tolist() == [[[255, 255, 255]]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = np.array([[0, 128, 129, 257 * 7, 32_768, 65_535]], dtype=np.uint16)
    got = pixels_of(saved(PIL.Image.fromarray(wide)))
    assert got[0, :, 0].tolist() == [0, 0, 1, 7, 128, 255]
    assert (got == got[:, :, :1]).all()


def test_cmyk_is_converted() -> None:
    data = saved(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red = pixels_of(data)[4, 4]
    assert red[0] > 200
    assert red[1] < 60


@pytest.mark.parametrize(("orientation", "turns"), [(6, 3), (3, 2), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, turns: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = noise()
    got = pixels_of(saved(PIL.Image.fromarray(stored), exif=exif))
    assert np.array_equal(got, np.rot90(stored, turns))


def test_animations_give_their_first_frame() -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


def test_pixel_and_side_caps_are_exact() -> None:
    data = saved(PIL.Image.fromarray(noise(5, 7)))
    assert read_image(data, MediaLimits(max_image_pixels=35, max_image_side=7)).width == 7
    for limits in (MediaLimits(max_image_pixels=34), MediaLimits(max_image_side=6)):
        with pytest.raises(MediaError, match="7 x 5"):
            read_image(data, limits)
    with pytest.raises(MediaError, match="bytes"):
        read_image(data, MediaLimits(max_file_bytes=len(data) - 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_cut_at_any_byte_is_refused(kind: str) -> None:
    data = saved(PIL.Image.fromarray(noise(9, 9)), kind)
    read_image(data)
    for length in range(len(data) - 1):
        with pytest.raises(MediaError):
            read_image(data[:length])


def test_other_extensions_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="tiff"):
        write_image(image_from_array(noise()), tmp_path / "a.tiff")
    with pytest.raises(MediaError, match="cannot be written"):
        write_image(image_from_array(noise()), tmp_path / "absent" / "a.png")


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4), (0, 4, 3)])
def test_wrong_shapes_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises((ShapeError, TypeError)):
        Image(torch.zeros(shape, dtype=torch.uint8))
