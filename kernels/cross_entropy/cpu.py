"""The CPU path: blocks of a few rows, small enough for the cache, become probabilities in place.

The loop over chunks is in `chunks`. Tested against `reference`.
"""

import torch
from torch import Tensor

from unimodal.kernels.cross_entropy import chunks

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
    chunk = chunks.chunk_length(len(hidden), len(weight), CHUNK_ELEMENTS)
    nll = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    correct = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
    for start in range(0, len(hidden), max(1, chunk)):
        part = slice(start, start + chunk)
        logits = torch.mm(hidden[part].to(work), head.T).to(wide)
        at_label = logits.gather(1, target[part].unsqueeze(1)).squeeze(1)
        nll[part] = torch.logsumexp(logits, dim=-1) - at_label
        correct[part] = logits.argmax(dim=-1) == target[part]
    return nll, correct
