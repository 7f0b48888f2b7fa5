"""What a run shows of itself: samples on its TensorBoard while it trains, and when it ends."""

from typing import Any

import pytest

from unimodal.training.finish import sampler, scorer
from unimodal.training.run import train


def test_samples_are_on_the_board_at_the_steps_that_made_them(experiment: Any) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"training.sample_every": 2, "training.max_steps": 5}
    result = train(
        experiment(settings), finish=scorer(3, "x", split="validation"), sample=sampler(2, "x")
    )
    found = events.EventAccumulator(
        str(result.folder / "tensorboard"), size_guidance={events.TENSORS: 0}
    )
    found.Reload()
    written = found.Tensors("describe/0/text_summary")
    assert [event.step for event in written] == [2, 4, 5]
    words = written[-1].tensor_proto.string_val[0].decode()
    assert "**given fake_grid**" in words
    assert "**answer**" in words
    assert "letters/1/text_summary" in found.Tags()["tensors"]
