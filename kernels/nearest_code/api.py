"""The nearest row of a codebook: checks, dispatch, the operator.

    index = nearest_code(x, codebook)  # x [..., D], codebook [C, D]; int64 [...]

The matrix of distances is never made as a whole.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels import dispatch
from unimodal.kernels.nearest_code import cpu, reference

dispatch.register("nearest_code", ("reference", "cpu", "triton"))
_library = torch.library.Library("unimodal", "FRAGMENT")
_library.define("nearest_code(Tensor x, Tensor codebook, str impl) -> Tensor")


@torch.no_grad()
def nearest_code(x: Tensor, codebook: Tensor, *, impl: str | None = None) -> Tensor:
    """Index of the codebook row at the least Euclidean distance; no gradient.

    Distances are compared in float32 (float64 for float64), as x . c - |c|^2 / 2: of rows whose
    distances agree within rounding, any may be named; of equal rows the first.

    Args:
        x: [..., D], finite.
        codebook: [C, D], finite, C at least 1.
        impl: As `dispatch.choose` takes it.

    Returns:
        int64 [...].

    Raises:
        ShapeError: if shapes do not fit.
        BackendUnavailableError: if `impl` names one that cannot run here.
    """
    if codebook.ndim != 2 or not len(codebook) or x.ndim < 1 or x.shape[-1] != codebook.shape[1]:
        raise ShapeError(
            "`x` must have shape (..., D) and `codebook` (C, D) with C at least 1, but they have "
            f"{tuple(x.shape)} and {tuple(codebook.shape)}."
        )
    is_wide = torch.float64 in (x.dtype, codebook.dtype)
    refusal = "its kernel computes in float32, and an input is float64" if is_wide else None
    chosen = dispatch.choose("nearest_code", x, codebook, impl=impl, unsupported=refusal)
    flat = x.reshape(-1, x.shape[-1])
    if chosen == "reference":
        return reference.nearest_code(flat, codebook).view(x.shape[:-1])
    index: Tensor = torch.ops.unimodal.nearest_code(flat, codebook, chosen)
    return index.view(x.shape[:-1])


def _module(impl: str) -> Any:
    return cpu if impl == "cpu" else importlib.import_module("unimodal.kernels.nearest_code.triton")


@dispatch.on_own_device
def _nearest_code(x: Tensor, codebook: Tensor, impl: str) -> Tensor:
    index: Tensor = _module(impl).nearest_code(x, codebook)
    return index


def _fake(x: Tensor, codebook: Tensor, impl: str) -> Tensor:
    return x.new_empty((x.shape[0],), dtype=torch.int64)


_library.impl("nearest_code", _nearest_code, "CompositeExplicitAutograd")
torch.library.register_fake("unimodal::nearest_code", _fake, lib=_library)
