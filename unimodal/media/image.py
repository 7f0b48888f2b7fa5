"""Pictures: read any accepted format as 8-bit RGB, write PNG or JPEG.

Pillow decodes; what it lets through (a bomb with a warning, a file cut after its first frame) is
refused here first, from the header and from the container's own end mark.
"""

import io
import os
import warnings
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray

from unimodal.errors import MediaError, ShapeError
from unimodal.media.containers import check_complete
from unimodal.media.limits import DEFAULT_LIMITS, MediaLimits
from unimodal.media.sources import IMAGE_FORMATS, Source, cut, load
from unimodal.media.values import Image

_MODES = frozenset("1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr".split())
_WIDE_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})


def read_image(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> Image:
    """Read a picture: first frame, EXIF rotation applied, transparency composited on white.

    Args:
        source: Path or bytes of a PNG, JPEG, GIF, WebP, BMP or TIFF.
        limits: Caps on bytes, pixels and side.

    Returns:
        The picture as 8-bit RGB. 16-bit grey is scaled by 1/257; CMYK goes through Pillow's
        conversion without a colour profile.

    Raises:
        MediaError: If the file is missing, cut, of another format, or over a limit.
    """
    content = load(source, limits.max_file_bytes, IMAGE_FORMATS, "an image")
    check_complete(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(content.data), formats=[content.format]) as picture:
                check_size(content.name, picture.width, picture.height, limits)
                picture.load()
                pixels = _to_rgb(picture, content.name)
    except MediaError:
        raise
    except PIL.Image.DecompressionBombError:
        raise MediaError(
            f"A picture may have {limits.max_image_pixels:,} pixels, but this one has far more.",
            subject=content.name,
            remedy="Scale it down.",
        ) from None
    except Exception as error:
        raise cut(content.name, f"{content.format} does not decode ({_reason(error)})") from None
    return Image(torch.from_numpy(pixels))


def write_image(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a picture as PNG (lossless) or JPEG (quality 95), by the extension of `path`.

    Raises:
        MediaError: If the extension is neither, or the file cannot be written.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise MediaError(
            f"A picture is written as .png, .jpg or .jpeg, but the path ends in {suffix!r}.",
            subject=os.fspath(path),
            remedy="Choose another ending.",
        )
    kind = "PNG" if suffix == ".png" else "JPEG"
    picture = PIL.Image.fromarray(image.pixels.contiguous().cpu().numpy())
    try:
        picture.save(path, format=kind, quality=95)
    except OSError as error:
        raise MediaError(
            f"The file cannot be written ({_reason(error)}).",
            subject=os.fspath(path),
            remedy="Check its folder, permissions and the space on the disk.",
        ) from None


def check_size(name: str, width: int, height: int, limits: MediaLimits) -> None:
    """Raise MediaError unless a picture or frame of this size is within the limits."""
    if width < 1 or height < 1:
        raise MediaError(
            f"The picture has no pixels ({width} x {height}).",
            subject=name,
            remedy="Export it again.",
        )
    if max(width, height) > limits.max_image_side or width * height > limits.max_image_pixels:
        raise MediaError(
            f"A picture may have {limits.max_image_pixels:,} pixels and "
            f"{limits.max_image_side:,} along a side, but this one is {width:,} x {height:,}.",
            subject=name,
            remedy="Scale it down, or raise the pixel limits in `MediaLimits`.",
        )


def _to_rgb(picture: PIL.Image.Image, name: str) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] of a loaded picture."""
    PIL.ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode in _WIDE_MODES:
        return _narrow(np.asarray(picture), name)
    if picture.mode not in _MODES:
        raise MediaError(
            f"Pictures of Pillow mode {picture.mode!r} are not accepted.",
            subject=name,
            remedy="Convert it to 8-bit RGB.",
        )
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        opaque = PIL.Image.new("RGB", layer.size, (255, 255, 255))
        opaque.paste(layer, mask=layer.getchannel("A"))
        return np.array(opaque)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _narrow(wide: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """16-bit grey [h, w] to 8-bit RGB by round(x / 257), a band of rows at a time."""
    pixels = np.empty((*wide.shape, 3), np.uint8)
    for top in range(0, len(wide), 256):
        band = wide[top : top + 256].astype(np.int32)
        if band.min() < 0 or band.max() > 65_535:
            raise MediaError(
                "Grey values must lie in 0 to 65,535.",
                subject=name,
                remedy="Convert it to 8-bit grey or RGB.",
            )
        pixels[top : top + 256] = ((band + 128) // 257)[:, :, None]
    return pixels


def _reason(error: Exception) -> str:
    """The first line of an error, short, for a message of ours."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"


def image_from_array(pixels: NDArray[np.uint8]) -> Image:
    """An Image of a uint8 array [h, w, 3]; the array is copied.

    Raises:
        ShapeError: If dtype or shape differ.
    """
    if pixels.dtype != np.uint8:
        raise ShapeError(f"`pixels` must be uint8, but is {pixels.dtype}.")
    return Image(torch.from_numpy(np.array(pixels)))
