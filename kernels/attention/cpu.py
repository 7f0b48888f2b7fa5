"""Attention on the CPU: one call of torch's CPU flash attention for each task of a plan.

Documents are gathered out of their rows, so that no work crosses documents. Precision is chosen by
length: under bfloat16, buckets shorter than `LOW_PRECISION_LENGTH` (and blocks of the queries of
longer ones, where a pattern is sparse) are computed in float32, which
is three to six times faster there (two cores with AMX, head size 64, forward and backward of 5,120
tokens and 5 heads: length 80 takes 18 ms in float32, 56 ms in bfloat16 and 27 ms as explicit
bfloat16 products; length 320: 50, 43, 70; length 1,024: 107, 65, 504).

Not here: checks and dispatch (`api`). Tested against `reference`.
"""

from collections.abc import MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from unimodal.kernels.attention.plan import CAUSAL, FULL, Task, read_tasks

LOW_PRECISION_LENGTH = 384
"""Buckets at least this long stay in bfloat16 if the input is. Near it the forward is faster in
bfloat16 and the backward in float32 (4,096 tokens, 4 heads of 64, two threads, length 258: 8.7 and
48.9 ms in bfloat16, 11.4 and 26.0 in float32; length 512: 9.4 and 60.1, 23.7 and 64.2)."""

