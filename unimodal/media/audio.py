"""Sound: read any accepted format as mono float32, write WAV, FLAC, OGG or MP3.

soundfile (libsndfile) decodes WAV, FLAC, OGG and MP3 block by block; M4A, the sound of a video and
G.722 go through PyAV. Nothing is resampled here: `unimodal.media.torchaudio_adapter.resample` does.
"""

import io
import os

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from unimodal.errors import MediaError
from unimodal.media.audio_containers import declared_frames
from unimodal.media.limits import DEFAULT_LIMITS, MediaLimits
from unimodal.media.sources import AUDIO_FORMATS, Content, Source, cut, load
from unimodal.media.values import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, Audio

_BLOCK = 2**18
_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}


def read_audio(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> Audio:
    """Read a sound and mix its channels to mono by their mean.

    Args:
        source: Path or bytes of a WAV, FLAC, OGG (Vorbis, Opus), MP3, M4A, of an MP4 or WebM with
            a sound track, or the path of a `.g722` file.
        limits: Caps on bytes, seconds, samples and channels.

    Returns:
        Samples in [-1, 1] at the file's own rate; small overshoots are clipped.

    Raises:
        MediaError: If the file is missing, cut, without sound, of another format, over a limit, at
            a rate that no converter has, or holds samples that are not finite or not scaled.
    """
    content = load(source, limits.max_file_bytes, AUDIO_FORMATS, "a sound")
    if content.format in ("MP4", "MATROSKA", "G722"):
        from unimodal.media.av_decode import decode_audio

        samples, rate = decode_audio(content, limits)
    else:
        samples, rate = _decode(content, limits)
    return Audio(torch.from_numpy(samples), rate)


def write_audio(audio: Audio, path: str | os.PathLike[str]) -> None:
    """Write a sound as 16-bit WAV or FLAC, OGG Vorbis or MP3, by the extension of `path`.

    Samples outside [-1, 1] are clipped.

    Raises:
        MediaError: If the extension is none of them, or the file cannot be written.
    """
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in _SUBTYPES:
        raise MediaError(
            f"A sound is written as {', '.join(_SUBTYPES)}, but the path ends in {suffix!r}.",
            subject=name,
            remedy="Choose another ending.",
        )
    samples = audio.samples.detach().clamp(-1.0, 1.0).cpu().numpy()
    try:
        soundfile.write(name, samples, audio.sample_rate_hz, subtype=_SUBTYPES[suffix])
    except (OSError, soundfile.SoundFileError) as error:
        reason = getattr(error, "error_string", type(error).__name__)
        raise MediaError(
            f"The file cannot be written ({reason}).",
            subject=name,
            remedy="Check its folder, permissions and the space on the disk.",
        ) from None


def check_header(name: str, rate: int, channels: int, frames: int, limits: MediaLimits) -> None:
    """Raise MediaError unless rate, channels and length (0 if unknown) are within the limits."""
    if not MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ:
        raise MediaError(
            f"A sample rate lies between {MIN_SAMPLE_RATE_HZ} and {MAX_SAMPLE_RATE_HZ:,} Hz, but "
            f"the header says {rate:,}.",
            subject=name,
            remedy="The header is forged or damaged: export the file again.",
        )
    if not 1 <= channels <= limits.max_audio_channels:
        raise MediaError(
            f"A sound may have 1 to {limits.max_audio_channels} channels, but this one has "
            f"{channels}.",
            subject=name,
            remedy="Extract the channels that matter.",
        )
    if frames > limits.max_audio_seconds * rate or frames > limits.max_audio_samples:
        raise MediaError(
            f"A sound may last {limits.max_audio_seconds:g} s and have "
            f"{limits.max_audio_samples:,} samples a channel, but this one has {frames:,} at "
            f"{rate:,} Hz ({frames / rate:,.0f} s).",
            subject=name,
            remedy="Split it, or raise `max_audio_seconds` or `max_audio_samples`.",
        )


def check_block(name: str, block: NDArray[np.float32], limits: MediaLimits) -> NDArray[np.float32]:
    """Clip a mono block to [-1, 1]; raise MediaError if it is not finite or not scaled."""
    peak = float(np.abs(block).max()) if block.size else 0.0
    if not np.isfinite(peak):
        raise MediaError(
            "The samples hold NaN or infinity.", subject=name, remedy="Export the file again."
        )
    if peak > limits.max_overshoot:
        raise MediaError(
            f"Samples lie in [-1, 1], overshoots up to {limits.max_overshoot:g} are clipped, but "
            f"this file has {peak:.3g}.",
            subject=name,
            remedy="Scale the samples before writing them as float.",
        )
    return np.clip(block, -1.0, 1.0) if peak > 1.0 else block


def _decode(content: Content, limits: MediaLimits) -> tuple[NDArray[np.float32], int]:
    """Mono samples and rate by libsndfile, with the declared length compared."""
    declared = declared_frames(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content.data)) as file:
            rate, expected = int(file.samplerate), declared or int(file.frames)
            known = expected if expected < 2**62 else 0
            check_header(content.name, rate, file.channels, known, limits)
            samples = _read_blocks(file, content.name, limits)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", type(error).__name__)
        raise cut(content.name, f"{content.format} does not decode ({reason})") from None
    if len(samples) == 0:
        raise MediaError(
            "The sound has no samples.", subject=content.name, remedy="Record or fetch it again."
        )
    if declared is not None and len(samples) != declared:
        raise cut(content.name, f"it declares {declared:,} samples and {len(samples):,} decode")
    return samples, rate


def _read_blocks(file: soundfile.SoundFile, name: str, limits: MediaLimits) -> NDArray[np.float32]:
    """Decode block by block into one growing array, checking each block."""
    most = int(min(limits.max_audio_samples, limits.max_audio_seconds * file.samplerate))
    step = max(1, _BLOCK // file.channels)
    samples, count = np.empty(step, np.float32), 0
    while True:
        block = file.read(step, dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        if count + len(block) > most:
            check_header(name, file.samplerate, file.channels, count + len(block), limits)
        mono = block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32)
        if count + len(block) > len(samples):
            samples.resize(min(most, 2 * len(samples) + len(block)), refcheck=False)
        samples[count : count + len(block)] = check_block(name, mono, limits)
        count += len(block)
    samples.resize(count, refcheck=False)
    return samples
