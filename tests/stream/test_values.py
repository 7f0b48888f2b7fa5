"""Values before they are encoded: encoding many at once changes nothing, and no error is lost."""

import numpy as np
import pytest
import torch

from unimodal.errors import MediaError
from unimodal.modality import build_modality, fit
from unimodal.stream import Document, Segment, StreamConfig, encode_document, tokenized, varied
from unimodal.types import Tokens
from unimodal.vocabulary import Vocabulary

WORDS = ["a red apple", "two green pears", "", "a red pear"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    text = build_modality("text", {"vocab_size": 300})
    fit(text, WORDS * 20)
    return Vocabulary.of(
        {"text": text, "dna": build_modality("dna"), "image": build_modality("image")}
    )


def documents(vocabulary: Vocabulary) -> list[Document]:
    rng = np.random.default_rng(0)
    picture = vocabulary.modality("image").example(rng)
    return [
        Document([Segment("image", picture), Segment("text", word, objective="next")], id=word)
        for word in WORDS
    ] + [Document([Segment("dna", "ACGTNACGT", objective="next"), Segment("text", "a red")])]


def test_documents_of_tokens_encode_as_documents_of_values(vocabulary: Vocabulary) -> None:
    plain = documents(vocabulary)
    ready = tokenized(plain, vocabulary)
    assert all(isinstance(s.value, Tokens) for document in ready for s in document.segments)
    for one, other in zip(plain, ready, strict=True):
        a, b = (encode_document(d, vocabulary, StreamConfig()) for d in (one, other))
        for name in ("ids", "targets", "grid", "position", "head_set"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert len(a.features) == len(b.features)
        for mine, theirs in zip(a.features, b.features, strict=True):
            assert torch.equal(mine.values, theirs.values)


def test_a_value_that_cannot_be_encoded_is_named_alone(vocabulary: Vocabulary) -> None:
    wrong = Document([Segment("dna", "AC!GT", objective="next")], id="sample 7")
    *right, last = tokenized([*documents(vocabulary), wrong], vocabulary)
    assert last.segments[0].value == "AC!GT"
    for document in right:
        encode_document(document, vocabulary, StreamConfig())
    with pytest.raises(MediaError, match="sample 7"):
        encode_document(last, vocabulary, StreamConfig())


def test_a_request_keeps_what_it_asks_for(vocabulary: Vocabulary) -> None:
    request = Document([Segment("text", "a red"), Segment("dna", role="asked")])
    [ready] = tokenized([varied(request, vocabulary, np.random.default_rng(0))], vocabulary)
    assert isinstance(ready.segments[0].value, Tokens)
    assert ready.segments[1].value is None
