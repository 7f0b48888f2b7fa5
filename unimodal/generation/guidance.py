"""Guidance: codes are drawn from logits pushed away from what the null condition says.

    guided = null + scale x (document - null)

for codes. An end keeps the chance that it has after the document: guidance says what comes, not how
much of it. Not here: which branches there are (`rows`), how an id is drawn (`sampling`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unimodal.generation.step import Head
from unimodal.vocabulary import Vocabulary


def guide(
    document: Float[Tensor, "R C"],
    null: Float[Tensor, "R C"],
    scale: Float[Tensor, "R 1"],
    head: Head,
) -> Float[Tensor, "R C"]:
    """Guided logits.

    Args:
        document, null: Logits of both branches, float32.
        scale: Of each row.
        head: Their head set, one of codes.
    """
    guided = torch.lerp(null, document, scale)
    if head.end is None:
        return guided
    codes = torch.ones(len(head.ids), dtype=torch.bool, device=document.device)
    if head.allowed is not None:
        codes &= head.allowed
    codes[head.end] = False
    before = document.masked_fill(~codes, -torch.inf).logsumexp(dim=-1)
    after = guided.masked_fill(~codes, -torch.inf).logsumexp(dim=-1)
    guided[:, head.end] = document[:, head.end] - before + after
    return guided


def guided_head_sets(vocabulary: Vocabulary) -> frozenset[int]:
    """Numbers of the head sets that guidance changes: those of codes, not of headers or openers."""
    numbers = vocabulary.head_numbers
    return frozenset(
        numbers[slot.head_set] for grammar in vocabulary.grammars.values() for slot in grammar.slots
    )


class Guides:
    """Which rows of a batch have a null branch, and where.

    Hidden states stand in the order of the branches: every row's own, then the null branches.

    Args:
        scales: Of each row; None where nothing guides.
        device: Where the logits are.
    """

    def __init__(self, scales: Sequence[float | None], device: torch.device):
        self.rows = [n for n, scale in enumerate(scales) if scale is not None]
        self.num_rows = len(scales)
        chosen = [scale for scale in scales if scale is not None]
        self._where = torch.tensor(self.rows, dtype=torch.int64, device=device)
        self._scale = torch.tensor(chosen, dtype=torch.float32, device=device)[:, None]

    def spread(self, drawn: Tensor) -> Tensor:
        """What is drawn a row, (R, ...), for every branch, (R + guided, ...)."""
        return torch.cat([drawn, drawn[self._where]]) if self.rows else drawn

    def apply(self, logits: Float[Tensor, "F C"], head: Head) -> Float[Tensor, "R C"]:
        """Logits to draw from, of those of all branches."""
        if not self.rows:
            return logits
        document, null = logits[: self.num_rows], logits[self.num_rows :]
        guided = document.clone()
        guided[self._where] = guide(document[self._where], null, self._scale, head)
        return guided

    def branches_of(self, members: Sequence[int]) -> list[int]:
        """Places of these rows' branches: the documents', then the null ones."""
        null = {n: self.num_rows + i for i, n in enumerate(self.rows)}
        return [*members, *(null[n] for n in members if n in null)]

    def of(self, members: Sequence[int]) -> "Guides":
        """The guides of some rows."""
        scale = dict(zip(self.rows, self._scale[:, 0].tolist(), strict=True))
        return Guides([scale.get(n) for n in members], self._where.device)
