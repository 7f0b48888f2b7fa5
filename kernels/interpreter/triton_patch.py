"""Mends the arithmetic of Triton's interpreter, in test processes only.

As it comes (3.6 and 3.7), products of bfloat16 blocks multiply their bit patterns, float32 to
bfloat16 cuts bits off instead of rounding, dots smaller than a tensor core allows pass, and nine
tenths of its time go into patching triton's language again.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

MIN_DOT = 16
"""Least size of each axis of a dot."""


def patch() -> None:
    """Make the interpreter's dots exact products whose sum is rounded once, to even.

    Libraries sum the columns at a tile's edge in another order than the rest, as cards do not: in
    float64 that does not show.
    """
    builder = interpreter.InterpreterBuilder
    if getattr(builder, "_is_mended", False):
        return
    builder._is_mended = True
    cast_impl = builder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, _: Any) -> Any:
        del self, precision
        (m, k), n = a.data.shape[-2:], b.data.shape[-1]
        if min(m, n, k) < MIN_DOT:
            raise ValueError(f"a dot of {m} x {n} x {k} is smaller than {MIN_DOT}")
        product = np.matmul(_widen(a).astype(np.float64), _widen(b).astype(np.float64))
        return interpreter.TensorHandle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    def cast(self: Any, source: Any, target: Any) -> Any:
        pair = (source.dtype.scalar, target.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(_round_to_bfloat16(source.data), target.scalar)
        if pair == (tl.bfloat16, tl.float32):
            return interpreter.TensorHandle(_widen(source), target.scalar)
        return cast_impl(self, source, target)

    builder.create_dot = create_dot
    builder.cast_impl = cast
    # The interpreter patches triton's language at every call of a device function, which takes
    # most of its time, and never undoes it: once is enough for a process.
    interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    interpreter._patch_lang = lambda _: interpreter._LangPatchScope()


def _widen(block: Any) -> Any:
    if block.dtype.scalar == tl.bfloat16:
        return (block.data.astype(np.uint32) << 16).view(np.float32)
    return block.data


def _round_to_bfloat16(data: Any) -> Any:
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(data), 0x7FC0, rounded).astype(np.uint16)
