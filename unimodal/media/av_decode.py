"""The PyAV side of the decoder: sound tracks of MP4 and Matroska, G.722, and frames of videos.

Demuxer and codec are named from allow-lists, never probed; frame sizes are capped inside FFmpeg
before it allocates, and everything decodes on one thread of the caller.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import av.logging
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from unimodal.errors import MediaError
from unimodal.media.audio import check_block, check_header
from unimodal.media.containers import check_complete
from unimodal.media.image import check_size
from unimodal.media.limits import MediaLimits
from unimodal.media.sources import Content, cut

_DEMUXERS = {"MP4": "mov", "MATROSKA": "matroska", "AVI": "avi", "GIF": "gif", "G722": "g722"}
_AUDIO_CODECS = frozenset(
    "aac alac ac3 flac mp3 mp3float opus libopus vorbis libvorbis pcm_s16le pcm_s16be pcm_f32le "
    "pcm_s24le pcm_u8 g722".split()
)
_VIDEO_CODECS = frozenset(
    "h264 hevc av1 libdav1d vp8 vp9 libvpx libvpx-vp9 mpeg4 msmpeg4v2 msmpeg4 mjpeg ffv1 rawvideo "
    "gif png prores".split()
)

logging.getLogger("libav").setLevel(logging.CRITICAL)


@contextmanager
def _opened(content: Content, limits: MediaLimits) -> Iterator[InputContainer]:
    """An open container with FFmpeg's errors turned into ours."""
    check_complete(content)
    try:
        with av.open(
            io.BytesIO(content.data),
            format=_DEMUXERS[content.format],
            options={"max_pixels": str(limits.max_image_pixels)},
        ) as container:
            assert isinstance(container, InputContainer)
            yield container
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, EOFError, MemoryError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else ""
        raise cut(
            content.name, f"{content.format} does not decode ({type(error).__name__}: {reason})"
        ) from None


def decode_audio(content: Content, limits: MediaLimits) -> tuple[NDArray[np.float32], int]:
    """The first sound track as mono float32 and its rate.

    Raises:
        MediaError: If there is none, its codec is not accepted, it is cut or over a limit.
    """
    with _opened(content, limits) as container:
        if not container.streams.audio:
            raise MediaError(
                "The file has no sound track.",
                subject=content.name,
                remedy="Give a sound file, or a video with sound.",
            )
        stream = container.streams.audio[0]
        _check_codec(content, stream.codec_context.name, _AUDIO_CODECS)
        rate, channels = int(stream.rate or 0), int(stream.channels)
        declared = _seconds(stream.duration, stream.time_base)
        check_header(content.name, rate, channels, int(declared * rate), limits)
        stream.codec_context.thread_count = 1
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        blocks: list[NDArray[np.float32]] = []
        count = 0
        for frame in _audio_frames(container, resampler):
            mono = frame.to_ndarray().mean(axis=0, dtype=np.float32)
            count += len(mono)
            check_header(content.name, rate, channels, count, limits)
            blocks.append(check_block(content.name, mono, limits))
    if count == 0:
        raise cut(content.name, "the sound has no samples")
    if count < 0.95 * declared * rate - 4096:
        raise cut(content.name, f"it declares {declared:.2f} s and {count / rate:.2f} s decode")
    return np.concatenate(blocks), rate


def _seconds(duration: int | None, time_base: Fraction | None) -> float:
    """Seconds that a stream declares; 0 if it declares none."""
    return float(duration * time_base) if duration and time_base else 0.0


def _audio_frames(container: InputContainer, resampler: av.AudioResampler) -> Iterator[AudioFrame]:
    """Decoded frames as planar float."""
    for frame in container.decode(audio=0):
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def decode_video(
    content: Content,
    limits: MediaLimits,
    frame_rate_hz: float | None,
    size: tuple[int, int] | None,
) -> tuple[NDArray[np.uint8], float]:
    """Frames uint8 [t, h, w, 3] and their rate; see `read_video`."""
    with _opened(content, limits) as container:
        if not container.streams.video:
            raise MediaError(
                "The file has no video track.",
                subject=content.name,
                remedy="Read it with `read_audio`.",
            )
        stream = container.streams.video[0]
        _check_codec(content, stream.codec_context.name, _VIDEO_CODECS)
        width, height = stream.codec_context.width, stream.codec_context.height
        if width == 0 or height == 0:  # what FFmpeg makes of more than `max_pixels`
            raise MediaError(
                f"A frame may have 1 to {limits.max_image_pixels:,} pixels, which is not what the "
                "header declares.",
                subject=content.name,
                remedy="Scale the video down, or raise `max_image_pixels` in `MediaLimits`.",
            )
        check_size(content.name, width, height, limits)
        source_rate = float(stream.average_rate or stream.guessed_rate or 0.0)
        if not 0.01 <= source_rate <= 10_000:
            raise MediaError(
                f"A frame rate lies between 0.01 and 10,000 Hz, but the header says {source_rate}.",
                subject=content.name,
                remedy="Encode the video again.",
            )
        _check_length(content.name, stream.frames, (container.duration or 0) / 1e6, limits)
        stream.codec_context.thread_count = 1
        kept = _Frames(content.name, limits, size)
        sampler = _Sampler(kept, source_rate, frame_rate_hz)
        for frame in container.decode(video=0):
            if frame.is_corrupt:
                raise cut(content.name, f"frame {sampler.decoded + 1:,} is corrupt")
            sampler.add(frame)
            _check_length(content.name, sampler.decoded, sampler.seconds, limits)
        declared = stream.frames
    sampler.finish()
    if sampler.decoded == 0:
        raise cut(content.name, "the video has no frames")
    if sampler.decoded < 0.95 * declared - 2:
        raise cut(content.name, f"it declares {declared:,} frames and {sampler.decoded:,} decode")
    return kept.take(), frame_rate_hz or source_rate


