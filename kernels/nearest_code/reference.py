"""The nearest row of a codebook by the matrix of distances: what is right."""

import torch
from torch import Tensor


def nearest_code(x: Tensor, codebook: Tensor) -> Tensor:
    """Index int64 [P] of the row of `codebook` [C, D] nearest to each row of x [P, D]."""
    wide = torch.promote_types(torch.promote_types(x.dtype, codebook.dtype), torch.float32)
    distance = torch.cdist(
        x.to(wide), codebook.to(wide), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distance.argmin(dim=1)
