"""Tunes in a file format of their own: a line TUNE, then one of pitch and length a note."""

from pathlib import Path

import numpy as np
import torch

from unimodal import Modality, Open, Tokens
from unimodal.errors import MediaError
from unimodal.modality import NoConfig
from unimodal.types import raster_grid


class Tune(Modality[tuple, NoConfig]):
    value_type = tuple
    raw_unit = "note"
    spans = {"pitch": 12, "length": 4}
    layout = Open(min_cells=1, max_cells=16)

    def encode(self, value: tuple) -> Tokens:
        grid = raster_grid(len(value), 1, 1, codes_per_cell=2)
        return Tokens(grid, torch.tensor(value).flatten(), torch.tensor([0, 1] * len(value)))

    def decode(self, tokens: Tokens) -> tuple:
        return tuple(tuple(note) for note in tokens.ids.view(-1, 2).tolist())

    def raw_units(self, value: tuple) -> float:
        return len(value)

    def example(self, rng: np.random.Generator) -> tuple:
        return tuple((int(rng.integers(12)), int(rng.integers(4))) for _ in range(3))

    def read(self, path: Path) -> tuple:
        head, *notes = Path(path).read_text(errors="replace").splitlines()
        if head != "TUNE":
            raise MediaError("A tune begins with the line TUNE.", subject=str(path))
        return tuple(tuple(map(int, note.split())) for note in notes)

    def write(self, value: tuple, path: Path) -> None:
        Path(path).write_text("TUNE\n" + "".join(f"{p} {n}\n" for p, n in value))
