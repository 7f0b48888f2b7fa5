"""The loop: a run learns, ends by its budget, resumes bitwise, skips what is not finite."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unimodal.errors import CheckpointError, ConfigError, DataError
from unimodal.model.decoder import Decoder, LossOutput
from unimodal.model.durable import read_tensors
from unimodal.model.folder import load_model
from unimodal.tasks.base import DataConfig
from unimodal.testing.fixtures import FakeWords
from unimodal.training.config import ExperimentConfig
from unimodal.training.held_out import HeldOut
from unimodal.training.loop import DivergenceError, Loop
from unimodal.training.metrics import read_metrics
from unimodal.training.run import RunResult, train
from unimodal.training.signals import StopFlag

Make = Callable[..., ExperimentConfig]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def train_until(config: ExperimentConfig, step: int) -> RunResult:
    """Train, and ask to stop when `step` steps are done."""
    one_step = Loop._step

    def stop_there(self: Loop, data: Any) -> None:
        one_step(self, data)
        if self.progress.step == step:
            self.settings.flag.set("test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", stop_there)
        return train(config)


def test_a_run_learns_and_leaves_model_metrics_and_checkpoint(experiment: Make) -> None:
    result = train(experiment({"training.max_steps": 30, "training.evaluate_every": 15}))
    lines = read_metrics(result.folder / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    held = [line for line in lines if line["kind"] == "held_out"]
    assert result.finished
    assert result.exit_code == 0
    assert len(losses) == 30
    assert losses[-1] < 0.7 * losses[0]
    assert [line["step"] for line in held] == [15, 30]
    assert held[-1]["tasks"]["letters"] < held[0]["tasks"]["letters"]
    assert held[-1]["bits"]["letters_per_byte"] > 0
    assert lines[-2]["total_tokens"] == result.progress.tokens
    assert 0.5 < lines[-2]["fill"] <= 1
    assert (result.folder / "checkpoints" / "step-00000030" / "optimizer.safetensors").is_file()
    assert not load_model(result.folder).training


def resumes_bitwise(make: Make, tmp_path: Path, steps: int, stops: range, prefetch: int) -> None:
    def config(name: str) -> ExperimentConfig:
        folder = str(tmp_path / name)
        return make(
            {
                "training.max_steps": steps,
                "training.prefetch": prefetch,
                "training.evaluation_documents": 0,
                "run_dir": folder,
            }
        )

    whole = train(config("whole"))
    reference = final_weights(whole.folder)
    log = [line["loss"] for line in read_metrics(whole.folder / "metrics.jsonl")]
    for stop in stops:
        first = train_until(config(f"stop-{stop}"), stop)
        assert not first.finished
        assert first.exit_code == 85
        newest = sorted((first.folder / "checkpoints").iterdir())[-1]
        state = json.loads((newest / "state.json").read_text())
        assert state["data"]["pending"], "the packer must hold documents for this to be a test"
        second = train(config(f"stop-{stop}"))
        assert second.progress.step == steps
        assert same(final_weights(second.folder), reference)
        assert [x["loss"] for x in read_metrics(second.folder / "metrics.jsonl")] == log


def test_a_run_resumes_bitwise_with_dropout_accumulation_and_a_full_packer(
    experiment: Make, tmp_path: Path
) -> None:
    resumes_bitwise(experiment, tmp_path, 5, range(1, 5, 3), prefetch=2)


@pytest.mark.soak
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_run_resumes_bitwise_at_every_step_of_twenty(
    experiment: Make, tmp_path: Path, prefetch: int
) -> None:
    resumes_bitwise(experiment, tmp_path, 20, range(1, 20), prefetch)


def test_the_weights_would_differ_without_the_saved_state(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: a loop that forgets its optimizer ends elsewhere."""
    quick = {"training.max_steps": 4, "training.evaluation_documents": 0}
    whole = train(experiment({**quick, "run_dir": str(tmp_path / "whole")}))
    train_until(experiment({**quick, "run_dir": str(tmp_path / "cut")}), 2)
    monkeypatch.setattr("unimodal.training.loop.load_optimizer_state", lambda *a: None)
    cut = train(experiment({**quick, "run_dir": str(tmp_path / "cut")}))
    assert not same(final_weights(cut.folder), final_weights(whole.folder))


def test_micro_batches_give_the_gradient_of_one_large_batch(
    experiment: Make, tmp_path: Path
) -> None:
    """Normalised by all tokens, not by micro-batch: rows with unequal weights agree to rounding."""
    found = []
    for rows in (1, 2, 4):
        changes = {"training.rows_per_batch": rows, "model.dropout": 0.0, "training.max_steps": 2}
        folder = str(tmp_path / str(rows))
        train(experiment({**changes, "run_dir": folder, "training.evaluation_documents": 0}))
        lines = read_metrics(Path(folder) / "metrics.jsonl")
        found.append([(line["loss"], line["grad_norm"]) for line in lines])
    for other in found[1:]:
        for (loss, norm), (mine, own) in zip(other, found[0], strict=True):
            assert abs(loss - mine) < 1e-5
            assert abs(norm - own) < 1e-4 * own


