"""Guided, ranked and begun answers through the handle, by the tasks that a run recorded."""

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import ConfigError
from unimodal.generation import score
from unimodal.modality import Modality, NoConfig, register_modality
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.runtime import Model
from unimodal.stream import Document, Segment
from unimodal.testing.certificates import sharpen
from unimodal.types import Tokens, line_grid
from unimodal.vocabulary import Vocabulary

NOWHERE = {"data": {"name": "nowhere"}}
TASKS = {
    "draw": {
        "template": "translate",
        "source": "fake_line",
        "target": "fake_grid",
        "options": {"null_rate": 0.1, "prompts": ["draw"], "prompt_modality": "fake_line"},
        **NOWHERE,
    },
    "tell": {"template": "translate", "source": "fake_grid", "target": "fake_line", **NOWHERE},
    "sound": {"template": "translate", "source": "fake_line", "target": "fake_residual", **NOWHERE},
    "hear": {
        "template": "translate",
        "source": "fake_continuous",
        "target": "fake_line",
        **NOWHERE,
    },
    "move": {"template": "translate", "source": "fake_line", "target": "fake_masked", **NOWHERE},
    "watch": {"template": "translate", "source": "rows_read", "target": "fake_line", **NOWHERE},
    "goes_on": {
        "template": "continue",
        "target": "fake_line",
        "options": {"null_rate": 0.2},
        **NOWHERE,
    },
    "lines": {"template": "model", "target": "fake_line", **NOWHERE},
}


@register_modality("rows_read")
class RowsRead(Modality[torch.Tensor, NoConfig]):
    """What `fake_masked` writes, to be read alone."""

    value_type = torch.Tensor
    raw_unit = "step"
    feature_shape = (4,)
    decoded_by = "fake_masked"

    def encode(self, value):
        return Tokens(line_grid(len(value)), features=value)

    def example(self, rng):
        return torch.eye(6, 4)


LINE = Segment("fake_line", "abc")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
    names = [
        "fake_line",
        "fake_grid",
        "fake_residual",
        "fake_continuous",
        "fake_masked",
        "rows_read",
    ]
    decoder = Decoder(DecoderConfig(**shape, num_layers=2), Vocabulary.of(names))
    return Model(sharpen(decoder), experiment={"tasks": TASKS})


def test_a_guided_answer_leaves_out_what_the_task_says(model):
    plain = model.generate(LINE, to="fake_grid", seed=1)
    guided = model.generate(LINE, to="fake_grid", seed=1, guidance=4.0)
    assert plain.guided_logprobs == plain.logprobs
    assert guided.guided_logprobs != guided.logprobs
    # The null condition of the task is its prompt alone.
    given = model.document(LINE, "fake_grid")
    null = model.tasks["draw"].null(given)
    assert [s.value for s in null.segments] == ["draw", None]
    assert [s.value for s in given.segments] == ["draw", "abc", None]


def test_a_continuation_is_guided_by_what_is_asked_alone(model):
    answer = model.generate(LINE, task="goes_on", seed=1, guidance=2.0)
    assert answer.guided_logprobs != answer.logprobs


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (LINE, {"to": "fake_residual"}, "without null conditions"),
        (LINE, {"to": "fake_line"}, "needs a recorded task"),
        ((), {"task": "lines"}, "no null condition"),
    ],
)
def test_guidance_without_null_conditions_in_training_is_refused(model, prompt, options, message):
    with pytest.raises(ConfigError, match=message):
        model.generate(prompt, guidance=2.0, **options)


def test_the_best_in_reverse_is_the_one_after_which_the_prompt_is_likeliest(model):
    best = model.generate(LINE, to="fake_grid", n=5, seed=3, rank="reverse", guidance=2.0)
    answers = best.alternatives
    assert len({answer.reverse_logprob for answer in answers}) > 1
    for answer in answers:
        given = Segment("fake_grid", answer.value)
        asked = Segment("fake_line", "abc", objective="next", attend="causal")
        (found,) = score(model.decoder, [Document([given, asked])])
        assert answer.reverse_logprob == pytest.approx(-found.segments[1].nats, abs=1e-4)
    assert best.reverse_logprob == max(answer.reverse_logprob for answer in answers)
    likeliest = model.generate(LINE, to="fake_grid", n=5, seed=3, guidance=2.0)
    assert [a.ids for a in likeliest.alternatives] == [a.ids for a in answers]
    assert likeliest.logprob == max(answer.logprob for answer in answers)
    assert likeliest.reverse_logprob is None


def test_what_is_only_read_stands_for_its_partner_in_reverse(model):
    best = model.generate(LINE, to="fake_masked", n=2, seed=3, rank="reverse")
    asked = Segment("fake_line", "abc", objective="next", attend="causal")
    (found,) = score(model.decoder, [Document([Segment("rows_read", best.value), asked])])
    assert best.reverse_logprob == pytest.approx(-found.segments[1].nats, abs=1e-4)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (LINE, {"to": "fake_residual", "rank": "reverse"}, "no task from `fake_residual`"),
        ([LINE, LINE], {"to": "fake_grid", "rank": "reverse"}, "2 are given"),
        ((), {"to": "fake_grid", "rank": "reverse"}, "0 are given"),
        (LINE, {"to": "fake_grid", "rank": "beauty"}, "`rank` must be one of"),
        (LINE, {"to": None, "rank": "reverse"}, "free switching"),
        (LINE, {"to": None, "prefix": "ab"}, "free switching"),
        (LINE, {"to": "fake_grid", "prefix_cells": 2}, "prefix_cells"),
    ],
)
def test_what_cannot_be_ranked_or_begun_is_refused(model, prompt, options, message):
    with pytest.raises(ConfigError, match=message):
        model.generate(prompt, n=2, **options)


def test_a_picture_is_completed(model):
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (4, 5)))
    answer = model.generate(
        LINE, to="fake_grid", prefix=picture, prefix_cells=10, seed=2, guidance=3.0
    )
    assert torch.equal(answer.value[:2], picture[:2])
    assert answer.value.shape == picture.shape
    assert not torch.equal(answer.value[2:], picture[2:])


def test_progress_is_told(model):
    seen = []
    model.generate(LINE, to="fake_grid", n=3, seed=1, on_progress=lambda *s: seen.append(s))
    assert seen[-1][0] == seen[-1][1] > 0
