"""SwiGLU: against float64, forward and gradient."""

import pytest
import torch
from torch import Tensor

from tests.kernels.numeric import worst
from unimodal.errors import ShapeError
from unimodal.kernels.swiglu import cpu, swiglu

# Few roundings; in bfloat16 torch rounds silu and the product of it.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4 * 2**-9}


def problem(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 26, 7, generator=generator, dtype=torch.float64).mul(3).to(dtype)
    return x.transpose(1, 2).requires_grad_()


def exact(gate_up: Tensor) -> list[Tensor]:
    x = gate_up.detach().double().requires_grad_()
    gate, up = x.chunk(2, -1)
    out = gate / (1 + torch.exp(-gate)) * up
    return [out.detach(), *torch.autograd.grad(loss_of(out), (x,))]


def ours(gate_up: Tensor) -> list[Tensor]:
    out = swiglu(gate_up)
    return [out.detach(), *torch.autograd.grad(loss_of(out), (gate_up,))]


def loss_of(out: Tensor) -> Tensor:
    ramp = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
    return (out * ramp.to(out.dtype)).sum()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("chunk", [1, 60, 1 << 18])
def test_forward_and_gradient_equal_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, chunk: int
) -> None:
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", chunk)
    gate_up = problem(dtype)
    assert worst(ours(gate_up), exact(gate_up), 0.0) < TOLERANCE[dtype]


def test_the_tolerance_notices_broken_maths() -> None:
    gate_up = problem(torch.float32)
    swapped = gate_up.roll(13, dims=-1).detach().requires_grad_()
    assert worst(ours(swapped), exact(gate_up), 0.0) > TOLERANCE[torch.float32]
    scaled = (gate_up * (1 + 1e-5)).detach().requires_grad_()
    assert worst(ours(scaled), exact(gate_up), 0.0) > TOLERANCE[torch.float32]


def test_without_gradients_and_compiled_the_result_is_the_same() -> None:
    gate_up = problem(torch.float32)
    with torch.no_grad():
        plain = swiglu(gate_up)
    torch.testing.assert_close(plain, swiglu(gate_up).detach(), rtol=1e-6, atol=1e-6)
    compiled = torch.compile(swiglu, fullgraph=True, backend="aot_eager")(gate_up)
    torch.testing.assert_close(compiled.detach(), plain, rtol=1e-6, atol=1e-6)


def test_an_odd_axis_is_refused() -> None:
    with pytest.raises(ShapeError, match="even last axis"):
        swiglu(torch.zeros(2, 3))
