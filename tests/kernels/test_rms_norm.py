"""RMS norm, alone and after the residual addition: against float64, forward and gradients."""

import pytest
import torch
from torch import Tensor

from tests.kernels.numeric import worst
from unimodal.errors import ShapeError
from unimodal.kernels.rms_norm import add_rms_norm, cpu, rms_norm

# Some ten roundings an element, sums over 15 rows for the weight; bfloat16: one rounding of the
# update's gradient, or of the result.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2**-8}


def problem(dtype: torch.dtype, update_dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 33, 5, generator=generator, dtype=torch.float64).to(dtype)
    update = torch.randn(3, 5, 33, generator=generator, dtype=torch.float64).to(update_dtype)
    weight = torch.rand(33, generator=generator, dtype=torch.float64).to(dtype)
    return x.transpose(1, 2).requires_grad_(), update.requires_grad_(), weight.requires_grad_()


def exact(x: Tensor, update: Tensor, weight: Tensor) -> list[Tensor]:
    x, update, weight = (y.detach().double().requires_grad_() for y in (x, update, weight))
    total = x + update
    normed = total / (total.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    grads = torch.autograd.grad(loss_of(total, normed), (x, update, weight))
    return [total.detach(), normed.detach(), *grads]


def ours(x: Tensor, update: Tensor, weight: Tensor) -> list[Tensor]:
    total, normed = add_rms_norm(x, update, weight)
    grads = torch.autograd.grad(loss_of(total, normed), (x, update, weight))
    return [total.detach(), normed.detach(), *grads]


def loss_of(total: Tensor, normed: Tensor) -> Tensor:
    ramp = torch.linspace(-1, 1, total.numel(), dtype=torch.float64).reshape(total.shape)
    return (total * ramp.to(total.dtype)).sum() + (normed * ramp.flip(0).to(normed.dtype)).sum()


@pytest.mark.parametrize(
    ("dtype", "update_dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [1, 70, 1 << 17])
def test_forward_and_gradients_equal_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, update_dtype: torch.dtype, chunk: int
) -> None:
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", chunk)
    arguments = problem(dtype, update_dtype)
    assert worst(ours(*arguments), exact(*arguments)) < TOLERANCE[update_dtype]


def test_alone_it_equals_the_fused_one_and_torch() -> None:
    x, _, weight = problem(torch.float32, torch.float32)
    alone = rms_norm(x, weight)
    fused = add_rms_norm(x, torch.zeros_like(x), weight)[1]
    assert torch.equal(alone, fused)
    peer = torch.nn.functional.rms_norm(x, (33,), weight, 1e-6)
    torch.testing.assert_close(alone, peer)
    for a, b in zip(
        torch.autograd.grad(alone.square().sum(), (x, weight)),
        torch.autograd.grad(peer.square().sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_under_autocast_the_result_is_rounded_once() -> None:
    x, update, weight = problem(torch.float32, torch.bfloat16)
    wide = add_rms_norm(x, update, weight)
    with torch.autocast("cpu", torch.bfloat16):
        total, normed = add_rms_norm(x, update, weight)
        with torch.no_grad():
            plain = rms_norm(x, weight)
    assert total.dtype == torch.float32
    assert normed.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(normed, wide[1].bfloat16())


def test_without_gradients_the_result_is_the_same() -> None:
    x, update, weight = problem(torch.float32, torch.float32)
    with torch.no_grad():
        plain = add_rms_norm(x, update, weight)
    fused = add_rms_norm(x, update, weight)
    torch.testing.assert_close(plain, tuple(y.detach() for y in fused), rtol=1e-6, atol=1e-6)


def test_the_tolerance_notices_broken_maths() -> None:
    x, update, weight = problem(torch.float32, torch.float32)
    right = exact(x, update, weight)
    nudged = (weight * (1 + 1e-5)).detach().requires_grad_()
    assert worst(ours(x, update, nudged), right) > TOLERANCE[torch.float32]


def test_compiles_without_a_break() -> None:
    arguments = problem(torch.float32, torch.float32)
    compiled = torch.compile(add_rms_norm, fullgraph=True, backend="aot_eager")
    total, normed = compiled(*arguments)
    grads = torch.autograd.grad(loss_of(total, normed), arguments)
    got = [total.detach(), normed.detach(), *grads]
    assert worst(got, exact(*arguments)) < TOLERANCE[torch.float32]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="`weight`"):
        rms_norm(torch.zeros(2, 4), torch.ones(3))
    with pytest.raises(ShapeError, match="`update`"):
        add_rms_norm(torch.zeros(2, 4), torch.zeros(4), torch.ones(4))
