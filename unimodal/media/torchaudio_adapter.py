"""torchaudio behind one door: resampling and SpecAugment masks.

PyPI's Linux wheels of torchaudio carry a compiled extension that cannot load beside a CPU build of
torch, and a torchaudio that fails to import takes `import transformers` down with it. `load` then
imports its Python part with the extension module replaced by a stub, and what needs the extension
(`forced_align`, `rnnt_loss`) raises a typed error. Nothing else in this project imports torchaudio.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unimodal.errors import BackendUnavailableError, ConfigError
from unimodal.media.values import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, Audio

_log = logging.getLogger(__name__)
_EXTENSION = "torchaudio._extension"
_MAX_PHASES = 1_000_000
"""Bound on the product of the reduced rates, which is the size of the resampling filter."""


@lru_cache(maxsize=1)
def load() -> ModuleType:
    """The torchaudio package, with its extension or with a stub in its place.

    Raises:
        BackendUnavailableError: If torchaudio is not installed.
    """
    if "torchaudio" not in sys.modules and importlib.util.find_spec("torchaudio") is None:
        raise BackendUnavailableError(
            "torchaudio is not installed.",
            subject="torchaudio",
            remedy="Install the extra: `pip install unimodal[speech]`.",
        )
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        _log.info("torchaudio runs without its extension, which does not load: %s", error)
    sys.modules[_EXTENSION] = _stub()
    package = importlib.import_module("torchaudio")
    for module in (package.functional, package.functional.functional):
        module.rnnt_loss = _refuse("rnnt_loss")
    return package


def has_extension() -> bool:
    """Whether torchaudio runs with its compiled extension."""
    load()
    return not getattr(sys.modules.get(_EXTENSION), "is_unimodal_stub", False)


def resample(audio: Audio, sample_rate_hz: int) -> Audio:
    """Resample by windowed sinc interpolation (64 zero crossings of a Kaiser window).

    Where the ratio of the rates has no small terms (22,254 to 16,000), the nearest ratio of small
    terms is used; it is off by less than 1e-5, 0.01 s in 1,000 s.

    Args:
        audio: The sound; returned as it is if it has the rate.
        sample_rate_hz: Wanted rate, between 100 and 768,000.

    Returns:
        The sound at the rate: ceil(T x new / old) samples, which may overshoot [-1, 1] slightly.

    Raises:
        ConfigError: If the rate is out of range.
        BackendUnavailableError: If torchaudio is not installed.
    """
    if not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise ConfigError(
            f"`sample_rate_hz` must be between {MIN_SAMPLE_RATE_HZ} and {MAX_SAMPLE_RATE_HZ}, but "
            f"is {sample_rate_hz}."
        )
    if audio.sample_rate_hz == sample_rate_hz:
        return audio
    ratio = _ratio(audio.sample_rate_hz, sample_rate_hz)
    samples = load().functional.resample(
        audio.samples,
        ratio.denominator,
        ratio.numerator,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return Audio(samples, sample_rate_hz)


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """How many samples `resample` makes of `num_samples`."""
    if from_hz == to_hz:
        return num_samples
    ratio = _ratio(from_hz, to_hz)
    return -(-num_samples * ratio.numerator // ratio.denominator)


def spec_augment(
    features: Float[Tensor, "T F"],
    rng: np.random.Generator,
    *,
    num_frequency_masks: int = 2,
    max_frequency_bands: int = 27,
    num_time_masks: int = 2,
    max_time_frames: int = 100,
    max_time_share: float = 0.2,
) -> Float[Tensor, "T F"]:
    """Mask bands of frequency and runs of time by the features' mean.

    Args:
        features: Frames x mel bands; not changed.
        rng: Source of all randomness: equal states give equal masks.
        num_frequency_masks: Frequency masks, 0 or more.
        max_frequency_bands: Each covers fewer than this many bands.
        num_time_masks: Time masks, 0 or more.
        max_time_frames: Each covers fewer than this many frames.
        max_time_share: Each covers at most this share of the clip, in (0, 1].

    Returns:
        Masked copy.

    Raises:
        ConfigError: If a number is out of range.
        BackendUnavailableError: If torchaudio is not installed.

    References:
        Park et al. 2019, SpecAugment. Differs: no time warping, which they found to matter least.
    """
    numbers = (num_frequency_masks, max_frequency_bands, num_time_masks, max_time_frames)
    if min(numbers) < 0 or not 0.0 < max_time_share <= 1.0:
        raise ConfigError(
            "SpecAugment takes numbers of at least 0 and `max_time_share` in (0, 1], but got "
            f"{numbers} and {max_time_share}."
        )
    mask = load().functional.mask_along_axis
    fill = float(features.mean())
    masked = features.T.clone()[None]
    with _OwnGenerator(int(rng.integers(2**63))):
        for _ in range(num_frequency_masks):
            masked = mask(masked, min(max_frequency_bands, masked.shape[1]), fill, 1)
        for _ in range(num_time_masks):
            masked = mask(masked, min(max_time_frames, len(features)), fill, 2, p=max_time_share)
    return masked[0].T.contiguous()


class _OwnGenerator(TorchFunctionMode):
    """Random numbers of this thread from a generator of its own.

    torchaudio draws from torch's global generator, which belongs to whoever else runs: dropout in
    the main thread would change the masks, and the masks the dropout.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`; one that draws uniform numbers gets the generator."""
        drawn = {"generator": self.generator} if func is torch.rand else {}
        return func(*args, **(kwargs or {}), **drawn)


def _ratio(from_hz: int, to_hz: int) -> Fraction:
    """The ratio of the rates, or the nearest one whose filter is of bounded size."""
    exact = Fraction(to_hz, from_hz)
    return exact.limit_denominator(max(1, isqrt(int(_MAX_PHASES / exact))))


def _stub() -> ModuleType:
    """What torchaudio's Python part reads from its extension module."""
    stub: Any = ModuleType(_EXTENSION)
    stub.is_unimodal_stub = True
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._IS_ALIGN_AVAILABLE = False
    stub._check_cuda_version = lambda: None
    stub.fail_if_no_align = lambda function: _refuse(function.__name__)
    module: ModuleType = stub
    return module


def _refuse(name: str) -> Callable[..., NoReturn]:
    """A function that says why torchaudio's `name` cannot run."""

    def refused(*_args: object, **_kwargs: object) -> NoReturn:
        raise BackendUnavailableError(
            f"`{name}` needs torchaudio's compiled extension, which does not load beside this "
            f"build of torch ({torch.__version__}).",
            subject="torchaudio",
            remedy="Install a torchaudio built for this torch.",
        )

    return refused
