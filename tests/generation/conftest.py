from collections.abc import Callable, Sequence

import numpy as np
import pytest

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Segment
from unimodal.testing.certificates import sharpen
from unimodal.vocabulary import Vocabulary

DISCRETE = ("fake_line", "fake_residual", "fake_grid", "fake_events")
NAMES = (*DISCRETE, "fake_continuous")

BuildDecoder = Callable[..., Decoder]


@pytest.fixture
def build_decoder() -> BuildDecoder:
    """A small decoder with sharpened weights over fake modalities."""

    def build(names: Sequence[str] = NAMES, openers: Sequence[str] = (), **options) -> Decoder:
        shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
        vocabulary = Vocabulary.of(list(names), openers=openers)
        return sharpen(Decoder(DecoderConfig(**(shape | {"num_layers": 2} | options)), vocabulary))

    return build


@pytest.fixture
def given() -> Callable[[Decoder, str, int], Segment]:
    """A given segment with an example value."""

    def make(decoder: Decoder, name: str, seed: int = 0) -> Segment:
        modality = decoder.vocabulary.modality(name)
        return Segment(name, modality.example(np.random.default_rng(seed)))

    return make
