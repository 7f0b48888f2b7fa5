"""Drawing ids: temperature, top-k, top-p for a batch of rows, each with random numbers of its own.

A row draws one uniform number a sampled id from a generator seeded by its request, and takes the id
at which the cumulative distribution passes it, so an answer does not depend on what else is in the
batch. Not here: which ids are legal (`rows`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unimodal.generation.requests import Sampling

BLOCK = 64
"""Uniform numbers drawn at once; a constant, so that the sequence depends on the seed alone."""
COLDEST = 1e-30
"""Temperatures between this and 0 divide as this does: a score by less would not be finite."""


class Uniforms:
    """The uniform numbers of one request, in [0, 1), float64."""

    def __init__(self, seed: int | None):
        if seed is None:
            seed = int(torch.randint(2**62, ()).item())
        self._generator = torch.Generator().manual_seed(seed)
        self._left: list[float] = []

    def take(self, count: int) -> list[float]:
        """The next `count` numbers."""
        while len(self._left) < count:
            block = torch.rand(BLOCK, generator=self._generator, dtype=torch.float64)
            self._left += block.tolist()
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def give_back(self, numbers: list[float]) -> None:
        """Put numbers back that were taken last and not used."""
        self._left = numbers + self._left


class Sampler:
    """Draws for some rows at once.

    Args:
        settings: Of each row.
        device: Where the logits are.
    """

    def __init__(self, settings: Sequence[Sampling], device: torch.device):
        self.greedy = all(s.temperature == 0 for s in settings)
        temperature = [[max(s.temperature, COLDEST) if s.temperature else 1.0] for s in settings]
        self._plain = all(t == [1.0] for t in temperature)
        self._temperature = torch.tensor(temperature, device=device)
        zero = [s.temperature == 0 for s in settings]
        self._zero = torch.tensor(zero, device=device) if any(zero) else None
        self._cut = any(s.top_k is not None or s.top_p < 1 for s in settings)
        no_limit = torch.iinfo(torch.int64).max
        self._top_k = torch.tensor([[s.top_k or no_limit] for s in settings], device=device)
        self._top_p = torch.tensor([[s.top_p] for s in settings], device=device)

    def draw(
        self,
        logits: Float[Tensor, "R C"],
        uniform: Float[Tensor, " R"] | None,
        legal: Bool[Tensor, "#R C"] | None = None,
    ) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
        """One column a row.

        Args:
            logits: Over a head set, float32.
            uniform: Numbers in [0, 1), float64; None if all rows are greedy.
            legal: Columns that may be drawn, at least one a row; one row stands for all. None: all.

        Returns:
            Columns, and their log-probability in nats before temperature and `legal`; it is not
            finite where a row's logits are not, or none of its columns is legal.
        """
        scores = torch.log_softmax(logits, dim=-1)
        open_scores = scores if legal is None else scores.masked_fill(~legal, -torch.inf)
        if self.greedy or uniform is None:
            best = open_scores.argmax(dim=-1)
            return best, open_scores.gather(1, best[:, None])[:, 0]
        work = open_scores if self._plain else open_scores / self._temperature
        if self._cut:
            work = self._truncate(work)
        # Sums in float64: in float32 the tail of a large vocabulary would be lost.
        cumulative = torch.softmax(work, dim=-1).cumsum(dim=-1, dtype=torch.float64)
        passed = uniform[:, None] * cumulative[:, -1:]
        # Without a distribution (NaN) the search finds no column; its score says so.
        chosen = torch.searchsorted(cumulative, passed, right=True)[:, 0]
        chosen = chosen.clamp(max=scores.shape[1] - 1)
        if self._zero is not None:
            chosen = torch.where(self._zero, open_scores.argmax(dim=-1), chosen)
        return chosen, open_scores.gather(1, chosen[:, None])[:, 0]

    def _truncate(self, scores: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """-inf for all but the top k, then all but the smallest set that holds top p."""
        ordered, place = scores.sort(dim=-1, descending=True, stable=True)
        number = torch.arange(scores.shape[1], device=scores.device)
        ordered = ordered.masked_fill(number >= self._top_k, -torch.inf)
        share = torch.softmax(ordered, dim=-1)
        before = share.cumsum(dim=-1) - share
        out = (before >= self._top_p) & (self._top_p < 1)
        out[:, 0] = False
        ordered = ordered.masked_fill(out, -torch.inf)
        return torch.empty_like(scores).scatter_(1, place, ordered)
