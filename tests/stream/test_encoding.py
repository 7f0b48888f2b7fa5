"""Encoding: positions, targets and head sets of every fake modality, against the automaton."""

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import ConfigError, DataError
from unimodal.grammar import FORCED, DocumentCursor
from unimodal.stream import Document, Segment, StreamConfig, encode_document
from unimodal.stream.encoding import NO_TARGET
from unimodal.vocabulary import SWITCH, Vocabulary

DISCRETE = [
    *("fake_line", "fake_residual", "fake_grid", "fake_events", "fake_masked"),
    "fake_marked",
]
CONFIG = StreamConfig()


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.of([*DISCRETE, "fake_continuous"], openers=["fake_line", "fake_grid"])


def segment(vocabulary, name, seed=0, **options):
    modality = vocabulary.modality(name)
    return Segment(name, modality.example(np.random.default_rng(seed)), **options)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", DISCRETE)
def test_labels_are_what_walking_the_automaton_says(vocabulary, name, seed):
    item = segment(vocabulary, name, seed, objective="next", attend="causal")
    encoded = encode_document(Document([item]), vocabulary, CONFIG)
    true_ids = encoded.ids.clone()
    true_ids[1:] = torch.where(
        encoded.targets[:-1] != NO_TARGET, encoded.targets[:-1], true_ids[1:]
    )
    cursor = DocumentCursor(vocabulary.grammars, [name])
    for place, token in enumerate(true_ids.tolist()):
        legal = [i for start, stop in cursor.legal(10**6) for i in range(start, stop)]
        assert token in legal
        head = cursor.head_set()
        labelled = int(encoded.head_set[place - 1]) if place else FORCED
        if len(legal) == 1 or head is None:
            assert labelled == FORCED
        else:
            assert vocabulary.head_sets[labelled].name == head
            assert int(encoded.targets[place - 1]) == token
        cell = cursor.push(token)
        assert tuple(encoded.grid[place].tolist()) == cell
    assert cursor.done
    assert int(encoded.targets[-1]) == NO_TARGET


def test_a_free_document_predicts_openers_and_the_stop(vocabulary):
    document = Document(
        [segment(vocabulary, n, objective="next") for n in ("fake_line", "fake_grid")], free=True
    )
    encoded = encode_document(document, vocabulary, CONFIG)
    switch = vocabulary.head_numbers[SWITCH]
    found = encoded.targets[encoded.head_set == switch].tolist()
    assert found == [vocabulary.opener("fake_grid"), vocabulary.control("stop")]
    assert int(encoded.ids[-1]) == vocabulary.control("stop")


def test_one_dimensional_positions_count_up_on_all_axes(vocabulary):
    first, second = Segment("fake_line", "abc"), Segment("fake_line", "zz")
    encoded = encode_document(Document([first, second]), vocabulary, CONFIG)
    expected = torch.arange(9.0)[:, None].expand(-1, 3)
    torch.testing.assert_close(encoded.position, expected)
    assert encoded.next_position == 9


def test_grids_stand_in_h_and_w_and_the_next_follows_their_largest(vocabulary):
    value = torch.zeros(2, 5, dtype=torch.int64)
    encoded = encode_document(
        Document([Segment("fake_grid", value), Segment("fake_line", "a")]), vocabulary, CONFIG
    )
    content = encoded.grid[:, 0] >= 0
    first = int(content.nonzero()[0])
    start = float(encoded.position[first, 0])
    assert start == first
    cells = encoded.grid[first : first + 10].float()
    torch.testing.assert_close(encoded.position[first : first + 10], cells + start)
    assert encoded.position[first + 10].tolist() == [start + 5] * 3


def test_time_moves_positions_by_the_clock(vocabulary):
    value = np.linspace(0, 0.9, 4)
    for rate in (50.0, 25.0):
        encoded = encode_document(
            Document([Segment("fake_residual", value)]),
            vocabulary,
            StreamConfig(positions_per_second=rate),
        )
        content = encoded.position[encoded.grid[:, 0] >= 0, 0]
        steps = content.view(4, -1)
        assert torch.equal(steps, steps[:, :1].expand_as(steps))
        expected = 1 + torch.arange(4) * 0.08 * rate
        torch.testing.assert_close(steps[:, 0], expected)


