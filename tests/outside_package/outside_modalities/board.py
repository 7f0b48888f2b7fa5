"""Boards: squares in four colours, one id each, with a header for the size."""

import numpy as np
import torch

from unimodal import Grid, Modality, Tokens
from unimodal.errors import MediaError
from unimodal.modality import NoConfig
from unimodal.types import raster_grid


class Board(Modality[np.ndarray, NoConfig]):
    value_type = np.ndarray
    raw_unit = "square"
    spans = {"colours": 4}
    layout = Grid(max_size=(1, 4, 4), min_size=(1, 2, 2))

    def encode(self, value: np.ndarray) -> Tokens:
        if value.ndim != 2 or not all(2 <= n <= 4 for n in value.shape):
            raise MediaError("A board has 2 to 4 rows and columns.")
        return Tokens(raster_grid(1, *value.shape), torch.from_numpy(value.astype("int64").ravel()))

    def decode(self, tokens: Tokens) -> np.ndarray:
        assert tokens.ids is not None
        _, height, width = (tokens.grid.max(dim=0).values + 1).tolist()
        return tokens.ids.numpy().reshape(height, width)

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        return float((a != b).mean()) if a.shape == b.shape else 1.0

    def raw_units(self, value: np.ndarray) -> float:
        return value.size

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 4, rng.integers(2, 5, 2))

    def show(self, value: np.ndarray) -> str:
        squares = "\u2b1b\U0001f7e5\U0001f7e9\U0001f7e6"
        return "<br>".join("".join(squares[i] for i in row) for row in value)
