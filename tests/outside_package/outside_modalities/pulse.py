"""Pulses: a sensor's three channels over time, as continuous input."""

import numpy as np
import torch

from unimodal import Modality, Tokens
from unimodal.errors import MediaError
from unimodal.modality import NoConfig
from unimodal.types import line_grid


class Pulse(Modality[np.ndarray, NoConfig]):
    """One position a sample."""

    value_type = np.ndarray
    raw_unit = "sample"
    feature_shape = (3,)

    def encode(self, value: np.ndarray) -> Tokens:
        if value.ndim != 2 or value.shape[1] != 3 or not np.isfinite(value).all():
            raise MediaError("A pulse has rows of three finite numbers.")
        seconds = torch.arange(len(value), dtype=torch.float32) / 50
        features = torch.from_numpy(value.astype("float32"))
        return Tokens(line_grid(len(value)), features=features, seconds=seconds)

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(int(rng.integers(1, 20)), 3))
