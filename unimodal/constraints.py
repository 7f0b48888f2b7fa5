"""Decode constraints: they remove ids from a head set at generation, and never add one.

Timestamp rules, tries of allowed answers, bans. Which ids a head set holds is the grammar's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor


class Constraint(Protocol):
    """Removes ids from a head set at generation: timestamp rules, tries, bans."""

    def keep(self, written: Sequence[int], ids: Int[Tensor, " C"]) -> Tensor | None:
        """Which of `ids` may follow.

        Args:
            written: Global ids already generated in this segment, header and end included.
            ids: Global ids of the head set, in column order.

        Returns:
            Bool (C,), or None to keep all.
        """
        ...


@dataclass(frozen=True)
class Trie:
    """Allows only given sequences of global ids, each with its end where the layout has one."""

    sequences: tuple[tuple[int, ...], ...]

    def keep(self, written: Sequence[int], ids: Int[Tensor, " C"]) -> Tensor | None:
        prefix = tuple(written)
        allowed = {s[len(prefix)] for s in self.sequences if s[: len(prefix)] == prefix != s}
        return torch.isin(ids, torch.tensor(sorted(allowed), dtype=ids.dtype))


@dataclass(frozen=True)
class Ban:
    """Never these global ids."""

    ids: tuple[int, ...]

    def keep(self, written: Sequence[int], ids: Int[Tensor, " C"]) -> Tensor | None:
        return ~torch.isin(ids, torch.tensor(self.ids, dtype=ids.dtype))
