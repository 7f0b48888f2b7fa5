"""Cross-entropy of a linear head as Triton kernels.

With gradients: the loop of `chunks`, whose softmax is one kernel that reads a chunk of logits,
reduces it and writes probabilities over it; products stay with the vendor's library. Making logits
anew in the backward would cost a third more arithmetic. Without gradients: one kernel that
multiplies and reduces at once, so that no logit is written at all. Arithmetic after the load and
sums of products are in float32. Labels outside the columns are not checked.

References:
    Hsu et al. 2024, Liger Kernel; Wijmans et al. 2024, Cut Your Losses. Differs: chunks of bounded
    size, targets exact, no atomics, so the same bits every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unimodal.kernels.cross_entropy import chunks
from unimodal.kernels.dispatch import GateCase, tables

CHUNK_ELEMENTS = 1 << 25
"""Logits held at once (64 MiB in bfloat16)."""

_WIDE = {"BLOCK_M": 128, "BLOCK_C": 128, "BLOCK_K": 64, "PROGRAMS": 264, "num_warps": 8}
_LOW = (torch.bfloat16, torch.float16)
tables.declare(
    "cross_entropy.softmax",
    {"ELEMENTS": 4096, "num_warps": 8, "num_stages": 1},
    candidates=tables.grid(ELEMENTS=(2048, 4096, 8192), num_warps=(4, 8, 16), num_stages=(1,)),
)
tables.declare(
    "cross_entropy.reduce",
    {
        "BLOCK_M": 64,
        "BLOCK_C": 64,
        "BLOCK_K": 32,
        "PROGRAMS": 264,
        "num_warps": 4,
        "num_stages": 2,
    },
    {
        (arch, 0, dtype): {**_WIDE, "num_stages": stages}
        for arch, stages in (("sm80", 3), ("sm90", 3), ("gfx942", 1))
        for dtype in _LOW
    },
    tables.grid(
        BLOCK_M=(64, 128),
        BLOCK_C=(64, 128),
        BLOCK_K=(32, 64),
        PROGRAMS=(264,),
        num_warps=(4, 8),
        num_stages=(2, 3),
    ),
)


@triton.jit
def softmax_kernel(
    p_logits,
    p_label,
    p_nll,
    p_lse,
    p_own,
    num_rows,
    num_classes,
    stride_logits,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    REPLACE: tl.constexpr,
):
    """nll, lse and the label's probability; logits become probabilities, zero at the label."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [BR]
    m_row = o_row < num_rows
    o_block = tl.arange(0, BLOCK_C)
    p_row = p_logits + o_row[:, None] * stride_logits
    b_max = tl.full([BLOCK_ROWS], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    for i_c in range(0, num_classes, BLOCK_C):
        o_c = i_c + o_block
        m_c = (o_c < num_classes)[None, :]
        mask = m_row[:, None] & m_c
        b_logits = tl.load(p_row + o_c[None, :], mask=mask, other=0.0).to(tl.float32)  # [BR, BC]
        b_logits = tl.where(m_c, b_logits, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_logits, 1))
        b_sum = b_sum * tl.exp(b_max - b_new) + tl.sum(tl.exp(b_logits - b_new[:, None]), 1)
        b_max = b_new
    b_label = tl.load(p_label + o_row, mask=m_row, other=0)  # [BR]
    # A label that is no class must not be read; the loss says so by being no number.
    m_at = m_row & (b_label >= 0) & (b_label < num_classes)
    p_at = p_logits + o_row * stride_logits + b_label
    b_at = tl.load(p_at, mask=m_at, other=float("nan"))
    b_log = tl.log(b_sum)
    # Differences before sums: the loss of a sure prediction stays exact.
    b_nll = b_log + (b_max - b_at.to(tl.float32))
    tl.store(p_nll + o_row, b_nll, mask=m_row)
    tl.store(p_lse + o_row, b_max + b_log, mask=m_row)
    tl.store(p_own + o_row, tl.exp(-b_nll), mask=m_row)
    if REPLACE:
        # A neighbouring thread's label must be read before it is written over.
        tl.debug_barrier()
        b_scale = 1.0 / b_sum
        for i_c in range(0, num_classes, BLOCK_C):
            o_c = i_c + o_block
            mask = m_row[:, None] & (o_c < num_classes)[None, :]
            b_logits = tl.load(p_row + o_c[None, :], mask=mask, other=0.0).to(tl.float32)
            b_probability = tl.exp(b_logits - b_max[:, None]) * b_scale[:, None]  # [BR, BC]
            b_probability = tl.where(o_c[None, :] == b_label[:, None], 0.0, b_probability)
            tl.store(p_row + o_c[None, :], b_probability.to(p_logits.dtype.element_ty), mask=mask)


