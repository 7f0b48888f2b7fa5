"""Log-mel features on interpreted Triton, against float64."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from unimodal.kernels.dispatch import tables
from unimodal.kernels.interpreter import guarded, guarded_allocations
from unimodal.kernels.log_mel import log_mel, reference

pytestmark = pytest.mark.gates


WHOLE = {"BLOCK_F": 64, "BLOCK_BINS": 256, "BLOCK_K": 512, "num_warps": 8, "num_stages": 1}
"""One tile for all bins and samples: loops cost time here."""


@pytest.fixture(autouse=True)
def _few_tiles() -> Iterator[None]:
    # A copy of the module that declares its tiles anew is overridden as well.
    with tables.overriding("log_mel.decades", WHOLE):
        yield


def noise(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, generator=generator) * 0.1


def check(clips: list[Tensor], num_mels: int = 80) -> None:
    with guarded_allocations():
        got = log_mel([guarded(clip) for clip in clips], num_mels, impl="triton")
    for clip, features in zip(clips, got, strict=True):
        exact = reference.log_mel(clip.double(), num_mels)
        # An amplitude is a product with 400 terms: it errs by the root of their number, as a share
        # of the loudest; 0.5 / ln 10 turns that into features. And a few roundings of the result.
        quietness = 10 ** (2 * (exact.max() - exact))
        bound = 400**0.5 * 2**-24 * 0.5 / math.log(10) * quietness + 4 * 2**-24
        assert features.shape == exact.shape
        assert bool(((features - exact).abs() <= 2 * bound).all())


@pytest.mark.parametrize("length", [201, 319, 320, 401, 10_403])
def test_every_length_is_as_exact_as_torch(length: int) -> None:
    check([noise(length)])


def test_many_tiles_give_what_one_gives() -> None:
    tiles = {"BLOCK_F": 16, "BLOCK_BINS": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 1}
    with tables.overriding("log_mel.decades", tiles):
        check([noise(3_333)])


@pytest.mark.parametrize("num_mels", [1, 17, 128])
def test_any_number_of_mels(num_mels: int) -> None:
    check([noise(1_777)], num_mels)


def test_a_batch_gives_bit_for_bit_what_single_calls_give() -> None:
    clips = [noise(length, n) * 10.0**-n for n, length in enumerate((400, 12_001, 201))]
    check(clips)
    together = log_mel(clips, impl="triton")
    for clip, features in zip(clips, together, strict=True):
        assert torch.equal(features, log_mel(clip, impl="triton"))


def test_silence_is_flat_and_a_click_keeps_the_range() -> None:
    silence = log_mel(torch.zeros(1_600), impl="triton")
    torch.testing.assert_close(silence, torch.full((10, 80), -1.5), rtol=0, atol=1e-6)
    click = torch.zeros(8_000).index_fill(0, torch.tensor([4_000]), 1e-3)
    features = log_mel(click, impl="triton")
    torch.testing.assert_close(features, reference.log_mel(click, 80), rtol=0, atol=2e-6)


def test_strided_samples_and_no_clips() -> None:
    spread = torch.full((2 * 999,), torch.nan)
    spread[::2] = noise(999)
    right = log_mel(noise(999), impl="triton")
    assert torch.equal(log_mel(spread[::2], impl="triton"), right)
    assert log_mel([], impl="triton") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * (length - 1) - o_sample", "2 * length - 1 - o_sample"),
        ("o_k[None, :] - WINDOW // 2", "o_k[None, :] + 1 - WINDOW // 2"),
        ("0.4342944819032518", "0.43429"),
        ("b_decades + 4.0", "b_decades + 4.00001"),
        ("hann_window()", "torch.hann_window(400, periodic=False)"),
        ("m_f = o_f < num_frames", "m_f = o_f <= num_frames"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("log_mel", old, new)
    with pytest.raises(AssertionError):
        check([noise(1_777)])


def test_the_operator_keeps_torchs_rules() -> None:
    torch.library.opcheck(torch.ops.unimodal.log_mel.default, (noise(800), [300, 500], 16))
