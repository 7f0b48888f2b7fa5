"""Speech from text by two synthesizers, eSpeak NG and Flite, called as programs.

A voice is an engine, its voice name, and the speed and pitch that make it sound like another
person. Both programs are run with argument lists and a time limit; what they say comes back as
16 kHz int16. Nothing here chooses what is said.
"""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.errors import BackendUnavailableError, DataError

SAMPLE_RATE_HZ = 16_000
_TIMEOUT_SECONDS = 20.0
_SILENCE = 0.004
_MARGIN_SECONDS = 0.03


@dataclass(frozen=True)
class Voice:
    """One voice of a synthesizer.

    Attributes:
        name: Our name for it, `ENGINE/VOICE`.
        engine: `espeak` or `flite`.
        voice: The engine's own name (`en-us+f3`, `slt`).
    """

    name: str
    engine: str
    voice: str


def espeak(voice: str) -> Voice:
    """A voice of eSpeak NG: a language, `+` and a variant."""
    return Voice(f"espeak/{voice}", "espeak", voice)


def flite(voice: str) -> Voice:
    """A voice of Flite."""
    return Voice(f"flite/{voice}", "flite", voice)


ESPEAK_VOICES = tuple(
    espeak(f"{language}+{variant}")
    for language, variants in {
        "en-us": "m1 m3 m7 f1 f3 f5 Andy Alicia belinda klatt2 steph2 Michael Mike shelby",
        "en": "m2 m4 f2 f4 Annie david linda robert",
        "en-gb-scotland": "m5 m8 Andrea",
        "en-gb-x-rp": "m6 anika john",
        "en-029": "Lee aunty",
        "en-us-nyc": "edward Denis",
    }.items()
    for variant in variants.split()
)
"""32 voices of eSpeak NG that are easy to tell apart."""

FLITE_VOICES = tuple(flite(voice) for voice in ("slt", "rms", "awb", "kal16"))
"""The voices of Flite that speak any text at 16 kHz: one synthetic, three built from recordings."""


def require_synthesizers() -> None:
    """Check that both programs can be run.

    Raises:
        BackendUnavailableError: naming what is missing and how to get it.
    """
    missing = [program for program in ("espeak-ng", "flite") if shutil.which(program) is None]
    if missing:
        raise BackendUnavailableError(
            f"Speech is synthesised by `espeak-ng` and `flite`, but there is no `{missing[0]}`.",
            remedy=f"Install {' and '.join(missing)} with the system's package manager, e.g. "
            f"`apt-get install {' '.join(missing)}`.",
        )


def check_distinct(voices: Sequence[Voice]) -> None:
    """Check that no two voices sound the same: an engine without a variant may drop it silently.

    Raises:
        BackendUnavailableError: naming two voices that do.
    """
    heard: dict[bytes, str] = {}
    for voice in voices:
        sound = synthesize("one red apple", voice).tobytes()
        if sound in heard:
            raise BackendUnavailableError(
                f"Voices `{heard[sound]}` and `{voice.name}` sound the same in this installation.",
                remedy="Install the whole voice data of eSpeak NG 1.51 or later.",
            )
        heard[sound] = voice.name


def synthesize(
    text: str, voice: Voice, *, speed: float = 1.0, pitch: float = 1.0
) -> NDArray[np.int16]:
    """Say `text`.

    Args:
        text: What is said; non-empty, one line.
        voice: Who says it.
        speed: Rate, 1 is the voice's own; 0.5 to 2.
        pitch: Pitch, 1 is the voice's own; 0.5 to 1.5.

    Returns:
        int16 [T] at 16 kHz, silence at both ends cut to 30 ms, loudest sample at 0.6.

    Raises:
        BackendUnavailableError: if the program is missing.
        DataError: if it fails, hangs, or says nothing.
    """
    with tempfile.TemporaryDirectory(prefix="speech-") as work:
        file = Path(work) / "clip.wav"
        if voice.engine == "espeak":
            rate, tone = str(round(165 * speed)), str(round(50 * pitch))
            options = ["-v", voice.voice, "-s", rate, "-p", tone]
            command = ["espeak-ng", *options, "-w", str(file), "--", text]
        else:
            command = ["flite", "-voice", voice.voice]
            command += ["--setf", f"duration_stretch={1 / speed:.3f}"]
            if voice.voice.startswith("kal"):
                command += ["--setf", f"int_f0_target_mean={105 * pitch:.1f}"]
            command += ["-t", text, "-o", str(file)]
        try:
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                stdin=subprocess.DEVNULL,
            )
            data = file.read_bytes()
        except FileNotFoundError:
            require_synthesizers()
            raise DataError(
                f"`{command[0]}` wrote no file.",
                subject=text,
                remedy="Check that it can write to the temporary folder.",
            ) from None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise DataError(
                f"`{command[0]}` could not say it ({type(error).__name__}).",
                subject=text,
                remedy="Try the program by hand on this text; another version may help.",
            ) from None
    samples = _resample(*_read_wave(data, text))
    if voice.engine == "flite" and pitch != 1.0 and not voice.voice.startswith("kal"):
        # The recorded voices have no pitch control: play them faster or slower instead.
        samples = _resample(samples, round(SAMPLE_RATE_HZ * pitch))
    return _trim(samples, text)


def _read_wave(data: bytes, text: str) -> tuple[NDArray[np.float32], int]:
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"The synthesizer's file cannot be read ({error}).",
            subject=text,
            remedy="Check that the disk is not full, and install the program again.",
        ) from None
    return np.asarray(samples.mean(axis=1), np.float32), int(rate)


def _resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """To 16 kHz by the exact spectrum: clips are short, so one FFT does it."""
    if rate == SAMPLE_RATE_HZ or len(samples) == 0:
        return samples
    number = max(1, round(len(samples) * SAMPLE_RATE_HZ / rate))
    spectrum: NDArray[Any] = np.fft.rfft(samples)
    return np.asarray(np.fft.irfft(spectrum[: number // 2 + 1], number), np.float32) * (
        number / len(samples)
    )


def _trim(samples: NDArray[np.float32], text: str) -> NDArray[np.int16]:
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if peak < 1e-3:
        raise DataError(
            "The synthesizer said nothing.",
            subject=text,
            remedy="Leave a text without speakable words out.",
        )
    loud = np.nonzero(np.abs(samples) > _SILENCE * peak / 0.6)[0]
    margin = round(_MARGIN_SECONDS * SAMPLE_RATE_HZ)
    kept = samples[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin]
    return np.asarray(np.rint(kept * (0.6 / peak) * 32767), np.int16)
