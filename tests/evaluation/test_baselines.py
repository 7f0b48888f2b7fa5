import sys
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.data.sources import SOURCES
from unimodal.errors import BackendUnavailableError
from unimodal.evaluation.baselines import baselines
from unimodal.evaluation.features import raw_features
from unimodal.tasks import Task
from unimodal.vocabulary import Vocabulary


def split(name: str) -> list[dict[str, Any]]:
    return list(SOURCES.get("test/levels")(split=name))


def accuracy(name: str, task: Task, train: list[Any] | None = None) -> float:
    test = split("test")
    outcome = baselines.get(name)(task, split("train") if train is None else train, test, 0)
    assert outcome is not None
    assert outcome.answers is not None
    return float(np.mean([a == r["text"] for a, r in zip(outcome.answers, test, strict=True)]))


def test_inputs_that_tell_the_answer_are_seen(tasks: dict[str, Task]) -> None:
    assert accuracy("nearest", tasks["describe"]) == 1.0
    assert accuracy("linear", tasks["classify"]) > 0.8
    assert accuracy("majority", tasks["describe"]) == pytest.approx(1 / 3)


def test_shuffled_training_answers_tell_nothing(tasks: dict[str, Task]) -> None:
    train = split("train")
    order = np.random.default_rng(0).permutation(len(train))
    shuffled = [{**r, "text": train[i]["text"]} for r, i in zip(train, order, strict=True)]
    assert accuracy("nearest", tasks["describe"], shuffled) < 0.6


def test_chance_draws_among_the_choices(tasks: dict[str, Task]) -> None:
    tasks["classify"].observe(split("train"))
    assert 0.1 < accuracy("chance", tasks["classify"]) < 0.6


def test_the_chain_costs_less_than_a_uniform_choice(tasks: dict[str, Task]) -> None:
    spell, test = tasks["spell"], split("test")
    chain = baselines.get("markov")(spell, split("train"), test, 0)
    flat = baselines.get("uniform")(spell, split("train"), test, 0)
    assert chain is not None
    assert flat is not None
    assert chain.bits is not None
    assert flat.bits is not None
    assert chain.bits.sum() < 0.3 * flat.bits.sum()
    assert chain.name.startswith("order-")


def test_a_baseline_without_an_input_does_not_apply(tasks: dict[str, Task]) -> None:
    assert baselines.get("nearest")(tasks["spell"], split("train"), split("test"), 0) is None


def test_without_scikit_learn_the_linear_model_says_so(
    tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.evaluation.baselines.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(BackendUnavailableError, match="scikit-learn"):
        baselines.get("linear")(tasks["classify"], split("train"), split("test"), 0)


def test_features_of_one_length_are_flat_else_moments_or_shares(vocabulary: Vocabulary) -> None:
    curve = vocabulary.modality("curve")
    same = [torch.arange(6.0).view(3, 2), torch.ones(3, 2)]
    known, asked = raw_features([same, same[:1]], curve)
    assert known.shape == (2, 6)
    np.testing.assert_array_equal(asked[0], np.arange(6.0))
    known, asked = raw_features([same, [torch.ones(5, 2)]], curve)
    assert known.shape == (2, 4)
    np.testing.assert_allclose(asked[0], [1, 1, 0, 0])
    shares = raw_features([["aab"]], vocabulary.modality("text"))[0]
    np.testing.assert_allclose(shares[0][:3], [2 / 3, 1 / 3, 0])
