"""Bytes in, format out: size cap before reading, then the allow-list of magic bytes.

A reader gets its bytes from `load` and its format from `sniff`; file name extensions decide
nothing, except for G.722, which has no header at all.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from unimodal.errors import MediaError

Source = str | os.PathLike[str] | bytes
"""A path, or the file's content."""

IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
AUDIO_FORMATS = ("WAV", "FLAC", "OGG", "MP3", "MP4", "MATROSKA", "G722")
VIDEO_FORMATS = ("MP4", "MATROSKA", "AVI", "GIF")

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"fLaC", "FLAC"),
    (b"OggS", "OGG"),
    (b"ID3", "MP3"),
    (b"\x1a\x45\xdf\xa3", "MATROSKA"),
    (b"\x1f\x8b", "GZIP"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
)
_RIFF = {b"WAVE": "WAV", b"WEBP": "WEBP", b"AVI ": "AVI"}


@dataclass(frozen=True)
class Content:
    """A file's bytes with the name that errors use and the format that its first bytes show."""

    name: str
    data: bytes
    format: str


def sniff(head: bytes) -> str:
    """The format that the first bytes (16 or more, if there are) show; "" if none is known."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return "MP4"
    if head[:2] == b"BM" and len(head) > 14 and head[6:10] == b"\0\0\0\0":
        return "BMP"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return "MP3"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "SVG" if text.startswith((b"<svg", b"<?xml")) else ""


def source_name(source: Source) -> str:
    """What an error calls the source."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def open_size(source: Source, max_bytes: int) -> int:
    """Size in bytes of a readable, non-empty regular file or of bytes, within `max_bytes`.

    Raises:
        MediaError: If the source is missing, not a regular file, empty, or too large.
    """
    name = source_name(source)
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            status = os.stat(source)
        except (OSError, ValueError) as error:
            raise MediaError(
                f"The file cannot be read ({type(error).__name__}).",
                subject=name,
                remedy="Check the path and its permissions.",
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(
                "A regular file is needed, but this is not one.",
                subject=name,
                remedy="Name a file, not a folder or a device.",
            )
        size = status.st_size
    if size == 0:
        raise MediaError("The file is empty (0 bytes).", subject=name, remedy="Fetch it again.")
    if size > max_bytes:
        raise MediaError(
            f"A file may have at most {max_bytes:,} bytes, but this one has {size:,}.",
            subject=name,
            remedy="Split or shrink it, or raise the byte limit in `MediaLimits`.",
        )
    return size


def load(source: Source, max_bytes: int, formats: tuple[str, ...], kind: str) -> Content:
    """Read a whole file whose first bytes show one of `formats`.

    Args:
        source: A path or the bytes.
        max_bytes: Size cap, checked before reading.
        formats: The formats that the caller decodes.
        kind: What the caller wants, for the message.

    Raises:
        MediaError: If it cannot be read, breaks the cap, or is of another format.
    """
    open_size(source, max_bytes)
    name = source_name(source)
    if isinstance(source, bytes):
        data = source
    else:
        try:
            with open(source, "rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise MediaError(
                f"The file cannot be read ({type(error).__name__}).",
                subject=name,
                remedy="Check the path and its permissions.",
            ) from None
        if len(data) > max_bytes:
            raise MediaError(
                f"The file grew over {max_bytes:,} bytes while read.",
                subject=name,
                remedy="Wait until it is whole, or raise the byte limit in `MediaLimits`.",
            )
    found = sniff(data[:64])
    if not found and "G722" in formats and Path(name).suffix.lower() == ".g722":
        found = "G722"
    if found not in formats:
        shown = found or "none that is known"
        raise MediaError(
            f"The content is not {kind} of an accepted format: its first bytes show {shown}.",
            subject=name,
            remedy=f"Convert it to one of {', '.join(formats)}.",
        )
    return Content(name, data, found)


def cut(name: str, what: str) -> MediaError:
    """The error for a file that ends before what it declares."""
    return MediaError(
        f"The file is cut or damaged: {what}.", subject=name, remedy="Fetch or export it again."
    )