class _Frames:
    """A growing array of converted frames, within the limit on kept pixels."""

    def __init__(self, name: str, limits: MediaLimits, size: tuple[int, int] | None) -> None:
        self.name, self.limits, self.size = name, limits, size
        self.count = 0
        self.array: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame as upright RGB at the wanted size."""
        check_size(self.name, frame.width, frame.height, self.limits)
        turns = round(frame.rotation / 90) % 4
        height, width = self.size or (frame.height, frame.width)
        if self.size and turns % 2:
            height, width = width, height
        shown: NDArray[np.uint8] = frame.reformat(
            width=width, height=height, format="rgb24"
        ).to_ndarray()  # type: ignore[assignment]
        return np.rot90(shown, turns) if turns else shown

    def append(self, pixels: NDArray[np.uint8]) -> None:
        """Keep one frame."""
        if self.count == 0:
            self.array = np.empty((1, *pixels.shape), np.uint8)
        if pixels.shape != self.array.shape[1:]:
            raise MediaError(
                f"Frame {self.count + 1:,} has {pixels.shape[1]} x {pixels.shape[0]} pixels, those "
                f"before {self.array.shape[2]} x {self.array.shape[1]}.",
                subject=self.name,
                remedy="Encode the video again at one size.",
            )
        per_frame = pixels.shape[0] * pixels.shape[1]
        most = self.limits.max_video_pixels // per_frame
        if self.count >= most:
            raise MediaError(
                f"A video may have {self.limits.max_video_pixels:,} pixels in all frames kept, but "
                f"this one has over {most:,} frames of {pixels.shape[1]} x {pixels.shape[0]}.",
                subject=self.name,
                remedy="Read it with `size=` or `frame_rate_hz=`, shorten it, or raise "
                "`max_video_pixels`.",
            )
        if self.count == len(self.array):
            self.array.resize((min(most, 2 * self.count + 1), *pixels.shape), refcheck=False)
        self.array[self.count] = pixels
        self.count += 1

    def take(self) -> NDArray[np.uint8]:
        """The frames kept, without slack."""
        self.array.resize((self.count, *self.array.shape[1:]), refcheck=False)
        return self.array


class _Sampler:
    """Chooses the frames to keep: all, or those shown at multiples of 1 / `rate` seconds."""

    def __init__(self, kept: _Frames, source_rate: float, rate: float | None) -> None:
        self.kept, self.source_rate, self.rate = kept, source_rate, rate
        self.decoded = 0
        self.seconds = 0.0
        self._start: float | None = None
        self._previous: VideoFrame | None = None

    def add(self, frame: VideoFrame) -> None:
        """Take the next decoded frame."""
        time = frame.time if frame.pts is not None else self.decoded / self.source_rate
        self._start = time if self._start is None else self._start
        self.decoded += 1
        if self.rate is None:
            self.kept.append(self.kept.convert(frame))
        else:
            self._show_until(time - self._start)
            self._previous = frame
        self.seconds = time - self._start + 1.0 / self.source_rate

    def finish(self) -> None:
        """Show the last frame for its duration."""
        self._show_until(self.seconds)

    def _show_until(self, time: float) -> None:
        if self._previous is None or self.rate is None:
            return
        pixels: NDArray[np.uint8] | None = None
        while self.kept.count / self.rate < time - 1e-6:
            pixels = self.kept.convert(self._previous) if pixels is None else pixels
            self.kept.append(pixels)


def _check_codec(content: Content, name: str, accepted: frozenset[str]) -> None:
    if name not in accepted:
        raise MediaError(
            f"Codec {name!r} is not accepted.",
            subject=content.name,
            remedy="Encode it as H.264 with AAC.",
        )


def _check_length(name: str, frames: int, seconds: float, limits: MediaLimits) -> None:
    """Raise MediaError unless a video of this length is within the limits."""
    if frames > limits.max_video_frames or seconds > limits.max_video_seconds:
        raise MediaError(
            f"A video may have {limits.max_video_frames:,} frames and last "
            f"{limits.max_video_seconds:g} s, but this one has {frames:,} and {seconds:,.1f} s.",
            subject=name,
            remedy="Split it, or raise the video limits in `MediaLimits`.",
        )