@triton.jit
def reduce_kernel(
    p_hidden,
    p_weight,
    p_label,
    p_lse,
    p_own,
    p_best,
    p_best_column,
    num_rows,
    num_classes,
    classes_a_split,
    stride_hidden,
    stride_weight,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Of each row and each split of the classes: log-sum-exp, the label's logit (0 where the label
    is in another split), the largest logit and its column. Results are [splits, rows]."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BM]
    m_row = o_row < num_rows
    i_split = tl.program_id(1)
    first = i_split * classes_a_split
    last = tl.minimum(first + classes_a_split, num_classes)
    b_label = tl.load(p_label + o_row, mask=m_row, other=-1)  # [BM]
    b_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    # A label that is no class gets no number, as in the other kernel.
    b_own = tl.where((b_label >= 0) & (b_label < num_classes), 0.0, float("nan"))
    b_best_column = tl.zeros([BLOCK_M], dtype=tl.int32)
    for i_c in range(first, last, BLOCK_C):
        o_c = i_c + tl.arange(0, BLOCK_C)
        m_c = o_c < last
        p_column = p_weight + o_c.to(tl.int64)[None, :] * stride_weight
        b_logits = tl.zeros([BLOCK_M, BLOCK_C], dtype=tl.float32)  # [BM, BC]
        for i_k in range(0, WIDTH, BLOCK_K):
            o_k = i_k + tl.arange(0, BLOCK_K)
            m_k = o_k < WIDTH
            p_h = p_hidden + o_row[:, None] * stride_hidden + o_k[None, :]
            b_hidden = tl.load(p_h, mask=m_row[:, None] & m_k[None, :], other=0.0)  # [BM, BK]
            b_weight = tl.load(
                p_column + o_k[:, None], mask=m_k[:, None] & m_c[None, :], other=0.0
            )  # [BK, BC]
            b_logits = tl.dot(b_hidden, b_weight, b_logits, input_precision=PRECISION)
        is_label = o_c[None, :] == b_label[:, None]
        b_own += tl.sum(tl.where(is_label & m_c[None, :], b_logits, 0.0), 1)
        b_logits = tl.where(m_c[None, :], b_logits, float("-inf"))
        b_top = tl.max(b_logits, 1)  # [BM]
        b_best_column = tl.where(b_top > b_max, i_c + tl.argmax(b_logits, 1), b_best_column)
        b_new = tl.maximum(b_max, b_top)
        b_sum = b_sum * tl.exp(b_max - b_new) + tl.sum(tl.exp(b_logits - b_new[:, None]), 1)
        b_max = b_new
    o_out = i_split.to(tl.int64) * num_rows + o_row
    tl.store(p_lse + o_out, b_max + tl.log(b_sum), mask=m_row)
    tl.store(p_own + o_out, b_own, mask=m_row)
    tl.store(p_best + o_out, b_max, mask=m_row)
    tl.store(p_best_column + o_out, b_best_column, mask=m_row)


