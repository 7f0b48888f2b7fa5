"""Matrices of the decode step, in the precisions that generation offers.

Tokens lie features first, (I, M), which makes the float32 and bfloat16 products of a few tokens up
to twice as fast on a CPU; a single token lies (1, I), which is the same memory.

One thread, the 25 products of 11 million weights, the fastest of many, ms for 1 token and for 16:
float32 2.5 and 5.3, bfloat16 2.6 for 16, int8 1.0 for 1. In bfloat16 one token takes longer than in
float32 (3.3) and so is multiplied by float32 copies; in int8 many do (7.0), and take bfloat16.

Not here: norms, softmax and the residual stream, which are float32 whatever the weights.
"""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from unimodal.errors import ConfigError


class Matrix:
    """A float32 matrix.

    Args:
        weight: (outputs, inputs), float32.
    """

    cache_dtype = torch.float32

    def __init__(self, weight: Float[Tensor, "O I"]):
        self.weight = weight.contiguous()

    @cached_property
    def turned(self) -> Float[Tensor, "I O"]:
        """The transposed copy, with which one token is a fifth faster."""
        return self.weight.t().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """The product: (O, M) of (I, M), or (1, O) of (1, I)."""
        if x.shape[0] == 1:
            return torch.mm(x, self.turned)
        return torch.mm(self.weight, x)

    def add(self, total: Tensor, x: Tensor) -> Tensor:
        """total + the product, float32."""
        if x.shape[0] == 1:
            return torch.addmm(total, x, self.turned)
        return torch.addmm(total, self.weight, x)


class HalfMatrix(Matrix):
    """A bfloat16 matrix: products add up in float32 and are rounded once."""

    cache_dtype = torch.bfloat16

    def __init__(self, weight: Float[Tensor, "O I"]):
        super().__init__(weight.bfloat16())

    @cached_property
    def turned(self) -> Float[Tensor, "I O"]:
        """The transposed copy in float32, which is faster for one token than bfloat16."""
        return self.weight.t().float().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return torch.mm(x.float(), self.turned)
        return torch.mm(self.weight, x.bfloat16())

    def add(self, total: Tensor, x: Tensor) -> Tensor:
        return total + self(x)


class ByteMatrix(HalfMatrix):
    """int8 with one bfloat16 scale a row: the largest magnitude of the row is 127.

    More than one token at a time are multiplied by the same weights in bfloat16.
    """

    def __init__(self, weight: Float[Tensor, "O I"]):
        largest = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scale = (largest / 127).bfloat16()
        self.bytes = (weight / scale.float()).round_().clamp_(-127, 127).to(torch.int8).contiguous()
        self.scale = scale[:, 0].contiguous()
        super().__init__(self.bytes.float() * scale.float())

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            product: Tensor = torch.ops.aten._weight_int8pack_mm(
                x.bfloat16(), self.bytes, self.scale
            )
            return product
        return super().__call__(x)


MATRICES: dict[str, type[Matrix]] = {
    "float32": Matrix,
    "bfloat16": HalfMatrix,
    "int8": ByteMatrix,
}


def matrix_class(dtype: str) -> type[Matrix]:
    """The matrices of a precision.

    Raises:
        ConfigError: if it is not offered.
    """
    if dtype not in MATRICES:
        raise ConfigError(f"`dtype` must be one of {', '.join(MATRICES)}, but is {dtype!r}.")
    return MATRICES[dtype]
