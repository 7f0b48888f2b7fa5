"""Log-mel features: checks, dispatch, the operator.

    power[f, k] = |sum_n hann[n] x[160 f + n - 200] exp(-2 pi i k n / 400)|^2     (ends reflected)
    d = log10(max(power @ bank, 1e-10));    features = (max(d, max(d) - 8) + 4) / 4

    features = log_mel(samples)         # float32 [T] at 16 kHz to float32 [T // 160, 80]
    features = log_mel([first, second]) # clips of any lengths, none padded

Resampling is not here. Tested against openai-whisper and float64 in tests/kernels/test_log_mel.py.
"""

import importlib
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.log_mel import cpu, reference
from unimodal.kernels.log_mel.bank import HOP_LENGTH, MIN_SAMPLES

dispatch.register("log_mel", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define("log_mel(Tensor samples, int[] lengths, int num_mels) -> Tensor")


@overload
def log_mel(samples: Tensor, num_mels: int = 80, *, impl: str | None = None) -> Tensor: ...


@overload
def log_mel(
    samples: Sequence[Tensor], num_mels: int = 80, *, impl: str | None = None
) -> list[Tensor]: ...


@torch.no_grad()
def log_mel(
    samples: Tensor | Sequence[Tensor], num_mels: int = 80, *, impl: str | None = None
) -> Tensor | list[Tensor]:
    """Whisper's log-mel features of one clip or of many; no gradient.

    Each clip is scaled by its own maximum, so a clip's features do not depend on its neighbours;
    a batch gives bit for bit what single calls give.

    Args:
        samples: float32 [T] at 16 kHz in [-1, 1], T at least 201; or a list of clips of any
            lengths, which are not padded.
        num_mels: Mel bands, 1 to 201; 80 and 128 are Whisper's.
        impl: As `dispatch.choose` takes it.

    Returns:
        float32 [T // 160, num_mels], 10 ms a row; a list of them for a list.

    Raises:
        ShapeError: If a clip is not float32 [T], is too short, not finite, or `num_mels` is out of
            range.
        BackendUnavailableError: If `impl` names one that cannot run here.

    References:
        Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision (section
        2.2). Differs: time comes first; clips are not padded to 30 s.
    """
    if not 1 <= num_mels <= 201:
        raise ShapeError(f"`num_mels` must lie between 1 and 201, but is {num_mels}.")
    clips = [samples] if isinstance(samples, Tensor) else list(samples)
    for i_clip, clip in enumerate(clips):
        _check(clip, "samples" if isinstance(samples, Tensor) else f"samples[{i_clip}]")
    if not clips:
        return []
    # One answer for all: on a GPU each one is waited for.
    finite = torch.stack([torch.stack(torch.aminmax(clip)).isfinite().all() for clip in clips])
    if not finite.all():
        bad = "" if isinstance(samples, Tensor) else f"[{finite.tolist().index(False)}]"
        raise ShapeError(f"`samples{bad}` must be finite, but holds NaN or infinity.")
    chosen = dispatch.choose("log_mel", *clips, impl=impl)
    if chosen == "triton":
        lengths = [len(clip) for clip in clips]
        rows = torch.ops.unimodal.log_mel(torch.cat(clips), lengths, num_mels)
        features = list(rows.split([length // HOP_LENGTH for length in lengths]))
    elif chosen == "cpu":
        features = cpu.log_mel_batch(clips, num_mels)
    else:
        features = [reference.log_mel(clip, num_mels) for clip in clips]
    return features[0] if isinstance(samples, Tensor) else features


def _check(clip: Tensor, name: str) -> None:
    if clip.ndim != 1 or clip.dtype != torch.float32:
        raise ShapeError(
            f"`{name}` must be a float32 tensor of shape (T,), but is {clip.dtype} of shape "
            f"{tuple(clip.shape)}."
        )
    if len(clip) < MIN_SAMPLES:
        raise ShapeError(
            f"`{name}` must have at least {MIN_SAMPLES} samples (12.6 ms), but has {len(clip)}.",
            remedy="Pad the clip with zeros.",
        )


def _module(impl: str) -> Any:
    return importlib.import_module(f"unimodal.kernels.log_mel.{impl}")


@dispatch.on_own_device
def _log_mel(samples: Tensor, lengths: list[int], num_mels: int) -> Tensor:
    features: Tensor = _module("triton").log_mel_batch(samples, lengths, num_mels)
    return features


def _fake(samples: Tensor, lengths: list[int], num_mels: int) -> Tensor:
    return samples.new_empty((sum(length // HOP_LENGTH for length in lengths), num_mels))


_library.impl("log_mel", _log_mel, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::log_mel", _fake, lib=_library)
