"""What a run that starts from another one takes of its own settings."""

import logging
from pathlib import Path

import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.modality import build_modality, fit, freeze
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.huggingface import to_huggingface
from unimodal.training.build import decoder_from, take_training_fields
from unimodal.training.main import from_dict
from unimodal.vocabulary import Vocabulary


def test_fields_of_training_are_taken_and_others_named(caplog: pytest.LogCaptureFixture) -> None:
    speech = build_modality("speech")
    freeze(speech)
    before = speech.fingerprint()
    with caplog.at_level(logging.WARNING):
        take_training_fields(speech, "speech", {"num_time_masks": 2, "num_mels": 128})
    assert speech.config.num_time_masks == 2
    assert speech.config.num_mels == 80
    assert speech.fingerprint() == before
    [record] = caplog.records
    assert "modalities.speech.num_mels" in record.getMessage()


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ConfigError, match="num_mels"):
        take_training_fields(build_modality("speech"), "speech", {"num_mel": 80})


def test_a_run_starts_from_a_folder_of_hugging_face_and_adds_modalities(tmp_path: Path) -> None:
    text = build_modality("text", {"vocab_size": 300})
    fit(text, ["a red apple on a table", "two green pears"] * 20)
    shape = DecoderConfig(width=64, num_layers=1, num_heads=1, num_kv_heads=1, mlp_width=64)
    decoder = Decoder(shape, Vocabulary.of({"text": text}))
    to_huggingface(decoder, tmp_path / "qwen3")
    config = from_dict({"modalities": {"text": {}, "dna": {"n": 1}}}, {})
    started = decoder_from(tmp_path / "qwen3", config)
    assert list(started.vocabulary.modalities) == ["text", "dna"]
    for name, weight in decoder.state_dict().items():
        assert torch.equal(started.state_dict()[name], weight), name
    assert started.vocabulary.modality("text").state() == text.state()
