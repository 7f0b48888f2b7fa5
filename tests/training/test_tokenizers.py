"""Tokenizers in the one loop: they learn, resume bitwise, are saved, and enter decoders."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.data.sources import SOURCES, ListSource, Source
from unimodal.errors import CheckpointError, ConfigError
from unimodal.evaluation import read_results
from unimodal.modality import Modality, build_modality
from unimodal.model.durable import read_tensors
from unimodal.model.folder import MODEL, load_model
from unimodal.model.tokenizer_folder import load_tokenizer, save_tokenizer
from unimodal.training.build import build_vocabulary, value_streams, value_tasks
from unimodal.training.config import ExperimentConfig
from unimodal.training.draws import Quarantine
from unimodal.training.finish import scorer
from unimodal.training.loop import Loop
from unimodal.training.main import from_dict
from unimodal.training.metrics import read_metrics
from unimodal.training.run import RunResult, train
from unimodal.training.values import ValueMixture

Make = Callable[..., ExperimentConfig]
NETWORK = Path("tokenizers") / "fake_codec" / "network.safetensors"


@SOURCES.register("test/samples")
def samples(split: str = "train", **options: Any) -> Source:
    """Samples near three levels; `bad` records hold none."""
    rng = np.random.default_rng(len(split))
    records = []
    for number in range({"train": 40, "validation": 12, "test": 12}[split]):
        values = rng.choice([0.1, 0.45, 0.8], 10) + rng.normal(0, 0.02, 10)
        held = torch.from_numpy(values.clip(0, 1).astype(np.float32))
        is_bad = number in options.get("bad", ()) and split == "train"
        records.append({"id": f"{split}-{number}", "fake_codec": None if is_bad else held})
    return ListSource(records, name="test/samples", license="CC0-1.0", split=split)


BASE: dict[str, Any] = {
    "name": "codec",
    "trains": "fake_codec",
    "modalities": {"fake_codec": {"size": 6}},
    "tasks": {
        "many": {"target": "fake_codec", "data": {"name": "test/samples"}, "weight": 3},
        "few": {"target": "fake_codec", "data": {"name": "test/samples"}, "loss_weight": 0.5},
    },
    "optimizer": {"learning_rate": 0.02, "weight_decay": 0.0},
    "schedule": {"warmup_steps": 2},
    "training": {
        "max_steps": 8,
        "rows_per_step": 6,
        "rows_per_batch": 4,
        "precision": "fp32",
        "log_every": 1,
        "evaluate_every": 4,
        "evaluation_documents": 8,
        "ema_decay": 0.9,
        "prefetch": 0,
    },
    "device": "cpu",
    "progress": False,
}


@pytest.fixture
def codec(tmp_path: Path) -> Make:
    def make(changes: dict[str, Any] | None = None) -> ExperimentConfig:
        return from_dict(BASE, {"run_dir": str(tmp_path / "run"), **(changes or {})})

    return make


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / MODEL / NETWORK)


def train_until(config: ExperimentConfig, step: int) -> RunResult:
    one_step = Loop._step

    def stop_there(self: Loop, data: Any) -> None:
        one_step(self, data)
        if self.progress.step == step:
            self.settings.flag.set("test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", stop_there)
        return train(config)


def test_a_tokenizer_learns_and_leaves_a_folder_that_loads(codec: Make) -> None:
    result = train(codec({"training.max_steps": 60}))
    lines = read_metrics(result.folder / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    held = [line for line in lines if line["kind"] == "held_out"]
    assert result.finished
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert result.progress.tokens == 60 * 6, "values count"
    assert set(held[-1]["tasks"]) == {"many", "few"}
    assert held[-1]["fidelity"]["many_distance"] < held[0]["fidelity"]["many_distance"]
    modality = load_tokenizer(result.folder, "fake_codec")
    assert modality.is_trained
    assert not modality.needs_training
    assert modality.config.size == 6
    assert modality.fingerprint() != build_modality("fake_codec", {"size": 6}).fingerprint()
    assert json.loads((result.folder / MODEL / "experiment.json").read_text())["name"] == "codec"


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_tokenizer_resumes_bitwise(codec: Make, tmp_path: Path, prefetch: int) -> None:
    def config(name: str) -> ExperimentConfig:
        return codec({"run_dir": str(tmp_path / name), "training.prefetch": prefetch})

    whole = train(config("whole"))
    log = [line.get("loss") for line in read_metrics(whole.folder / "metrics.jsonl")]
    for stop in (1, 5):
        first = train_until(config(f"stop-{stop}"), stop)
        assert first.exit_code == 85
        second = train(config(f"stop-{stop}"))
        assert second.progress.step == 8
        one, other = weights(second.folder), weights(whole.folder)
        assert all(torch.equal(one[name], other[name]) for name in other)
        assert [x.get("loss") for x in read_metrics(second.folder / "metrics.jsonl")] == log


def test_without_the_state_of_the_data_it_would_end_elsewhere(
    codec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(codec({"run_dir": str(tmp_path / "whole")}))
    train_until(codec({"run_dir": str(tmp_path / "cut")}), 3)
    monkeypatch.setattr(ValueMixture, "restore", lambda *a: None)
    cut = train(codec({"run_dir": str(tmp_path / "cut")}))
    assert not torch.equal(weights(cut.folder)["centres"], weights(whole.folder)["centres"])


def test_ranks_share_the_values_of_a_step_and_no_batch_mixes_tasks(codec: Make) -> None:
    config = codec()
    modality = build_modality("fake_codec", {"size": 6})
    streams = value_streams(value_tasks(config), modality, "train")

    def drawn(rank: int, world: int) -> list[list[tuple[str, str]]]:
        mixture = ValueMixture(streams, 0, Quarantine(None, 0))
        step = mixture.step(24, 4, rank, world)
        assert step.weight == sum(
            streams[b.samples[0][0]].loss_weight * len(b.items) for b in mixture_of_all(24)
        )
        return [batch.samples for batch in step.batches]

    def mixture_of_all(count: int) -> Any:
        return ValueMixture(streams, 0, Quarantine(None, 0)).step(count, 99, 0, 1).batches

    one = sorted(sample for batch in drawn(0, 1) for sample in batch)
    several = [batch for rank in range(3) for batch in drawn(rank, 3)]
    assert sorted(sample for batch in several for sample in batch) == one
    assert all(len({task for task, _ in batch}) == 1 for batch in several)
    assert max(len(batch) for batch in several) <= 4


def test_a_record_without_a_value_costs_itself_alone(codec: Make) -> None:
    bad = {"tasks.many.data.options": {"bad": [1, 2]}, "training.max_steps": 14}
    result = train(codec(bad))
    lines = (result.folder / "bad_samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} <= {"train-1", "train-2"}
    assert lines


def test_training_varies_values_and_held_out_ones_stay(
    codec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(build_modality("fake_codec"))
    seen: list[float] = []

    def vary(self: Any, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        seen.append(float(rng.random()))
        return torch.zeros_like(value)

    monkeypatch.setattr(kind, "vary", vary)
    result = train(codec({"training.max_steps": 40}))
    lines = read_metrics(result.folder / "metrics.jsonl")
    assert len(set(seen)) == len(seen) == 240
    held = [line["loss"] for line in lines if line["kind"] == "held_out"]
    trained = [line["loss"] for line in lines if line["kind"] == "train"]
    assert trained[-1] < 0.1 * held[-1]
    seen.clear()
    still = {"tasks.many.vary": False, "tasks.few.vary": False, "run_dir": str(tmp_path / "still")}
    train(codec({"training.max_steps": 2, **still}))
    assert not seen


def test_results_and_report_stand_beside_the_untrained_tokenizer(codec: Make) -> None:
    result = train(codec({"training.max_steps": 60}), finish=scorer(10, "the command"))
    results = read_results(result.folder / "results.json")
    entry = results["many"]["distance"]
    assert entry["baseline_name"] == "untrained"
    assert entry["value"] < entry["baseline"]
    assert entry["split"] == "test"
    assert entry["n"] == 10
    assert entry["bits_per_step"] == pytest.approx(np.log2(6))
    assert 1 <= results["many"]["code_perplexity"]["value"] <= 6
    page = (result.folder / "report.html").read_text()
    assert "code: dead codes" in page
    assert "reconstruction" in page


def test_rounded_weights_take_half_the_file_and_come_back_as_they_were(
    codec: Make, tmp_path: Path
) -> None:
    for kind in ("fp32", "bf16"):
        train(codec({"run_dir": str(tmp_path / kind), "training.round_to": kind}))
    full, half = (weights(tmp_path / kind) for kind in ("fp32", "bf16"))
    assert full["centres"].dtype == torch.float32
    assert half["centres"].dtype == torch.bfloat16
    assert torch.equal(full["centres"].to(torch.bfloat16), half["centres"])
    load_tokenizer(tmp_path / "bf16", "fake_codec")  # verifies the fingerprint


def test_a_tokenizer_folder_is_no_model(codec: Make) -> None:
    with pytest.raises(CheckpointError, match="holds a tokenizer, not a model"):
        load_model(train(codec()).folder)


# What comes after: decoders that use it


DECODER: dict[str, Any] = {
    "name": "reader",
    "modalities": {"fake_codec": {"size": 6}},
    "tasks": {"samples": {"target": "fake_codec", "data": {"name": "test/samples"}}},
    "model": {"width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "num_layers": 1},
    "packing": {"row_length": 64, "look_ahead": 4},
    "training": {"max_steps": 1, "rows_per_step": 2, "evaluation_documents": 2, "prefetch": 0},
    "device": "cpu",
    "progress": False,
}


def reader(tmp_path: Path, **changes: Any) -> ExperimentConfig:
    return from_dict(DECODER, {"run_dir": str(tmp_path / "reader"), **changes})


def test_a_decoder_takes_a_trained_tokenizer_and_freezes_it(codec: Make, tmp_path: Path) -> None:
    made = train(codec()).folder
    result = train(reader(tmp_path, tokenizers={"fake_codec": str(made)}))
    inside = load_model(result.folder).vocabulary.modality("fake_codec")
    assert inside.fingerprint() == load_tokenizer(made, "fake_codec").fingerprint()
    assert inside.frozen
    again = load_tokenizer(result.folder, "fake_codec")
    assert again.fingerprint() == inside.fingerprint(), "a model folder holds tokenizers, too"


def test_how_a_tokenizer_was_trained_does_not_enter_what_uses_it(tmp_path: Path) -> None:
    """A codec that saw mirrored pictures must not mirror those whose captions say left."""
    options = {"width": 64, "encoder_layers": 0, "decoder_layers": 0, "levels": [4, 4]}
    trained = build_modality("image_codes", {**options, "vary": {"flip": 1.0}, "l1_weight": 0.5})
    save_tokenizer(tmp_path / "codec", "image_codes", trained)
    taken = load_tokenizer(tmp_path / "codec", "image_codes")
    assert taken.fingerprint() == trained.fingerprint()
    assert taken.config.levels == (4, 4)
    assert taken.config.vary == type(taken.config.vary)()
    assert taken.config.l1_weight == 0.1


def test_a_fitted_tokenizer_is_taken_over_in_the_same_way(tmp_path: Path) -> None:
    fitted = build_modality("fake_words")
    fitted.fit(["red apple", "red car"])
    save_tokenizer(tmp_path / "words", "fake_words", fitted)
    config = dataclasses.replace(
        reader(tmp_path),
        modalities={"fake_words@2": {}},
        tokenizers={"fake_words@2": str(tmp_path / "words")},
    )
    taken = build_vocabulary(config).modality("fake_words@2")
    assert taken.state() == fitted.state()


def untrained(tmp_path: Path, made: Path) -> ExperimentConfig:
    return reader(tmp_path)


def missing(tmp_path: Path, made: Path) -> ExperimentConfig:
    return reader(tmp_path, tokenizers={"fake_codec": str(tmp_path / "nowhere")})


def wrong(tmp_path: Path, made: Path) -> ExperimentConfig:
    return reader(tmp_path, modalities={"fake_words": {}}, tokenizers={"fake_words": str(made)})


def unnamed(tmp_path: Path, made: Path) -> ExperimentConfig:
    return reader(tmp_path, tokenizers={"fake_codex": str(made)})


def damaged(tmp_path: Path, made: Path) -> ExperimentConfig:
    data = bytearray((made / MODEL / NETWORK).read_bytes())
    data[-1] ^= 1
    (made / MODEL / NETWORK).write_bytes(bytes(data))
    return reader(tmp_path, tokenizers={"fake_codec": str(made)})


@pytest.mark.parametrize(
    ("case", "kind", "message", "remedy"),
    [
        (untrained, ConfigError, "`fake_codec` is not trained", "experiment=tokenizer/fake_codec"),
        (missing, CheckpointError, "no such run", "experiment=tokenizer/fake_codec"),
        (wrong, CheckpointError, "tokenizer of `fake_codec`, not of `fake_words`", "fake_words"),
        (unnamed, ConfigError, "no modality of the experiment", "`fake_codec`"),
        (damaged, CheckpointError, "damaged", None),
    ],
)
def test_what_is_no_tokenizer_is_refused(
    codec: Make,
    tmp_path: Path,
    case: Callable[[Path, Path], ExperimentConfig],
    kind: type[Exception],
    message: str,
    remedy: str | None,
) -> None:
    made = tmp_path / "made"
    trained: Modality[Any, Any] = build_modality("fake_codec", {"size": 6})
    save_tokenizer(made / MODEL, "fake_codec", trained)
    with pytest.raises(kind, match=message) as caught:
        build_vocabulary(case(tmp_path, made))
    if remedy is not None:
        assert remedy in (caught.value.remedy or "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains": "fake_line"}, "nothing that is trained by gradient"),
        ({"tasks.many.target": "fake_line"}, "Its target must be `fake_codec`"),
        ({"tasks.many.options": {"taget_field": "x"}}, "Unknown key `taget_field`"),
        ({"training.compile": True}, "not compiled"),
    ],
)
def test_experiments_that_cannot_train_a_tokenizer_say_so(
    codec: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(codec(changes))


def test_a_tokenizer_goes_on_from_another_run(codec: Make, tmp_path: Path) -> None:
    first = train(codec({"run_dir": str(tmp_path / "first"), "training.ema_decay": 0.0}))
    start = {"init_from": str(first.folder), "optimizer.learning_rate": 1e-9}
    second = train(codec({"run_dir": str(tmp_path / "second"), **start}))
    torch.testing.assert_close(weights(second.folder)["centres"], weights(first.folder)["centres"])
