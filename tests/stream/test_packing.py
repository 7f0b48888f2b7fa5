"""Packing fills rows, cuts nothing, keeps nothing for ever; collation lays rows out exactly."""

from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import ConfigError, DataError
from unimodal.stream import (
    Document,
    Packer,
    PackingConfig,
    Segment,
    StreamConfig,
    collate,
    encode_document,
)
from unimodal.stream.encoding import EncodedDocument
from unimodal.vocabulary import Vocabulary


class Sized(EncodedDocument):
    """Stands for an encoded document of some length."""

    def __init__(self, length):
        self.length = length
        self.document = Document([], id=f"of {length}")

    def __len__(self):
        return self.length


def pack(lengths, row_length, look_ahead=256):
    documents = [(n, Sized(length)) for n, length in enumerate(lengths)]
    config = PackingConfig(row_length=row_length, look_ahead=look_ahead)
    packer = Packer(config, partial(islice, iter(documents)))
    rows = []
    while row := packer.row():
        rows.append(row)
    return rows, [document for _, document in documents]


def mixture(rng, count):
    """Captions, transcripts, clips of 1 to 6 s and pictures, in positions."""
    kinds = rng.choice(4, count, p=[0.4, 0.25, 0.2, 0.15])
    draws = np.stack(
        [
            rng.lognormal(3.6, 0.5, count).clip(8, 400),
            rng.lognormal(4.4, 0.4, count).clip(20, 500),
            rng.uniform(50, 300, count) + 40,
            np.full(count, 64) + rng.integers(8, 40, count),
        ]
    )
    return draws[kinds, np.arange(count)].astype(int)


@pytest.mark.parametrize("seed", range(3))
def test_a_realistic_mixture_fills_98_percent(seed):
    lengths = mixture(np.random.default_rng(seed), 6000)
    row_length = 1024
    assert row_length >= 8 * np.median(lengths)
    rows, _ = pack(lengths, row_length)
    whole = rows[:-20]  # the last rows only take what is left
    assert sum(len(d) for row in whole for d in row) / (len(whole) * row_length) >= 0.98


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_every_document_is_packed_once_and_whole(lengths, look_ahead):
    rows, documents = pack(lengths, 40, look_ahead)
    packed = [id(d) for row in rows for d in row]
    assert sorted(packed) == sorted(id(d) for d in documents)
    assert all(sum(len(d) for d in row) <= 40 for row in rows)


def test_the_oldest_document_opens_the_row():
    lengths = [30] + [40] * 50
    rows, documents = pack(lengths, 40, look_ahead=4)
    assert rows[0][0] is documents[0]
    assert [row[0] for row in rows[1:]] == documents[1:]


def test_a_saved_state_goes_on_with_equal_rows():
    lengths = mixture(np.random.default_rng(0), 400).tolist()
    config = PackingConfig(row_length=512, look_ahead=32)
    documents = [(n, Sized(length)) for n, length in enumerate(lengths)]
    whole = Packer(config, partial(islice, iter(documents)))
    expected = [[id(d) for d in whole.row()] for _ in range(30)]
    source = iter(documents)
    first = Packer(config, partial(islice, source))
    for _ in range(10):
        first.row()
    waiting = first.pending()
    second = Packer(config, partial(islice, source))
    second.restore(documents[n] for n in waiting)
    assert [[id(d) for d in second.row()] for _ in range(20)] == expected[10:]


def test_a_document_longer_than_a_row_is_refused_by_name():
    with pytest.raises(DataError, match="of 41") as caught:
        pack([3, 41], 40)
    assert "row_length" in str(caught.value)


@pytest.mark.parametrize("name", ["row_length", "look_ahead"])
def test_a_row_needs_room(name):
    with pytest.raises(ConfigError, match=name):
        PackingConfig(**{name: 0})


def test_collation_keeps_every_document_in_its_place():
    vocabulary = Vocabulary.of(["fake_line", "fake_grid", "fake_masked", "fake_continuous"])
    rng = np.random.default_rng(0)
    documents = []
    for number in range(6):
        given_part = Segment("fake_continuous", vocabulary.modality("fake_continuous").example(rng))
        name = ("fake_line", "fake_grid", "fake_masked")[number % 3]
        objective = "masked" if name == "fake_masked" else "next"
        asked = Segment(name, vocabulary.modality(name).example(rng), objective=objective)
        documents.append(
            encode_document(Document([given_part, asked]), vocabulary, StreamConfig(), rng)
        )
    rows = [documents[:2], documents[2:5], documents[5:]]
    length = max(sum(map(len, row)) for row in rows) + 3
    batch = collate(rows, length, vocabulary)
    place = 0
    for r, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row):
            here = slice(start, start + len(document))
            assert torch.equal(batch.ids[r, here], document.ids)
            torch.testing.assert_close(batch.position[r, here], document.position)
            assert (batch.coordinates.document[r, here] == number).all()
            assert torch.equal(batch.coordinates.grid[r, here], document.grid)
            assert (batch.document_of[r, here] == place).all()
            start += len(document)
            place += 1
        assert (batch.ids[r, start:] == vocabulary.control("pad")).all()
        assert (batch.coordinates.document[r, start:] == -1).all()
    total = sum(float(d.loss_weight.sum()) for d in documents)
    assert batch.weight_sum == pytest.approx(total)
    found = 0
    flat_targets = torch.full((3 * length,), -1)
    for head in batch.heads:
        flat_targets[head.index] = vocabulary.head_sets[head.number].ids[head.columns]
        found += len(head.index)
    assert found == sum(int((d.targets >= 0).sum()) for d in documents)
    start = 0
    for document in rows[0]:
        here = flat_targets[start : start + len(document)]
        assert torch.equal(here, document.targets)
        start += len(document)
    for group in batch.features:
        assert group.values.shape[:2] == group.index.shape == group.hidden.shape
        rows_of = batch.coordinates.kind.flatten()[group.index]
        assert (rows_of == vocabulary.kind(group.modality)).all()
