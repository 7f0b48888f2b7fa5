import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.data.sources import SOURCES, ListSource
from unimodal.errors import BackendUnavailableError
from unimodal.evaluation import evidence as evidence_module
from unimodal.evaluation.baselines import Outcome, baselines
from unimodal.evaluation.evidence import Evidence
from unimodal.evaluation.features import RawFeatures
from unimodal.evaluation.records import UsableRecords
from unimodal.modality import build_modality
from unimodal.tasks import Task, TaskConfig, build_task
from unimodal.types import Tokens, raster_grid
from unimodal.vocabulary import Vocabulary


def split(name: str) -> list[dict[str, Any]]:
    return list(SOURCES.get("test/levels")(split=name))


def evidence_of(
    task: Task, train: list[Any] | None = None, test: list[Any] | None = None
) -> Evidence:
    records = split("train") if train is None else train
    usable = UsableRecords(ListSource(records), range(len(records)))
    return Evidence(task, usable, split("test") if test is None else test, 0)


def outcome_of(name: str, evidence: Evidence) -> Outcome:
    outcome = baselines.get(name)(evidence)
    assert outcome is not None
    return outcome


def accuracy(name: str, task: Task, train: list[Any] | None = None) -> float:
    evidence = evidence_of(task, train)
    answers = outcome_of(name, evidence).answers
    assert answers is not None
    pairs = zip(answers, evidence.test, strict=True)
    return float(np.mean([a == r["text"] for a, r in pairs]))


def two_factors(count: int, is_held_out: Callable[[int, int], bool]) -> list[dict[str, Any]]:
    """Curves whose first column tells a colour and whose second tells an animal."""
    colours, animals = ("red", "green", "blue"), ("cat", "dog", "hen")
    rng = np.random.default_rng(count)
    made: list[dict[str, Any]] = []
    while len(made) < count:
        i, j = (int(n) for n in rng.integers(3, size=2))
        if is_held_out(i, j):
            row = np.zeros(9)
            row[i], row[3 + j] = 3.0, 3.0
            curve = torch.from_numpy(rng.normal(row, 0.1).reshape(3, 3))
            made.append(
                {"id": str(len(made)), "curve": curve, "text": f"{colours[i]} {animals[j]}"}
            )
    return made


def test_inputs_that_tell_the_answer_are_seen(tasks: dict[str, Task]) -> None:
    assert accuracy("nearest", tasks["describe"]) == 1.0
    assert accuracy("linear", tasks["describe"]) > 0.6
    assert accuracy("linear", tasks["classify"]) > 0.6
    assert accuracy("majority", tasks["describe"]) == pytest.approx(1 / 3)


def test_shuffled_training_answers_tell_nothing(tasks: dict[str, Task]) -> None:
    train = split("train")
    order = np.random.default_rng(0).permutation(len(train))
    shuffled = [{**r, "text": train[i]["text"]} for r, i in zip(train, order, strict=True)]
    assert accuracy("nearest", tasks["describe"], shuffled) < 0.6


def test_a_model_of_each_word_composes_answers_that_training_never_held(
    tasks: dict[str, Task],
) -> None:
    train = two_factors(200, lambda i, j: i != j)
    test = two_factors(30, lambda i, j: i == j)
    evidence = evidence_of(tasks["describe"], train, test)
    truths = [record["text"] for record in test]
    assert not {r["text"] for r in train} & set(truths)
    assert outcome_of("words", evidence).answers == truths
    for name in ("nearest", "linear"):
        answers = outcome_of(name, evidence).answers
        assert not any(a == t for a, t in zip(answers or [], truths, strict=True))


def test_answers_of_several_lengths_end_where_their_words_end(tasks: dict[str, Task]) -> None:
    texts = ["low", "somewhat high", "very very high"]
    train, test = (
        [{**r, "text": texts[i % 3]} for i, r in enumerate(split(n))] for n in ("a", "b")
    )
    evidence = evidence_of(tasks["describe"], train, test)
    assert outcome_of("words", evidence).answers == [r["text"] for r in test]


def test_single_words_and_answers_without_repeats_have_no_such_models(
    tasks: dict[str, Task],
) -> None:
    assert baselines.get("words")(evidence_of(tasks["describe"])) is None
    train = [{**r, "text": f"answer {i}"} for i, r in enumerate(split("train"))]
    assert baselines.get("linear")(evidence_of(tasks["describe"], train)) is None


def test_a_name_tells_how_many_records_were_seen_and_a_bad_one_costs_itself(
    tasks: dict[str, Task],
) -> None:
    task, train = tasks["describe"], split("train")
    del train[7]["curve"], train[9]["text"]
    evidence = evidence_of(task, train)
    assert outcome_of("nearest", evidence).name == "nearest training example (58 records)"
    assert outcome_of("majority", evidence).name == "majority answer (58 records)"
    assert set(evidence.train.bad) == {7, 9}
    assert "58" in outcome_of("linear", evidence).name
    note = evidence.train.note("describe") or ""
    assert "2 of 60 records of `train` are left out" in note
    spelt = evidence_of(tasks["spell"], split("train"))
    assert outcome_of("markov", spelt).name.endswith("Markov chain (60 records)")


