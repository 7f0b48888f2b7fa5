"""Bad and odd files of every kind, made from a seed: the corpus of the tests of all file readers.

`bad_inputs` writes them; a reader passes if each ends within 5 s and 512 MiB, in a value or in one
typed error as `expect` says. Nothing is read here.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import soundfile
import torch

from unimodal.errors import ConfigError
from unimodal.media.values import Video
from unimodal.media.video import write_video

Case = tuple[str, bytes, str]
"""File name, content, what to expect."""


@dataclass(frozen=True)
class BadInput:
    """One file of the corpus.

    Attributes:
        path: Where it was written.
        kind: "text", "image", "audio", "video" or "dna": the reader to give it to.
        expect: "error" (a typed error), "value" (odd but good), or "either".
    """

    path: Path
    kind: str
    expect: str

    @property
    def name(self) -> str:
        """The file's name, which says what is wrong with it."""
        return self.path.name


def bad_inputs(
    folder: Path, kinds: Iterable[str] | None = None, seed: int = 0, huge: bool = False
) -> list[BadInput]:
    """Write the corpus.

    Args:
        folder: Where to; made if missing, with one folder a kind inside.
        kinds: Which kinds; all if None.
        seed: Of the contents (encoders add a random serial number to Ogg and Matroska).
        huge: Also the files that take seconds to write: an hour of silence, a 1 GB line of DNA.

    Returns:
        The files, in a fixed order.

    Raises:
        ConfigError: If a kind is unknown.
    """
    written = []
    for kind in _MAKERS if kinds is None else kinds:
        if kind not in _MAKERS:
            raise ConfigError(f"`kinds` must be of {', '.join(_MAKERS)}, but has {kind!r}.")
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, data, expect in _MAKERS[kind](np.random.default_rng(seed)):
            path = folder / kind / name
            path.write_bytes(data)
            written.append(BadInput(path, kind, expect))
    if huge:
        written += [item for item in _huge(folder) if kinds is None or item.kind in set(kinds)]
    return written


def _cuts(stem: str, suffix: str, data: bytes) -> Iterator[Case]:
    for percent in (10, 50, 99):
        yield f"{stem}_cut_at_{percent}{suffix}", data[: len(data) * percent // 100], "error"


def _text(rng: np.random.Generator) -> Iterator[Case]:
    yield "empty.txt", b"", "error"
    yield "line_of_10_mib.txt", b"word " * (2 * 2**20), "value"
    yield "bad_utf8.txt", b"caf\xe9 au lait", "error"
    yield "cut_in_a_character.txt", "naïve café".encode()[:-1], "error"
    yield "lone_surrogate.txt", b"a \xed\xa0\x80 b", "error"
    yield "random_bytes.txt", rng.bytes(4096) + b"\xff", "error"
    yield "utf16.txt", "two bytes a letter".encode("utf-16"), "error"
    yield "nul.txt", b"before\0after", "value"
    yield "byte_order_mark.txt", b"\xef\xbb\xbfmarked", "value"
    yield "looks_like_control_ids.txt", b"<s> </s> <|endoftext|> <pad> [MASK]", "value"


def _picture(
    rng: np.random.Generator, mode: str, size: tuple[int, int] = (48, 32)
) -> PIL.Image.Image:
    noise = PIL.Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8), "RGBA")
    return noise if mode == "RGBA" else noise.convert("RGB").convert(mode)


