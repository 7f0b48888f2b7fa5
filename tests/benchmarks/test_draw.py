"""The benchmark of drawing: whole pictures of codes, and peers of the same weights that agree."""

import pytest

from unimodal.benchmarks import draw
from unimodal.generation import Engine

SMALL = {"width": 64, "num_layers": 2, "mlp_width": 96}


def test_every_request_draws_one_picture_guided_or_not():
    decoder = draw.build_decoder(**SMALL)
    first = decoder.vocabulary.span(f"{draw.PICTURE}.{draw.TEXT}")
    written = []
    for guidance in (1.0, draw.GUIDANCE):
        requests, prompts, null = draw.build_requests(decoder, 2, guidance)
        assert prompts.shape == (2, draw.PROMPT_TOKENS + 3)  # opener, end, opener of the picture
        assert null.shape == (2, 1)
        written.append(draw._ours(Engine(decoder), requests)())
        for ids in written[-1]:
            assert len(ids) == draw.CODES
            assert all(first.start <= i < first.stop for i in ids)
    assert written[0] != written[1]


@pytest.mark.soak
def test_transformers_draws_the_same_pictures_guided_or_not(monkeypatch):
    pytest.importorskip("transformers")
    build = draw.build_decoder
    monkeypatch.setattr(draw, "build_decoder", lambda: build(**SMALL))
    found = draw.run(1, batches=(2,))
    exact = [m for m in found if "," not in m.name]
    assert [(m.name, m.guidance, m.same_ids) for m in exact] == [
        ("unimodal", 1.0, 1.0),
        ("transformers", 1.0, 1.0),
        ("unimodal", draw.GUIDANCE, 1.0),
        ("transformers", draw.GUIDANCE, 1.0),
    ]
    assert {m.name for m in found} - {m.name for m in exact} == {
        "unimodal, bfloat16",
        "unimodal, int8",
    }
    assert all(m.images_per_second > 0 for m in found)