def test_blocks_change_nothing(tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch) -> None:
    train = two_factors(90, lambda i, j: True)
    test = two_factors(40, lambda i, j: True)
    whole = evidence_of(tasks["describe"], train, test).seen
    monkeypatch.setattr(evidence_module, "BLOCK_RECORDS", 25)
    blocks = evidence_of(tasks["describe"], train, test).seen
    assert whole.nearest is not None
    np.testing.assert_array_equal(whole.nearest, blocks.nearest)
    rows = np.stack([r["curve"].float().numpy().ravel() for r in train])
    asked = np.stack([r["curve"].float().numpy().ravel() for r in test])
    distance = ((asked[:, None] - rows[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(whole.nearest, distance.argmin(axis=1))


def test_a_record_is_encoded_once_for_all_baselines(
    tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks["describe"]
    modality = task.vocabulary.modality("curve")
    encode, encoded = modality.encode, []
    monkeypatch.setattr(modality, "encode", lambda value: encoded.append(1) or encode(value))
    evidence = evidence_of(task)
    for name in ("majority", "nearest", "linear", "words"):
        baselines.get(name)(evidence)
    assert len(encoded) == 60 + len(evidence.test)


def test_baselines_stop_when_asked(tasks: dict[str, Task]) -> None:
    records = split("train")
    asked = iter([False] * 5 + [True])
    usable = UsableRecords(ListSource(records), range(60), lambda: next(asked))
    with pytest.raises(KeyboardInterrupt):
        baselines.get("nearest")(Evidence(tasks["describe"], usable, split("test"), 0))


def test_chance_draws_among_the_choices(tasks: dict[str, Task]) -> None:
    tasks["classify"].observe(split("train"))
    assert 0.1 < accuracy("chance", tasks["classify"]) < 0.6


def test_the_chain_costs_less_than_a_uniform_choice(tasks: dict[str, Task]) -> None:
    evidence = evidence_of(tasks["spell"])
    chain, flat = outcome_of("markov", evidence), outcome_of("uniform", evidence)
    assert chain.bits is not None
    assert flat.bits is not None
    assert chain.bits.sum() < 0.3 * flat.bits.sum()
    assert chain.name.startswith("order-")


def test_a_baseline_without_an_input_does_not_apply(tasks: dict[str, Task]) -> None:
    assert baselines.get("nearest")(evidence_of(tasks["spell"])) is None


def test_without_scikit_learn_the_linear_model_says_so(
    tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.evaluation.baselines.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(BackendUnavailableError, match="scikit-learn"):
        baselines.get("linear")(evidence_of(tasks["classify"]))


def test_features_of_one_size_stay_as_they_are(vocabulary: Vocabulary) -> None:
    curve = vocabulary.modality("curve")
    same = [curve.encode(torch.arange(9.0).view(3, 3)), curve.encode(torch.ones(3, 3))]
    np.testing.assert_array_equal(RawFeatures(curve, same).rows(same)[0], np.arange(9.0))


def test_durations_that_differ_are_resampled_and_lose_their_mean(vocabulary: Vocabulary) -> None:
    """The same shape in time, stretched and shifted in level, is the same row; another is not."""
    curve = vocabulary.modality("curve")
    rise = [
        torch.linspace(-1, 1, n)[:, None].expand(n, 3) + level for n, level in ((20, 0), (26, 5))
    ]
    fall = -rise[0]
    values = [curve.encode(value) for value in (*rise, fall)]
    rows = RawFeatures(curve, values).rows(values)
    assert rows.shape == (3, 60)
    assert np.abs(rows[0] - rows[1]).max() < 0.1
    assert np.abs(rows[0] - rows[2]).max() > 1.5
    np.testing.assert_allclose(rows.reshape(3, 20, 3).mean(axis=1), 0, atol=1e-6)


def test_large_grids_are_averaged_down_along_their_longest_axis(vocabulary: Vocabulary) -> None:
    curve = vocabulary.modality("curve")
    picture = Tokens(raster_grid(1, 8, 4), features=torch.arange(32.0)[:, None])
    rows = RawFeatures(curve, [picture], max_numbers=8).rows([picture])
    expected = torch.arange(32.0).view(2, 4, 4).mean(dim=1).flatten()
    np.testing.assert_allclose(rows[0], expected)


def test_ids_are_described_by_their_shares(vocabulary: Vocabulary) -> None:
    text = vocabulary.modality("text")
    values = [text.encode("aab")]
    np.testing.assert_allclose(RawFeatures(text, values).rows(values)[0][:3], [2 / 3, 1 / 3, 0])


def test_a_markov_chain_sees_all_that_training_may_read() -> None:
    records = [{"id": str(i), "dna": "AAACAAAC" * 8} for i in range(20)]
    backward = [{"id": "t", "dna": "GTTTGTTT" * 8}]
    bits = []
    for both in (False, True):
        vocabulary = Vocabulary.of({"dna": build_modality("dna", {"both_strands": both})})
        task = build_task("genome", TaskConfig(template="model", target="dna"), vocabulary)
        outcome = outcome_of("markov", evidence_of(task, records, backward))
        assert outcome.bits is not None
        assert outcome.seen == 20
        bits.append(float(outcome.bits[0]))
    assert bits[1] < 0.2 * bits[0]
