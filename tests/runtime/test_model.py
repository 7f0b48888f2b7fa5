"""The user's handle: what is given and asked as values, runs by folder, errors by name."""

import json

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import (
    CheckpointError,
    ConfigError,
    GrammarError,
    MediaError,
    VocabularyError,
)
from unimodal.media import Audio, FileRef
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import save_model
from unimodal.runtime import Model, load
from unimodal.stream import Segment
from unimodal.vocabulary import Vocabulary

TASKS = {
    "hear": {
        "template": "translate",
        "source": "speech",
        "target": "fake_line",
        "data": {"name": "nowhere"},
        "options": {"prompts": ["listen"], "prompt_modality": "fake_line"},
    },
    "lines": {"template": "model", "target": "fake_line", "data": {"name": "nowhere"}},
    "goes_on": {"template": "continue", "target": "fake_line", "data": {"name": "nowhere"}},
    "asked_of": {
        "template": "translate",
        "source": "speech",
        "target": "fake_grid",
        "data": {"name": "nowhere"},
        "options": {"context": {"question": "fake_line"}},
    },
}


@pytest.fixture(scope="module")
def decoder():
    shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
    vocabulary = Vocabulary.of(["fake_line", "fake_grid", "speech"])
    return Decoder(DecoderConfig(**shape, num_layers=2), vocabulary)


@pytest.fixture(scope="module")
def model(decoder):
    return Model(decoder, experiment={"tasks": TASKS})


@pytest.fixture(scope="module")
def clip():
    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    return Audio(torch.from_numpy(samples), 16000)


def test_a_run_folder_loads_with_its_tasks(decoder, tmp_path):
    save_model(tmp_path / "model", decoder)
    (tmp_path / "experiment.json").write_text(json.dumps({"tasks": TASKS}))
    for place in (tmp_path, tmp_path / "model"):
        loaded = load(place, device="cpu")
        assert sorted(loaded.tasks) == sorted(TASKS)
        first = loaded.generate("abc", to="fake_line", seed=3)
        assert first.value == Model(decoder).generate("abc", to="fake_line", seed=3).value


def test_a_path_is_read_by_its_modality(model, clip, tmp_path):
    path = tmp_path / "clip.wav"
    model.vocabulary.modality("speech").write(clip, path)
    read = model.vocabulary.modality("speech").read(path)
    expected = model.embed(Segment("speech", read))
    for value in (path, str(path), FileRef(path)):
        assert torch.equal(model.embed(Segment("speech", value)), expected)
    with pytest.raises(MediaError, match=r"absent\.wav"):
        model.embed(Segment("speech", tmp_path / "absent.wav"))


def test_a_run_is_found_by_name(decoder, tmp_path, monkeypatch):
    save_model(tmp_path / "runs" / "mine" / "model", decoder)
    monkeypatch.chdir(tmp_path)
    assert load("mine", device="cpu").folder.name == "mine"


def test_a_missing_run_is_named():
    with pytest.raises(CheckpointError, match="no_such_run"):
        load("no_such_run", device="cpu")


def test_an_unknown_device_is_refused(decoder, tmp_path):
    with pytest.raises(ConfigError, match="abacus"):
        load(tmp_path, device="abacus")


def test_several_answers_are_drawn_and_the_likeliest_returned(model):
    answer = model.generate("abc", to="fake_line", n=4, seed=0, max_tokens=20)
    assert len(answer.alternatives) == 4
    whole = [a for a in answer.alternatives if not a.is_truncated]
    assert 0 < len(whole) < 4
    assert answer.logprob == max(a.logprob for a in whole)
    alone = model.generate("abc", to="fake_line", seed=2, max_tokens=20)
    assert alone.ids == answer.alternatives[2].ids


def test_a_recorded_task_gives_the_request_its_prompt(model, clip):
    document = model.document(Segment("speech", clip), "fake_line")
    assert [s.modality for s in document.segments] == ["fake_line", "speech", "fake_line"]
    assert document.segments[0].value == "listen"
    plain = model.document([Segment("fake_line", "a"), Segment("speech", clip)], "fake_line")
    assert [s.role for s in plain.segments] == ["given", "given", "asked"]


