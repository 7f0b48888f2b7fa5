"""Batches: packed rows of documents as tensors, and their collation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from unimodal.grammar import FORCED
from unimodal.stream.encoding import NO_TARGET, EncodedDocument
from unimodal.types import CONTROL_CELL, Coordinates
from unimodal.vocabulary import Vocabulary


@dataclass(frozen=True)
class FeatureGroup:
    """Continuous segments of one modality and one length, stacked.

    Attributes:
        modality: Ledger name.
        values: (n, T, *feature_shape), float32.
        index: Flat position (row x row length + place) of each feature, (n, T), int64.
        hidden: Positions hidden by the masked objective: they keep the embedding of `mask`.
    """

    modality: str
    values: Float[Tensor, "n T ..."]
    index: Int[Tensor, "n T"]
    hidden: Bool[Tensor, "n T"]

    def to(self, device: torch.device | str) -> "FeatureGroup":
        """The group on `device`."""
        tensors = (self.values.to(device), self.index.to(device), self.hidden.to(device))
        return FeatureGroup(self.modality, *tensors)


@dataclass(frozen=True)
class HeadTargets:
    """All positions of a batch whose targets one head set normalises.

    Attributes:
        number: Place in `Vocabulary.head_sets`.
        index: Flat positions, (P,), int64.
        columns: Target as a column of the head set, (P,), int64.
        weight: Loss weights, (P,), float32.
    """

    number: int
    index: Int[Tensor, " P"]
    columns: Int[Tensor, " P"]
    weight: Float[Tensor, " P"]

    def to(self, device: torch.device | str) -> "HeadTargets":
        """The targets on `device`."""
        tensors = (self.index.to(device), self.columns.to(device), self.weight.to(device))
        return HeadTargets(self.number, *tensors)


@dataclass(frozen=True)
class Batch:
    """Documents packed into rows.

    Attributes:
        ids: Input ids, (B, T), int64; `pad` on padding and where features stand.
        position: RoPE positions (t, h, w), (B, T, 3), float32.
        coordinates: What patterns read, (B, T).
        features: Continuous inputs.
        heads: Targets by head set.
        documents: The packed documents, in order.
        document_of: Place in `documents` of each position, -1 on padding, (B, T), int64.
    """

    ids: Int[Tensor, "B T"]
    position: Float[Tensor, "B T 3"]
    coordinates: Coordinates
    features: list[FeatureGroup]
    heads: list[HeadTargets]
    documents: list[EncodedDocument]
    document_of: Int[Tensor, "B T"]

    @property
    def weight_sum(self) -> float:
        """Sum of loss weights: the denominator of the loss."""
        return float(sum(head.weight.sum(dtype=torch.float64) for head in self.heads))

    @property
    def samples(self) -> list[tuple[str, str]]:
        """Task and id of each document."""
        return [(d.document.task, d.document.id) for d in self.documents]

    def placed(
        self, losses: Sequence[Tensor]
    ) -> Iterator[tuple[list[str], Tensor, Tensor, Tensor]]:
        """Losses by head set as (tasks of the documents, document of each, nats, weights)."""
        names = [document.document.task for document in self.documents]
        for head, nll in zip(self.heads, losses, strict=True):
            yield names, self.document_of.flatten()[head.index], nll, head.weight

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with its tensors on `device`."""

        return replace(
            self,
            ids=self.ids.to(device),
            position=self.position.to(device),
            coordinates=self.coordinates.map(lambda x: x.to(device)),
            features=[group.to(device) for group in self.features],
            heads=[head.to(device) for head in self.heads],
            document_of=self.document_of.to(device),
        )


def collate(
    rows: Sequence[Sequence[EncodedDocument]], row_length: int, vocabulary: Vocabulary
) -> Batch:
    """Lay packed documents into rows.

    Args:
        rows: Documents of each row; their lengths add up to at most `row_length`.
        row_length: T.
        vocabulary: Gives head sets and the pad id.
    """
    shape = (len(rows), row_length)
    columns: dict[str, NDArray[Any]] = {
        "ids": np.full(shape, vocabulary.control("pad"), np.int64),
        "position": np.zeros((*shape, 3), np.float32),
        "targets": np.full(shape, NO_TARGET, np.int64),
        "head_set": np.full(shape, FORCED, np.int32),
        "loss_weight": np.zeros(shape, np.float32),
        "segment": np.full(shape, -1, np.int32),
        "kind": np.full(shape, -1, np.int32),
        "full": np.zeros(shape, np.bool_),
        "grid": np.full((*shape, 3), CONTROL_CELL, np.int32),
    }
    number_in_row = np.full(shape, -1, np.int32)
    document_of = np.full(shape, -1, np.int64)
    documents: list[EncodedDocument] = []
    placed: list[tuple[EncodedDocument, int]] = []
    for row, packed in enumerate(rows):
        start = 0
        for number, document in enumerate(packed):
            here = (row, slice(start, start + len(document)))
            for name, column in columns.items():
                column[here] = getattr(document, name).numpy()
            number_in_row[here] = number
            document_of[here] = len(documents)
            placed.append((document, row * row_length + start))
            documents.append(document)
            start += len(document)
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    coordinates = Coordinates(
        index=torch.arange(row_length, dtype=torch.int32).repeat(len(rows), 1),
        document=torch.from_numpy(number_in_row),
        **{name: tensors[name] for name in ("segment", "kind", "full", "grid")},
    )
    return Batch(
        ids=tensors["ids"],
        position=tensors["position"],
        coordinates=coordinates,
        features=_group_features(placed),
        heads=_group_heads(
            tensors["targets"], tensors["head_set"], tensors["loss_weight"], vocabulary
        ),
        documents=documents,
        document_of=torch.from_numpy(document_of),
    )


def _group_features(placed: Sequence[tuple[EncodedDocument, int]]) -> list[FeatureGroup]:
    alike: dict[tuple[str, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for document, start in placed:
        for item in document.features:
            index = start + item.start + torch.arange(len(item.values))
            key = (item.modality, len(item.values))
            alike.setdefault(key, []).append((item.values, index, item.hidden))
    return [
        FeatureGroup(name, *(torch.stack(tensors) for tensors in zip(*items, strict=True)))
        for (name, _), items in sorted(alike.items())
    ]


def _group_heads(
    targets: Tensor, head_set: Tensor, weight: Tensor, vocabulary: Vocabulary
) -> list[HeadTargets]:
    flat, targets, weight = head_set.flatten(), targets.flatten(), weight.flatten()
    groups = []
    for number in sorted(set(flat.unique().tolist()) - {FORCED}):
        index = (flat == number).nonzero().squeeze(1)
        columns = vocabulary.head_sets[number].columns(targets[index])
        groups.append(HeadTargets(number, index, columns, weight[index]))
    return groups
