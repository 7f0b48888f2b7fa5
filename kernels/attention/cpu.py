"""Attention on the CPU: one call of torch's CPU flash attention for each task of a plan.

Documents are gathered out of their rows, so that no work crosses documents; where each row is one
document as long as the row, they are read where they lie. The forward keeps the precision of its
input; the backward widens bfloat16 and float16 to float32 where a task has few queries, which is
then over four times as fast at 80 (`LOW_PRECISION_QUERIES`).

Not here: checks and dispatch (`api`). Tested against `reference`.
"""

from collections.abc import Iterator, MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from unimodal.kernels.attention.plan import CAUSAL, FULL, Task, read_tasks

LOW_PRECISION_QUERIES = 448
"""A task with at least as many queries in a group keeps the precision of its input in the backward.

Two cores with AMX, 5,120 tokens, 5 heads of 64, causal, copies included, milliseconds in float32
and bfloat16:

| length | forward | backward |
|---|---|---|
| 16 | 17, 6 | 33, 146 |
| 80 | 15, 6 | 24, 110 |
| 258 | 23, 15 | 59, 79 |
| 400 | 26, 14 | 70, 77 |
"""

_biases: MutableMapping[Tensor, dict[torch.dtype, Tensor]] = WeakIdKeyDictionary()
"""Additive masks by the plan's own mask tensor."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    gather, _, _, place_out, mask, columns, tasks = plan
    heads, size = q.shape[2:]
    buckets = _buckets(tasks)
    in_place = _is_in_place(buckets)
    slots = len(gather) + (not in_place)
    buffer = q.new_empty(slots, heads, size)
    lse = torch.empty(slots, heads, dtype=_lse_dtype(q))
    if not in_place:  # the last slot is read by positions that have no result
        buffer[-1], lse[-1] = 0, -torch.inf
    rows = [x.reshape(-1, x.shape[2], size) for x in (q, k, v)]
    for bucket in buckets:
        first = bucket[0]
        part = _slice(first)
        q_b, k_b, v_b = (_take(x, gather[part], first) for x in rows)
        out_b = buffer[part].view(first.count, first.length, heads, size)
        lse_b = lse[part].view(first.count, first.length, heads)
        widens = _is_low(q) and any(task.merged for task in bucket)
        into = torch.empty_like(out_b, dtype=torch.float32) if widens else out_b
        for task, part in _calls(bucket):
            result, logs = _flash(
                _queries(q_b[part], task),
                _keys(k_b[part], task, columns),
                _keys(v_b[part], task, columns),
                0.0,
                task.mode == CAUSAL,
                attn_mask=_bias(task, part, mask, q_b.dtype),
                scale=scale,
            )
            own = (part, slice(task.q_start, task.q_stop))
            _write(into[own], lse_b[own], _rows(result, task), _rows(logs, task), task)
        if widens:
            out_b.copy_(into)
    if not in_place:
        buffer, lse = (x.index_select(0, place_out) for x in (buffer, lse))
    return buffer.view(q.shape), lse.view(q.shape[:3])


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
    buckets = _buckets(tasks)
    in_place = _is_in_place(buckets)
    slots = len(gather) + (not in_place)
    buffers = [x.new_empty(slots, x.shape[2], size) for x in (q, k, v)]
    if not in_place:
        for buffer in buffers:
            buffer[-1] = 0
    rows = [x.reshape(-1, x.shape[2], size) for x in (q, k, v, out, grad)]
    lse_rows = lse.reshape(-1, lse.shape[2])
    for bucket in buckets:
        first = bucket[0]
        part = _slice(first)
        index = gather[part]
        q_b, k_b, v_b, out_b, grad_b = (_take(x, index, first) for x in rows)
        lse_b = lse_rows if in_place else lse_rows.index_select(0, index)
        if first.padded:
            quiet = silent[part]
            # A silent slot repeats another position or sees no key: nothing flows back from it.
            # Its weights are exp(score - inf) = 0, however large the score.
            shape = (first.count, 1, first.length, 1)
            grad_b = grad_b.masked_fill(quiet.view(shape), 0)
            lse_b = lse_b.masked_fill_(quiet[:, None], torch.inf)
        lse_b = lse_b.view(first.count, first.length, -1).transpose(1, 2)
        grads = [b[part].view(first.count, first.length, -1, size) for b in buffers]
        _bucket_backward(bucket, (grad_b, q_b, k_b, v_b, out_b, lse_b), grads, mask, columns, scale)
    if not in_place:
        buffers = [buffer.index_select(0, place) for buffer in buffers]
    grad_q, grad_k, grad_v = (
        buffer.view(x.shape) for buffer, x in zip(buffers, (q, k, v), strict=True)
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
    lse_b = inputs[-1]
    low = wide = inputs[:-1]
    if _is_low(low[0]) and any(_has_few_queries(task) for task in bucket):
        wide = tuple(x.float() for x in low)
    is_alone = len(bucket) == 1 and bucket[0].groups == 1
    sums = grads
    if not is_alone:
        if _is_low(low[0]):
            sums = [torch.empty_like(x, dtype=torch.float32) for x in grads]
        for keyed in sums[1:]:
            keyed.zero_()
    for task, part in _calls(bucket):
        grad_b, q_b, k_b, v_b, out_b = wide if _has_few_queries(task) else low
        grad, q, out = (_queries(x[part], task) for x in (grad_b, q_b, out_b))
        k, v = (_keys(x[part], task, columns) for x in (k_b, v_b))
        found = _flash_backward(
            grad,
            q,
            k,
            v,
            out,
            _queries(lse_b[part], task),
            0.0,
            task.mode == CAUSAL,
            attn_mask=_bias(task, part, mask, q.dtype),
            scale=scale,
        )
        if is_alone:
            for into, own in zip(sums, found, strict=True):
                into.copy_(own.transpose(1, 2))
            return
        queries = sums[0][part, task.q_start : task.q_stop]
        if task.merged:
            queries += _rows(found[0], task)
        else:
            queries.copy_(_rows(found[0], task))
        for into, own in zip(sums[1:], found[1:], strict=True):
            _add_keys(into[part], own.transpose(1, 2), task, columns)
    if sums is not grads:
        for into, own in zip(grads, sums, strict=True):
            into.copy_(own)


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


def _is_in_place(buckets: list[list[Task]]) -> bool:
    return len(buckets) == 1 and bool(buckets[0][0].in_place)


def _calls(bucket: list[Task]) -> Iterator[tuple[Task, slice]]:
    """Each task with the documents of one call: where keys are windows, one document at a time.

    The windows of one document are a view of its keys, those of several are not.
    """
    for task in bucket:
        size = 1 if _has_windows(task) else task.count
        for start in range(0, task.count, size):
            yield task, slice(start, start + size)


def _has_windows(task: Task) -> bool:
    return task.groups > 1 and task.key_start >= 0


def _slice(task: Task) -> slice:
    return slice(task.start, task.start + task.count * task.length)


def _take(rows: Tensor, index: Tensor, task: Task) -> Tensor:
    """Gather positions as [count, heads, length, H]."""
    taken = rows if task.in_place else rows.index_select(0, index)
    return taken.view(task.count, task.length, rows.shape[1], rows.shape[2]).transpose(1, 2)


def _is_low(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16)


def _has_few_queries(task: Task) -> bool:
    """Whether its backward is faster in float32."""
    return task.q_stop - task.q_start < LOW_PRECISION_QUERIES * task.groups


def _queries(x: Tensor, task: Task) -> Tensor:
    """A task's queries: [n, heads, length, ...] to [n * groups, heads, queries, ...]."""
    part = x[:, :, task.q_start : task.q_stop]
    if task.groups == 1:
        return part
    part = part.transpose(1, 2)
    return part.reshape(len(x) * task.groups, -1, *part.shape[2:]).transpose(1, 2)


