"""The CPU path: the largest x . c - |c|^2 / 2, in chunks of rows.

Rows are scored by one product; neither |x|^2 nor a root is needed, since they change no order.
`argmax` of torch is slow over long rows, so groups of scores are reduced first, which is fast, and
`argmax` looks at one score a group and at one group.
"""

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 20
"""Scores held at once (4 MiB of float32)."""

GROUP = 32
"""Scores that are reduced to one before `argmax`."""


def nearest_code(x: Tensor, codebook: Tensor) -> Tensor:
    """Index int64 [P] of the row of `codebook` [C, D] nearest to each row of x [P, D]."""
    wide = torch.promote_types(torch.promote_types(x.dtype, codebook.dtype), torch.float32)
    codes = codebook.to(wide)
    offset = codes.square().sum(dim=1).mul_(-0.5)
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    size = max(1, CHUNK_ELEMENTS // len(codes))
    columns = len(codes) + -len(codes) % GROUP
    shape = (min(size, len(x)), columns)
    scores = torch.full(shape, -torch.inf, dtype=wide, device=x.device)
    for start in range(0, len(x), size):
        rows = x[start : start + size].to(wide)
        block = scores[: len(rows)]
        torch.addmm(offset, rows, codes.T, out=block[:, : len(codes)])
        groups = block.view(len(rows), columns // GROUP, GROUP)
        group = groups.amax(dim=2).argmax(dim=1)
        within = groups[torch.arange(len(rows), device=x.device), group].argmax(dim=1)
        index[start : start + size] = group * GROUP + within
    return index
