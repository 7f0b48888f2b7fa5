"""Losses on held-out documents: the same ones, in the same rows, at every measurement."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch

from unimodal.errors import UnimodalError
from unimodal.stream import (
    Batch,
    Document,
    EncodedDocument,
    Packer,
    PackingConfig,
    StreamConfig,
    collate,
    encode_document,
)
from unimodal.training.counters import generator, key_of, permuted
from unimodal.training.metrics import TaskLosses
from unimodal.training.mixture import TaskStream, sample_errors
from unimodal.training.ranks import rank, world_size
from unimodal.training.trainee import Precision, Trainee
from unimodal.types import Tokens
from unimodal.vocabulary import Vocabulary

log = logging.getLogger(__name__)
_PURPOSE = 4


class HeldOut:
    """Held-out documents of every task, packed once.

    Args:
        streams: Tasks with their held-out records.
        vocabulary: Source of ids.
        stream: The clock of positions.
        packing: Rows.
        documents: Documents of each task, at most; spread over its records.
        rows_per_batch: Rows computed at once.
        seed: Chooses the documents, and their masks. There are no crops and no null conditions.
    """

    def __init__(
        self,
        streams: Mapping[str, TaskStream],
        vocabulary: Vocabulary,
        stream: StreamConfig,
        packing: PackingConfig,
        *,
        documents: int,
        rows_per_batch: int,
        seed: int,
    ):
        self.tasks = list(streams)
        self.units: dict[str, tuple[str, float] | None] = {}
        self.counts: dict[str, int] = dict.fromkeys(self.tasks, 0)
        encoded: list[EncodedDocument] = []
        for name, chosen in streams.items():
            order = key_of(f"{seed}:{_PURPOSE}:{name}")
            size = len(chosen.source)
            for k in range(min(documents, size)):
                rng = generator(seed, _PURPOSE, order, k)
                index = permuted(k, size, order)
                try:
                    with sample_errors(name, index):
                        several = chosen.task.scored_documents(chosen.source[index])
                        room = min(-(-documents // size), documents - self.counts[name])
                        kept = [several[i] for i in rng.permutation(len(several))[:room]]
                        items = [
                            encode_document(
                                one, vocabulary, stream, rng, longest=packing.row_length
                            )
                            for one in kept
                        ]
                except (UnimodalError, OSError) as error:
                    log.warning("Held-out sample %d of task `%s` is left out: %s", k, name, error)
                    continue
                encoded += items
                self.counts[name] += len(items)
                for document in kept:
                    self._add_units(name, document, vocabulary)
            if documents and not self.counts[name]:
                log.warning(
                    "Task `%s` has no held-out record in the split `%s` that can be used: it gets "
                    "no held-out loss, and no score unless there is a split `test`.",
                    name,
                    chosen.source.split,
                )
        packer: Packer[int] = Packer(packing, iter(list(enumerate(encoded))))
        rows = packer.rows(len(encoded))
        batches = [
            collate(rows[start : start + rows_per_batch], packing.row_length, vocabulary)
            for start in range(0, len(rows), rows_per_batch)
        ]
        self._num_counted = len(batches[rank() :: world_size()])
        # Every rank computes as many batches, as a sharded model demands; repeats do not count.
        repeated = batches[:1] * (-len(batches) % world_size())
        self.batches: list[Batch] = [*batches, *repeated][rank() :: world_size()]

    @torch.no_grad()
    def measure(
        self, trainee: Trainee, device: torch.device, precision: Precision
    ) -> dict[str, Any]:
        """Loss over all held-out documents, nats an id and bits a raw unit of each task.

        Bits a raw unit count every predicted id, control ids included, over the raw units of the
        values that carry loss; only for tasks where all of these are lossless, have the objective
        `next` and count the same unit.
        """
        if not any(self.counts.values()):
            return {}
        losses = TaskLosses(self.tasks, device)
        trainee.train(False)
        for number, batch in enumerate(self.batches):
            moved = batch.to(device)
            with precision.autocast(device):
                output = trainee.loss(moved)
            if number < self._num_counted:
                losses.add(moved, output.nll)
        trainee.train(True)
        measured = losses.reduced()
        nats = losses.reduced_nats()
        measured["bits"] = {
            f"{name}_per_{units[0]}": nats[name] / math.log(2) / units[1]
            for name, units in self.units.items()
            if units and units[1]
        }
        return measured

    def _add_units(self, name: str, document: Document, vocabulary: Vocabulary) -> None:
        """Add the raw units of what is learned; None for good where bits have no meaning."""
        for segment in document.segments:
            if segment.objective == "none" or segment.weight == 0:
                continue
            modality = vocabulary.modality(segment.modality)
            unit, count = self.units.get(name, None) or (modality.raw_unit, 0.0)
            has_bits = (
                self.units.get(name, ()) is not None
                and segment.objective == "next"
                and modality.is_lossless
                and unit == modality.raw_unit
                and not isinstance(segment.value, Tokens)
            )
            try:
                self.units[name] = (
                    (unit, count + modality.raw_units(segment.value)) if has_bits else None
                )
            except UnimodalError:
                self.units[name] = None
