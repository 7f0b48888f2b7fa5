"""Scores are sums over targets, candidates share their prefix exactly, embeddings stand alone."""

import math

import numpy as np
import pytest
import torch

from unimodal.errors import ConfigError, DataError
from unimodal.generation import Request, Sampling, classify, embed, generate, score
from unimodal.generation import scoring as scoring_module
from unimodal.stream import Document, Segment, collate, encode_document


def documents_of(decoder, given):
    names = ("fake_line", "fake_residual", "fake_grid", "fake_events")
    return [
        Document(
            [
                given(decoder, "fake_continuous", seed),
                Segment(name, given(decoder, name, seed).value, objective="next"),
                Segment("fake_line", "abc", objective="next", weight=0.5),
            ]
        )
        for seed, name in enumerate(names)
    ]


def test_scores_are_the_unweighted_losses_of_each_segment(build_decoder, given):
    decoder = build_decoder().eval()
    documents = documents_of(decoder, given)
    for document, found in zip(documents, score(decoder, documents), strict=True):
        encoded = encode_document(document, decoder.vocabulary, decoder.stream)
        batch = collate([[encoded]], len(encoded), decoder.vocabulary)
        with torch.no_grad():
            nll = torch.cat(decoder.loss(batch).nll)
        assert found.nats == pytest.approx(float(nll.sum()), rel=1e-5)
        assert found.num_targets == len(nll)
        assert found.nats == pytest.approx(sum(s.nats for s in found.segments), rel=1e-6)
        assert found.segments[0].num_targets == 0
        assert found.segments[2].num_targets == 4  # three letters and the end


def test_bits_count_control_ids_and_lossless_modalities_only(build_decoder, given):
    decoder = build_decoder()
    line, residual = score(
        decoder,
        [
            Document([Segment("fake_line", "abcd", objective="next")]),
            Document([Segment("fake_residual", np.array([0.1, 0.2]), objective="next")]),
        ],
    )
    assert line.num_targets == 5
    assert line.bits_per_raw_unit == pytest.approx(line.nats / math.log(2) / 4)
    assert residual.bits_per_raw_unit is None


def test_bits_of_different_units_are_not_added(build_decoder):
    line = Segment("fake_line", "abcd", objective="next")
    cells = Segment("fake_grid", torch.ones(2, 3).long(), attend="causal", objective="next")
    one, two, mixed = score(
        build_decoder(), [Document([line]), Document([line, line]), Document([line, cells])]
    )
    assert one.bits_per_raw_unit == pytest.approx(one.nats / math.log(2) / 4)
    assert two.bits_per_raw_unit == pytest.approx(two.nats / math.log(2) / 8)
    assert mixed.bits_per_raw_unit is None
    assert len({s.raw_unit for s in mixed.segments}) == 2
    assert all(s.bits_per_raw_unit for s in mixed.segments)


def test_uniform_letters_cost_at_least_their_entropy(build_decoder):
    decoder = build_decoder()
    rng = np.random.default_rng(0)
    documents = [
        Document(
            [
                Segment(
                    "fake_line",
                    "".join(chr(ord("a") + n) for n in rng.integers(0, 26, 40)),
                    objective="next",
                )
            ]
        )
        for _ in range(20)
    ]
    bits = [s.bits_per_raw_unit for s in score(decoder, documents)]
    assert np.mean(bits) >= math.log2(26)


def test_scores_do_not_depend_on_how_documents_are_batched(build_decoder, given, monkeypatch):
    decoder = build_decoder()
    documents = documents_of(decoder, given)
    together = [s.nats for s in score(decoder, documents)]
    monkeypatch.setattr(scoring_module, "MAX_POSITIONS", 1)
    packed = scoring_module.packed_batches
    monkeypatch.setattr(scoring_module, "packed_batches", lambda d, e: packed(d, e, 1))
    assert [s.nats for s in score(decoder, documents)] == pytest.approx(together, rel=1e-5)


@pytest.mark.parametrize("head", ["span", "full"])
@pytest.mark.parametrize("slots", [1, 1 << 18])
def test_candidates_cost_what_their_whole_documents_cost(
    build_decoder, given, monkeypatch, head, slots
):
    monkeypatch.setattr(scoring_module, "MAX_CANDIDATE_SLOTS", slots)
    decoder = build_decoder(head=head)
    documents = [
        Document([given(decoder, "fake_continuous", seed), given(decoder, "fake_grid", seed)])
        for seed in range(3)
    ]
    candidates = [Segment("fake_line", text) for text in ("", "abc", "zebra")]
    candidates.append(Segment("fake_grid", torch.ones(2, 2, dtype=torch.int64)))
    found = classify(decoder, documents, candidates, batch_size=2)
    assert found.shape == (3, 4)
    for row, document in enumerate(documents):
        for column, candidate in enumerate(candidates):
            asked = Segment(candidate.modality, candidate.value, objective="next")
            (whole,) = score(decoder, [Document([*document.segments, asked])])
            assert float(found[row, column]) == pytest.approx(-whole.nats, rel=1e-5, abs=1e-4)


def test_a_choice_needs_candidates_and_something_given(build_decoder, given):
    decoder = build_decoder()
    line = Segment("fake_line", "a")
    with pytest.raises(ConfigError, match="candidates"):
        classify(decoder, [Document([line])], [])
    with pytest.raises(ConfigError, match="gives nothing"):
        classify(decoder, [Document([])], [line])
    with pytest.raises(DataError, match="no ids"):
        classify(decoder, [Document([line])], [given(decoder, "fake_continuous")])


def test_embeddings_are_means_over_content(build_decoder, given):
    decoder = build_decoder().eval()
    documents = [
        Document([given(decoder, "fake_grid")]),
        Document([Segment("fake_line", "")]),
        Document([Segment("fake_line", "abc"), given(decoder, "fake_continuous")]),
    ]
    vectors = embed(decoder, documents)
    for document, vector in zip(documents, vectors, strict=True):
        encoded = encode_document(document, decoder.vocabulary, decoder.stream)
        batch = collate([[encoded]], len(encoded), decoder.vocabulary)
        with torch.no_grad():
            hidden = decoder(batch)[0]
        content = encoded.grid[:, 0] >= 0
        expected = (hidden[content] if bool(content.any()) else hidden).mean(dim=0)
        torch.testing.assert_close(vector, expected, rtol=1e-5, atol=1e-5)


def test_a_document_without_segments_has_no_embedding(build_decoder, given):
    decoder = build_decoder()
    with pytest.raises(ConfigError, match="document 1"):
        embed(decoder, [Document([given(decoder, "fake_line")]), Document([])])


def test_a_value_with_ids_and_features_costs_what_its_generation_did(build_decoder, given):
    decoder = build_decoder(("fake_line", "fake_masked"))
    line = given(decoder, "fake_line")
    (answer,) = generate(decoder, [Request(Document([line]), "fake_masked", Sampling(seed=0))])
    value = Segment("fake_masked", answer.value, attend="causal", objective="next")
    (found,) = score(decoder, [Document([line, value])])
    assert answer.logprob == pytest.approx(-found.nats, abs=1e-4)
    chosen = classify(decoder, [Document([line])], [value])
    assert answer.logprob == pytest.approx(float(chosen[0, 0]), abs=1e-4)
