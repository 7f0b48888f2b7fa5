"""The step over patterns: contenders agree, and a difference is noticed."""

import pytest
import torch

from unimodal.benchmarks import pattern_step
from unimodal.benchmarks.pattern_step import Contender, check, main, patterns
from unimodal.errors import CertificateError
from unimodal.patterns import Column, Conv, Row


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_step, "WORDS", 8)
    monkeypatch.setattr(pattern_step, "SIDE", 4)


def test_layers_have_the_patterns_of_dall_e() -> None:
    assert patterns(6) == [Row(), Row(), Column(), Row(), Row(), Conv(11)]


def test_both_are_timed_once_their_gradients_agree(
    capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    main(["--batch", "1", "--layers", "2", "--repeats", "1", "--json", str(tmp_path / "a.json")])
    assert "1 x 24 positions, 2 layers" in capsys.readouterr().out
    assert '"ratio"' in (tmp_path / "a.json").read_text()


def test_another_mask_is_noticed() -> None:
    ours, theirs = (Contender(1, 2, dense) for dense in (False, True))
    theirs.by_layer = [Conv(1), Conv(1)]
    with pytest.raises(CertificateError, match="differ"):
        check(ours, theirs)
    assert torch.isfinite(ours.gradient()).all()
