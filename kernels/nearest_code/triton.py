"""The nearest row of a codebook as a Triton kernel: products and the running best in one program.

Scores x . c - |c|^2 / 2 exist only as a tile. Products of float32 never use a single
TensorFloat-32, which keeps ten bits and would pick other codes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.dispatch import GateCase, tables

tables.declare(
    "nearest_code.search",
    {"BLOCK_M": 64, "BLOCK_C": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2},
    candidates=tables.grid(
        BLOCK_M=(64, 128), BLOCK_C=(64, 128), BLOCK_K=(32, 64), num_warps=(4, 8), num_stages=(2, 3)
    ),
)


@triton.jit
def nearest_code_kernel(
    p_x,
    p_codebook,
    p_index,
    num_rows,
    num_codes,
    stride_x,
    stride_code,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """index[row] = argmax over codes of x . c - |c|^2 / 2; the first of equals."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BM]
    m_row = o_row < num_rows
    b_best = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    b_index = tl.zeros([BLOCK_M], dtype=tl.int32)
    for i_c in range(0, num_codes, BLOCK_C):
        o_c = i_c + tl.arange(0, BLOCK_C)
        m_c = o_c < num_codes
        p_code = p_codebook + o_c.to(tl.int64)[None, :] * stride_code
        b_score = tl.zeros([BLOCK_M, BLOCK_C], dtype=tl.float32)  # [BM, BC]
        b_square = tl.zeros([BLOCK_C], dtype=tl.float32)
        for i_k in range(0, WIDTH, BLOCK_K):
            o_k = i_k + tl.arange(0, BLOCK_K)
            m_k = o_k < WIDTH
            p_rows = p_x + o_row[:, None] * stride_x + o_k[None, :]
            b_x = tl.load(p_rows, mask=m_row[:, None] & m_k[None, :], other=0.0)  # [BM, BK]
            b_code = tl.load(
                p_code + o_k[:, None], mask=m_k[:, None] & m_c[None, :], other=0.0
            )  # [BK, BC]
            b_score = tl.dot(b_x, b_code, b_score, input_precision=PRECISION)
            b_wide = b_code.to(tl.float32)
            b_square += tl.sum(b_wide * b_wide, 0)
        b_score = tl.where(m_c[None, :], b_score - 0.5 * b_square[None, :], float("-inf"))
        b_top = tl.max(b_score, 1)  # [BM]
        b_index = tl.where(b_top > b_best, i_c + tl.argmax(b_score, 1), b_index)
        b_best = tl.maximum(b_best, b_top)
    tl.store(p_index + o_row, b_index.to(tl.int64), mask=m_row)


def nearest_code(x: Tensor, codebook: Tensor) -> Tensor:
    """Index int64 [P] of the row of `codebook` [C, D] nearest to each row of x [P, D]."""
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    if not len(x):
        return index
    dtype = torch.promote_types(x.dtype, codebook.dtype)
    rows, codes = (
        y.to(dtype) if y.stride(1) == 1 else y.to(dtype).contiguous() for y in (x, codebook)
    )
    config = tables.lookup("nearest_code.search", 0, dtype)
    nearest_code_kernel[(triton.cdiv(len(rows), config["BLOCK_M"]),)](
        rows,
        codes,
        index,
        len(rows),
        len(codes),
        rows.stride(0),
        codes.stride(0),
        WIDTH=rows.shape[1],
        PRECISION=_precision(dtype),
        **config,
    )
    return index


def _precision(dtype: torch.dtype) -> str:
    is_nvidia = tables.architecture().startswith("sm")
    return "tf32x3" if dtype == torch.float32 and is_nvidia else "ieee"


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """The kernel for a codebook of common size, for the compile gate."""
    width, codes = 256, 8192
    x, index = torch.empty(4, width, dtype=dtype), torch.zeros(4, dtype=torch.int64)
    config = tables.lookup("nearest_code.search", 0, dtype)
    tile = {key: value for key, value in config.items() if key.startswith("BLOCK")}
    return [
        GateCase(
            name=f"search {dtype}".replace("torch.", ""),
            kernel=nearest_code_kernel,
            args=(x, x, index, 4, codes, width, width),
            constexprs={**tile, "WIDTH": width, "PRECISION": _precision(dtype)},
            num_warps=config["num_warps"],
            num_stages=config["num_stages"],
        )
    ]