def _saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _png_of_zeros(width: int, height: int) -> bytes:
    """A valid 1-bit PNG, black, of any size: kilobytes that unpack to gigabytes."""
    packer = zlib.compressobj(1)
    row = b"\0" * (1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row * 500) for _ in range(height // 500))
    rows += packer.compress(row * (height % 500)) + packer.flush()
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    for name, body in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return data


def _image(rng: np.random.Generator) -> Iterator[Case]:
    yield "empty.png", b"", "error"
    yield "text.png", b"This is not a picture.\n", "error"
    yield "svg.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>', "error"
    yield "pdf.jpg", b"%PDF-1.7\n1 0 obj\n", "error"
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("WEBP", ".webp")):
        yield from _cuts("whole", suffix, _saved(_picture(rng, "RGB"), kind))
    yield from _cuts("whole", ".bmp", _saved(_picture(rng, "RGB"), "BMP"))
    yield from _cuts("whole", ".tiff", _saved(_picture(rng, "RGB"), "TIFF"))
    yield "bomb_13000.png", _png_of_zeros(13_000, 13_000), "error"
    yield "bomb_20000.png", _png_of_zeros(20_000, 20_000), "error"
    yield "wide_65535.png", _png_of_zeros(65_535, 1), "error"
    wide = PIL.Image.fromarray(rng.integers(0, 65_536, (32, 48), dtype=np.uint16))
    yield "grey_16_bit.png", _saved(wide, "PNG"), "value"
    yield "cmyk.jpg", _saved(_picture(rng, "CMYK"), "JPEG"), "value"
    yield "palette.png", _saved(_picture(rng, "P"), "PNG", transparency=0), "value"
    yield "grey_alpha.png", _saved(_picture(rng, "RGBA").convert("LA"), "PNG"), "value"
    yield "alpha.png", _saved(_picture(rng, "RGBA"), "PNG"), "value"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    yield "rotated.jpg", _saved(_picture(rng, "RGB"), "JPEG", exif=exif), "value"
    frames = [_picture(rng, "P") for _ in range(3)]
    animated = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "animated.gif", animated, "value"
    yield from _cuts("animated", ".gif", animated)


def _sound(
    samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    kind: str,
    subtype: str,
    rate: int = 16_000,
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def _audio(rng: np.random.Generator) -> Iterator[Case]:
    voice = (0.1 * rng.standard_normal(16_000)).astype(np.float32)
    wav = _sound(voice, "WAV", "PCM_16")
    yield "empty.wav", b"", "error"
    yield "text.wav", b"This is not a sound.\n", "error"
    yield "picture.wav", _saved(_picture(rng, "RGB"), "PNG"), "error"
    yield "no_frames.wav", _sound(voice[:0], "WAV", "PCM_16"), "error"
    flac = _sound(voice, "FLAC", "PCM_16")
    yield (
        "length_unknown.flac",
        flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:],
        "error",
    )
    yield from _cuts("whole", ".wav", wav)
    yield from _cuts("whole", ".flac", flac)
    yield from _cuts("whole", ".ogg", _sound(voice, "OGG", "VORBIS"))
    yield from _cuts("whole", ".mp3", _sound(voice, "MP3", "MPEG_LAYER_III"))
    yield "cut_on_a_page.ogg", _without_last_page(_sound(voice, "OGG", "VORBIS")), "error"
    for rate in (1, 2**31 - 1):
        yield f"rate_{rate}.wav", wav[:24] + struct.pack("<I", rate) + wav[28:], "error"
    yield "forged_size.wav", wav[:40] + struct.pack("<I", 2**32 - 1) + wav[44:], "error"
    for channels in (1, 2, 8):
        block = np.repeat(voice[:, None], channels, axis=1)
        yield f"channels_{channels}.wav", _sound(block, "WAV", "PCM_16"), "value"
    for subtype in ("PCM_U8", "PCM_24", "FLOAT"):
        yield f"{subtype.lower()}.wav", _sound(voice, "WAV", subtype), "value"
    for name, value in (("nan", np.nan), ("inf", np.inf), ("1e30", 1e30)):
        bad = voice.copy()
        bad[100] = value
        yield f"float_{name}.wav", _sound(bad, "WAV", "FLOAT"), "error"
    yield "random_after_sync.mp3", b"\xff\xfb\x90\x00" + rng.bytes(4000), "error"


