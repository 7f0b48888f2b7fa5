"""Files to values and back: the one media decoder of loader, command line and library.

Every reader checks magic bytes, size, header and decoded content against `MediaLimits`, compares
the declared length with what was read, and raises `MediaError` naming file, rule and remedy.
"""

from unimodal.media.audio import read_audio, write_audio
from unimodal.media.fasta import FastaRecord, check_bases, read_fasta, write_fasta
from unimodal.media.image import image_from_array, read_image, write_image
from unimodal.media.limits import DEFAULT_LIMITS, MediaLimits
from unimodal.media.text import check_text, read_text, write_text
from unimodal.media.values import Audio, FileRef, Image, Video
from unimodal.media.video import read_video, write_video

__all__ = [
    "DEFAULT_LIMITS",
    "Audio",
    "FastaRecord",
    "FileRef",
    "Image",
    "MediaLimits",
    "Video",
    "check_bases",
    "check_text",
    "image_from_array",
    "read_audio",
    "read_fasta",
    "read_image",
    "read_text",
    "read_video",
    "write_audio",
    "write_fasta",
    "write_image",
    "write_text",
    "write_video",
]
