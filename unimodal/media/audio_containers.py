"""What an audio file says about its own length, and whether its bytes are all there.

The decoders accept WAV, MP3 and Ogg files that were cut in half without a word, so each container
is walked here before decoding. No samples are decoded in this module.
"""

import struct
from collections.abc import Callable

from unimodal.errors import MediaError
from unimodal.media.sources import Content, cut

_MP3_KBPS = {
    # (MPEG 1?, layer): kilobits a second by the header's index 1 to 14
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def declared_frames(content: Content) -> int | None:
    """Walk the container to its end and return the frames (samples a channel) it declares.

    Returns:
        The count, or None where the container declares none but its end mark is there.

    Raises:
        MediaError: If the file ends before what it declares, or has no sound.
    """
    try:
        return _WALKERS[content.format](content)
    except (struct.error, IndexError):
        raise cut(content.name, f"the {content.format} container ends early") from None


def _wav(content: Content) -> int | None:
    data, at, block = content.data, 12, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"fmt " and size >= 16 and at + 24 <= len(data):
            block = struct.unpack_from("<H", data, at + 20)[0]
        if name == b"data":
            if size > len(data) - at - 8:
                raise cut(
                    content.name,
                    f"the WAV declares {size:,} bytes of sound and {len(data) - at - 8:,} follow "
                    "(a WAV written to a pipe must be rewritten with its true size)",
                )
            if block == 0:
                raise cut(content.name, "the WAV has no usable `fmt ` chunk")
            return None if _is_compressed(data) else int(size // block)
        at += 8 + size + size % 2
    raise cut(content.name, "the WAV ends before its sound")


def _is_compressed(data: bytes) -> bool:
    """Whether the WAV's format tag is none of PCM, float, A-law, mu-law, extensible."""
    at = data.find(b"fmt ", 12)
    return struct.unpack_from("<H", data, at + 8)[0] not in (1, 3, 6, 7, 0xFFFE)


def _flac(content: Content) -> int | None:
    data = content.data
    if len(data) < 42 or data[4] & 0x7F != 0:
        raise cut(content.name, "the FLAC has no STREAMINFO block")
    frames = (data[21] & 0x0F) << 32 | int.from_bytes(data[22:26], "big")
    if frames == 0:
        raise MediaError(
            "The FLAC does not declare its length, so a cut could not be seen.",
            subject=content.name,
            remedy="Encode it to a file and not to a pipe.",
        )
    return frames


def _ogg(content: Content) -> int | None:
    data, at, ended = content.data, 0, {}
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            raise cut(content.name, f"byte {at:,} starts no Ogg page")
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(segments) + sum(segments)
        if len(segments) < data[at + 26] or end > len(data):
            raise cut(content.name, "the last Ogg page is incomplete")
        ended[data[at + 14 : at + 18]] = bool(data[at + 5] & 4)
        at = end
    if not all(ended.values()):
        raise cut(content.name, "the Ogg stream has no last page")
    return None


def _mp3(content: Content) -> int | None:
    data = content.data
    at, end = _id3_end(data), _audio_end(data)
    declared, frames = 0, 0
    while at < end:
        header = _mp3_header(data, at)
        if header is None:
            if frames == 0 or (end - at >= 4 and data[at:end].strip(b"\0")):
                at = _next_sync(content, at, end)
                continue
            break
        length = header
        if at + length > end:
            raise cut(content.name, "the last MP3 frame is incomplete")
        if frames == 0 and declared == 0:
            declared = _xing_frames(data, at, length)
            frames -= declared > 0
        frames += 1
        at += length
    if frames <= 0:
        raise cut(content.name, "the MP3 has no sound")
    if declared > frames:
        raise cut(content.name, f"the MP3 declares {declared:,} frames and has {frames:,}")
    return None


def _mp3_header(data: bytes, at: int) -> int | None:
    """Bytes of the MPEG audio frame at `at`; None if there is no valid header."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    i_bitrate, i_rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or not 0 < i_bitrate < 15 or i_rate == 3:
        return None
    kbps, rate = _MP3_KBPS[version == 3, layer][i_bitrate - 1], _MP3_RATES[version][i_rate]
    padding = data[at + 2] >> 1 & 1
    if layer == 1:
        return (12_000 * kbps // rate + padding) * 4
    samples = 1152 if layer == 2 or version == 3 else 576
    return samples * 125 * kbps // rate + padding


def _next_sync(content: Content, at: int, end: int) -> int:
    """Where the next frame starts that another frame, or the end, follows."""
    data, limit = content.data, min(end, at + 2**16)
    for start in range(at + 1, limit - 3):
        header = _mp3_header(data, start) if data[start] == 0xFF else None
        if header is not None:
            after = start + header
            if after == end or _mp3_header(data, after) is not None:
                return start
    raise cut(content.name, f"no MP3 frame follows byte {at:,}")


def _id3_end(data: bytes) -> int:
    """Where the ID3v2 tag at the start ends; 0 without one."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
    return 10 + size + (10 if data[5] & 0x10 else 0)


def _audio_end(data: bytes) -> int:
    """Where the tags at the end (ID3v1, APEv2) begin."""
    end = len(data)
    if end >= 128 and data[end - 128 : end - 125] == b"TAG":
        end -= 128
    if end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", data, end - 20)
        end = max(0, end - size - (32 if flags >> 31 else 0))
    return end


def _xing_frames(data: bytes, at: int, length: int) -> int:
    """Frames that a Xing, Info or VBRI header in the first frame declares; 0 without one."""
    frame = data[at : at + length]
    for tag in (b"Xing", b"Info"):
        found = frame.find(tag, 4, 64)
        if found > 0 and found + 12 <= length and frame[found + 7] & 1:
            return int(struct.unpack_from(">I", frame, found + 8)[0])
    if frame[36:40] == b"VBRI" and length >= 54:
        return int(struct.unpack_from(">I", frame, 50)[0])
    return 0


_WALKERS: dict[str, Callable[[Content], int | None]] = {
    "WAV": _wav,
    "FLAC": _flac,
    "OGG": _ogg,
    "MP3": _mp3,
}
