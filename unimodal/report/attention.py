"""One attention figure: where an answer looks, on the last layers, from the dense definition.

Weights are computed anew from the queries and keys of each layer with the mask that defines
attention (`unimodal.patterns.visible`), not read out of a kernel.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from unimodal.blocks import Block
from unimodal.model.decoder import Decoder
from unimodal.patterns import visible
from unimodal.report.figures import attention_png, has_matplotlib
from unimodal.stream import Document, EncodedDocument, collate, encode_document
from unimodal.tasks.base import Example, Task

NUM_LAYERS = 2
MAX_POSITIONS = 400
"""A longer document is not drawn: its cells would be smaller than a pixel."""


@torch.no_grad()
def attention_maps(
    decoder: Decoder, document: EncodedDocument, num_layers: int = NUM_LAYERS
) -> list[Float[Tensor, "T T"]]:
    """Attention weights of the last layers, averaged over heads; rows sum to 1.

    Args:
        decoder: The model.
        document: One document.
        num_layers: How many layers from the end.
    """
    batch = collate([[document]], len(document), decoder.vocabulary).to(decoder.device)
    rope = decoder.rope(batch.position)
    kept: list[Tensor] = []
    layers = [(cast(Block, b), p) for b, p in zip(decoder.blocks, decoder.patterns, strict=True)]
    hooks = [
        block.attention_norm.register_forward_hook(lambda module, args, out: kept.append(out))
        for block, _ in layers[-num_layers:]
    ]
    try:
        decoder(batch)
    finally:
        for hook in hooks:
            hook.remove()
    maps = []
    for (block, by_kind), x in zip(layers[-num_layers:], kept, strict=True):
        q, k, _ = block.attention.project(x, rope)
        share = q.shape[2] // k.shape[2]
        k = k.repeat_interleave(share, dim=2)
        scores = torch.einsum("tnh,snh->nts", q[0].float(), k[0].float()) * q.shape[-1] ** -0.5
        mask = visible(batch.coordinates, batch.coordinates, by_kind)[0]
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
        maps.append(weights.mean(dim=0).cpu())
    return maps


def attention_figure(
    decoder: Decoder,
    tasks: Mapping[str, Task],
    examples: Mapping[str, Sequence[Example]],
    notes: list[str],
) -> dict[str, Any] | None:
    """A figure of one example: PNG (base64) and caption; None, with a note, if none can be drawn.

    Args:
        decoder: The model.
        tasks: Its tasks; the first that gives something and answers is drawn.
        examples: Scored examples by task.
        notes: Takes the reason if there is no figure.
    """
    if not has_matplotlib():
        notes.append("No figures: matplotlib is not installed (extra `report`).")
        return None
    for name, task in tasks.items():
        if task.mode == "likelihood" or not examples.get(name):
            continue
        for example in examples[name]:
            document = _with_answer(task, example)
            if document is None:
                continue
            encoded = encode_document(document, decoder.vocabulary, decoder.stream)
            if len(encoded) <= MAX_POSITIONS:
                maps = attention_maps(decoder, encoded)
                record = example.record.get("id", "")
                caption = (
                    f"Task {name}, sample {record}: attention of the last {len(maps)} layers, "
                    "mean over heads. Rows look at columns."
                )
                return {"png": attention_png(maps, encoded), "caption": caption}
    notes.append("No attention map: no task has a short example with a given part.")
    return None


def _with_answer(task: Task, example: Example) -> Document | None:
    documents = task.scored_documents(example.record)
    if len(documents) != 1 or len(documents[0].segments) < 2:
        return None
    return documents[0]