_biases: MutableMapping[Tensor, dict[torch.dtype, Tensor]] = WeakIdKeyDictionary()
"""Additive masks by the plan's own mask tensor."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    gather, _, _, place_out, mask, columns, tasks = plan
    slots = len(gather)
    heads, size = q.shape[2:]
    buffer = q.new_empty(slots + 1, heads, size)
    buffer[slots] = 0
    lse = torch.empty(slots + 1, heads, dtype=_lse_dtype(q))
    lse[slots] = -torch.inf
    rows = [x.reshape(-1, x.shape[2], size) for x in (q, k, v)]
    for bucket in _buckets(tasks):
        first = bucket[0]
        part = _slice(first)
        q_b, k_b, v_b = (_take(x, gather[part], first) for x in rows)
        out_b = buffer[part].view(first.count, first.length, heads, size)
        lse_b = lse[part].view(first.count, first.length, heads)
        for task in bucket:
            bias = _bias(task, mask, q_b.dtype)
            queries = slice(task.q_start, task.q_stop)
            keys = _columns(task, columns)
            result, logs = _flash(
                q_b[:, :, queries],
                k_b if keys is None else k_b.index_select(2, keys),
                v_b if keys is None else v_b.index_select(2, keys),
                0.0,
                task.mode == CAUSAL,
                attn_mask=bias,
                scale=scale,
            )
            out_b[:, queries] = result.transpose(1, 2)
            lse_b[:, queries] = logs.transpose(1, 2)
    out = buffer.index_select(0, place_out).view(q.shape)
    return out, lse.index_select(0, place_out).view(q.shape[:3])


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
    gather, silent, place, _, mask, columns, tasks = plan
    size = q.shape[3]
    buffers = [x.new_empty(len(gather) + 1, x.shape[2], size) for x in (q, k, v)]
    for buffer in buffers:
        buffer[-1] = 0
    rows = [x.reshape(-1, x.shape[2], size) for x in (q, k, v, out, grad)]
    lse_rows = lse.reshape(-1, lse.shape[2])
    for bucket in _buckets(tasks):
        first = bucket[0]
        part = _slice(first)
        index = gather[part]
        q_b, k_b, v_b, out_b, grad_b = (_take(x, index, first) for x in rows)
        lse_b = lse_rows.index_select(0, index)
        if first.padded:
            quiet = silent[part]
            # A silent slot repeats another position or sees no key: nothing flows back from it.
            shape = (first.count, 1, first.length, 1)
            grad_b = grad_b.masked_fill(quiet.view(shape), 0)
            lse_b = lse_b.masked_fill_(quiet[:, None], 0)
        lse_b = lse_b.view(first.count, first.length, -1).transpose(1, 2)
        grads = [b[part].view(first.count, first.length, -1, size) for b in buffers]
        _bucket_backward(bucket, (grad_b, q_b, k_b, v_b, out_b, lse_b), grads, mask, columns, scale)
    grad_q, grad_k, grad_v = (
        buffer.index_select(0, place).view(x.shape)
        for buffer, x in zip(buffers, (q, k, v), strict=True)
    )
    return grad_q, grad_k, grad_v


def _bucket_backward(
    bucket: list[Task],
    inputs: tuple[Tensor, ...],
    grads: list[Tensor],
    mask: Tensor,
    columns: Tensor,
    scale: float,
) -> None:
    """Write the gradients of one bucket's queries, keys and values to `grads`.

    Args:
        bucket: Tasks over the same documents.
        inputs: Gradient, queries, keys, values, output and log-sums of the bucket.
        grads: Views [count, length, heads, H] for queries, keys and values.
        mask, columns, scale: As in the plan.
    """
    grad_b, q_b, k_b, v_b, out_b, lse_b = inputs
    whole = len(bucket) == 1 and bucket[0].column_count < 0
    sums = None if whole else [torch.zeros_like(k_b), torch.zeros_like(v_b)]
    for task in bucket:
        bias = _bias(task, mask, q_b.dtype)
        queries = slice(task.q_start, task.q_stop)
        keys = _columns(task, columns)
        grad_q, grad_k, grad_v = _flash_backward(
            grad_b[:, :, queries],
            q_b[:, :, queries],
            k_b if keys is None else k_b.index_select(2, keys),
            v_b if keys is None else v_b.index_select(2, keys),
            out_b[:, :, queries],
            lse_b[:, :, queries],
            0.0,
            task.mode == CAUSAL,
            attn_mask=bias,
            scale=scale,
        )
        grads[0][:, queries] = grad_q.transpose(1, 2)
        if sums is None:
            grads[1].copy_(grad_k.transpose(1, 2))
            grads[2].copy_(grad_v.transpose(1, 2))
        elif keys is None:
            sums[0].add_(grad_k)
            sums[1].add_(grad_v)
        else:
            sums[0].index_add_(2, keys, grad_k)
            sums[1].index_add_(2, keys, grad_v)
    if sums is not None:
        grads[1].copy_(sums[0].transpose(1, 2))
        grads[2].copy_(sums[1].transpose(1, 2))


def attend_cached(q: Tensor, k_cache: Tensor, v_cache: Tensor, bias: Tensor | None) -> Tensor:
    """See `cached.attend_cached`; `bias` as in its `MaskPlan`.

    A query that sees nothing gets zeros from flash attention itself. One thread, 16 rows, 5 heads
    of 64, 512 cached positions: 3.5 ms, against 11.6 ms as matrix products, which copy the cache
    (2.3 and 2.7 ms where it lies [B, K, S, H]).
    """
    # The operator is wrong, without a word, where the last axis is not contiguous.
    q, k_cache, v_cache = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k_cache, v_cache)
    )
    k, v = k_cache.to(q.dtype).transpose(1, 2), v_cache.to(q.dtype).transpose(1, 2)
    if bias is not None:
        bias = bias[:, None].double() if q.dtype == torch.float64 else bias[:, None]
    batch, new, heads, size = q.shape
    if new == 1:
        # The queries that share a key head stand where a longer block's positions would.
        grouped = q.reshape(batch, k.shape[1], heads // k.shape[1], size)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=bias).reshape(q.shape)
    scale = size**-0.5
    out, _ = _flash(q.transpose(1, 2), k, v, 0.0, False, attn_mask=bias, scale=scale)
    result: Tensor = out.transpose(1, 2)
    return result


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _buckets(tasks: Tensor) -> list[list[Task]]:
    """Tasks that share their gathered documents, together."""
    buckets: list[list[Task]] = []
    for task in read_tasks(tasks):
        if buckets and buckets[-1][0].start == task.start:
            buckets[-1].append(task)
        else:
            buckets.append([task])
    return buckets


def _slice(task: Task) -> slice:
    return slice(task.start, task.start + task.count * task.length)


def _take(rows: Tensor, index: Tensor, task: Task) -> Tensor:
    """Gather positions as [count, heads, length, H], in the precision of the bucket."""
    taken = rows.index_select(0, index)
    short = task.length < LOW_PRECISION_LENGTH or task.column_count >= 0
    if short and rows.dtype in (torch.bfloat16, torch.float16):
        taken = taken.float()
    return taken.view(task.count, task.length, rows.shape[1], rows.shape[2]).transpose(1, 2)


def _columns(task: Task, columns: Tensor) -> Tensor | None:
    if task.column_count < 0:
        return None
    return columns[task.column_start : task.column_start + task.column_count]


def _bias(task: Task, mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The task's mask as the additive one that flash attention takes, [count, 1, queries, keys].

    Built once for a plan and dtype, and kept as long as the plan's mask: every layer of the same
    patterns reads it, forward and backward. It takes 4 bytes a pair in float32 (2 in bfloat16),
    beside the mask's 1.
    """
    if task.mode in (CAUSAL, FULL):
        return None
    count, queries, keys = task.mask_shape
    by_dtype = _biases.setdefault(mask, {})
    if dtype not in by_dtype:
        by_dtype[dtype] = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
    stop = task.mask_start + count * queries * keys
    return by_dtype[dtype][task.mask_start : stop].view(count, 1, queries, keys)
