"""The log-mel benchmark: numbers beside speed, and no speed while the numbers are wrong."""

import pytest
import torch

from unimodal.benchmarks import mel
from unimodal.errors import CertificateError

CLIPS = mel.make_clips([0.3, 0.2])


def test_each_implementation_gets_time_and_error() -> None:
    pytest.importorskip("whisper.audio")
    runners = {"unimodal": mel.ours(80), "openai-whisper": mel.whisper(80, pad=True)}
    rows = mel.compare("two clips", CLIPS, runners, mel.whisper(80, pad=False), 2)
    assert [row.name for row in rows] == ["unimodal", "openai-whisper"]
    assert all(0.0 < row.minimum_ms <= row.median_ms for row in rows)
    assert rows[0].max_difference is not None
    assert rows[0].max_difference <= mel.TOLERANCE
    assert rows[1].max_difference is None  # padded to 30 s: another shape


def test_wrong_features_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("whisper.audio")
    monkeypatch.setattr(mel, "make_clips", lambda seconds: CLIPS[:1])
    monkeypatch.setattr(
        mel, "ours", lambda num_mels: lambda clips: [torch.zeros(len(c) // 160, 80) for c in clips]
    )
    with pytest.raises(CertificateError, match="miss"):
        mel.benchmark(80, 1)
