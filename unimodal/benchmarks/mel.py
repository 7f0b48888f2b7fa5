"""Log-mel features against openai-whisper and torchaudio, speed and numbers in one run.

    python -m unimodal.benchmarks.mel [--json PATH] [--repeats 15] [--mels 80] [--threads N]

Two loads: one clip of 30 s, and a batch of short clips, which openai-whisper's way pads to 30 s
each. The clips are sweeps in noise, made from a seed. Each row gives the minimum and the median of
the repeats, taken in turns, and the largest difference from openai-whisper's features. torchaudio
is run with its Slaney settings; its bank is built in float32, which the difference shows. Libraries
that are not installed are left out and named.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import BackendUnavailableError, CertificateError, run_module
from unimodal.kernels.log_mel import SAMPLE_RATE_HZ, log_mel
from unimodal.media import torchaudio_adapter

TOLERANCE = 1e-5
"""Largest difference from openai-whisper at which our speed may be reported."""

Runner = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """One implementation on one load: milliseconds for the whole load, and its error."""

    load: str
    name: str
    minimum_ms: float
    median_ms: float
    speed_against_whisper: float | None
    """Whisper's minimum time over this one's."""
    max_difference: float | None
    """Largest absolute difference from openai-whisper's features of the same unpadded clips."""


def make_clips(seconds: list[float], seed: int = 0) -> list[Tensor]:
    """Sweeps from 100 Hz in noise, float32 at 16 kHz."""
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for duration in seconds:
        t = torch.arange(int(duration * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        tone = torch.sin(2 * torch.pi * (100 + 1500 * t / duration) * t)
        noise = torch.randn(len(t), generator=generator)
        clips.append(0.3 * tone + 0.01 * noise)
    return clips


def ours(num_mels: int) -> Runner:
    """All clips in one call."""
    return lambda clips: log_mel(clips, num_mels)


def whisper(num_mels: int, pad: bool) -> Runner | None:
    """openai-whisper, clip by clip, as its `transcribe` does with `pad`; None if not installed."""
    try:
        from whisper import audio
    except ImportError:
        return None

    def run(clips: list[Tensor]) -> list[Tensor]:
        ready = [audio.pad_or_trim(clip) for clip in clips] if pad else clips
        return [audio.log_mel_spectrogram(clip, num_mels).T for clip in ready]

    return run


def torchaudio(num_mels: int) -> Runner | None:
    """torchaudio's MelSpectrogram with Slaney settings, clip by clip; None if not installed."""
    try:
        package: Any = torchaudio_adapter.load()
    except BackendUnavailableError:
        return None
    spectrogram = package.transforms.MelSpectrogram(
        SAMPLE_RATE_HZ, n_fft=400, hop_length=160, n_mels=num_mels, norm="slaney",
        mel_scale="slaney", f_min=0.0, f_max=8000.0,
    )  # fmt: skip

    def run(clips: list[Tensor]) -> list[Tensor]:
        features = []
        for clip in clips:
            decades = spectrogram(clip)[:, :-1].clamp(min=1e-10).log10()
            features.append(((decades.clamp(min=decades.max() - 8.0) + 4.0) / 4.0).T)
        return features

    return run


def compare(
    load: str, clips: list[Tensor], runners: dict[str, Runner | None], exact: Runner | None, n: int
) -> list[Row]:
    """Time the runners in turns and measure each against `exact`."""
    present = {name: run for name, run in runners.items() if run is not None}
    times: dict[str, list[float]] = {name: [] for name in present}
    for run in present.values():
        run(clips)
    for _ in range(n):
        for name, run in present.items():
            start = time.perf_counter()
            run(clips)
            times[name].append(1000 * (time.perf_counter() - start))
    wanted = exact(clips) if exact else None
    base = min(times["openai-whisper"]) if "openai-whisper" in times else None
    rows = []
    for name, run in present.items():
        got, difference = run(clips), None
        if wanted is not None and [x.shape for x in got] == [x.shape for x in wanted]:
            difference = max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))
        best = min(times[name])
        ratio = None if base is None else base / best
        rows.append(Row(load, name, best, statistics.median(times[name]), ratio, difference))
    return rows


def benchmark(num_mels: int, repeats: int) -> list[Row]:
    """Both loads.

    Raises:
        CertificateError: If our features miss openai-whisper's by more than 1e-5.
    """
    exact = whisper(num_mels, pad=False)
    loads = {
        "30 s": [30.0],
        "32 clips of 1 to 4 s": [1.0 + 3.0 * i / 31 for i in range(32)],
        "64 clips of 0.3 to 0.6 s": [0.3 + 0.3 * i / 63 for i in range(64)],
    }
    rows = []
    for load, seconds in loads.items():
        runners = {
            "unimodal": ours(num_mels),
            "openai-whisper": whisper(num_mels, pad=True),
            "torchaudio": torchaudio(num_mels),
        }
        if len(seconds) > 1:
            runners["openai-whisper, not padded"] = exact
        rows += compare(load, make_clips(seconds), runners, exact, repeats)
    for row in rows:
        if row.name == "unimodal" and (row.max_difference or 0.0) > TOLERANCE:
            raise CertificateError(
                f"The features miss openai-whisper's by {row.max_difference:.1e}, over {TOLERANCE}."
            )
    return rows


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description="Log-mel features: speed and numbers.")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--mels", type=int, default=80, choices=(80, 128))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = benchmark(options.mels, options.repeats)
    print(f"{options.mels} mels, {options.threads} threads, torch {torch.__version__}")
    print(
        f"{'load':26} {'implementation':28} {'min ms':>9} {'median':>9} {'speed':>7} {'error':>9}"
    )
    for row in rows:
        speed = "" if row.speed_against_whisper is None else f"{row.speed_against_whisper:.2f}x"
        error = "" if row.max_difference is None else f"{row.max_difference:.1e}"
        print(
            f"{row.load:26} {row.name:28} {row.minimum_ms:9.2f} {row.median_ms:9.2f} "
            f"{speed:>7} {error:>9}"
        )
    for name in sorted({"openai-whisper", "torchaudio"} - {row.name for row in rows}):
        print(f"{name} is not installed and was left out.")
    if options.json:
        about = {
            "torch": torch.__version__,
            "threads": options.threads,
            "mels": options.mels,
            "processor": platform.processor() or platform.machine(),
        }
        report = {**about, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_module(main)
