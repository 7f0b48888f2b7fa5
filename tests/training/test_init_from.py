"""What a run that starts from another one takes of its own settings."""

import logging

import pytest

from unimodal.errors import ConfigError
from unimodal.modality import build_modality, freeze
from unimodal.training.build import take_training_fields


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
