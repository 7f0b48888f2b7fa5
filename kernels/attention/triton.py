"""Attention as Triton kernels: launches of the forward and the backward with their tile sizes.

Private: `api` checks inputs and comes here with the tensors of a `TokenPlan`, and with queries,
keys and values in its order; the kernels see no permutation. Not here: the kernels themselves
(`triton_forward`, `triton_backward`, `triton_decode`), how large their tiles are (`triton_tiles`)
and which they visit (`triton_schedule`).
"""

from typing import Any

import torch
import triton
from torch import Tensor

from unimodal.kernels.attention.forms import BEFORE, BOX, COLUMN
from unimodal.kernels.attention.tokens import FIELDS, compile_time_code
from unimodal.kernels.attention.triton_backward import (
    attention_backward_kv,
    attention_backward_q,
    attention_delta,
)
from unimodal.kernels.attention.triton_decode import decode_cases
from unimodal.kernels.attention.triton_forward import attention_forward
from unimodal.kernels.attention.triton_schedule import RUN_FIELDS, RUNS, schedule_cases, schedule_of
from unimodal.kernels.attention.triton_tiles import tiles_of
from unimodal.kernels.dispatch import GateCase, launch

MAX_STRIDE = 1 << 23
"""Largest distance of two tokens in elements: offsets within a tile are 32 bits wide."""

TMA_BYTES = 16
"""Of which the addresses and strides of a descriptor are multiples."""

LOG2E = 1.4426950408889634


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    q, k, v = (_rows(x) for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    if q.numel():
        config = _config("forward", q, plan)
        if config["TMA"]:
            config["TMA"] = int(_takes_tma(k) and _takes_tma(v))
            triton.set_allocator(_scratch)
        runs = schedule_of(plan, config["BLOCK_M"], config["BLOCK_N"], by_key=False)
        launch(_forward_case(q, k, v, out, lse, plan, runs, scale, config))
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: list[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    grad, q, k, v = (_rows(x) for x in (grad, q, k, v))
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
    if q.numel():
        lse = lse.contiguous()
        delta = torch.empty(lse.shape, dtype=torch.float32, device=out.device)
        launch(_delta_case(grad, out.contiguous(), lse, delta, plan[0]))
        for part in ("q", "kv"):
            config = _config(f"backward_{part}", q, plan)
            runs = schedule_of(plan, config["BLOCK_M"], config["BLOCK_N"], by_key=part == "kv")
            inputs = (grad, q, k, v, lse, delta)
            launch(_backward_case(part, inputs, grads, plan, runs, scale, config))
    return grads[0], grads[1], grads[2]


def gate_cases(head_dim: int, dtype: torch.dtype) -> list[GateCase]:
    """Every kernel as it is launched, for plain causal layers and for layers with patterns."""
    q = torch.empty(1, 64, 4, head_dim, dtype=dtype)
    k = torch.empty(1, 64, 2, head_dim, dtype=dtype)
    lse = torch.empty(1, 64, 4)
    tokens = torch.zeros(FIELDS, 1, 64, dtype=torch.int32)
    runs = torch.zeros(1, 1, RUN_FIELDS, dtype=torch.int32)
    column = torch.tensor([COLUMN | 8 | 16 | 1 << 5, BOX | 8 | 16 | 2 << 5])
    cases = [_delta_case(q, q, lse, lse, tokens)]
    for codes in (column[:0], column):
        parameters = torch.zeros(len(codes), 4, dtype=torch.int32)
        plan = [tokens, parameters, codes]
        config = _config("forward", q, plan)
        cases.append(_forward_case(q, k, k, q, lse, plan, runs, 1.0, config))
        for part in ("q", "kv"):
            config = _config(f"backward_{part}", q, plan)
            inputs = (q, q, k, k, lse, lse)
            cases.append(_backward_case(part, inputs, [q, k, k], plan, runs, 1.0, config))
        cases += schedule_cases(plan) + decode_cases(head_dim, dtype, parameters, codes)
    return cases


def _forward_case(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: list[Tensor],
    runs: Tensor,
    scale: float,
    config: dict[str, int],
) -> GateCase:
    blocks = triton.cdiv(q.shape[1], config["BLOCK_M"])
    arguments = (
        *(q, k, v, out, lse, plan[0], plan[1], runs),
        *_sizes(q, k, blocks),
        *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]),
        scale * LOG2E,
    )
    grid = (blocks * q.shape[2] * q.shape[0],)
    return _case("forward", attention_forward, arguments, _constants(q, plan), grid, config)


