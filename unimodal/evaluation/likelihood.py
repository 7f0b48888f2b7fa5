"""Nats of documents: what the targets of each cost the model, packed into rows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unimodal.model.decoder import Decoder
from unimodal.stream import Document, collate, encode_document

TOKENS_PER_BATCH = 8192


@torch.no_grad()
def document_nats(
    decoder: Decoder, documents: Sequence[Document], tokens_per_batch: int = TOKENS_PER_BATCH
) -> NDArray[np.float64]:
    """Sum of the negative log-likelihoods of each document's targets, whatever their weights.

    Args:
        decoder: The model; computed in the precision of its weights.
        documents: Their segments have values; those with an objective count.
        tokens_per_batch: Positions that are computed at once, at least; a longer document is
            computed alone.

    Returns:
        float64 (documents,).
    """
    encoded = [encode_document(d, decoder.vocabulary, decoder.stream) for d in documents]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    nats = np.zeros(len(encoded))
    was_training = decoder.training
    decoder.eval()
    try:
        while order:
            chosen: list[int] = []
            total = 0
            while order and (not chosen or total + len(encoded[order[-1]]) <= tokens_per_batch):
                chosen.append(order.pop())
                total += len(encoded[chosen[-1]])
            # One row: attention costs nothing across the documents that it holds.
            batch = collate([[encoded[i] for i in chosen]], total, decoder.vocabulary)
            output = decoder.loss(batch.to(decoder.device))
            sums = np.zeros(len(chosen))
            owner = batch.document_of.flatten()
            for head, nll in zip(batch.heads, output.nll, strict=True):
                np.add.at(sums, owner[head.index].numpy(), nll.double().cpu().numpy())
            nats[chosen] = sums
    finally:
        decoder.train(was_training)
    return nats
