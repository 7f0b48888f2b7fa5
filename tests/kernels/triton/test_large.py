"""Tensors of more than 2^31 elements on interpreted Triton: the last rows are right.

Their memory is never touched but at the ends, and of a long grid only the last programs run.
"""

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unimodal.kernels.attention import attention, plan_attention
from unimodal.kernels.dispatch import is_interpreted, using
from unimodal.kernels.nearest_code import nearest_code
from unimodal.kernels.qk_prologue import qk_prologue
from unimodal.kernels.rms_norm import rms_norm
from unimodal.kernels.swiglu import swiglu
from unimodal.patterns import Causal, visible
from unimodal.types import CONTROL_CELL, Coordinates

pytestmark = pytest.mark.gates

WIDTH = 64
ROWS = 2**31 // WIDTH + 300
"""Whose last 300 lie beyond 2^31 elements."""
CHECKED = 20


@pytest.fixture(autouse=True)
def _last_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_interpreted()
    from triton.runtime import interpreter

    def shortened(*bounds: int) -> range:
        whole = builtins.range(*bounds)
        return whole[-16:] if len(whole) > 10_000 else whole

    monkeypatch.setattr(interpreter, "range", shortened, raising=False)
    # Results lie where the kernel wrote them; the interpreter would copy them onto themselves.
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)


def large(rows: int = ROWS, width: int = WIDTH) -> Tensor:
    """Normal numbers in the last rows of an untouched bfloat16 matrix."""
    x = torch.empty(rows, width, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(width)
    x[-CHECKED:] = torch.randn(CHECKED, width, generator=generator).bfloat16()
    return x


def check(x: Tensor, run: Callable[[Tensor, str], Tensor]) -> None:
    got = run(x, "triton")[-CHECKED:].float()
    right = run(x[-CHECKED:].clone(), "reference").float()
    torch.testing.assert_close(got, right, rtol=2**-7, atol=2**-7)


def test_norms_and_gates_of_many_rows() -> None:
    weight = torch.linspace(0.5, 2, WIDTH)
    check(large(), lambda x, impl: rms_norm(x, weight, impl=impl))
    check(large(), lambda x, impl: swiglu(x, impl=impl))


def test_codes_of_many_vectors() -> None:
    codebook = large(100)[-CHECKED:]
    x = large()
    index = nearest_code(x, codebook, impl="triton")[-CHECKED:]
    assert index.tolist() == list(range(CHECKED))


def test_heads_of_many_tokens() -> None:
    x = large().view(1, -1, 1, WIDTH)
    cos, sin = (torch.empty(1, ROWS, WIDTH // 2) for _ in range(2))
    cos[:, -CHECKED:], sin[:, -CHECKED:] = 0.6, 0.8

    def run(impl: str, last: int) -> Tensor:
        inputs: list[Any] = [x[:, -last:], x[:, -last:], x[:, -last:], None, None]
        # Keys, which the last programs turn.
        return qk_prologue(*inputs, cos[:, -last:], sin[:, -last:], impl=impl)[1][0, -CHECKED:, 0]

    torch.testing.assert_close(
        run("triton", ROWS), run("reference", CHECKED), rtol=2**-7, atol=2**-7
    )


def test_attention_over_sequences_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    length, heads, size, far = 20, 2, 16, 2**31 + 64
    strides = (far, heads * size, size, 1)
    tensors = [
        torch.empty(far + length * heads * size, dtype=torch.bfloat16)
        .as_strided((2, length, heads, size), strides)
        .copy_(torch.randn(2, length, heads, size, generator=generator))
        for _ in range(4)
    ]
    zeros = torch.zeros(2, length, dtype=torch.int32)
    index = torch.arange(length, dtype=torch.int32).expand(2, length)
    grid = torch.full((2, length, 3), CONTROL_CELL, dtype=torch.int32)
    coordinates = Coordinates(index, zeros, zeros, zeros, zeros.bool(), grid)

    def run(impl: str, given: list[Tensor]) -> list[Tensor]:
        q, k, v = (x.detach().requires_grad_() for x in given[:3])
        with using(impl):
            out = attention(q, k, v, plan_attention(coordinates, [Causal()], visible))
            return [out.detach(), *torch.autograd.grad(out, (q, k, v), given[3])]

    near = [x.contiguous() for x in tensors]
    for got, right in zip(run("triton", tensors), run("reference", near), strict=True):
        torch.testing.assert_close(got, right, rtol=2**-6, atol=2**-6)
