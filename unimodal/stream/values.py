"""What happens to the raw values of documents before they are encoded in their places."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unimodal.stream.documents import Document
from unimodal.types import Tokens
from unimodal.vocabulary import Vocabulary


def varied(document: Document, vocabulary: Vocabulary, rng: np.random.Generator) -> Document:
    """A document whose values `Modality.vary` has changed, as training wants them."""
    return _changed(document, lambda name, value: vocabulary.modality(name).vary(value, rng))


def tokenized(documents: Sequence[Document], vocabulary: Vocabulary) -> list[Document]:
    """The documents with `Tokens` in the place of their values, encoded by `encode_batch`.

    Many at once are cheaper than one by one, and equal to them. Where the values of a modality
    cannot be encoded together, they stay as they are: `encode_document` names the wrong one.
    """
    values: dict[str, list[Any]] = defaultdict(list)
    for document in documents:
        for segment in document.segments:
            if segment.value is not None and not isinstance(segment.value, Tokens):
                values[segment.modality].append(segment.value)
    found = {}
    for name, own in values.items():
        with contextlib.suppress(Exception):  # whatever it is, it comes again for one alone
            found[name] = iter(vocabulary.modality(name).encode_batch(own))
    return [
        _changed(document, lambda name, value: next(found[name]) if name in found else value)
        for document in documents
    ]


def _changed(document: Document, change: Callable[[str, Any], Any]) -> Document:
    """A document with `change(modality, value)` in the place of each raw value."""
    segments = []
    for segment in document.segments:
        if segment.value is not None and not isinstance(segment.value, Tokens):
            segment = replace(segment, value=change(segment.modality, segment.value))
        segments.append(segment)
    return replace(document, segments=segments)
