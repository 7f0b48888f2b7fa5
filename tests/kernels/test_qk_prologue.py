"""QK-norm and RoPE: against float64, against transformers' Qwen3, and the M-RoPE tables."""

import pytest
import torch
from torch import Tensor

from tests.kernels.numeric import worst
from unimodal.errors import ShapeError
from unimodal.kernels.qk_prologue import cpu, qk_prologue, reference, rope_tables


def problem(dtype: torch.dtype, size: int = 16) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """q and k as views of a fused projection, weights, tables."""
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, 37, 7, size, generator=generator, dtype=torch.float64).to(dtype)
    q, k, _ = fused.split((4, 2, 1), dim=2)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [torch.rand(size, generator=generator, dtype=wide).requires_grad_() for _ in range(2)]
    tables = rope_tables(torch.randint(500, (2, 37, 3), generator=generator).float(), size)
    return [q.requires_grad_(), k.requires_grad_(), *weights], tables


def exact(
    arguments: list[Tensor], tables: tuple[Tensor, Tensor], norm: bool = True
) -> list[Tensor]:
    """By autograd in float64, written independently of the package."""
    q, k, q_weight, k_weight = (x.detach().double().requires_grad_() for x in arguments)
    cos, sin = (torch.cat((x, x), -1)[:, :, None].double() for x in tables)
    results = []
    for x, weight in ((q, q_weight), (k, k_weight)):
        normed = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight if norm else x
        half = x.shape[-1] // 2
        turned = torch.cat((-normed[..., half:], normed[..., :half]), -1)
        results.append(normed * cos + turned * sin)
    loss = sum((r * directions(r)).sum() for r in results)
    inputs = (q, k, q_weight, k_weight) if norm else (q, k)
    return [*(r.detach() for r in results), *torch.autograd.grad(loss, inputs)]


def directions(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape).to(x.dtype)


def ours(arguments: list[Tensor], tables: tuple[Tensor, Tensor], norm: bool = True) -> list[Tensor]:
    q, k, q_weight, k_weight = arguments
    weights = (q_weight, k_weight) if norm else (None, None)
    results = qk_prologue(q, k, k, *weights, *tables)[:2]
    loss = sum((r * directions(r)).sum() for r in results)
    inputs = arguments if norm else (q, k)
    return [*(r.detach() for r in results), *torch.autograd.grad(loss, inputs)]


# A dozen roundings for an element, sums over 74 positions for the weights: 16 * 2 ** -24 and a
# rounding of the bfloat16 result and of its incoming gradient.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 3 * 2**-9}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 17])
def test_forward_and_gradients_equal_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, norm: bool, chunk: int
) -> None:
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", chunk)
    arguments, tables = problem(dtype)
    got = ours(arguments, tables, norm)
    assert got[0].dtype == dtype
    assert worst(got, exact(arguments, tables, norm)) < TOLERANCE[dtype]


@pytest.mark.parametrize("broken", ["weight", "sign", "eps"])
def test_the_tolerance_notices_broken_maths(broken: str) -> None:
    arguments, tables = problem(torch.float32)
    right = exact(arguments, tables)
    if broken == "weight":
        arguments[2] = (arguments[2] * 1.0001).detach().requires_grad_()
    elif broken == "sign":
        tables = (tables[0], -tables[1])
    else:
        arguments[1] = (arguments[1] * 0.5 + 1e-4).detach().requires_grad_()
    assert worst(ours(arguments, tables), right) > TOLERANCE[torch.float32]


def test_equals_transformers_qwen3() -> None:
    modeling = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    (q, k, q_weight, k_weight), _ = problem(torch.float32)
    position = torch.arange(37.0).expand(2, 37)
    tables = rope_tables(position[..., None].expand(-1, -1, 3), 16, theta=1e6)
    got = qk_prologue(q, k, k, q_weight, k_weight, *tables)[:2]
    norms = []
    for x, weight in ((q, q_weight), (k, k_weight)):
        norm = modeling.Qwen3RMSNorm(16, eps=1e-6)
        norm.weight.data = weight.data
        norms.append(norm(x))
    inverse = 1.0 / (1e6 ** (torch.arange(0, 16, 2, dtype=torch.int64).float() / 16))
    angle = position[..., None] * inverse
    cos, sin = (torch.cat((x, x), -1) for x in (angle.cos(), angle.sin()))
    expected = modeling.apply_rotary_pos_emb(*norms, cos, sin, unsqueeze_dim=2)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=2e-6)
    whole = qk_prologue(q, k, k, q_weight, k_weight, cos, sin)[:2]
    assert all(torch.equal(a, b) for a, b in zip(got, whole, strict=True))


