"""Whether the bytes of a picture or video file are all there, by its own declarations.

Decoders accept many files that end too early: Pillow a PNG without its end, libjpeg a scan without
its end mark, FFmpeg nearly everything. Each container is walked here; nothing is decoded.
"""

import struct
from collections.abc import Callable

from unimodal.media.sources import Content, cut


def check_complete(content: Content) -> None:
    """Raise MediaError if the container ends before what it declares.

    TIFF has no such mark (its decoder notices missing strips).
    """
    check = _COMPLETE.get(content.format)
    if check is not None:
        try:
            check(content)
        except (struct.error, IndexError):
            raise cut(content.name, f"the {content.format} container ends early") from None


def _check_png(content: Content) -> None:
    """Walk the chunks to IEND: Pillow accepts a PNG that lacks its end."""
    data, at = content.data, 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + length
    raise cut(content.name, "the PNG ends before its IEND chunk")


def _check_jpeg(content: Content) -> None:
    """Walk the segments to the scan, then look for the end mark: libjpeg invents a missing one."""
    data, at = content.data, 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0] if data[at + 1] != 0xFF else 1
    if data.find(b"\xff\xd9", at) < 0:
        raise cut(content.name, "the JPEG ends before its end-of-image mark")


def _check_gif(content: Content) -> None:
    """Walk the blocks to the trailer: decoding only the first frame would not see a cut."""
    data = content.data
    try:
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        while data[at] != 0x3B:
            if data[at] == 0x2C:
                flags = data[at + 9]
                at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            elif data[at] == 0x21:
                at += 2
            else:
                raise cut(content.name, f"byte {at:,} starts no GIF block")
            while data[at] != 0:
                at += data[at] + 1
            at += 1
    except IndexError:
        raise cut(content.name, "the GIF ends before its trailer") from None


def _check_riff(content: Content) -> None:
    """Compare the size in the RIFF header with the file's."""
    declared = struct.unpack_from("<I", content.data, 4)[0] + 8
    if declared > len(content.data):
        raise cut(content.name, f"it declares {declared:,} bytes and has {len(content.data):,}")


def _check_bmp(content: Content) -> None:
    """Compare the size in the BMP header, where it is set, with the file's."""
    declared = struct.unpack_from("<I", content.data, 2)[0]
    if declared > len(content.data):
        raise cut(content.name, f"it declares {declared:,} bytes and has {len(content.data):,}")


def _check_avi(content: Content) -> None:
    """Walk the RIFF chunks (files over 1 GB have several) to the end of the file."""
    at = 0
    while at + 12 <= len(content.data) and content.data[at : at + 4] == b"RIFF":
        size = struct.unpack_from("<I", content.data, at + 4)[0]
        if size < 12 or at + 8 + size > len(content.data):
            raise cut(content.name, f"the AVI declares {size:,} bytes after byte {at:,}")
        at += 8 + size + size % 2


def _check_mp4(content: Content) -> None:
    """Walk the top boxes: each must lie inside the file, and there must be an index and data."""
    data, at, boxes = content.data, 0, set()
    while at + 8 <= len(data):
        size = int(struct.unpack_from(">I", data, at)[0])
        if size == 1 and at + 16 <= len(data):
            size = int(struct.unpack_from(">Q", data, at + 8)[0])
        elif size == 0:
            size = len(data) - at
        if size < 8 or at + size > len(data):
            raise cut(content.name, f"the MP4 box at byte {at:,} declares {size:,} bytes")
        boxes.add(data[at + 4 : at + 8])
        at += size
    if not {b"moov", b"mdat"} <= boxes:
        raise cut(content.name, "the MP4 lacks its index (`moov`) or its data (`mdat`)")


def _check_matroska(content: Content) -> None:
    """Compare the size of the Segment with the file's."""
    data = content.data
    header, at = _ebml_size(content, 4)
    at += header
    if data[at : at + 4] != b"\x18\x53\x80\x67":
        raise cut(content.name, "the Matroska file has no Segment")
    size, start = _ebml_size(content, at + 4)
    if size < 0:
        raise cut(
            content.name,
            "the Matroska file does not declare its size (it was written to a pipe; remux it)",
        )
    if start + size > len(data):
        raise cut(content.name, f"it declares {start + size:,} bytes and has {len(data):,}")


def _ebml_size(content: Content, at: int) -> tuple[int, int]:
    """A variable-length size and where its content starts; -1 for an unknown size."""
    first = content.data[at] if at < len(content.data) else 0
    width = 9 - first.bit_length()
    if width > 8 or at + width > len(content.data):
        raise cut(content.name, f"byte {at:,} holds no EBML size")
    value = int.from_bytes(content.data[at : at + width], "big") & (1 << 7 * width) - 1
    return (-1 if value == (1 << 7 * width) - 1 else value), at + width


_COMPLETE: dict[str, Callable[[Content], None]] = {
    "PNG": _check_png,
    "JPEG": _check_jpeg,
    "GIF": _check_gif,
    "WEBP": _check_riff,
    "BMP": _check_bmp,
    "AVI": _check_avi,
    "MP4": _check_mp4,
    "MATROSKA": _check_matroska,
}
