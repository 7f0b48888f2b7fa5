"""Guidance changes codes and nothing else; prompts that are shared are computed once."""

from dataclasses import replace

import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.generation import Engine, Request, Sampling, generate
from unimodal.generation.guidance import guide
from unimodal.generation.step import Stepper
from unimodal.stream import Document


def guided(name, given=(), guidance=3.0, null=(), seed=0, **options):
    sampling = Sampling(seed=seed, guidance=guidance)
    return Request(Document(given), [name], sampling, null=Document(null), **options)


def test_an_end_keeps_its_chance_and_codes_are_pushed(build_decoder):
    decoder = build_decoder()
    stepper = Stepper(decoder)
    head = stepper.head(decoder.vocabulary.head_numbers["fake_line.letter+end"])
    document, null = torch.randn(3, 27), torch.randn(3, 27)
    scale = torch.tensor([[0.0], [1.0], [4.0]])
    result = torch.softmax(guide(document, null, scale, head), dim=-1)
    before = torch.softmax(document, dim=-1)
    torch.testing.assert_close(result[:, head.end], before[:, head.end])
    codes = [c for c in range(27) if c != head.end]
    pushed = torch.softmax((null + scale * (document - null))[:, codes], dim=-1)
    share = result[:, codes] / result[:, codes].sum(dim=-1, keepdim=True)
    torch.testing.assert_close(share, pushed)


def test_guidance_of_none_is_the_null_condition_and_of_one_the_document(build_decoder, given):
    decoder = build_decoder(("fake_line", "fake_continuous", "fake_masked"))
    line, other = given(decoder, "fake_line", 1), given(decoder, "fake_continuous", 2)
    plain = Request(Document([line]), ["fake_masked"], Sampling(seed=4))
    none = replace(plain, document=Document([line, other]), sampling=Sampling(seed=4, guidance=0.0))
    alone, guided = generate(decoder, [plain, replace(none, null=Document([line]))])
    assert alone.ids == guided.ids
    assert alone.logprobs == pytest.approx(guided.guided_logprobs, abs=1e-5)
    assert alone.logprobs != pytest.approx(guided.logprobs, abs=1e-2)


def test_a_request_that_is_not_guided_takes_no_second_row(build_decoder, given, monkeypatch):
    decoder = build_decoder()
    request = guided("fake_grid", [given(decoder, "fake_line")], guidance=1.0)
    sizes = []
    step = Stepper.step_all

    def watched(self, ids, *rest):
        sizes.append(len(ids))
        return step(self, ids, *rest)

    monkeypatch.setattr(Stepper, "step_all", watched)
    generate(decoder, [request, replace(request, sampling=Sampling(seed=1, guidance=2.0))])
    assert max(sizes) == 3


def test_shared_prompts_are_encoded_and_computed_once(build_decoder, given, monkeypatch):
    decoder = build_decoder()
    request = guided("fake_grid", [given(decoder, "fake_continuous")], max_tokens=40)
    requests = [replace(request, sampling=replace(request.sampling, seed=n)) for n in range(4)]
    alone = [generate(decoder, [one])[0] for one in requests]
    counts = []
    prefill = Stepper.prefill

    def watched(self, documents, room):
        counts.append(len(documents))
        return prefill(self, documents, room)

    monkeypatch.setattr(Stepper, "prefill", watched)
    together = generate(decoder, requests)
    assert counts == [2]  # the prompt, and its null condition
    assert [a.ids for a in together] == [a.ids for a in alone]
    assert len({tuple(a.ids) for a in together}) > 1


@pytest.mark.parametrize("guidance", [-1.0, float("inf"), float("nan")])
def test_wrong_scales_are_refused(guidance):
    with pytest.raises(ConfigError, match="guidance"):
        Sampling(guidance=guidance)


def test_a_guided_request_without_null_costs_itself_alone(build_decoder, given):
    decoder = build_decoder()
    good = guided("fake_grid", [given(decoder, "fake_line")])
    bad, fine = generate(decoder, [replace(good, null=None), good])
    assert isinstance(bad.error, ConfigError)
    assert fine.error is None


def test_progress_grows_to_all_that_was_written(build_decoder, given):
    decoder = build_decoder()
    seen: list[tuple[int, int]] = []
    requests = [
        guided("fake_grid", [given(decoder, "fake_line")]),
        guided("fake_line", guidance=1.0, max_tokens=90, seed=3),
        guided("fake_grid", guidance=1.0, max_tokens=1),  # fails
    ]
    answers = Engine(decoder).generate(
        requests, batch_size=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(done <= total for done, total in seen)
    assert seen[-1] == (sum(len(a.ids) for a in answers),) * 2
    assert len(seen) > 3
