"""Cross-entropy of a linear head over chunks of positions; the whole of the logits never exists.

Loss and gradients are made in one pass, so that logits are computed once. Per chunk: one product
gives the logits; blocks of a few rows, small enough for the cache, become probabilities in place;
two products give the gradients of hidden and weight. The target's own probability minus one is
kept apart in float32 and enters as a correction of single rows, so that no one-hot and no scaled
copy of the probabilities is made, and low precision costs the target's gradient nothing.

Works on any device. Tested against `reference`.

References:
    Hsu et al. 2024, Liger Kernel. Differs: probabilities are not scaled; targets are exact.
"""

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 26
"""Logits held at once (128 MiB in bfloat16)."""

BLOCK_ELEMENTS = 1 << 19
"""Logits that become probabilities at once (2 MiB of float32)."""

TINY = 1e-30
"""Probabilities below this are too coarse to take the logarithm of."""


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
    positions, width = hidden.shape
    classes = weight.shape[0]
    work = torch.bfloat16 if low_precision else hidden.dtype
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    head = weight.to(work)
    chunk = chunk_length(positions, classes)
    nll = torch.empty(positions, dtype=wide, device=hidden.device)
    lse = torch.empty_like(nll)
    shape_h, shape_w = ((positions, width), (classes, width)) if want_grads else ((0,), (0,))
    grad_hidden = torch.empty(shape_h, dtype=wide, device=hidden.device)
    grad_weight = torch.zeros(shape_w, dtype=wide, device=hidden.device)
    buffer = torch.empty(chunk, classes, dtype=work, device=hidden.device)
    for start in range(0, positions, max(1, chunk)):
        part = slice(start, min(start + chunk, positions))
        inputs, labels = hidden[part].to(work), target[part]
        logits = torch.mm(inputs, head.T, out=buffer[: len(labels)])
        own = _softmax_(logits, labels, nll[part], lse[part], want_grads)
        if not want_grads:
            continue
        # d loss / d logit = scale * p - loss_weight at the target, scale = loss_weight * (1 + ...).
        scale = loss_weight[part].to(wide) * (1 + 2 * z_loss * lse[part])
        at_target = (scale * own - loss_weight[part].to(wide)).unsqueeze(1)
        out = torch.mul(torch.mm(logits, head), scale.unsqueeze(1), out=grad_hidden[part])
        out.addcmul_(weight[labels], at_target)
        rows = inputs.to(wide)
        grad_weight += torch.mm(logits.T, (rows * scale.unsqueeze(1)).to(work))
        grad_weight.index_add_(0, labels, rows * at_target)
    total = (loss_weight * (nll + z_loss * lse.square())).sum()
    return total, nll, grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype)


def chunk_length(positions: int, classes: int) -> int:
    """Positions of one chunk."""
    return min(positions, max(64, CHUNK_ELEMENTS // max(1, classes)))


def _softmax_(logits: Tensor, labels: Tensor, nll: Tensor, lse: Tensor, replace: bool) -> Tensor:
    """Turn logits into probabilities in place, zero at the targets; fill `nll` and `lse`.

    Returns:
        The probabilities of the targets.
    """
    own = torch.empty_like(nll)
    wide = nll.dtype
    size = max(1, BLOCK_ELEMENTS // max(1, logits.shape[1]))
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        block, label = logits[part], labels[part].unsqueeze(1)
        at_label = block.gather(1, label).squeeze(1).to(wide)
        probability = torch.softmax(block, dim=-1, dtype=wide)
        own_b = probability.gather(1, label).squeeze(1)
        own[part] = own_b
        nll_b = torch.log(own_b).neg_()
        coarse = (own_b < TINY).nonzero().squeeze(1)
        if len(coarse):
            exact = torch.logsumexp(block[coarse].to(wide), dim=-1)
            nll_b[coarse] = exact - at_label[coarse]
        nll[part] = nll_b
        lse[part] = nll_b + at_label
        if replace:
            block.copy_(probability.scatter_(1, label, 0.0))
    return own


def nll_and_correct(
    hidden: Tensor, weight: Tensor, target: Tensor, low_precision: bool
) -> tuple[Tensor, Tensor]:
    """nll and whether the target has the largest logit, without gradients."""
    work = torch.bfloat16 if low_precision else hidden.dtype
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    head = weight.to(work)
    chunk = chunk_length(len(hidden), len(weight))
    nll = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    correct = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
    for start in range(0, len(hidden), max(1, chunk)):
        part = slice(start, start + chunk)
        logits = torch.mm(hidden[part].to(work), head.T).to(wide)
        at_label = logits.gather(1, target[part].unsqueeze(1)).squeeze(1)
        nll[part] = torch.logsumexp(logits, dim=-1) - at_label
        correct[part] = logits.argmax(dim=-1) == target[part]
    return nll, correct
