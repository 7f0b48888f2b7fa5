"""Cross-entropy of a linear head in plain torch: what is right. Holds all logits at once."""

import torch
from torch import Tensor


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, loss_weight: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """sum(loss_weight * (nll + z_loss * lse ** 2)) and nll; differentiable by autograd.

    See `api.linear_cross_entropy` for the arguments.
    """
    logits = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    lse = torch.logsumexp(logits, dim=-1)
    nll = lse - logits.gather(1, target[:, None]).squeeze(1)
    return (loss_weight * (nll + z_loss * lse.square())).sum(), nll.detach()


def nll_and_correct(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """nll, and whether the target has the largest logit. See `api.linear_nll`."""
    logits = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    nll = torch.logsumexp(logits, dim=-1) - logits.gather(1, target[:, None]).squeeze(1)
    return nll, logits.argmax(dim=-1) == target
