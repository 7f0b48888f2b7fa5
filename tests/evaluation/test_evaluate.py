import json
import math
from pathlib import Path

import pytest

from unimodal.data.sources import ListSource, Source
from unimodal.errors import CheckpointError, ConfigError, DataError
from unimodal.evaluation import (
    EvaluationConfig,
    evaluate,
    is_better,
    missing_scores,
    not_above,
    read_results,
    write_results,
)
from unimodal.evaluation.results import REQUIRED
from unimodal.media import FileRef
from unimodal.model.decoder import Decoder
from unimodal.tasks import Task, build_task


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
            assert (entry["limit"], entry["max_tokens"]) == (30, 128)
            assert entry["standard_error"] >= 0
    describe = found.results["describe"]["exact_match"]
    assert describe["value"] > 0.9
    assert describe["baselines"]["nearest training example (60 records)"] == 1.0
    assert describe["baselines"]["linear model (60 records)"] > 0.5
    assert 0.2 < describe["baselines"]["majority answer (60 records)"] < 0.5
    assert len(describe["baselines"]) == 3
    assert describe["above_baseline"] is False
    assert "describe exact match" in not_above(found.results)
    assert not missing_scores(found.results, tasks)
    assert found.results["describe"]["character_error_rate"]["value"] < 0.1
    classify = found.results["classify"]["exact_match"]
    assert classify["value"] > 0.9
    assert "linear model (60 records)" in classify["baselines"]
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
    # low, middle, high: 13 letters and 3 ends, among 26 letters and the end.
    assert entry["baselines"]["uniform choice"] == pytest.approx(16 * math.log2(27) / 13)


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
    only = {"spell": tasks["spell"]}
    with pytest.raises(KeyboardInterrupt):
        evaluate(untrained, only, should_stop=lambda: True)
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt, match="spell"):  # after the scores, before baselines
        evaluate(
            untrained,
            only,
            EvaluationConfig(limit=2),
            progress=lambda name, done, total: told.append(done),
            should_stop=lambda: told[-1:] == [2],
        )


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
    opened["train"] = opened["test"]
    found = evaluate(untrained, {"describe": task})
    assert "majority answer (5 records)" in found.results["describe"]["exact_match"]["baselines"]
    assert len([note for note in found.notes if "missing.curve" in note]) == 2
    opened["test"] = ListSource(records[2:3], split="test")
    found = evaluate(untrained, {"describe": task})
    assert not found.results
    assert "None of its 1 records in `test`" in found.notes[0]
    assert "missing.curve" in found.notes[0]


def test_a_task_without_held_out_records_costs_itself_alone(
    untrained: Decoder, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = lambda split: ListSource([], split=split)  # noqa: E731
    monkeypatch.setattr(tasks["describe"], "open", empty)
    found = evaluate(untrained, tasks, EvaluationConfig(limit=4))
    assert set(found.results) == {"classify", "spell"}
    assert "describe: not scored" in found.notes[0]
    assert missing_scores(found.results, tasks) == ["describe"]


@pytest.mark.parametrize("error", [ConfigError, DataError, None])
def test_auto_takes_validation_where_there_is_no_test(
    untrained: Decoder,
    tasks: dict[str, Task],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception] | None,
) -> None:
    """A source may refuse a split that it lacks, or open it with no record."""
    task = tasks["spell"]
    whole = task.open

    def opened(split: str) -> Source:
        if split != "test":
            return whole(split)
        if error is not None:
            raise error("no such split")
        return ListSource([], split=split)

    monkeypatch.setattr(task, "open", opened)
    found = evaluate(untrained, {"spell": task}, EvaluationConfig(limit=4))
    assert found.results["spell"]["bits_per_byte"]["split"] == "validation"


def test_a_split_that_does_not_exist_is_refused_by_name(
    untrained: Decoder, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(split: str) -> Source:
        raise ConfigError(f"There is no split `{split}`.")

    monkeypatch.setattr(tasks["spell"], "open", refuse)
    with pytest.raises(ConfigError, match="tset"):
        evaluate(untrained, {"spell": tasks["spell"]}, EvaluationConfig(split="tset"))


def test_labels_come_from_all_training_records(
    untrained: Decoder, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build_task("rare", tasks["classify"].config, tasks["classify"].vocabulary)
    common = task.open("train")
    records = [{**common[i % 60], "id": str(i)} for i in range(200)]
    records[-1]["text"] = "rare"
    opened = {"test": task.open("test"), "train": ListSource(records)}
    monkeypatch.setattr(task, "open", lambda split: opened[split])
    config = EvaluationConfig(limit=4, baseline_records=150)
    entry = evaluate(untrained, {"rare": task}, config).results["rare"]
    assert "rare" in task.choices()
    assert "linear model (150 records)" in entry["exact_match"]["baselines"]


def test_above_a_baseline_means_by_two_standard_errors() -> None:
    entry = dict.fromkeys(REQUIRED, 1) | {"value": 0.8, "baseline": 0.7, "better": "higher"}
    assert not_above({"t": {"exact_match": {**entry, "above_baseline": True}}}) == []
    assert not_above({"t": {"exact_match": {**entry, "above_baseline": False}}}) == [
        "t exact match"
    ]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_a_missing_score(value: float | None) -> None:
    results = {"a": {"m": {"value": 1.0}}, "b": {"m": {"value": value}}}
    assert missing_scores(results, ["a", "b", "c"]) == ["b", "c"]


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