def loss_and_grads(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    loss_weight: Tensor,
    z_loss: float,
    low_precision: bool,
    want_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss sum, nll, and the gradients of the sum for hidden and weight (empty if not wanted)."""
    if want_grads:
        return chunks.loss_and_grads(
            hidden,
            weight,
            target,
            loss_weight,
            z_loss,
            low_precision,
            want_grads,
            softmax=_softmax_,
            chunk_elements=CHUNK_ELEMENTS,
        )
    nll, lse, _ = _reduce(hidden, weight, target, low_precision)
    total = (loss_weight * (nll + z_loss * lse.square())).sum()
    return total, nll, hidden.new_empty((0,)), weight.new_empty((0,))


def nll_and_correct(
    hidden: Tensor, weight: Tensor, target: Tensor, low_precision: bool
) -> tuple[Tensor, Tensor]:
    """nll and whether the target has the largest logit, without gradients."""
    nll, _, column = _reduce(hidden, weight, target, low_precision)
    return nll, column == target


def _softmax_(logits: Tensor, labels: Tensor, nll: Tensor, lse: Tensor, replace: bool) -> Tensor:
    """See `chunks.Softmax`."""
    rows, classes = logits.shape
    own = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if not rows:
        return own
    constants, launch = _softmax_config(classes, logits.dtype)
    softmax_kernel[(triton.cdiv(rows, constants["BLOCK_ROWS"]),)](
        logits,
        labels.contiguous(),
        nll,
        lse,
        own,
        rows,
        classes,
        logits.stride(0),
        **constants,
        REPLACE=replace,
        **launch,
    )
    return own


def _softmax_config(classes: int, dtype: torch.dtype) -> tuple[dict[str, int], dict[str, int]]:
    launch = tables.lookup("cross_entropy.softmax", 0, dtype)
    elements = launch.pop("ELEMENTS")
    block = min(triton.next_power_of_2(classes), elements)
    return {"BLOCK_ROWS": max(1, elements // block), "BLOCK_C": block}, launch


def _reduce(
    hidden: Tensor, weight: Tensor, target: Tensor, low_precision: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """nll and lse, float32 [P], and the column of the largest logit, int64 [P]."""
    dtype = torch.bfloat16 if low_precision else hidden.dtype
    rows, classes = len(hidden), len(weight)
    config = tables.lookup("cross_entropy.reduce", 0, dtype)
    blocks = triton.cdiv(rows, config["BLOCK_M"])
    # Few rows leave processors idle unless the classes are split among them.
    splits = max(
        1, min(triton.cdiv(classes, config["BLOCK_C"]), config.pop("PROGRAMS") // max(1, blocks))
    )
    size = triton.cdiv(triton.cdiv(classes, splits), config["BLOCK_C"]) * config["BLOCK_C"]
    splits = max(1, triton.cdiv(classes, size))
    shape = (splits, rows)
    lse, own, best = (
        torch.empty(shape, dtype=torch.float32, device=hidden.device) for _ in range(3)
    )
    column = torch.empty(shape, dtype=torch.int32, device=hidden.device)
    if rows:
        flat = [x.to(dtype).contiguous() for x in (hidden, weight)]
        reduce_kernel[(blocks, splits)](
            *flat,
            target.contiguous(),
            lse,
            own,
            best,
            column,
            rows,
            classes,
            size,
            flat[0].stride(0),
            flat[1].stride(0),
            WIDTH=hidden.shape[1],
            PRECISION=_precision(dtype),
            **config,
        )
    label = own.sum(dim=0)
    nll = torch.logsumexp(lse - label, dim=0)
    winner = best.argmax(dim=0, keepdim=True)
    return nll, nll + label, column.gather(0, winner).squeeze(0).long()


def _precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: never as one TensorFloat-32, which keeps ten bits."""
    is_nvidia = tables.architecture().startswith("sm")
    return "tf32x3" if dtype == torch.float32 and is_nvidia else "ieee"


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """Both kernels at a common width, for the compile gate."""
    width, classes = 2048, 32_000
    x, own = torch.empty(4, width, dtype=dtype), torch.empty(4)
    label, column = torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int32)
    logits = torch.empty(4, classes, dtype=dtype)
    constants, launch = _softmax_config(classes, dtype)
    config = tables.lookup("cross_entropy.reduce", 0, dtype)
    config.pop("PROGRAMS")
    tile = {key: value for key, value in config.items() if key.startswith("BLOCK")}
    return [
        GateCase(
            name=f"softmax {dtype}".replace("torch.", ""),
            kernel=softmax_kernel,
            args=(logits, label, own, own, own, 4, classes, classes),
            constexprs={**constants, "REPLACE": True},
            num_warps=launch["num_warps"],
            num_stages=launch["num_stages"],
        ),
        GateCase(
            name=f"reduce {dtype}".replace("torch.", ""),
            kernel=reduce_kernel,
            args=(x, x, label, own, own, own, column, 4, classes, classes, width, width),
            constexprs={**tile, "WIDTH": width, "PRECISION": _precision(dtype)},
            num_warps=config["num_warps"],
            num_stages=config["num_stages"],
        ),
    ]
