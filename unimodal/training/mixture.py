"""The mixture of a decoder: documents of tasks, packed into rows.

Which record of which task comes next is said by `draws`. Rows are global: every rank packs the same
stream and takes each `world`-th row, so the order of samples and the rows of a step do not depend
on the number of ranks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from unimodal.data.sources import Source
from unimodal.stream import (
    Batch,
    Document,
    EncodedDocument,
    Packer,
    PackingConfig,
    StreamConfig,
    collate,
    encode_document,
    tokenized,
    varied,
)
from unimodal.tasks.base import Record, Task
from unimodal.training.draws import Drawn, Draws, Key, Quarantine
from unimodal.vocabulary import Vocabulary


@dataclass(frozen=True)
class TaskStream:
    """A task with the records that it draws from.

    Attributes:
        task: The template.
        source: Its records.
        weight: Share of draws, relative to the other tasks.
    """

    task: Task
    source: Source
    weight: float = 1.0


@dataclass(frozen=True)
class Draft:
    """A document before it is encoded, and the generator of what is still to be drawn for it."""

    document: Document
    rng: np.random.Generator


class Mixture(Draws[Draft, EncodedDocument]):
    """An endless, resumable stream of packed rows.

    Args:
        streams: Tasks and their records, by name.
        vocabulary: Source of ids.
        stream: The clock of positions.
        packing: Rows.
        seed: Decides every choice.
        quarantine: Where unusable samples go.
        augment: Whether modalities augment what they encode.

    Raises:
        DataError: if there is no task, or a task has no record.
    """

    def __init__(
        self,
        streams: Mapping[str, TaskStream],
        vocabulary: Vocabulary,
        stream: StreamConfig,
        packing: PackingConfig,
        seed: int,
        quarantine: Quarantine,
        *,
        augment: bool = True,
    ):
        super().__init__(streams, seed, quarantine)
        self.streams, self.vocabulary = dict(streams), vocabulary
        self.stream, self.packing, self.augment = stream, packing, augment
        self._packer = Packer(packing, self.take)

    def draft(self, task: str, record: Record, rng: np.random.Generator) -> Draft:
        """The document of a record, its values varied unless its task says no."""
        chosen = self.streams[task].task
        document = chosen.document(record, rng)
        if self.augment and chosen.config.vary:
            document = varied(document, self.vocabulary, rng)
        return Draft(document, rng)

    def prepare(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts with their values encoded."""
        documents = tokenized([draft.document for draft in drafts], self.vocabulary)
        return [
            replace(draft, document=document)
            for draft, document in zip(drafts, documents, strict=True)
        ]

    def make(self, draft: Draft) -> EncodedDocument:
        """The encoded document."""
        return encode_document(
            draft.document,
            self.vocabulary,
            self.stream,
            draft.rng,
            augment=self.augment,
            longest=self.packing.row_length,
        )

    def rows(self, count: int) -> list[list[EncodedDocument]]:
        """The next rows."""
        return self._packer.rows(count)

    @torch.no_grad()
    def step(self, count: int, per_batch: int, rank: int, world: int) -> Drawn:
        """The next `count` rows, as batches of one rank."""
        rows, row_length = self.rows(count), self.packing.row_length
        tokens = sum(len(document) for row in rows for document in row)
        weights = [d.loss_weight.sum(dtype=torch.float64) for row in rows for d in row]
        return Drawn(
            batches=step_batches(rows, row_length, per_batch, self.vocabulary, rank, world),
            weight=float(sum(weights)),
            tokens=tokens,
            fill=tokens / (row_length * len(rows)),
        )

    def waiting(self) -> list[Key]:
        """Documents that wait in the packer."""
        return self._packer.pending()

    def wait(self, samples: Iterable[tuple[Key, EncodedDocument]]) -> None:
        """A packer in which these documents wait."""
        self._packer = Packer(self.packing, self.take)
        self._packer.restore(samples)


def step_batches(
    rows: Sequence[Sequence[EncodedDocument]],
    row_length: int,
    rows_per_batch: int,
    vocabulary: Vocabulary,
    rank: int = 0,
    world: int = 1,
) -> list[Batch]:
    """The micro-batches of one rank: each `world`-th row of a step, in groups.

    Every rank gets the same number of groups.
    """
    mine = rows[rank::world]
    return [
        collate(mine[start : start + rows_per_batch], row_length, vocabulary)
        for start in range(0, len(mine), rows_per_batch)
    ]
