"""Sources over arrays: pictures in one array, clips end to end in one array, rows of facts.

Recipes and embedded sets share them. Arrays may be mapped files (`MappedArray`) or in memory;
only the record that is asked for becomes a value. Nothing here knows where the data came from.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unimodal.data.sources import BaseSource, Record


class Array(Protocol):
    """What sources index: an array in memory, a mapped file, or a file decoded on first use."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class ImageTable(BaseSource):
    """Pictures of one size with their facts; record: `{"id", "image", **facts}`.

    Args:
        pixels: uint8 [n, h, w] (grey) or [n, h, w, 3].
        rows: Facts of the records, each with an `id` and the picture's index under `picture`.
        name: See `Source`.
        license: See `Source`; a row's own `license` wins.
        split: See `Source`.
        field: The record's key for the picture.
    """

    def __init__(
        self,
        pixels: Array,
        rows: Sequence[Mapping[str, Any]],
        *,
        name: str,
        license: str,
        split: str,
        field: str = "image",
    ):
        super().__init__(name, license, split)
        self._pixels, self._rows, self._field = pixels, rows, field

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        row = dict(self._rows[index])
        row[self._field] = to_image(self._pixels[row.pop("picture")])
        return row


class ClipTable(BaseSource):
    """Clips of one sample rate with their facts; record: `{"id", "speech", **facts}`.

    Args:
        samples: int16 [sum of lengths], all clips end to end.
        rows: Facts, each with an `id`, `start` and `length` in samples.
        sample_rate_hz: Sample rate of all clips.
        name: See `Source`.
        license: See `Source`.
        split: See `Source`.
        field: The record's key for the sound.
    """

    def __init__(
        self,
        samples: Array,
        rows: Sequence[Mapping[str, Any]],
        *,
        sample_rate_hz: int,
        name: str,
        license: str,
        split: str,
        field: str = "speech",
    ):
        super().__init__(name, license, split)
        self._samples, self._rows, self._field = samples, rows, field
        self.sample_rate_hz = sample_rate_hz

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        import torch

        from unimodal.media.values import Audio

        row = dict(self._rows[index])
        start, length = row.pop("start"), row.pop("length")
        samples = np.asarray(self._samples[start : start + length], np.float32) / 32768.0
        row[self._field] = Audio(torch.from_numpy(samples), self.sample_rate_hz)
        return row


def to_image(pixels: NDArray[np.uint8]) -> Any:
    """`Image` of uint8 [h, w] (grey) or [h, w, 3]; the array is copied."""
    import torch

    from unimodal.media.values import Image

    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return Image(torch.from_numpy(np.array(pixels, np.uint8)))
