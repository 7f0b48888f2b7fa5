"""Cross-entropy of a linear head on interpreted Triton: against float64, loss and gradients."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unimodal.kernels.cross_entropy import linear_cross_entropy, linear_nll
from unimodal.kernels.dispatch import tables, using
from unimodal.kernels.interpreter import assert_as_exact, guarded, guarded_allocations

pytestmark = pytest.mark.gates

NAMES = ("loss", "nll", "grad of hidden", "grad of weight")


def problem(
    positions: int, width: int, classes: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(positions * classes)
    hidden = torch.randn(positions, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (positions,), generator=generator)
    loss_weight = torch.rand(positions, generator=generator)
    hidden, weight = hidden.to(dtype), (2 * weight * width**-0.5).to(dtype)
    target[::2] = (hidden.double() @ weight.double().T).argmax(dim=1)[::2]
    return hidden.requires_grad_(), weight.requires_grad_(), target, loss_weight


def run(arguments: tuple[Tensor, ...], impl: str, z_loss: float = 0.05) -> list[Tensor]:
    loss, nll = linear_cross_entropy(*arguments, z_loss, impl=impl)
    return [loss.detach(), nll, *torch.autograd.grad(loss, arguments[:2])]


def check(arguments: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, target, loss_weight = arguments
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = run((*wide, target, loss_weight.double()), "reference")
    plain = run(arguments, "reference")
    given = (guarded(hidden), guarded(weight), guarded(target), guarded(loss_weight))
    with guarded_allocations():
        got = run(given, "triton")
        with torch.no_grad():
            alone = linear_cross_entropy(*given, 0.05, impl="triton")
            nll, correct = linear_nll(*given[:3], impl="triton")
    assert_as_exact(got, plain, exact, NAMES)
    assert_as_exact([*alone, nll], [*plain[:2], plain[1]], [*exact[:2], exact[1]], NAMES[:3])
    logits = wide[0] @ wide[1].T
    assert torch.equal(correct, logits.argmax(dim=1) == target)


@pytest.mark.parametrize(
    ("positions", "width", "classes"), [(1, 1, 1), (1, 16, 7), (37, 40, 131), (65, 33, 64)]
)
def test_float32_is_as_exact_as_torch(positions: int, width: int, classes: int) -> None:
    check(problem(positions, width, classes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_exact_as_torch(dtype: torch.dtype) -> None:
    check(problem(33, 48, 65, dtype))


@pytest.mark.parametrize("programs", [1, 2, 264])
def test_splits_and_blocks_of_classes_do_not_change_the_result(programs: int) -> None:
    reduce = {"BLOCK_M": 16, "BLOCK_C": 16, "BLOCK_K": 16, "PROGRAMS": programs, "num_warps": 4}
    softmax = {"ELEMENTS": 16, "num_warps": 4, "num_stages": 1}
    with tables.overriding("cross_entropy.reduce", {**reduce, "num_stages": 1}):
        with tables.overriding("cross_entropy.softmax", softmax):
            check(problem(5, 20, 67))


def test_several_chunks_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from unimodal.kernels.cross_entropy import triton

    monkeypatch.setattr(triton, "CHUNK_ELEMENTS", 1)
    check(problem(70, 16, 33))


def test_strided_inputs_are_read_where_they_lie() -> None:
    hidden, weight, target, loss_weight = problem(9, 16, 33)
    right = run((hidden, weight, target, loss_weight), "triton")
    columns = [x.detach().T.contiguous().T.requires_grad_() for x in (hidden, weight)]
    spread = torch.stack((target, torch.full_like(target, 10**9)), 1)[:, 0]
    got = run((*columns, spread, loss_weight), "triton")
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_label_that_is_no_class_is_not_read_and_gives_no_number() -> None:
    hidden, weight, target, loss_weight = (guarded(x.detach()) for x in problem(9, 16, 7))
    right = linear_nll(hidden, weight, target, impl="triton")[0]
    target[2], target[5] = -100, 7
    kernels = importlib.import_module("unimodal.kernels.cross_entropy.triton")
    options = {"z_loss": 0.0, "low_precision": False, "want_grads": False}
    nll = kernels.loss_and_grads(hidden, weight, target, loss_weight, **options)[1]
    logits = guarded(hidden @ weight.T)
    of_logits = torch.zeros(9)
    kernels._softmax_(logits, target, of_logits, torch.zeros(9), replace=False)
    torch.testing.assert_close(of_logits, nll, equal_nan=True)
    assert nll.isnan().nonzero().flatten().tolist() == [2, 5]
    held = ~nll.isnan()
    torch.testing.assert_close(nll[held], right[held])


def test_no_positions_give_no_loss() -> None:
    loss, nll, grad_hidden, grad_weight = run(problem(0, 16, 5), "triton")
    assert (float(loss), nll.shape, grad_hidden.shape) == (0.0, (0,), (0, 16))
    assert torch.equal(grad_weight, torch.zeros(5, 16))
    assert [len(x) for x in linear_nll(*problem(0, 16, 5)[:3], impl="triton")] == [0, 0]


def test_extreme_logits_stay_finite_and_exact() -> None:
    hidden = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    _, nll, *grads = run((hidden, weight, torch.tensor([1, 1]), torch.ones(2)), "triton", 0.0)
    torch.testing.assert_close(nll, torch.tensor([400.0, 0.0]))
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "tl.store(p_own + o_row, tl.exp(-b_nll)",
            "tl.store(p_own + o_row, tl.exp(-1.001 * b_nll)",
        ),
        ("tl.store(p_lse + o_row, b_max + b_log", "tl.store(p_lse + o_row, b_max + 1.0001 * b_log"),
        ("b_scale = 1.0 / b_sum", "b_scale = 1.00001 / b_sum"),
        ("tl.where(o_c[None, :] == b_label[:, None], 0.0,", "tl.where(o_c[None, :] < 0, 0.0,"),
        ("m_c = o_c < last", "m_c = o_c < last - 1"),
        ("b_own += tl.sum(", "b_own += 1.00001 * tl.sum("),
        ("i_c + tl.argmax(b_logits, 1)", "tl.argmax(b_logits, 1)"),
    ],
)
def test_a_small_mistake_is_noticed(
    mutate: Callable[[str, str, str], None], old: str, new: str
) -> None:
    mutate("cross_entropy", old, new)
    with pytest.raises(AssertionError):
        check(problem(17, 40, 131))


def test_the_operator_keeps_torchs_rules() -> None:
    arguments = [x.detach() for x in problem(4, 16, 5)]
    for want in (True, False):
        torch.library.opcheck(
            torch.ops.unimodal.linear_cross_entropy.default,
            (*arguments, 0.1, False, want, "triton"),
        )


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_it_is_one_operator_without_a_break() -> None:
    arguments = problem(9, 16, 33)
    right = run(arguments, "triton", 0.0)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    with using("triton"):
        loss, nll = compiled(*arguments)
        got = [loss.detach(), nll, *torch.autograd.grad(loss, arguments[:2])]
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