def test_frequencies_are_dealt_to_the_axes_in_turn() -> None:
    for axis in range(3):
        position = torch.zeros(1, 1, 3)
        position[..., axis] = 1.0
        _, sin = rope_tables(position, 16)
        assert (sin[0, 0] != 0).nonzero().flatten().tolist() == list(range(axis, 8, 3))


def test_sections_limit_the_axes_as_qwen3_vl_does() -> None:
    position = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 100
    sections = (24, 20, 20)
    angles = position[..., None] / 1e4 ** (torch.arange(64.0) / 64)
    # Qwen3-VL: every third frequency from 1 (h) and 2 (w), up to three times the section.
    expected = angles[:, :, 0].clone()
    for axis in (1, 2):
        dealt = slice(axis, 3 * sections[axis], 3)
        expected[..., dealt] = angles[:, :, axis, dealt]
    cos, sin = rope_tables(position, 128, 1e4, sections)
    torch.testing.assert_close(cos, expected.cos(), rtol=0, atol=2e-5)
    torch.testing.assert_close(sin, expected.sin(), rtol=0, atol=2e-5)


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break() -> None:
    arguments, tables = problem(torch.float32)
    compiled = torch.compile(qk_prologue, fullgraph=True, backend="aot_eager")
    got = compiled(*arguments[:2], arguments[1], *arguments[2:], *tables)[:2]
    grads = torch.autograd.grad(sum((r * directions(r)).sum() for r in got), arguments)
    assert worst([*(r.detach() for r in got), *grads], exact(arguments, tables)) < 4e-6


def test_the_reference_equals_float64() -> None:
    arguments, tables = problem(torch.float32)
    for x, weight, expected in zip(
        arguments[:2], arguments[2:], exact(arguments, tables), strict=False
    ):
        got = reference.normalise_and_rotate(x, weight, *tables, 1e-6)
        assert worst([got.detach()], [expected]) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("norm", [True, False])
def test_an_order_moves_results_and_moves_gradients_back(impl: str, norm: bool) -> None:
    (q, k, *weights), tables = problem(torch.float32)
    v = torch.randn(k.shape).requires_grad_()
    inputs = [q, k, v, *weights] if norm else [q, k, v]
    order = torch.randperm(74, generator=torch.Generator().manual_seed(1))
    given = (q, k, v, *(weights if norm else (None, None)), *tables)
    plain = qk_prologue(*given, impl=impl)
    assert plain[2] is v
    moved = qk_prologue(*given, order=order, impl=impl)
    loss = torch.zeros(())
    for a, b in zip(plain, moved, strict=True):
        assert torch.equal(a.flatten(0, 1)[order], b.flatten(0, 1))
        loss = loss + (directions(b).flatten(0, 1) * a.flatten(0, 1)[order]).sum()
    expected = torch.autograd.grad(loss, inputs)
    got = torch.autograd.grad(sum((x * directions(x)).sum() for x in moved), inputs)
    assert worst(list(got), list(expected)) < TOLERANCE[torch.float32]


def test_wrong_shapes_are_refused() -> None:
    (q, k, *_), (cos, sin) = problem(torch.float32)
    order = torch.arange(74)
    for wrong in (order[1:], order.int()):
        with pytest.raises(ShapeError, match=r"`order` must be int64 of shape \(74,\)"):
            qk_prologue(q, k, k, None, None, cos, sin, order=wrong)
    with pytest.raises(ShapeError, match="`v` must have the shape of `k`"):
        qk_prologue(q, k, q, None, None, cos, sin, order=order)
    with pytest.raises(ShapeError, match="`cos` and `sin`"):
        qk_prologue(q, k, k, None, None, cos[:, :5], sin)
    with pytest.raises(ShapeError, match="even H"):
        qk_prologue(q[..., :3], k[..., :3], k, None, None, cos, sin)
    with pytest.raises(ShapeError, match=r"\(B, T, 3\)"):
        rope_tables(torch.zeros(3, 3), 8)
    with pytest.raises(ShapeError, match="`head_dim`"):
        rope_tables(torch.zeros(1, 3, 3), 7)
    with pytest.raises(ShapeError, match="`sections`"):
        rope_tables(torch.zeros(1, 3, 3), 8, sections=(1, 1, 1))
