"""The ledger: ids come from spans, spans never move, a changed tokenizer is recognised."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimodal.errors import ConfigError, VocabularyError
from unimodal.grammar import FORCED
from unimodal.modality import NoConfig, build_modality, fit
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import grow
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.testing.certificates import sharpen
from unimodal.testing.fixtures import FakeLine
from unimodal.vocabulary import CONTROLS, Vocabulary

NAMES = ["fake_line", "fake_grid", "fake_residual"]


def test_spans_cover_all_ids_without_gaps():
    vocabulary = Vocabulary.of(NAMES)
    stop = 0
    for span in vocabulary.spans:
        assert span.start == stop
        stop = span.stop
    assert stop == vocabulary.size
    assert len({vocabulary.control(name) for name in CONTROLS}) == len(CONTROLS)


@given(st.lists(st.integers(0, 7), max_size=12), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_local_ids_and_content_ids_are_inverse(ids, first_span):
    vocabulary = Vocabulary.of(NAMES)
    local = torch.tensor(ids, dtype=torch.int64)
    spans = (torch.arange(len(ids)) + first_span) % 3
    tokens = vocabulary.content_ids("fake_residual", local, spans)
    back, back_spans = vocabulary.local_ids("fake_residual", torch.as_tensor(tokens))
    assert torch.equal(back, local)
    assert torch.equal(back_spans, spans)


def test_an_id_outside_its_span_is_refused():
    vocabulary = Vocabulary.of(NAMES)
    with pytest.raises(VocabularyError, match="26"):
        vocabulary.content_ids("fake_line", torch.tensor([3, 26]), torch.tensor([0, 0]))
    with pytest.raises(VocabularyError, match="not content"):
        vocabulary.local_ids("fake_line", torch.tensor([vocabulary.opener("fake_line")]))


def test_head_sets_hold_what_the_grammar_may_write_and_nothing_else():
    vocabulary = Vocabulary.of(NAMES, openers=["fake_line"])
    for name in NAMES:
        grammar = vocabulary.grammar(name)
        cursor = grammar.cursor()
        rng = np.random.default_rng(0)
        budget = cursor.shortest() + 20
        while not cursor.done:
            head = vocabulary.head_sets[vocabulary.head_numbers[cursor.head_set()]]
            legal = [i for start, stop in cursor.legal(budget) for i in range(start, stop)]
            assert set(legal) <= set(head.ids.tolist())
            token = int(rng.choice(legal))
            assert head.ids[head.columns(torch.tensor([token]))].tolist() == [token]
            cursor.push(token)
            budget -= 1
    with pytest.raises(VocabularyError, match="not in head set"):
        vocabulary.head_sets[0].columns(torch.tensor([vocabulary.size]))


def test_a_name_is_taken_once():
    vocabulary = Vocabulary.of(["fake_line"])
    with pytest.raises(VocabularyError, match="fake_line@2"):
        vocabulary.add("fake_line", build_modality("fake_line"))
    vocabulary.add("fake_line@2", build_modality("fake_line"))
    assert vocabulary.span("fake_line@2.letter").start > vocabulary.span("fake_line.letter").start


def test_unknown_names_are_answered_with_the_nearest():
    vocabulary = Vocabulary.of(["fake_line"])
    with pytest.raises(VocabularyError, match="fake_line"):
        vocabulary.modality("fake_lin")
    with pytest.raises(VocabularyError, match=r"fake_line\.letter"):
        vocabulary.span("fake_line.lettr")
    with pytest.raises(ConfigError, match="fake_line"):
        Vocabulary.of(["fake_lines"])


def test_an_input_only_modality_cannot_be_generated():
    with pytest.raises(VocabularyError, match="input only"):
        Vocabulary.of(["fake_continuous"]).grammar("fake_continuous")


def test_the_partner_that_writes_is_named_or_else_whatever_is_written():
    for added, remedy in (
        ((), None),
        (("fake_residual", "fake_line"), "Ask for `fake_residual`."),
        (("fake_line", "fake_grid"), "Ask for `fake_line` or `fake_grid`."),
    ):
        with pytest.raises(VocabularyError) as caught:
            Vocabulary.of(["fake_continuous", *added]).grammar("fake_continuous")
        assert caught.value.remedy == remedy


def test_a_modality_enters_fitted_and_frozen():
    words = build_modality("fake_words")
    with pytest.raises(VocabularyError, match="fitted"):
        Vocabulary.of({"fake_words": words})
    fit(words, ["one two", "two three"])
    Vocabulary.of({"fake_words": words})
    with pytest.raises(VocabularyError, match=r"fake_words@2"):
        fit(words, ["four"])


def test_the_ledger_survives_json():
    vocabulary = Vocabulary.of(NAMES, openers=["fake_grid"])
    back = Vocabulary.from_json(vocabulary.to_json())
    assert back.spans == vocabulary.spans
    assert back.openers_listed == ("fake_grid",)
    assert [h.name for h in back.head_sets] == [h.name for h in vocabulary.head_sets]
    back.check_extends(vocabulary)


def test_a_changed_tokenizer_is_named_with_both_fingerprints_and_the_remedy():
    vocabulary = Vocabulary.of(NAMES)
    ledger = json.loads(vocabulary.to_json())
    old = ledger["modalities"]["fake_grid"]["fingerprint"]
    ledger["modalities"]["fake_grid"]["fingerprint"] = "0" * 32
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.from_json(json.dumps(ledger))
    for part in (old, "0" * 32, "fake_grid", "fake_grid@2"):
        assert part in str(caught.value)


def test_a_ledger_that_does_not_extend_another_is_refused():
    old = Vocabulary.of(["fake_line", "fake_grid"])
    with pytest.raises(VocabularyError, match=r"fake_grid\.open"):
        Vocabulary.of(["fake_line"]).check_extends(old)
    with pytest.raises(VocabularyError, match=r"fake_line\.open"):
        Vocabulary.of(["fake_grid", "fake_line"]).check_extends(old)
    three = Vocabulary.of({"fake_residual": build_modality("fake_residual", {"levels": 3})})
    other = Vocabulary.of({"fake_residual": build_modality("fake_residual", {"levels": 2})})
    with pytest.raises(VocabularyError):
        other.check_extends(three)


def test_growth_leaves_old_ids_and_old_logits_bit_identical():
    shape = {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
    old = sharpen(Decoder(DecoderConfig(**shape, num_layers=2), Vocabulary.of(NAMES)))
    larger = Vocabulary.of([*NAMES, "fake_events", "fake_continuous"])
    new = grow(old, larger)
    for span in old.vocabulary.spans:
        assert larger.span(span.name) == span
    rng = np.random.default_rng(1)
    documents = [
        Document([Segment(n, old.vocabulary.modality(n).example(rng), objective="next")])
        for n in NAMES
    ]
    results = []
    for decoder in (old, new):
        encoded = [encode_document(d, decoder.vocabulary, decoder.stream) for d in documents]
        batch = collate([encoded], sum(map(len, encoded)), decoder.vocabulary)
        with torch.no_grad():
            hidden = decoder.eval()(batch).flatten(0, 1)
            results.append(
                {
                    decoder.vocabulary.head_sets[h.number].name: decoder.logits(hidden, h.number)
                    for h in batch.heads
                }
            )
    assert results[0].keys() == results[1].keys()
    for name, logits in results[0].items():
        assert torch.equal(logits, results[1][name]), name


class NoIds(FakeLine):
    spans = {"letter": 4, "nothing": 0}


class OwnHeader(FakeLine):
    spans = {"open": 4}


@pytest.mark.parametrize("kind", [NoIds, OwnHeader])
def test_a_refused_modality_leaves_the_ledger_as_it_was(kind):
    vocabulary = Vocabulary.of(["fake_grid"])
    before = vocabulary.to_json()
    with pytest.raises(VocabularyError):
        vocabulary.add("other", kind(NoConfig()))
    assert vocabulary.to_json() == before
    vocabulary.add("other", FakeLine(NoConfig()))
    vocabulary.grammar("other")


def test_an_opener_that_is_listed_later_joins_the_head_set():
    vocabulary = Vocabulary.of(NAMES, openers=["fake_line"])
    assert len(vocabulary.head_sets[-1].ids) == 2
    for _ in range(2):
        vocabulary.list_opener("fake_grid")
    assert len(vocabulary.head_sets[-1].ids) == 3
    assert list(vocabulary.switch.openers) == ["fake_line", "fake_grid"]


def test_what_is_input_only_is_no_opener():
    with pytest.raises(VocabularyError, match="input only"):
        Vocabulary.of(["fake_continuous"], openers=["fake_continuous"])


@pytest.mark.parametrize("openers", [[], ["fake_grid"], ["fake_grid", "fake_line"]])
def test_growth_keeps_the_openers_first(openers):
    old = Vocabulary.of(NAMES, openers=["fake_line", "fake_grid"])
    with pytest.raises(VocabularyError, match="List the checkpoint's openers first"):
        Vocabulary.of([*NAMES, "fake_events"], openers=openers).check_extends(old)


def test_growth_says_that_added_openers_share_the_weight(caplog):
    old = Vocabulary.of(NAMES, openers=["fake_line"])
    Vocabulary.of(NAMES, openers=["fake_line", "fake_grid"]).check_extends(old)
    assert "fake_grid" in caplog.text


def test_codes_of_one_id_are_forced_in_training_as_in_generation():
    vocabulary = Vocabulary.of(["fake_marked"])
    grammar = vocabulary.grammar("fake_marked")
    cursor, forced = grammar.cursor(), []
    for token in [grammar.slots[place].ranges[0][0] for place in (0, 1, 0, 1)]:
        forced.append(sum(stop - start for start, stop in cursor.legal(100)) == 1)
        cursor.push(token)
    labels = grammar.labels(4, vocabulary.head_numbers).tolist()
    assert [label == FORCED for label in labels] == [*forced, False] == [False, True] * 2 + [False]
