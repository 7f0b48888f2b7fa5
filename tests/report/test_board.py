"""Samples reach TensorBoard as pictures, sound and text, whatever modality shows them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.media import Audio, Image, Video
from unimodal.modality import build_modality
from unimodal.report.board import MAX_FRAMES, NUM_SHOWN, write_samples
from unimodal.training.metrics import open_board


def shown(name: str, value: Any) -> dict[str, str]:
    return {"modality": name, "html": build_modality(name).show(value)}


def samples() -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (6, 5, 3), np.uint8))
    frames = torch.from_numpy(rng.integers(0, 256, (20, 4, 7, 3), np.uint8))
    sound = torch.from_numpy(rng.normal(0, 0.1, 1600).astype(np.float32))
    given = [
        shown("image", Image(pixels)),
        shown("video", Video(frames, 8.0)),
        shown("speech", Audio(sound, 16_000)),
        shown("dna", "ACGTN"),
    ]
    broken = {"modality": "image", "html": '<img src="data:image/png;base64,AAAA">'}
    sample = {"given": given, "truth": "a &lt;b&gt;<br>c", "answer": "<em>(empty)</em>"}
    return {"job": [sample] * (NUM_SHOWN + 1), "odd": [{"given": [broken], "truth": "x"}]}


def test_samples_are_pictures_sound_and_text(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = open_board(tmp_path, 0)
    assert board is not None
    write_samples(board, samples(), 7)
    board.close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    tags = found.Tags()
    assert len(tags["images"]) == 2 * NUM_SHOWN
    [picture] = found.Images("job/0/given image")
    assert (picture.height, picture.width, picture.step) == (6, 5, 7)
    [strip] = found.Images("job/0/given video")
    assert (strip.height, strip.width) == (4, 7 * MAX_FRAMES)
    [sound] = found.Audio("job/1/given speech")
    assert sound.sample_rate == 16_000
    assert sound.length_frames == 1600
    [text] = found.Tensors("job/0/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert "**given dna**: ACGTN" in words
    assert "**truth**: a &lt;b&gt; c" in words
    assert "**answer**: (empty)" in words
    assert "odd/0/text_summary" in tags["tensors"]
