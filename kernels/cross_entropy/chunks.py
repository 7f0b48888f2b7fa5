"""Cross-entropy of a linear head over chunks of positions; the whole of the logits never exists.

Loss and gradients are made in one pass, so that logits are computed once. Per chunk: one product
gives the logits; the implementation makes them probabilities in place; two products give the
gradients of hidden and weight. The target's own probability minus one is kept apart in float32 and
enters as a correction of single rows, so that no one-hot and no scaled copy of the probabilities is
made, and low precision costs the target's gradient nothing.

Not here: the softmax, which each implementation brings.

References:
    Hsu et al. 2024, Liger Kernel. Differs: probabilities are not scaled; targets are exact.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Softmax = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
"""(logits [p, C], labels, nll, lse, replace): fills nll and lse, replaces the logits by their
probabilities, zero at the labels, if asked, and returns the probabilities of the labels."""


def loss_and_grads(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    loss_weight: Tensor,
    z_loss: float,
    low_precision: bool,
    want_grads: bool,
    *,
    softmax: Softmax,
    chunk_elements: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss sum, nll, and the gradients of the sum for hidden and weight (empty if not wanted).

    See `api.linear_cross_entropy`; a chunk has about `chunk_elements` logits.
    """
    positions, width = hidden.shape
    classes = weight.shape[0]
    work = torch.bfloat16 if low_precision else hidden.dtype
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    head = weight.to(work)
    chunk = chunk_length(positions, classes, chunk_elements)
    nll = torch.empty(positions, dtype=wide, device=hidden.device)
    lse = torch.empty_like(nll)
    shape_h = (positions, width) if want_grads else (0,)
    grad_hidden = torch.empty(shape_h, dtype=wide, device=hidden.device)
    # Where one chunk is all there is, its product is the sum: nothing wider is needed to add it up.
    alone = chunk == positions and not hidden.is_cuda
    sum_dtype = work if alone and weight.dtype == work else wide
    grad_weight: Tensor | None = None
    buffer = torch.empty(chunk, classes, dtype=work, device=hidden.device)
    for start in range(0, positions, max(1, chunk)):
        part = slice(start, min(start + chunk, positions))
        inputs, labels = hidden[part].to(work), target[part]
        logits = torch.mm(inputs, head.T, out=buffer[: len(labels)])
        own = softmax(logits, labels, nll[part], lse[part], want_grads)
        if not want_grads:
            continue
        # A label that is no class has no number as its probability, which its gradients keep.
        labels = labels.clamp(0, classes - 1)
        # d loss / d logit = scale * p - loss_weight at the target, scale = loss_weight * (1 + ...).
        scale = loss_weight[part].to(wide) * (1 + 2 * z_loss * lse[part])
        at_target = (scale * own - loss_weight[part].to(wide)).unsqueeze(1)
        out = torch.mul(torch.mm(logits, head), scale.unsqueeze(1), out=grad_hidden[part])
        out.addcmul_(weight[labels], at_target)
        rows = inputs.to(wide)
        scaled = (rows * scale.unsqueeze(1)).to(work)
        product = torch.mm(logits.T, scaled)
        grad_weight = product.to(sum_dtype) if grad_weight is None else grad_weight.add_(product)
        _add_rows(grad_weight, labels, rows * at_target)
    if grad_weight is None:
        grad_weight = weight.new_zeros(weight.shape if want_grads else (0,))
    total = (loss_weight * (nll + z_loss * lse.square())).sum()
    return total, nll, grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype)


def _add_rows(total: Tensor, labels: Tensor, rows: Tensor) -> None:
    """Add rows where their labels say, always in the same order; each sum is rounded once."""
    if total.is_cuda:
        # `index_add_` would add atomically there; this sorts.
        total.index_put_((labels,), rows, accumulate=True)
    elif total.dtype == rows.dtype:
        total.index_add_(0, labels, rows)
    else:
        kept, place = labels.unique(return_inverse=True)
        sums = rows.new_zeros(len(kept), rows.shape[1]).index_add_(0, place, rows)
        total[kept] = sums.add_(total[kept]).to(total.dtype)


def chunk_length(positions: int, classes: int, chunk_elements: int) -> int:
    """Positions of one chunk."""
    return min(positions, max(64, chunk_elements // max(1, classes)))
