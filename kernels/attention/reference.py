"""Attention in plain torch: the definition that every other implementation is compared with.

Works in any floating dtype and on any device, and materialises every score. Tested against float64
and `torch.nn.functional.scaled_dot_product_attention`.
"""

import torch
from torch import Tensor

from unimodal.kernels.attention import tokens
from unimodal.kernels.attention.plan import CAUSAL, FULL, read_tasks


def attend_dense(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T over visible keys) v, accumulated in at least float32.

    Args:
        q: [B, Tq, N, H].
        k, v: [B, Tk, K, H]; query head n reads key head n // (N // K).
        visible: bool [B, Tq, Tk]. A query that sees nothing gets zeros.
        scale: Factor of the scores.

    Returns:
        The result [B, Tq, N, H] in the dtype of `q`, and the log of the sum of exponentials of the
        scores [B, Tq, N] (minus infinity where nothing is seen), in the dtype of the arithmetic.
    """
    q_work, k_work, v_work = _widen(q, k, v)
    scores = _scores(q_work, k_work, visible, scale)
    lse = scores.logsumexp(dim=-1)
    weights = _weights(scores, lse)
    out = torch.einsum("bkgqs,bskh->bqkgh", weights, v_work).reshape(q.shape)
    return out.to(q.dtype), lse.permute(0, 3, 1, 2).flatten(2)


def attend_dense_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    visible: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend_dense` for q, k and v, from its result and `lse`."""
    q_work, k_work, v_work = _widen(q, k, v)
    batch, length, heads, size = q.shape
    groups = k.shape[2]
    scores = _scores(q_work, k_work, visible, scale)
    split = lse.reshape(batch, length, groups, heads // groups).permute(0, 2, 3, 1)
    weights = _weights(scores, split.to(scores.dtype))
    seen = visible.any(dim=-1)[:, :, None, None]
    grad = torch.where(seen, grad.to(q_work.dtype), 0.0)
    delta = (grad * torch.where(seen, out.to(q_work.dtype), 0.0)).sum(dim=-1)
    grad = grad.reshape(batch, length, groups, -1, size)
    delta = delta.reshape(batch, length, groups, -1).permute(0, 2, 3, 1)
    grad_v = torch.einsum("bkgqs,bqkgh->bskh", weights, grad)
    grad_weights = torch.einsum("bqkgh,bskh->bkgqs", grad, v_work)
    grad_scores = weights * (grad_weights - delta[..., None]) * scale
    grad_q = torch.einsum("bkgqs,bskh->bqkgh", grad_scores, k_work).reshape(q.shape)
    q_split = q_work.reshape(batch, length, groups, -1, size)
    grad_k = torch.einsum("bkgqs,bqkgh->bskh", grad_scores, q_split)
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


def dense_mask(plan: list[Tensor], batch: int, length: int) -> Tensor:
    """The mask bool [B, T, T] that a plan stands for, in its order: what `visible` said."""
    if len(plan) == tokens.TOKEN_TENSORS:
        return tokens.dense_mask(plan)
    gather, silent, _, place_out, mask, columns, tasks = plan
    result = torch.zeros(batch * length, length, dtype=torch.bool, device=gather.device)
    for task in read_tasks(tasks):
        count, queries, keys = task.mask_shape
        slots = gather[task.start : task.start + task.count * task.length]
        slots = slots.reshape(task.count, task.length)
        if task.mode == FULL:
            pairs = torch.ones(task.mask_shape, dtype=torch.bool, device=gather.device)
        elif task.mode == CAUSAL:
            pairs = torch.ones(task.mask_shape, dtype=torch.bool, device=gather.device).tril()
        else:
            stop = task.mask_start + count * queries * keys
            pairs = mask[task.mask_start : stop].reshape(task.mask_shape)
        k_slots = slots[:, task.group_keys(columns).flatten()].reshape(count, keys)
        q_slots = slots[:, task.q_start : task.q_stop].reshape(count, queries)
        quiet = silent[task.start : task.start + slots.numel()].reshape(slots.shape)
        quiet = quiet[:, task.q_start : task.q_stop].reshape(count, queries)
        pairs = pairs & ~quiet[..., None]
        document, query, key = pairs.nonzero().unbind(dim=1)
        result[q_slots[document, query], k_slots[document, key] % length] = True
    result[place_out == len(gather)] = False
    return result.reshape(batch, length, length)


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """`attend_dense` over the mask of a plan; see `api.attention`."""
    visible = dense_mask(plan, q.shape[0], q.shape[1])
    held = _held(plan, visible)
    q, k, v = (torch.where(held, x, 0.0) for x in (q, k, v))
    out, lse = attend_dense(q, k, v, visible, scale)
    return out, lse.to(_lse_dtype(q))


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
    """Gradients of `forward`."""
    visible = dense_mask(plan, q.shape[0], q.shape[1])
    held = _held(plan, visible)
    q, k, v = (torch.where(held, x, 0.0) for x in (q, k, v))
    return attend_dense_backward(grad, q, k, v, out, lse, visible, scale)


def _held(plan: list[Tensor], visible: Tensor) -> Tensor:
    """Positions that are no padding (or that some query sees). bool [B, T, 1, 1]."""
    if len(plan) == tokens.TOKEN_TENSORS:
        held = visible.any(dim=1) | visible.any(dim=2)
    else:
        held = (plan[2] < len(plan[0])).reshape(visible.shape[:2])
    return held[:, :, None, None]


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    work = _lse_dtype(tensors[0])
    return tuple(tensor.to(work) for tensor in tensors)


def _scores(q: Tensor, k: Tensor, visible: Tensor, scale: float) -> Tensor:
    batch, length, heads, size = q.shape
    split = q.reshape(batch, length, k.shape[2], heads // k.shape[2], size)
    scores = torch.einsum("bqkgh,bskh->bkgqs", split, k) * scale
    return scores.masked_fill(~visible[:, None, None], -torch.inf)


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    blind = lse == -torch.inf
    return torch.exp(scores - torch.where(blind, 0.0, lse)[..., None])
