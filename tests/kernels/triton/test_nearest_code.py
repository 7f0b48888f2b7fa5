"""The nearest row of a codebook on interpreted Triton, against distances in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unimodal.kernels.interpreter import guarded, guarded_allocations
from unimodal.kernels.nearest_code import nearest_code

pytestmark = pytest.mark.gates


def problem(
    rows: int, codes: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + codes)
    x = torch.randn(rows, width, generator=generator)
    return x.to(dtype), torch.randn(codes, width, generator=generator).to(dtype)


def check(x: Tensor, codebook: Tensor) -> None:
    with guarded_allocations():
        index = nearest_code(guarded(x), guarded(codebook), impl="triton")
    distance = torch.cdist(x.double(), codebook.double()).square()
    assert bool(((index >= 0) & (index < len(codebook))).all())
    named = distance.gather(1, index[:, None]).squeeze(1)
    # The order of sums of `width` products in float32, twice.
    excess = float(((named - distance.amin(dim=1)) / distance.amax(dim=1)).max())
    assert excess <= x.shape[1] * 2**-23


@pytest.mark.parametrize(("rows", "codes", "width"), [(1, 1, 1), (7, 131, 33), (65, 64, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_nearest_is_named(rows: int, codes: int, width: int, dtype: torch.dtype) -> None:
    check(*problem(rows, codes, width, dtype))


def test_of_equal_rows_the_first_is_named() -> None:
    _, codebook = problem(1, 70, 24)
    twice = torch.cat((codebook, codebook))
    assert torch.equal(nearest_code(codebook, twice, impl="triton"), torch.arange(70))


def test_strided_and_empty_inputs() -> None:
    x, codebook = problem(6, 9, 24)
    right = nearest_code(x, codebook, impl="triton")
    columns = (x.T.contiguous().T, codebook.T.contiguous().T)
    assert torch.equal(nearest_code(*columns, impl="triton"), right)
    assert nearest_code(x[:0], codebook, impl="triton").shape == (0,)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5 * b_square", "0.45 * b_square"),
        ("m_c[None, :], b_score -", "(o_c < num_codes - 1)[None, :], b_score -"),
        ("i_c + tl.argmax", "tl.argmax"),
        ("b_top > b_best,", "b_top < b_best,"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("nearest_code", old, new)
    with pytest.raises(AssertionError):
        check(*problem(200, 67, 24))


def test_the_operator_keeps_torchs_rules() -> None:
    torch.library.opcheck(torch.ops.unimodal.nearest_code.default, (*problem(3, 5, 16), "triton"))