def test_a_gradient_that_is_not_finite_is_skipped_once_and_named(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, step = Decoder.loss, Loop._step
    seen: dict[str, Any] = {}

    def poisoned(self: Decoder, batch: Any, plans: Any = None) -> LossOutput:
        output = loss(self, batch, plans)
        bad = self.training and seen.get("step") == 2
        return LossOutput(
            output.total * float("nan") if bad else output.total, output.weight, output.nll
        )

    def watched(self: Loop, data: Any) -> None:
        seen["step"] = self.progress.step
        before = {n: p.detach().clone() for n, p in self.parameters}
        step(self, data)
        changed = not same(before, {n: p.detach() for n, p in self.parameters})
        assert changed is (seen["step"] != 2)

    monkeypatch.setattr(Decoder, "loss", poisoned)
    monkeypatch.setattr(Loop, "_step", watched)
    result = train(experiment())
    assert result.progress.skipped == 1
    assert result.progress.step == 6
    (line,) = [x for x in read_metrics(result.folder / "metrics.jsonl") if x["kind"] == "skipped"]
    assert line["step"] == 3
    assert line["grad_norm"] is None
    assert any(name.startswith("letters:train-") for name in line["samples"])
    weights = final_weights(result.folder)
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_gradients_that_stay_infinite_stop_the_run(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Decoder.loss

    def poisoned(self: Decoder, batch: Any, plans: Any = None) -> LossOutput:
        output = loss(self, batch, plans)
        return LossOutput(output.total * float("inf"), output.weight, output.nll)

    monkeypatch.setattr(Decoder, "loss", poisoned)
    with pytest.raises(DivergenceError, match="3 steps in a row") as caught:
        train(experiment({"training.max_skipped_steps": 2}))
    assert "train-" in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("budget", "check"),
    [
        ({"training.max_tokens": 900}, lambda p: 900 <= p.tokens < 900 + 4 * 96),
        ({"training.max_minutes": 0.01}, lambda p: p.seconds >= 0.6),
    ],
)
def test_tokens_and_the_clock_end_a_run(
    experiment: Make, budget: dict[str, Any], check: Callable[[Any], bool]
) -> None:
    result = train(experiment({"training.max_steps": None, **budget}))
    assert result.finished
    assert check(result.progress), result.progress


def test_a_run_of_other_settings_is_not_resumed(experiment: Make) -> None:
    train(experiment({"training.max_steps": 1}))
    with pytest.raises(ConfigError, match=r"`optimizer\.learning_rate` was 0\.01 and is 0\.5"):
        train(experiment({"optimizer.learning_rate": 0.5}))
    longer = train(experiment({"training.max_steps": 2}))
    assert longer.progress.step == 2


def test_a_run_of_other_data_schedule_or_beginning_is_not_resumed(
    experiment: Make, tmp_path: Path
) -> None:
    """Also where the tasks follow from the data, and where the data alone have changed."""
    data = tmp_path / "lines.jsonl"

    def write(count: int) -> None:
        rows = [{"id": f"r{number}", "fake_line": "abc" * 3} for number in range(count)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(**changes: Any) -> ExperimentConfig:
        made = experiment({"training.max_steps": 1, "data.path": str(data), **changes})
        made.tasks.clear()
        return made

    write(60)
    train(config())
    for changes, named in (
        ({"data.path": str(tmp_path / "other.jsonl")}, r"`data\.path` was"),
        ({"schedule.kind": "constant"}, r"`schedule\.kind` was 'cosine' and is 'constant'"),
        ({"init_from": "elsewhere"}, r"`init_from` was None and is 'elsewhere'"),
    ):
        with pytest.raises(ConfigError, match=named):
            train(config(**changes))
    write(61)
    with pytest.raises(ConfigError, match=r"`records\.\w+` was \d+ and is \d+"):
        train(config())
    write(60)
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join([*lines[1:], lines[0]]))  # as many records, in another order
    with pytest.raises(ConfigError, match=r"`content\.\w+` was '\w+' and is '\w+'"):
        train(config())
    write(60)
    assert train(config(**{"training.max_steps": 2})).progress.step == 2


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lasts(
    experiment: Make,
) -> None:
    refused = []

    def again(run: Path, *rest: Any) -> None:
        with pytest.raises(ConfigError, match="trains in this run folder") as caught:
            train(experiment())
        assert caught.value.subject == str(run)
        refused.append(run)

    train(experiment({"training.max_steps": 1}), finish=again)
    assert len(refused) == 1
    assert train(experiment({"training.max_steps": 2})).finished


@pytest.mark.parametrize("place", ["fake_words", "held-out", "scoring"])
def test_a_signal_ends_work_that_saves_nothing_at_once_and_the_run_can_go_on(
    experiment: Make, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A tokenizer that is fitted, held-out documents that are read, scoring: none of them polls."""
    visits: list[str] = []

    def slow(*given: Any) -> None:
        visits.append(place)
        if len(visits) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    changes: dict[str, Any] = {"training.max_steps": 2}
    if place == "fake_words":
        changes |= {"modalities.fake_words": {}, "tasks.letters.target": "fake_words"}
        fit = FakeWords.fit
        monkeypatch.setattr(FakeWords, "fit", lambda *given: (slow(), fit(*given)))
    elif place == "held-out":
        build = HeldOut.__init__

        def slow_build(*given: Any, **named: Any) -> None:
            slow()
            build(*given, **named)

        monkeypatch.setattr(HeldOut, "__init__", slow_build)
    finish = slow if place == "scoring" else None
    start = time.monotonic()
    stopped = train(experiment(changes), finish=finish)
    assert time.monotonic() - start < 15
    assert (stopped.exit_code, stopped.stopped_by) == (85, "SIGTERM")
    assert train(experiment(changes), finish=finish).finished


def test_resume_never_and_must_are_held(experiment: Make) -> None:
    with pytest.raises(CheckpointError, match="`resume` is must"):
        train(experiment({"resume": "must"}))
    train(experiment({"training.max_steps": 1}))
    with pytest.raises(ConfigError, match="`resume` is never"):
        train(experiment({"resume": "never"}))


def test_a_run_starts_from_another_and_grows(experiment: Make, tmp_path: Path) -> None:
    first = train(experiment({"training.max_steps": 1, "run_dir": str(tmp_path / "first")}))
    old = load_model(first.folder)
    changes = {
        "modalities.fake_residual": {},
        "init_from": str(first.folder),
        "run_dir": str(tmp_path / "second"),
        "training.max_steps": 1,
        "optimizer.learning_rate": 1e-9,
    }
    second = load_model(train(experiment(changes)).folder)
    assert list(second.vocabulary.entries) == ["fake_line", "fake_grid", "fake_residual"]
    size = len(old.vocabulary.spans)
    assert second.vocabulary.spans[:size] == old.vocabulary.spans
    state = second.state_dict()
    for name, tensor in old.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)


def test_scoring_that_is_asked_to_stop_is_resumable(experiment: Make) -> None:
    def interrupted(run: Path, decoder: Decoder, tasks: Any, flag: StopFlag) -> None:
        flag.set("SIGTERM")
        raise KeyboardInterrupt

    scored = []
    quick = {"training.max_steps": 1}
    assert train(experiment(quick), finish=interrupted).exit_code == 85
    again = train(experiment(quick), finish=lambda run, *rest: scored.append(run))
    assert again.finished
    assert scored == [again.folder]


def test_a_file_in_the_place_of_the_run_folder_is_a_typed_error(
    experiment: Make, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(CheckpointError, match="cannot be written to"):
        train(experiment({"run_dir": str(tmp_path / "file")}))


def test_samples_are_drawn_while_training_in_evaluation_mode(experiment: Make) -> None:
    seen = []

    def sample(run: Path, decoder: Decoder, tasks: Any, flag: StopFlag) -> None:
        seen.append((run.name, decoder.training, sorted(tasks)))

    result = train(experiment({"training.sample_every": 2, "training.max_steps": 5}), sample=sample)
    assert seen == [("run", False, ["describe", "letters"])] * 2
    assert result.finished


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_the_data_reaches_the_caller(experiment: Make, prefetch: int) -> None:
    changes = {"training.max_bad_samples": 0, "training.prefetch": prefetch}
    config = experiment({**changes, "training.evaluation_documents": 0})
    config.tasks["letters"].data = DataConfig(name="test/pictures", options={"bad": [1]})
    with pytest.raises(DataError, match="1 samples are unusable"):
        train(config)


def test_bad_samples_are_counted_and_named_in_the_run_folder(experiment: Make) -> None:
    config = experiment({"training.evaluation_documents": 0, "training.max_steps": 10})
    config.tasks["letters"].data = DataConfig(name="test/pictures", options={"bad": [1, 5]})
    run = train(config).folder
    lines = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == ["train-1", "train-5"]
    assert read_metrics(run / "metrics.jsonl")[-1]["bad_samples"] == 2