def _backward_case(
    part: str,
    inputs: tuple[Tensor, ...],
    grads: list[Tensor],
    plan: list[Tensor],
    runs: Tensor,
    scale: float,
    config: dict[str, int],
) -> GateCase:
    """Args: `inputs` are gradient, q, k, v, log-sums and delta; `part` is `q` or `kv`."""
    grad, q, k, v = inputs[:4]
    by_key = part == "kv"
    blocks = triton.cdiv(q.shape[1], config["BLOCK_N" if by_key else "BLOCK_M"])
    kernel = attention_backward_kv if by_key else attention_backward_q
    arguments = (
        *inputs,
        *(grads[1:] if by_key else grads[:1]),
        *(plan[0], plan[1], runs),
        *_sizes(q, k, blocks),
        *[stride for x in (grad, q, k, v) for stride in x.stride()[:3]],
        scale,
    )
    grid = (blocks * (k if by_key else q).shape[2] * q.shape[0],)
    return _case(f"backward_{part}", kernel, arguments, _constants(q, plan), grid, config)


def _delta_case(grad: Tensor, out: Tensor, lse: Tensor, delta: Tensor, tokens: Tensor) -> GateCase:
    batch, length, heads, size = out.shape
    rows = batch * length * heads
    config = tiles_of("delta", size, out.dtype)
    arguments = (grad, out, lse, delta, tokens[1], rows, heads, length, *grad.stride()[:3])
    constants = {"H": size, "BLOCK_H": _block_of(size)}
    grid = (triton.cdiv(rows, config["BLOCK"]),)
    return _case("delta", attention_delta, arguments, constants, grid, config)


def _case(
    name: str,
    kernel: Any,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    grid: tuple[int, ...],
    config: dict[str, int],
) -> GateCase:
    sort = "" if "CODES" not in constants else " sparse" if constants["CODES"] else " dense"
    dtype = str(arguments[0].dtype).removeprefix("torch.")
    return GateCase(
        name=f"{name}{sort} {constants['H']} {dtype}",
        kernel=kernel,
        args=arguments,
        constexprs={**constants, **{n: v for n, v in config.items() if not n.startswith("num_")}},
        grid=grid,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )


def _rows(x: Tensor) -> Tensor:
    """The tensor with its last axis contiguous and its tokens not too far apart."""
    return x.contiguous() if x.stride(-1) != 1 or x.stride(1) > MAX_STRIDE else x


def _takes_tma(x: Tensor) -> bool:
    """Whether descriptors of this tensor [B, T, heads, H] can be made, its last axis contiguous."""
    strides = [stride * x.element_size() for stride in x.stride()[:3]]
    aligned = all(stride % TMA_BYTES == 0 for stride in strides)
    return aligned and x.data_ptr() % TMA_BYTES == 0 and strides[1] > 0


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory for the descriptors that a launch's programs make."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def _sizes(q: Tensor, k: Tensor, blocks: int) -> tuple[int, ...]:
    batch, length, heads, _ = q.shape
    return length, blocks, heads, heads // k.shape[2], batch * length


def _constants(q: Tensor, plan: list[Tensor]) -> dict[str, Any]:
    size, codes = q.shape[3], plan[2].tolist()
    return {
        "H": size,
        "BLOCK_H": _block_of(size),
        "CODES": compile_time_code(codes),
        "CONDITIONS": len(codes),
        "RUNS": RUNS,
        # Tensor cores cut float32 to 10 bits of mantissa unless told not to.
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }


def _block_of(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def _config(kernel: str, q: Tensor, plan: list[Tensor]) -> dict[str, int]:
    opcodes = {code & 7 for code in plan[2].tolist()}
    # Boxes, rows and columns leave out most tiles if these are small.
    sort = "sparse" if opcodes - {BEFORE} else "dense"
    return tiles_of(f"{kernel}_{sort}", q.shape[3], q.dtype)
