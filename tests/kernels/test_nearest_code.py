"""The nearest row of a codebook: against distances in float64, in chunks, at odd sizes."""

import pytest
import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.nearest_code import cpu, nearest_code


def problem(rows: int, codes: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + codes)
    return (
        torch.randn(rows, width, generator=generator),
        torch.randn(codes, width, generator=generator),
    )


def excess(index: Tensor, x: Tensor, codebook: Tensor) -> float:
    """How much farther the named codes are than the nearest, of the squared distances' scale."""
    distance = torch.cdist(x.double(), codebook.double()).square()
    named = distance.gather(1, index[:, None]).squeeze(1)
    return float(((named - distance.amin(dim=1)) / distance.amax(dim=1)).max())


# The order of sums of 24 products in float32, twice.
TOLERANCE = 24 * 2**-23


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize(("rows", "codes"), [(1, 1), (1, 7), (131, 67), (5, 1024)])
def test_the_nearest_is_named(impl: str, rows: int, codes: int) -> None:
    x, codebook = problem(rows, codes, 24)
    assert excess(nearest_code(x, codebook, impl=impl), x, codebook) <= TOLERANCE


def test_the_tolerance_notices_broken_maths(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codebook = problem(131, 67, 24)
    monkeypatch.setattr(torch.Tensor, "mul_", lambda self, _: self.neg_())
    assert excess(nearest_code(x, codebook, impl="cpu"), x, codebook) > TOLERANCE


@pytest.mark.parametrize("elements", [1, 67, 500])
def test_chunks_of_any_size_name_the_nearest(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    x, codebook = problem(131, 67, 24)
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", elements)
    assert excess(nearest_code(x, codebook), x, codebook) <= TOLERANCE


def test_axes_before_the_last_are_kept_and_strides_followed() -> None:
    x, codebook = problem(12, 67, 24)
    index = nearest_code(x.view(3, 4, 24).transpose(0, 1), codebook.T.contiguous().T)
    assert torch.equal(index, nearest_code(x, codebook).view(3, 4).T)
    assert nearest_code(x[:0].view(0, 2, 24), codebook).shape == (0, 2)


def test_of_equal_rows_the_first_is_named() -> None:
    _, codebook = problem(1, 9, 24)
    twice = torch.cat((codebook, codebook))
    assert torch.equal(nearest_code(codebook, twice), torch.arange(9))


def test_opcheck_and_compiled_without_a_break() -> None:
    x, codebook = problem(5, 7, 24)
    torch.library.opcheck(torch.ops.unimodal.nearest_code.default, (x, codebook, "cpu"))
    compiled = torch.compile(nearest_code, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, codebook), nearest_code(x, codebook))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="`codebook`"):
        nearest_code(torch.zeros(3, 4), torch.zeros(0, 4))
    with pytest.raises(ShapeError, match="`x` must"):
        nearest_code(torch.zeros(3, 4), torch.zeros(2, 5))
