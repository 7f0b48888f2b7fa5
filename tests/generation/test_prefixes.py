"""Completion: an answer begins with cells that are given, in the same segment."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unimodal.errors import CertificateError, ConfigError
from unimodal.generation import Request, Sampling, generate
from unimodal.generation.branches import Branch
from unimodal.stream import Document
from unimodal.testing.certificates import certify_batched, certify_cached, certify_guided
from unimodal.types import Tokens, line_grid

NAMES = ("fake_line", "fake_grid", "fake_masked", "fake_residual")


def begun(decoder, name, cells, seed=0, **options):
    value = decoder.vocabulary.modality(name).example(np.random.default_rng(seed + 7))
    request = Request(
        Document([]), [name], Sampling(seed=seed), prefix=value, prefix_cells=cells, **options
    )
    return value, request


def content(decoder, name, value):
    modality = decoder.vocabulary.modality(name)
    tokens = modality.encode(value)
    return decoder.vocabulary.content_ids(name, tokens.ids, tokens.span).tolist(), tokens


@pytest.mark.parametrize("cells", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_first_cells_and_the_size_are_those_of_the_prefix(build_decoder, name, cells):
    decoder = build_decoder(NAMES)
    value, request = begun(decoder, name, cells, max_tokens=60)
    ids, tokens = content(decoder, name, value)
    (answer,) = generate(decoder, [request])
    written = answer.segments[0]
    grammar = decoder.vocabulary.grammar(name)
    kept = cells * len(grammar.slots)
    headers = len(grammar.headers)
    assert written.ids[headers : headers + kept] == ids[:kept]
    assert not any(written.forced[headers + kept :][:1])
    if grammar.end is None:
        assert torch.equal(written.tokens.grid, tokens.grid)


def test_completions_are_certified(build_decoder, given):
    decoder = build_decoder(NAMES, patterns={"fake_grid": ["row", "column"]})
    requests = []
    for seed, name in enumerate(NAMES):
        _, request = begun(decoder, name, 2, seed, max_tokens=50)
        document = Document([given(decoder, "fake_line", seed)])
        sampling = Sampling(seed=seed, guidance=2.0 if seed % 2 else 1.0)
        requests.append(replace(request, document=document, sampling=sampling, null=Document([])))
    assert certify_cached(decoder, requests) <= 1e-5
    assert certify_guided(decoder, requests) <= 1e-5
    assert certify_batched(decoder, requests) <= 1e-5


def test_a_completion_that_begins_in_another_place_is_found(build_decoder, given, monkeypatch):
    decoder = build_decoder(NAMES)
    document = Document([given(decoder, "fake_line", 1)])
    request = replace(begun(decoder, "fake_grid", 2)[1], document=document)
    assert certify_cached(decoder, [request]) <= 1e-5
    init = Branch.__init__

    def forgetful(self, *options):
        init(self, *options)
        self.content_start = None

    monkeypatch.setattr(Branch, "__init__", forgetful)
    with pytest.raises(CertificateError):
        certify_cached(decoder, [request])


def test_the_first_codes_of_a_fixed_size_may_be_given_as_tokens(build_decoder):
    decoder = build_decoder(NAMES)
    part = Tokens(line_grid(4), ids=torch.tensor([3, 0, 1, 2]))
    (answer,) = generate(decoder, [Request(Document([]), ["fake_masked"], prefix=part)])
    assert answer.segments[0].tokens.ids[:4].tolist() == [3, 0, 1, 2]
    assert len(answer.segments[0].ids) == 6
    assert answer.forced[:5] == [True] * 5
    assert not answer.forced[5]


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("fake_grid", None, "prefix_cells"),
        ("fake_masked", 6, "nothing is left"),
        ("fake_masked", 7, "between 0 and 6"),
        ("fake_line", -1, "between 0 and"),
    ],
)
def test_what_is_no_beginning_is_refused(build_decoder, name, cells, message):
    decoder = build_decoder(NAMES)
    (answer,) = generate(decoder, [begun(decoder, name, cells)[1]])
    assert isinstance(answer.error, ConfigError)
    assert message in str(answer.error)


def test_cells_without_a_prefix_are_refused(build_decoder):
    decoder = build_decoder(NAMES)
    request = Request(Document([]), ["fake_grid"], prefix_cells=3)
    assert isinstance(generate(decoder, [request])[0].error, ConfigError)
