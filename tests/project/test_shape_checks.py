"""The run-time shape checks of the test session: on, and after a function's own errors."""

import os

import pytest
import torch
from jaxtyping import TypeCheckError

from unimodal.errors import ShapeError
from unimodal.media.values import Audio

pytestmark = pytest.mark.skipif(
    os.environ.get("UNIMODAL_TYPECHECK") == "0", reason="switched off by UNIMODAL_TYPECHECK=0"
)


def test_a_wrong_type_that_the_code_lets_pass_is_caught() -> None:
    with pytest.raises(TypeCheckError, match="sample_rate_hz"):
        Audio(torch.zeros(4), 16000.5)  # type: ignore[arg-type]


def test_a_typed_error_of_the_code_comes_first() -> None:
    with pytest.raises(ShapeError):
        Audio(torch.zeros(3, 3), 16000)


def test_a_right_call_passes() -> None:
    assert Audio(torch.zeros(4), 16000).samples.shape == (4,)
