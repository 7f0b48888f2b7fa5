"""A vocabulary of three small modalities: letters, a grid of numbers, and a continuous input."""

from typing import Any

import numpy as np
import pytest
import torch

from unimodal.grammar import Grid, Open
from unimodal.modality import Modality, NoConfig
from unimodal.types import Tokens, line_grid, raster_grid
from unimodal.vocabulary import Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz "


class Letters(Modality[str, NoConfig]):
    value_type = str
    raw_unit = "byte"
    spans = {"letters": len(LETTERS)}
    layout = Open()

    def encode(self, value: str) -> Tokens:
        ids = torch.tensor([LETTERS.index(c) for c in value], dtype=torch.int64)
        return Tokens(line_grid(len(ids)), ids=ids)

    def decode(self, tokens: Tokens) -> str:
        assert tokens.ids is not None
        return "".join(LETTERS[i] for i in tokens.ids.tolist())

    def example(self, rng: np.random.Generator) -> str:
        return "abc"


class Cells(Modality[Any, NoConfig]):
    value_type = torch.Tensor
    raw_unit = "cell"
    spans = {"cells": 4}
    layout = Grid(max_size=(1, 4, 4))

    def encode(self, value: Any) -> Tokens:
        return Tokens(raster_grid(1, *value.shape), ids=value.flatten())

    def example(self, rng: np.random.Generator) -> Any:
        return torch.zeros(2, 2, dtype=torch.int64)


class Curve(Modality[Any, NoConfig]):
    value_type = torch.Tensor
    raw_unit = "step"
    feature_shape = (2,)

    def encode(self, value: Any) -> Tokens:
        return Tokens(line_grid(len(value)), features=value.float())

    def example(self, rng: np.random.Generator) -> Any:
        return torch.zeros(3, 2)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    kinds = {"text": Letters, "cells": Cells, "curve": Curve}
    return Vocabulary.of({name: kind(NoConfig()) for name, kind in kinds.items()})
