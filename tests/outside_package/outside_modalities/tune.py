"""Tunes in a file format of their own: a line "TUNE", then a line "pitch length" a note."""

from pathlib import Path

import numpy as np
import torch

from unimodal import Modality, Open, Tokens
from unimodal.errors import MediaError
from unimodal.modality import NoConfig


class Tune(Modality[tuple, NoConfig]):
    """Two ids a note: pitch, then length."""

    value_type = tuple
    raw_unit = "note"
    spans = {"pitch": 12, "length": 4}
    layout = Open(min_cells=1, max_cells=16)

    def encode(self, value: tuple) -> Tokens:
        grid = torch.zeros(2 * len(value), 3, dtype=torch.int32)
        grid[:, 0] = torch.arange(2 * len(value)) // 2
        return Tokens(grid, torch.tensor(value).flatten(), torch.tensor([0, 1] * len(value)))

    def decode(self, tokens: Tokens) -> tuple:
        assert tokens.ids is not None
        return tuple(tuple(note) for note in tokens.ids.view(-1, 2).tolist())

    def example(self, rng: np.random.Generator) -> tuple:
        return tuple((int(rng.integers(12)), int(rng.integers(4))) for _ in range(3))

    def read(self, path: Path) -> tuple:
        head, *lines = Path(path).read_text(errors="replace").split("\n")
        if head != "TUNE":
            raise MediaError("A tune begins with the line TUNE.", subject=str(path))
        return tuple(tuple(map(int, line.split())) for line in lines if line)

    def write(self, value: tuple, path: Path) -> None:
        Path(path).write_text("TUNE\n" + "".join(f"{p} {n}\n" for p, n in value))
