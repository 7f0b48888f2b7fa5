"""Losses on held-out samples: the same ones, in the same batches, at every measurement."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from unimodal.errors import UnimodalError, sample_errors
from unimodal.stream import (
    Document,
    EncodedDocument,
    Packer,
    PackingConfig,
    StreamConfig,
    collate,
    encode_document,
)
from unimodal.training.counters import generator, key_of, permuted
from unimodal.training.draws import Stream
from unimodal.training.metrics import TaskLosses
from unimodal.training.mixture import TaskStream
from unimodal.training.ranks import rank, world_size
from unimodal.training.trainee import Precision, StepBatch, Trainee
from unimodal.types import Tokens
from unimodal.vocabulary import Vocabulary

log = logging.getLogger(__name__)
_PURPOSE = 4
LEFT_OUT = "Held-out record %d of task `%s` is left out: %s"
NOTHING_HELD_OUT = (
    "Task `%s` has no held-out record in the split `%s` that can be used: it gets no held-out "
    "loss, and no score unless there is a split `test`."
)


class HeldOutBatches:
    """Batches that are measured again and again, dealt out to the ranks.

    Args:
        tasks: Names.
        batches: Of all ranks, the same on each.
    """

    def __init__(self, tasks: Sequence[str], batches: Sequence[StepBatch]):
        self.tasks = list(tasks)
        self._num_counted = len(batches[rank() :: world_size()])
        # Every rank computes as many batches, as a sharded model demands; repeats do not count.
        repeated = list(batches[:1]) * (-len(batches) % world_size())
        self.batches: list[StepBatch] = [*batches, *repeated][rank() :: world_size()]

    @torch.no_grad()
    def measure(
        self, trainee: Trainee, device: torch.device, precision: Precision
    ) -> dict[str, Any]:
        """Loss over all held-out samples, that of each task, and what `more` adds."""
        if not self.batches:
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
        return {**losses.reduced(), **self.more(losses)}

    def more(self, losses: TaskLosses) -> dict[str, Any]:
        """What else there is to say of the sums of all batches."""
        return {}


class HeldOut(HeldOutBatches):
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
        self.units: dict[str, tuple[str, float] | None] = {}
        self.counts: dict[str, int] = dict.fromkeys(streams, 0)
        encoded: list[EncodedDocument] = []
        for name, chosen in streams.items():
            size = len(chosen.source)
            for index, rng in held_out_records(name, chosen, documents, seed):
                try:
                    with sample_errors(f"task `{name}`, record {index}"):
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
                    log.warning(LEFT_OUT, index, name, error)
                    continue
                encoded += items
                self.counts[name] += len(items)
                for document in kept:
                    self._add_units(name, document, vocabulary)
            if documents and not self.counts[name]:
                log.warning(NOTHING_HELD_OUT, name, chosen.source.split)
        numbered = enumerate(encoded)
        packer: Packer[int] = Packer(packing, lambda count: islice(numbered, count))
        rows = packer.rows(len(encoded))
        batches = [
            collate(rows[start : start + rows_per_batch], packing.row_length, vocabulary)
            for start in range(0, len(rows), rows_per_batch)
        ]
        super().__init__(list(streams), batches)

    def more(self, losses: TaskLosses) -> dict[str, Any]:
        """Bits a raw unit of each task.

        They count every predicted id, control ids included, over the raw units of the values that
        carry loss; only for tasks where all of these are lossless, have the objective `next` and
        count the same unit.
        """
        nats = losses.reduced_nats()
        bits = {
            f"{name}_per_{units[0]}": nats[name] / math.log(2) / units[1]
            for name, units in self.units.items()
            if units and units[1]
        }
        return {"bits": bits}

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


def held_out_records(
    name: str, stream: Stream, count: int, seed: int
) -> Iterator[tuple[int, np.random.Generator]]:
    """Numbers of up to `count` records of a task, spread over them, each with its generator."""
    order = key_of(f"{seed}:{_PURPOSE}:{name}")
    size = len(stream.source)
    for k in range(min(count, size)):
        yield permuted(k, size, order), generator(seed, _PURPOSE, order, k)
