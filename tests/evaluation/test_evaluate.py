import json
import math
from pathlib import Path

import pytest

from unimodal.data.sources import ListSource
from unimodal.errors import CheckpointError, ConfigError, DataError
from unimodal.evaluation import (
    EvaluationConfig,
    evaluate,
    is_better,
    read_results,
    write_results,
)
from unimodal.evaluation.results import REQUIRED
from unimodal.media import FileRef
from unimodal.model.decoder import Decoder
from unimodal.tasks import Task


def test_a_trained_model_beats_its_baselines_in_the_one_form(
    trained: Decoder, tasks: dict[str, Task]
) -> None:
    found = evaluate(trained, tasks, EvaluationConfig(limit=30, command="unimodal eval x"))
    assert set(found.results) == {"describe", "classify", "spell"}
    for entries in found.results.values():
        for entry in entries.values():
            assert set(REQUIRED) <= set(entry)
            assert entry["n"] == 30
            assert entry["split"] == "test"
            assert entry["command"] == "unimodal eval x"
            assert entry["standard_error"] >= 0
    describe = found.results["describe"]["exact_match"]
    assert describe["value"] > 0.9
    assert set(describe["baselines"]) == {"majority answer", "nearest training example"}
    assert describe["baselines"]["nearest training example"] == 1.0
    assert 0.2 < describe["baselines"]["majority answer"] < 0.5
    assert found.results["describe"]["character_error_rate"]["value"] < 0.1
    classify = found.results["classify"]["exact_match"]
    assert classify["value"] > 0.9
    assert "linear model" in classify["baselines"]
    assert classify["baseline_name"] != "majority answer"
    spell = found.results["spell"]["bits_per_byte"]
    assert spell["value"] < spell["baselines"]["uniform choice"]
    assert is_better(spell) == (spell["value"] < spell["baseline"])
    assert len(found.examples["describe"]) == 12
    assert sum(e.answer == e.truth for e in found.examples["describe"]) >= 9


def test_an_untrained_model_is_worse_than_the_majority(
    untrained: Decoder, tasks: dict[str, Task]
) -> None:
    only = {"describe": tasks["describe"]}
    entry = evaluate(untrained, only, EvaluationConfig(limit=12)).results["describe"]["exact_match"]
    assert entry["value"] == 0.0
    assert not is_better(entry)
    assert entry["margin"] < 0


def test_untrained_bits_are_those_of_a_uniform_choice(
    untrained: Decoder, tasks: dict[str, Task]
) -> None:
    found = evaluate(untrained, {"spell": tasks["spell"]}, EvaluationConfig(limit=0))
    entry = found.results["spell"]["bits_per_byte"]
    assert entry["value"] == pytest.approx(entry["baselines"]["uniform choice"], rel=0.15)
    # low, middle, high: 13 letters and 3 ends, among 27 letters and the end.
    assert entry["baselines"]["uniform choice"] == pytest.approx(16 * math.log2(28) / 13)


def test_scores_are_reproducible_and_progress_is_told(
    untrained: Decoder, tasks: dict[str, Task]
) -> None:
    told: list[tuple[str, int, int]] = []
    only = {"spell": tasks["spell"]}
    config = EvaluationConfig(limit=10, batch_size=4)
    first = evaluate(untrained, only, config, progress=lambda *now: told.append(now))
    assert [done for _, done, _ in told] == [0, 4, 8, 10]
    assert first.results == evaluate(untrained, only, config).results


def test_evaluation_stops_when_asked(untrained: Decoder, tasks: dict[str, Task]) -> None:
    with pytest.raises(KeyboardInterrupt, match="spell"):
        evaluate(untrained, {"spell": tasks["spell"]}, should_stop=lambda: True)


def test_a_bad_record_costs_itself_alone_and_is_named(
    untrained: Decoder, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks["describe"]
    whole = task.open("test")
    records = [whole[i] for i in range(6)]
    records[2] = {**records[2], "curve": FileRef(Path("missing.curve"))}
    opened = {"test": ListSource(records, split="test"), "train": task.open("train")}
    monkeypatch.setattr(task, "open", lambda split: opened[split])
    found = evaluate(untrained, {"describe": task})
    assert found.results["describe"]["exact_match"]["n"] == 5
    assert "missing.curve" in found.notes[0]
    opened["test"] = ListSource(records[2:3], split="test")
    with pytest.raises(DataError, match=r"None of its 1 records.*missing\.curve"):
        evaluate(untrained, {"describe": task})


def test_a_wrong_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="`limit`"):
        EvaluationConfig(limit=-1)


def test_results_survive_their_file_and_nan_becomes_null(tmp_path: Path) -> None:
    entry = dict.fromkeys(REQUIRED, 1) | {"value": float("nan"), "better": "lower"}
    path = write_results({"t": {"m": entry}}, tmp_path / "deep" / "results.json")
    assert read_results(path)["t"]["m"]["value"] is None
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    json.loads(path.read_text())


@pytest.mark.parametrize("text", ["", "[1]", '{"t": {"m": {"value": 1}}}', '{"t": 3}'])
def test_a_file_that_is_no_results_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"results\.json"):
        read_results(path)
