"""Samples on a TensorBoard: what the report shows of a value, as pictures, sound and text.

A modality says how a value looks by `show`, an HTML fragment with its media inside; what stands in
it is written to the board, so every modality that has a report has samples on the board, too.
"""

import base64
import html
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import UnimodalError
from unimodal.media import read_audio

log = logging.getLogger(__name__)
NUM_SHOWN = 4
"""Samples of each task."""
MAX_FRAMES = 8
"""Frames of moving pictures that are shown side by side."""


class SampleBoard(Protocol):
    """The part of a TensorBoard writer that samples need."""

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None:
        """Record a picture."""
        ...

    def add_audio(self, tag: str, snd_tensor: Any, global_step: int, sample_rate: int) -> None:
        """Record a sound."""
        ...

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """Record Markdown."""
        ...


def write_samples(
    board: SampleBoard, samples: Mapping[str, Sequence[Mapping[str, Any]]], step: int
) -> None:
    """Write samples to a board: `TASK/NUMBER`, and `TASK/NUMBER/PART` for each picture and sound.

    Args:
        board: Where.
        samples: Of each task, as `unimodal.report.gather` makes them; the first few are written.
        step: Of training.
    """
    for task, several in samples.items():
        for number, sample in enumerate(several[:NUM_SHOWN]):
            tag, lines = f"{task}/{number}", []
            for part, fragment in _parts(sample):
                found = _Media()
                found.feed(fragment)
                found.close()
                for kind, data in found.media:
                    try:
                        _write_media(board, f"{tag}/{part}", kind, data, step)
                    except (UnimodalError, OSError, ValueError) as error:
                        log.warning("A sample of `%s` is not on the board: %s", task, error)
                if text := " ".join("".join(found.text).split()):
                    lines.append(f"**{part}**: {html.escape(text, quote=False)}")
            board.add_text(tag, "\n\n".join(lines), step)


def _parts(sample: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for given in sample["given"]:
        yield f"given {given['modality']}", given["html"]
    for name in ("truth", "answer"):
        if name in sample:
            yield name, sample[name]


def _write_media(board: SampleBoard, tag: str, kind: str, data: bytes, step: int) -> None:
    if kind == "audio":
        sound = read_audio(data)
        board.add_audio(tag, sound.samples[None], step, sound.sample_rate_hz)
    else:
        board.add_image(tag, _side_by_side(data), step, dataformats="HWC")


def _side_by_side(data: bytes) -> NDArray[np.uint8]:
    """The picture, or evenly chosen frames of moving ones in a row. uint8 (h, w, 3)."""
    from PIL import Image as Picture

    with Picture.open(io.BytesIO(data)) as file:
        count = getattr(file, "n_frames", 1)
        frames = []
        for number in np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int):
            file.seek(int(number))
            frames.append(np.asarray(file.convert("RGB")))
    return np.concatenate(frames, axis=1)


_SHOWN = ("data:image/", "data:audio/")
"""What TensorBoard shows, by how an address of encoded data begins."""


class _Media(HTMLParser):
    """Pictures and sound that lie inside a fragment, and its text.

    Attributes:
        media: (`image` or `audio`, encoded bytes).
        text: Pieces of text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.media: list[tuple[str, bytes]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        head, _, encoded = (dict(attrs).get("src") or "").partition(";base64,")
        kind = head.removeprefix("data:").partition("/")[0]
        if encoded and head.startswith(_SHOWN):
            self.media.append((kind, base64.b64decode(encoded)))
        elif tag == "br":
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        self.text.append(data)