def test_masked_targets_stand_at_their_own_hidden_positions(vocabulary):
    item = segment(vocabulary, "fake_masked", objective="masked", mask_ratio=0.5)
    encoded = encode_document(Document([item]), vocabulary, CONFIG, np.random.default_rng(3))
    own = encoded.targets != NO_TARGET
    assert int(own.sum()) == 3
    assert (encoded.ids[own] == vocabulary.control("mask")).all()
    (features,) = encoded.features
    assert torch.equal(features.hidden, own[features.start : features.start + 6])
    assert (features.values[features.hidden] == 0).all()
    true = vocabulary.modality("fake_masked").encode(item.value).ids
    start = vocabulary.span("fake_masked.unit").start
    hidden = features.hidden
    assert (encoded.targets[own] - start).tolist() == true[hidden].tolist()


def test_weights_lie_on_targets_only(vocabulary):
    given = segment(vocabulary, "fake_continuous")
    line = Segment("fake_line", "abc", objective="next", weight=0.25)
    encoded = encode_document(Document([given, line]), vocabulary, CONFIG)
    targets = encoded.targets != NO_TARGET
    assert encoded.loss_weight[targets].tolist() == [0.25] * 4
    assert float(encoded.loss_weight[~targets].abs().sum()) == 0
    assert (encoded.head_set[~targets] == FORCED).all()


def test_the_same_seed_masks_alike(vocabulary):
    item = segment(vocabulary, "fake_masked", objective="masked")
    one, same, other = (
        encode_document(Document([item]), vocabulary, CONFIG, np.random.default_rng(s)).targets
        for s in (1, 1, 5)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (Segment("fake_line"), "no value"),
        (Segment("fake_line", "a" * 65), "64"),
        (Segment("fake_continuous", torch.zeros(4, 6), objective="next"), "no ids"),
    ],
)
def test_bad_segments_name_their_sample(vocabulary, item, match):
    if item.modality == "fake_continuous":
        item = segment(vocabulary, "fake_continuous", objective="next")
    with pytest.raises(DataError, match=match) as caught:
        encode_document(Document([item], id="sample 7"), vocabulary, CONFIG)
    assert "sample 7" in str(caught.value)


def test_full_with_next_is_an_error_where_the_modality_attends_in_full(vocabulary):
    item = segment(vocabulary, "fake_masked", objective="next")
    with pytest.raises(DataError, match="attend=causal") as caught:
        encode_document(Document([item], id="sample 7"), vocabulary, CONFIG)
    assert "sample 7" in str(caught.value)


@pytest.mark.parametrize("options", [{"objective": "masked"}, {}], ids=["masked", "augment"])
def test_what_is_drawn_needs_a_generator(vocabulary, options):
    item = segment(vocabulary, "fake_masked", **options)
    with pytest.raises(ConfigError, match="`rng` is None"):
        encode_document(Document([item]), vocabulary, CONFIG, augment=not options)


def test_the_stop_of_a_free_document_weighs_as_its_last_segment(vocabulary):
    items = [Segment("fake_line", "ab", objective="next", weight=0.25) for _ in range(2)]
    encoded = encode_document(Document(items, free=True), vocabulary, CONFIG)
    assert encoded.loss_weight.unique().tolist() == [0.0, 0.25]
    assert float(encoded.loss_weight[-2]) == 0.25


def test_a_free_document_goes_on_with_listed_openers_only(vocabulary):
    items = [Segment("fake_line", "ab"), segment(vocabulary, "fake_events")]
    with pytest.raises(DataError, match="no listed opener") as caught:
        encode_document(Document(items, id="sample 7", free=True), vocabulary, CONFIG)
    assert "sample 7" in str(caught.value)


def test_a_free_document_needs_listed_openers():
    vocabulary = Vocabulary.of(["fake_line"])
    with pytest.raises(DataError, match="openers"):
        encode_document(Document([Segment("fake_line", "a")], free=True), vocabulary, CONFIG)


def test_full_with_next_is_a_construction_error():
    with pytest.raises(ConfigError, match="masked"):
        Segment("fake_line", "a", attend="full", objective="next")
