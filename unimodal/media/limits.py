"""What the media decoder accepts at most; one object, passed to every reader.

The defaults are generous for single samples and keep each read under 512 MiB of new memory.
"""

from dataclasses import dataclass, fields

from unimodal.errors import ConfigError


@dataclass(kw_only=True, frozen=True)
class MediaLimits:
    """Upper bounds checked before reading, from the header, and again while decoding."""

    max_file_bytes: int = 256 * 2**20
    """Size of an image, audio or video file in bytes, checked before anything is read."""

    max_image_pixels: int = 32_000_000
    """Width times height of one picture or one video frame."""

    max_image_side: int = 32_768
    """Pixels along one side of a picture or frame."""

    max_audio_seconds: float = 1800.0
    """Duration of one sound in seconds."""

    max_audio_samples: int = 96_000_000
    """Samples of one channel of one sound (4 bytes each once decoded)."""

    max_audio_channels: int = 64
    """Channels that are mixed to mono."""

    max_overshoot: float = 4.0
    """Largest magnitude of a sample. Up to here, what lies outside [-1, 1] is clipped, as by a
    converter (lossy codecs overshoot); above it the file is refused as not scaled."""

    max_video_seconds: float = 600.0
    """Duration of one video in seconds."""

    max_video_frames: int = 18_000
    """Frames decoded from one video, kept or not."""

    max_video_pixels: int = 100_000_000
    """Pixels of all frames kept together (3 bytes each)."""

    max_text_bytes: int = 64 * 2**20
    """Size of a text file in bytes."""

    max_text_characters: int = 16_000_000
    """Characters of one text."""

    max_fasta_bytes: int = 2 * 2**30
    """Size of a FASTA file in bytes, after decompression too. Records are read one at a time."""

    max_record_bases: int = 100_000_000
    """Bases of one FASTA record."""

    max_ratio: int = 1000
    """Decompressed over compressed size of a .gz file."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ConfigError(f"`{item.name}` must be above 0, but is {value}.")


DEFAULT_LIMITS = MediaLimits()
"""The limits that readers use unless told otherwise."""