def test_a_named_task_takes_all_that_is_given_or_is_refused(model, clip):
    sound, line = Segment("speech", clip, attend="full"), Segment("fake_line", "why")
    document = model.document([sound, line], task="asked_of")
    assert [s.modality for s in document.segments] == ["speech", "fake_line", "fake_grid"]
    assert document.segments[0].attend == "full"
    assert document.segments[1].value == "why"
    assert document.asked() == ["fake_grid"]
    assert model.document((), task="lines").asked() == ["fake_line"]
    assert [s.value for s in model.document("abc", task="goes_on").segments] == ["abc", None]
    for given, task, to in (
        ([sound], "asked_of", "auto"),  # the question is missing
        ([line, sound], "asked_of", "auto"),
        ("abc", "lines", "auto"),  # its template has no place for a prompt
        ([sound], "hear", "fake_grid"),
        ([sound], "hear", None),
    ):
        with pytest.raises(ConfigError, match=task):
            model.document(given, to, task)


def test_the_precision_of_generation_is_chosen_when_a_model_is_loaded(decoder, tmp_path):
    save_model(tmp_path / "model", decoder)
    rough = load(tmp_path, device="cpu", dtype="bfloat16")
    (exact, near) = (
        m.generate("abc", to="fake_line", seed=1, max_tokens=20) for m in (Model(decoder), rough)
    )
    assert near.logprobs[1] != exact.logprobs[1]
    assert near.logprobs[1] == pytest.approx(exact.logprobs[1], abs=0.1)
    with pytest.raises(ConfigError, match="float16"):
        load(tmp_path, device="cpu", dtype="float16")


def test_sound_is_transcribed_window_by_window(model, clip):
    transcript = model.transcribe(clip, to="fake_line", window_seconds=0.4, max_tokens=8)
    assert [round(s.start, 3) for s in transcript.segments] == [0.0, 0.4, 0.8]
    assert transcript.segments[-1].end == pytest.approx(1.0)
    assert transcript.text == " ".join(s.text for s in transcript.segments if s.text)


def test_transcription_needs_a_modality_of_sound(decoder):
    shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
    deaf = Model(Decoder(DecoderConfig(**shape), Vocabulary.of(["fake_line"])))
    with pytest.raises(ConfigError, match="Audio"):
        deaf.transcribe("clip.wav", to="fake_line")


def test_candidates_come_by_likelihood(model, clip):
    choices = model.classify(Segment("speech", clip), ["abc", "q", "zz"], to="fake_line")
    assert {c.value for c in choices} == {"abc", "q", "zz"}
    assert sum(c.probability for c in choices) == pytest.approx(1)
    assert choices[0].nats >= choices[1].nats >= choices[2].nats


def test_scores_count_the_end_too(model):
    (score,) = model.score("abcd")
    assert score.num_targets == 5
    assert score.bits_per_raw_unit == pytest.approx(score.nats / np.log(2) / 4)


def test_embeddings_are_one_vector_a_value(model):
    vectors = model.embed([Segment("fake_line", "abc"), Segment("fake_line", "zzz")])
    assert vectors.shape == (2, 32)
    torch.testing.assert_close(model.embed("abc")[0], vectors[0], rtol=0, atol=1e-5)


def test_the_schema_is_plain_and_names_everything(model):
    schema = json.loads(json.dumps(model.schema()))
    assert list(schema["modalities"]) == ["fake_line", "fake_grid", "speech"]
    assert schema["modalities"]["fake_grid"]["grammar"]["headers"]
    assert "grammar" not in schema["modalities"]["speech"]
    assert schema["tasks"]["hear"]["source"] == "speech"
    assert schema["spans"][-1]["stop"] == schema["vocabulary_size"]


@pytest.mark.parametrize(
    ("prompt", "to", "kind"),
    [
        ("abc", "fake_lines", VocabularyError),
        ("abc", "speech", VocabularyError),
        (Segment("speech", "not sound"), "fake_line", MediaError),
        ("abc", None, GrammarError),
    ],
)
def test_wrong_requests_raise_typed_errors(model, prompt, to, kind):
    with pytest.raises(kind):
        model.generate(prompt, to=to)


def test_an_unknown_task_is_refused(model):
    with pytest.raises(ConfigError, match="hear"):
        model.generate("abc", to="fake_line", task="here")
