"""The mixture: order by counters alone, equal for any number of ranks, bad samples cost one."""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unimodal.errors import DataError
from unimodal.stream import StreamConfig
from unimodal.tasks.base import DataConfig
from unimodal.training.build import build_streams, build_vocabulary, task_configs
from unimodal.training.config import ExperimentConfig
from unimodal.training.draws import DataState, Quarantine
from unimodal.training.mixture import Mixture, step_batches

Make = Callable[..., ExperimentConfig]


def mixture_of(config: ExperimentConfig, path: Path | None = None) -> Mixture:
    vocabulary = build_vocabulary(config)
    return Mixture(
        build_streams(task_configs(config), vocabulary, "train"),
        vocabulary,
        StreamConfig(),
        config.packing,
        config.training.seed,
        Quarantine(path, config.training.max_bad_samples),
    )


def ids_of(rows: list[list[Any]]) -> list[list[str]]:
    return [[f"{d.document.task}:{d.document.id}" for d in row] for row in rows]


def test_the_same_seed_gives_the_same_rows_and_another_does_not(experiment: Make) -> None:
    one, same, other = (
        ids_of(mixture_of(experiment({"training.seed": seed})).rows(12)) for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


def test_tasks_are_drawn_by_weight_and_every_record_once_an_epoch(experiment: Make) -> None:
    mixture = mixture_of(experiment())
    counts = Counter(mixture._draw()[0] for _ in range(3000))
    assert abs(counts["letters"] / 3000 - 2 / 3) < 0.03
    size = len(mixture.streams["letters"].source)
    for epoch in range(2):
        first = epoch * size
        numbers = [mixture.record_number(("letters", first + k)) for k in range(size)]
        assert sorted(numbers) == list(range(size))
    assert numbers != [mixture.record_number(("letters", k)) for k in range(size)]


def test_a_task_may_keep_its_values_from_variation(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def vary(self: Any, value: Any, rng: Any) -> Any:
        seen.append(value)
        return value

    monkeypatch.setattr(type(build_vocabulary(experiment()).modality("fake_grid")), "vary", vary)
    mixture_of(experiment()).rows(4)
    assert seen
    seen.clear()
    mixture_of(experiment({"tasks.describe.vary": False})).rows(4)
    assert not seen


def test_a_restored_mixture_goes_on_with_the_same_rows(experiment: Make) -> None:
    whole = mixture_of(experiment())
    reference = ids_of(whole.rows(20))
    for cut in (1, 7, 13):
        first = mixture_of(experiment())
        first.rows(cut)
        assert first.state().pending, "the packer must hold documents for this to be a test"
        written = json.loads(json.dumps(first.state().__dict__))
        second = mixture_of(experiment())
        second.restore(DataState.from_dict(written))
        assert ids_of(second.rows(20 - cut)) == reference[cut:]


@pytest.mark.parametrize("worlds", [(1, 1), (2, 2), (4, 4), (2, 1, 4)])
def test_steps_hold_the_same_rows_for_any_number_of_ranks(
    experiment: Make, worlds: tuple[int, ...]
) -> None:
    """Also when a run goes on with another number of ranks after each step."""
    reference = mixture_of(experiment())
    state = None
    for world in worlds:
        wanted = ids_of(reference.rows(4))
        dealt = []
        for rank in range(world):
            mine = mixture_of(experiment())
            if state is not None:
                mine.restore(state)
            batches = step_batches(mine.rows(4), 96, 1, mine.vocabulary, rank, world)
            held = [d.document for batch in batches for d in batch.documents]
            dealt.append([f"{d.task}:{d.id}" for d in held])
            last = mine.state()
        state = last
        assert sorted(itertools.chain(*dealt)) == sorted(itertools.chain(*wanted))
        assert dealt[0] == list(itertools.chain(*wanted[0::world]))


def test_a_bad_sample_costs_itself_and_is_named_once(experiment: Make, tmp_path: Path) -> None:
    data = DataConfig(name="test/pictures", options={"bad": [3, 8]})
    config = experiment()
    config.tasks["letters"].data = data
    path = tmp_path / "bad_samples.jsonl"
    mixture = mixture_of(config, path)
    rows = mixture.rows(60)  # several epochs
    used = Counter(d.document.id for row in rows for d in row if d.document.task == "letters")
    assert "train-3" not in used
    assert "train-8" not in used
    assert len(used) == 35
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == ["train-3", "train-8"]
    assert {line["reason"] for line in lines} == {"MediaError"}
    state = json.loads(json.dumps(mixture.state().__dict__))
    assert [(index, reason) for _, index, reason in state["bad"]] == [
        (3, "MediaError"),
        (8, "MediaError"),
    ]
    resumed = mixture_of(config)
    resumed.restore(DataState.from_dict(state))
    assert resumed.quarantine.reasons == {"MediaError": 2}


def test_a_strangers_error_costs_one_sample(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixture_of(experiment(), tmp_path / "bad.jsonl")
    task = mixture.streams["letters"].task
    whole = task.document

    def document(record: Any, rng: Any) -> Any:
        if record["id"] == "train-3":
            raise ValueError("no such thing")
        return whole(record, rng)

    monkeypatch.setattr(task, "document", document)
    mixture.rows(60)
    [line] = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (line["id"], line["reason"]) == ("train-3", "DataError")
    assert "ValueError: no such thing" in line["message"]


def test_a_waiting_document_that_has_gone_is_put_away_on_resume(experiment: Make) -> None:
    first = mixture_of(experiment())
    first.rows(3)
    state = first.state()
    key = next(key for key in state.pending if key[0] == "letters")
    config = experiment()
    options = {"bad": [first.record_number(key)]}
    config.tasks["letters"].data = DataConfig(name="test/pictures", options=options)
    second = mixture_of(config)
    second.restore(state)
    assert second.quarantine.reasons == {"MediaError": 1}
    assert second.rows(5)


def test_a_document_longer_than_a_row_is_a_bad_sample(experiment: Make, tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    config = experiment({"packing.row_length": 14, "packing.look_ahead": 4})
    mixture_of(config, path).rows(10)
    line = json.loads(path.read_text().splitlines()[0])
    assert line["reason"] == "DataError"
    assert "packing.row_length" in line["message"]


def test_a_spent_budget_stops_with_counts_and_remedy(experiment: Make, tmp_path: Path) -> None:
    config = experiment({"training.max_bad_samples": 2})
    config.tasks["letters"].data = DataConfig(name="test/pictures", options={"bad": [1, 2, 3, 4]})
    with pytest.raises(DataError, match=r"3 samples are unusable \(3 x MediaError\)") as caught:
        mixture_of(config, tmp_path / "bad.jsonl").rows(100)
    assert "max_bad_samples" in str(caught.value)
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3


def test_a_task_without_a_usable_sample_does_not_run_for_ever(experiment: Make) -> None:
    config = experiment({"training.max_bad_samples": 100})
    config.tasks["letters"].data = DataConfig(name="test/pictures", options={"bad": [*range(37)]})
    with pytest.raises(DataError, match=r"None of the .* samples .* The last one: "):
        mixture_of(config).rows(200)


def test_no_task_and_no_record_are_typed_errors(experiment: Make) -> None:
    config = experiment()
    config.tasks["letters"].data = DataConfig(name="test/pictures", options={"count": 0})
    with pytest.raises(DataError, match="no records in the split `train`"):
        mixture_of(config)
    config.tasks = {}
    with pytest.raises(DataError, match="no task"):
        mixture_of(config)