def _without_last_page(data: bytes) -> bytes:
    return data[: data.rfind(b"OggS")]


def _encoded(rng: np.random.Generator, folder: Path, suffix: str) -> bytes:
    frames = torch.from_numpy(rng.integers(0, 256, (12, 32, 48, 3), dtype=np.uint8))
    path = folder / f"video{suffix}"
    write_video(Video(frames, 8.0), path)
    return path.read_bytes()


def _video(rng: np.random.Generator) -> Iterator[Case]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        mp4, mkv, gif = (_encoded(rng, Path(folder), suffix) for suffix in (".mp4", ".mkv", ".gif"))
    yield "empty.mp4", b"", "error"
    yield "text.mp4", b"This is not a video.\n", "error"
    yield "random_after_magic.mp4", mp4[:32] + rng.bytes(4000), "error"
    yield from _cuts("whole", ".mp4", mp4)
    yield from _cuts("whole", ".mkv", mkv)
    yield from _cuts("whole", ".gif", gif)
    yield "no_frames.mp4", _forged(mp4, b"stsz", 8, struct.pack(">I", 0)), "error"
    yield "no_frames.gif", gif[: 13 + (3 << (gif[10] & 7) + 1)] + b";", "error"
    yield "forged_count.mp4", _forged(mp4, b"stts", 8, struct.pack(">I", 2**31 - 1)), "error"
    size = struct.pack(">HH", 65_535, 65_535)
    yield "forged_size.mp4", _forged(mp4, b"avc1", 28 - 4, size), "either"
    yield "forged_size.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "either"
    at = mp4.index(b"mdat") + 600
    yield "noise_inside.mp4", mp4[:at] + rng.bytes(400) + mp4[at + 400 :], "either"


def _forged(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """`data` with `value` written `offset` bytes after the name of the last such box."""
    at = data.rindex(box) + 4 + offset
    return data[:at] + value + data[at + len(value) :]


def _dna(rng: np.random.Generator) -> Iterator[Case]:
    bases = "".join(rng.choice(list("ACGT"), 700))
    record = f">one\n{bases}\n".encode()
    yield "empty.fa", b"", "error"
    yield "blank.fa", b"\n\n\n", "error"
    yield "text.fa", b"This is not DNA.\n", "error"
    yield "protein.fa", b">one\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ\n", "error"
    yield "empty_record.fa", record + b">two\n>three\nACGT\n", "error"
    yield "bytes_inside.fa", record + b">two\nAC\xff\xfeGT\n", "error"
    yield "lower_case.fa", record.lower(), "value"
    yield "ambiguous.fa", b">one\nACGTNRYSWKMBDHVNNNN\n", "value"
    yield "crlf.fa", b">one\r\nACGT\r\nACGT\r\n\r\n>two\r\nAC\r\n", "value"
    packed = gzip.compress(record * 20, mtime=0)
    yield "whole.fa.gz", packed, "value"
    yield from _cuts("whole", ".fa.gz", packed)
    bomb = (b">one\n" + b"A" * 2**20 + b"\n") * 128
    yield "bomb.fa.gz", gzip.compress(bomb, mtime=0), "error"


def _huge(folder: Path) -> Iterator[BadInput]:
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    silence = folder / "audio" / "hour_of_silence.flac"
    with soundfile.SoundFile(silence, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(16_000 * 60, np.int16))
    yield BadInput(silence, "audio", "error")
    (folder / "dna").mkdir(parents=True, exist_ok=True)
    line = folder / "dna" / "line_of_1_gb.fa"
    with open(line, "wb") as stream:
        stream.write(b">one\n")
        for _ in range(1000):
            stream.write(b"ACGT" * 250_000)
    yield BadInput(line, "dna", "error")


_MAKERS: dict[str, Callable[[np.random.Generator], Iterator[Case]]] = {
    "text": _text,
    "image": _image,
    "audio": _audio,
    "video": _video,
    "dna": _dna,
}
