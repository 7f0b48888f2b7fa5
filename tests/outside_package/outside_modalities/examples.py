"""Records with a field for each modality, all of which follow from one word."""

import numpy as np

from unimodal.data.sources import ListSource

WORDS = ("calm", "brisk", "wild")


def examples(*, split: str = "train") -> ListSource:
    """Sixty records a split."""
    rng = np.random.default_rng(len(split))
    records = []
    for number in range(60):
        kind = int(rng.integers(3))
        steps = np.arange(int(rng.integers(8, 12)))
        first = int(rng.integers(4))
        records.append(
            {
                "id": f"{split}-{number}",
                "text": WORDS[kind],
                "board": np.full(rng.integers(2, 5, 2), kind + 1),
                "pulse": np.sin(steps[:, None] * (0.1, 0.8, 2.5)[kind] + np.arange(3)),
                "tune": tuple((first + (kind + 1) * i, kind) for i in range(3)),
            }
        )
    return ListSource(records, name="outside/examples", license="CC0-1.0", split=split)
