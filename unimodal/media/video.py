"""Moving pictures: read the frames of a video or an animated GIF, write MP4, Matroska or GIF.

PyAV decodes and encodes, imported when first needed; sound tracks are read by `read_audio`.
"""

import os
from fractions import Fraction

import torch

from unimodal.errors import ConfigError, MediaError
from unimodal.media.limits import DEFAULT_LIMITS, MediaLimits
from unimodal.media.sources import VIDEO_FORMATS, Source, load
from unimodal.media.values import Video

_CODECS = {".mp4": "libx264", ".mkv": "ffv1", ".gif": "gif"}


def read_video(
    source: Source,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    frame_rate_hz: float | None = None,
    size: tuple[int, int] | None = None,
) -> Video:
    """Read the frames of a video, rotation applied.

    Args:
        source: Path or bytes of an MP4, MOV, Matroska, WebM, AVI or GIF.
        limits: Caps on bytes, frames, seconds, pixels of a frame and of all frames kept.
        frame_rate_hz: Keep what is shown at multiples of 1 / this; all frames if None.
        size: Scale each frame to (height, width) while decoding; as stored if None.

    Raises:
        MediaError: If the file is missing, cut, without frames, of another format or codec, over a
            limit, or changes its frame size.
        ConfigError: If `frame_rate_hz` or `size` is not above 0.
    """
    if frame_rate_hz is not None and not 0.0 < frame_rate_hz <= 1000.0:
        raise ConfigError(f"`frame_rate_hz` must lie in (0, 1000], but is {frame_rate_hz}.")
    if size is not None and min(size) < 1:
        raise ConfigError(f"`size` must be at least (1, 1), but is {size}.")
    content = load(source, limits.max_file_bytes, VIDEO_FORMATS, "a video")
    from unimodal.media.av_decode import decode_video

    frames, rate = decode_video(content, limits, frame_rate_hz, size)
    return Video(torch.from_numpy(frames), rate)


def write_video(video: Video, path: str | os.PathLike[str]) -> None:
    """Write a video as H.264 (.mp4, lossy), FFV1 (.mkv, lossless) or palette GIF (.gif).

    Raises:
        MediaError: If the extension is none of them, or the file cannot be written.
    """
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in _CODECS:
        raise MediaError(
            f"A video is written as {', '.join(_CODECS)}, but the path ends in {suffix!r}.",
            subject=name,
            remedy="Choose another ending.",
        )
    try:
        if suffix == ".gif":
            _write_gif(video, name)
        else:
            _write_av(video, name, _CODECS[suffix])
    except OSError as error:
        raise MediaError(
            f"The file cannot be written ({type(error).__name__}).",
            subject=name,
            remedy="Check its folder, permissions and the space on the disk.",
        ) from None


def _write_gif(video: Video, name: str) -> None:
    import PIL.Image

    pictures = [PIL.Image.fromarray(frame.cpu().numpy()) for frame in video.frames]
    pictures[0].save(
        name,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / video.frame_rate_hz),
        loop=0,
    )


def _write_av(video: Video, name: str, codec: str) -> None:
    import av

    height, width = int(video.frames.shape[1]), int(video.frames.shape[2])
    lossy = "yuv444p" if height % 2 or width % 2 else "yuv420p"
    rate = Fraction(video.frame_rate_hz).limit_denominator(1001)
    with av.open(name, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = "bgr0" if codec == "ffv1" else lossy
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"crf": "18", "movflags": "+faststart"}
        for pixels in video.frames:
            frame = av.VideoFrame.from_ndarray(pixels.contiguous().cpu().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
