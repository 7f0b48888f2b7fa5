"""Whatever the weights: an answer has the modalities that were asked for, and each decodes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.generation import Request, Sampling, generate
from unimodal.modality import build_modality, fit
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.stream import Document, Segment
from unimodal.vocabulary import Vocabulary

DISCRETE = (
    "fake_line",
    "fake_residual",
    "fake_grid",
    "fake_marked",
    "fake_events",
    "fake_masked",
    "fake_codec",
    "fake_words",
)


def build_decoder():
    modalities = {name: build_modality(name) for name in (*DISCRETE, "fake_continuous")}
    fit(modalities["fake_words"], ["red apple", "green apple"])
    shape = {"width": 16, "num_heads": 1, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 16}
    vocabulary = Vocabulary.of(modalities, openers=list(DISCRETE))
    return Decoder(DecoderConfig(**shape, num_layers=1), vocabulary)


DECODER = build_decoder()


def least(asked):
    """Fewest ids of an answer."""
    if asked is None:
        return 1
    return sum(1 + DECODER.vocabulary.grammar(name).shortest() for name in asked)


@dataclass(frozen=True)
class Wish:
    """A request in plain numbers."""

    given: list[str]
    asked: list[str] | None
    extra: int
    keeps_first: bool
    sampling: dict[str, Any]

    def request(self) -> Request:
        rng = np.random.default_rng(self.sampling["seed"])
        given = [Segment(n, DECODER.vocabulary.modality(n).example(rng)) for n in self.given]
        # Free switching begins after something given, in both branches.
        null = given[:1] if self.keeps_first or self.asked is None else []
        return Request(
            Document(given),
            self.asked,
            Sampling(**self.sampling),
            max_tokens=least(self.asked) + self.extra,
            null=Document(null),
        )


WISHES = st.builds(
    Wish,
    given=st.lists(st.sampled_from(("fake_continuous", *DISCRETE)), min_size=1, max_size=2),
    asked=st.none() | st.lists(st.sampled_from(DISCRETE), min_size=1, max_size=3),
    extra=st.integers(0, 25),
    keeps_first=st.booleans(),
    sampling=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from((0.0, 0.7, 1.0, 3.0)),
            "top_k": st.none() | st.integers(1, 5),
            "top_p": st.sampled_from((0.3, 1.0)),
            "seed": st.integers(0, 99),
            "guidance": st.sampled_from((0.0, 1.0, 1.5, 7.0)),
        }
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    wishes=st.lists(WISHES, min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    gain=st.sampled_from((0.1, 3.0)),
)
def test_random_weights_always_give_values(wishes, seed, gain):
    batch = [wish.request() for wish in wishes]
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in DECODER.parameters():
            parameter.normal_(0, gain)
    for request, answer in zip(batch, generate(DECODER, batch), strict=True):
        assert answer.error is None
        written = [segment.modality for segment in answer.segments]
        if request.asked is not None:
            assert written == list(request.asked)
        assert len(answer.ids) <= request.max_tokens
        for segment in answer.segments:
            assert isinstance(
                segment.value, DECODER.vocabulary.modality(segment.modality).value_type
            )