def _keys(x: Tensor, task: Task, columns: Tensor) -> Tensor:
    """The task's keys of [n, heads, length, H] as [n * groups, heads, keys, H]."""
    if _has_windows(task):
        assert len(x) == 1
        return _windows(x[0].transpose(0, 1), task, 0, task.keys).transpose(2, 3)
    if task.key_start >= 0:
        return x[:, :, task.key_start : task.key_start + task.keys]
    part = x.transpose(1, 2).index_select(1, task.group_keys(columns).flatten())
    return part.view(len(x) * task.groups, task.keys, *part.shape[2:]).transpose(1, 2)


def _windows(x: Tensor, task: Task, start: int, stop: int) -> Tensor:
    """The keys from `start` to `stop` of each window: a view [groups, heads, H, stop - start].

    Args:
        x: Keys of one document, [length, heads, H].
        task: With windows.
        start, stop: Within the window.
    """
    step = task.mask_shape[1]
    first = task.key_start + start
    whole = x[first : first + (task.groups - 1) * step + stop - start]
    return whole.unfold(0, stop - start, step)


def _add_keys(into: Tensor, found: Tensor, task: Task, columns: Tensor) -> None:
    """Add the gradients of a task's keys to those of all keys.

    Args:
        into: [n, length, heads, H].
        found: [n * groups, keys, heads, H].
        task, columns: As in the plan.
    """
    if _has_windows(task):
        assert len(into) == 1
        step = task.mask_shape[1]
        for start in range(0, task.keys, step):  # windows overlap, these parts of them do not
            stop = min(start + step, task.keys)
            part = _windows(into[0], task, start, stop)
            part += found[:, start:stop].permute(0, 2, 3, 1)
    elif task.key_start >= 0:
        into[:, task.key_start : task.key_start + task.keys] += found
    else:
        own = found.reshape(len(into), -1, *found.shape[2:]).to(into.dtype)
        into.index_add_(1, task.group_keys(columns).flatten(), own)


def _rows(x: Tensor, task: Task) -> Tensor:
    """[n * groups, heads, queries, ...] as [n, groups * queries, heads, ...]."""
    x = x.transpose(1, 2)
    return x.reshape(len(x) // task.groups, task.groups * x.shape[1], *x.shape[2:])


def _write(out: Tensor, lse: Tensor, result: Tensor, logs: Tensor, task: Task) -> None:
    """Write a task's result, or merge it with what stands there, each weighed by its log-sum."""
    if not task.merged:
        out.copy_(result)
        lse.copy_(logs)
        return
    whole = torch.logaddexp(lse, logs)
    out.mul_(torch.exp(lse - whole)[..., None])
    share = torch.exp(logs - whole)[..., None].to(out.dtype)
    out.addcmul_(result.to(out.dtype), share)
    lse.copy_(whole)


def _bias(task: Task, part: slice, mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The mask of some documents of a task as the additive one that flash attention takes.

    float [documents * groups, 1, queries, keys].

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
    biases = by_dtype[dtype][task.mask_start : stop].view(count, 1, queries, keys)
    return biases[part.start * task.groups : part.stop * task.groups]
