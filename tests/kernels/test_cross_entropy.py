"""Cross-entropy of a linear head: against float64, whatever the chunks, and compiled."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.numeric import worst
from unimodal.errors import ShapeError
from unimodal.kernels.cross_entropy import (
    chunks,
    cpu,
    linear_cross_entropy,
    linear_nll,
    reference,
)


def problem(
    positions: int, width: int, classes: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (positions,), generator=generator)
    loss_weight = torch.rand(positions, generator=generator, dtype=torch.float64)
    loss_weight[::3] = 0
    hidden, weight = hidden.to(dtype), (weight * width**-0.5).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), target, loss_weight.float()


def exact(
    hidden: Tensor, weight: Tensor, target: Tensor, loss_weight: Tensor, z_loss: float
) -> list[Tensor]:
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    loss, nll = reference.linear_cross_entropy(h, w, target, loss_weight.double(), z_loss)
    return [loss.detach(), nll, *torch.autograd.grad(loss * 0.7, (h, w))]


def ours(
    hidden: Tensor, weight: Tensor, target: Tensor, loss_weight: Tensor, z_loss: float
) -> list[Tensor]:
    loss, nll = linear_cross_entropy(hidden, weight, target, loss_weight, z_loss)
    return [loss.detach(), nll, *torch.autograd.grad(loss * 0.7, (hidden, weight))]


# Sums over at most 65 classes or 33 positions of rounded products: 2 * 65 * 2 ** -24.
TOLERANCE = 8e-6


@pytest.mark.parametrize(("positions", "classes"), [(1, 1), (1, 7), (33, 2), (33, 65), (0, 5)])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_equals_float64(positions: int, classes: int, z_loss: float) -> None:
    arguments = problem(positions, 12, classes)
    assert worst(ours(*arguments, z_loss), exact(*arguments, z_loss)) < TOLERANCE


def test_the_reference_is_torchs_cross_entropy() -> None:
    hidden, weight, target, loss_weight = problem(9, 12, 20, torch.float64)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, target, reduction="none")
    loss, nll = reference.linear_cross_entropy(hidden, weight, target, loss_weight.double(), 0.0)
    torch.testing.assert_close(nll, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, (expected * loss_weight).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 200, 65 * 20])
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    arguments = problem(150, 12, 65)
    whole = ours(*arguments, 0.01)
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(cpu, "BLOCK_ELEMENTS", elements)
    assert chunks.chunk_length(150, 65, elements) == 64
    assert worst(ours(*arguments, 0.01), [x.double() for x in whole]) < TOLERANCE


def test_pieces_are_one_head() -> None:
    hidden, weight, target, loss_weight = problem(20, 8, 30)
    pieces = [piece.detach().requires_grad_() for piece in weight.split((11, 1, 18))]
    loss, nll = linear_cross_entropy(hidden, pieces, target, loss_weight)
    grads = torch.autograd.grad(loss, pieces)
    whole, whole_nll = linear_cross_entropy(hidden, weight, target, loss_weight)
    assert torch.equal(nll, whole_nll)
    assert torch.equal(torch.cat(grads), torch.autograd.grad(whole, weight)[0])
    assert torch.equal(linear_nll(hidden, pieces, target)[0], linear_nll(hidden, weight, target)[0])


@pytest.mark.parametrize("classes", [500, 5])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("elements", [1, cpu.CHUNK_ELEMENTS])
def test_bfloat16_is_as_exact_as_autocast_in_torch(
    monkeypatch: pytest.MonkeyPatch, classes: int, stored: torch.dtype, elements: int
) -> None:
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", elements)
    hidden, weight, target, loss_weight = problem(150, 32, classes, stored)
    expected = exact(hidden, weight, target, loss_weight, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.nn.functional.linear(hidden, weight)
        nll = torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
        loss = (nll * loss_weight).sum()
        got = ours(hidden, weight, target, loss_weight, 0.0)
    peer = [loss.detach(), nll.detach(), *torch.autograd.grad(loss * 0.7, (hidden, weight))]
    for a, b, right in zip(got, peer, expected, strict=True):
        # A rounding band of one bfloat16 of the largest value beside twice the peer's error.
        assert worst([a], [right]) <= 2 * worst([b], [right]) + 2**-9
    assert (got[2].dtype, got[3].dtype) == (stored, stored)


def test_extreme_logits_stay_finite_and_exact() -> None:
    hidden = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    target = torch.tensor([1, 1])
    _, nll, *grads = ours(hidden, weight, target, torch.ones(2), 0.0)
    torch.testing.assert_close(nll, torch.tensor([400.0, 0.0]))
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_the_tolerance_notices_broken_maths(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = problem(33, 12, 65)
    right = exact(*arguments, 0.0)
    broken = cpu._softmax_

    def shifted(*a: object) -> Tensor:
        return broken(*a) + 1e-4

    monkeypatch.setattr(cpu, "_softmax_", shifted)
    assert worst(ours(*arguments, 0.0), right) > TOLERANCE
    monkeypatch.undo()
    assert worst(ours(*arguments, 1e-4), right) > TOLERANCE


def test_evaluation_counts_correct_predictions() -> None:
    hidden, weight, target, loss_weight = problem(50, 12, 7)
    nll, correct = linear_nll(hidden, weight, target)
    _, expected = linear_cross_entropy(hidden, weight, target, loss_weight)
    torch.testing.assert_close(nll, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct, (hidden @ weight.T).argmax(1) == target)
    assert not nll.requires_grad


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    hidden, weight, target, loss_weight = problem(8, 4, 5)
    made: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.unimodal.linear_cross_entropy.default:
                made.extend(grad.numel() for grad in out[2:])
            return out

    with Watch():
        with torch.no_grad():
            loss, _ = linear_cross_entropy(hidden, weight, target, loss_weight)
        linear_cross_entropy(hidden.detach(), weight.detach(), target, loss_weight)
        linear_cross_entropy(hidden, weight, target, loss_weight)
    assert not loss.requires_grad
    assert made == [0, 0, 0, 0, hidden.numel(), weight.numel()]


def test_opcheck() -> None:
    hidden, weight, target, loss_weight = (x.detach() for x in problem(8, 4, 5))
    for want in (True, False):
        torch.library.opcheck(
            torch.ops.unimodal.linear_cross_entropy.default,
            (hidden, weight, target, loss_weight, 0.1, False, want, "cpu"),
        )


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_forward_and_backward_without_a_break() -> None:
    arguments = problem(33, 12, 65)

    def loss_of(*a: Tensor) -> Tensor:
        return linear_cross_entropy(*a)[0]

    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    loss = compiled(*arguments)
    grads = torch.autograd.grad(loss * 0.7, arguments[:2])
    expected = ours(*arguments, 0.0)
    torch.testing.assert_close([loss.detach(), *grads], [expected[0], *expected[2:]])


def test_wrong_shapes_are_refused() -> None:
    hidden, weight, target, loss_weight = problem(8, 4, 5)
    with pytest.raises(ShapeError, match="`weight`"):
        linear_cross_entropy(hidden, weight[:, :3], target, loss_weight)
    with pytest.raises(ShapeError, match="`target` must be int64"):
        linear_nll(hidden, weight, target.int())
    with pytest.raises(ShapeError, match="`loss_weight`"):
        linear_cross_entropy(hidden, weight, target, loss_weight[:3])
    for wrong in (-100, 5):
        with pytest.raises(
            ShapeError, match=f"`target` must be from 0 to 4, but is from .*{wrong}"
        ):
            linear_cross_entropy(hidden, weight, torch.full_like(target, wrong), loss_weight)
