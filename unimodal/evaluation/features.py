"""Raw features of values, for baselines that look at the input: pixels, frames, log-mel, ids.

Taken from what the modality encodes, so any modality has them: continuous positions as they are
where all values have one length, else their mean and spread over positions; discrete ones as the
share of each id. Nothing here is trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.modality import Modality
from unimodal.types import Tokens

Matrix = NDArray[np.float32]
MAX_FLAT = 65_536
"""Values with more numbers than this are described by mean and spread."""


def raw_features(groups: Sequence[Sequence[Any]], modality: Modality[Any, Any]) -> list[Matrix]:
    """Features of several groups of values (training, test), comparable with each other.

    Args:
        groups: Values of one modality.
        modality: What encodes them.

    Returns:
        One float32 matrix (values, features) a group.
    """
    encoded = [[modality.encode(value) for value in group] for group in groups]
    everything = [tokens for group in encoded for tokens in group]
    if not everything:
        return [np.zeros((0, 0), np.float32) for _ in groups]
    shapes = {tuple(t.features.shape) if t.features is not None else None for t in everything}
    shape = next(iter(shapes))
    if len(shapes) == 1 and shape is not None and int(np.prod(shape)) <= MAX_FLAT:
        describe = _flat
    elif None not in shapes:
        describe = _moments
    else:
        sizes = list(modality.spans.values())
        return [np.stack([_shares(t, sizes) for t in group]) for group in encoded if group]
    return [np.stack([describe(t) for t in group]) for group in encoded]


def _flat(tokens: Tokens) -> NDArray[np.float32]:
    assert tokens.features is not None
    return tokens.features.flatten().numpy().astype(np.float32)


def _moments(tokens: Tokens) -> NDArray[np.float32]:
    assert tokens.features is not None
    rows = tokens.features.flatten(1).numpy().astype(np.float32)
    return np.concatenate([rows.mean(axis=0), rows.std(axis=0)])


def _shares(tokens: Tokens, sizes: Sequence[int]) -> NDArray[np.float32]:
    assert tokens.ids is not None
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    ids = tokens.ids.numpy() + starts[tokens.spans().numpy()]
    counts = np.bincount(ids, minlength=int(sum(sizes))).astype(np.float32)
    return counts / np.float32(max(1, len(ids)))
