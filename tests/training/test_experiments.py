"""Every experiment: opens with its command and result, composes, builds; its keys are checked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from unimodal.errors import ConfigError
from unimodal.media import Audio, image_from_array, write_audio, write_image
from unimodal.modality import build_modality
from unimodal.model.decoder import Decoder
from unimodal.tasks.base import build_task
from unimodal.training.build import task_configs, value_tasks
from unimodal.training.config import ExperimentConfig, differences, trajectory
from unimodal.training.main import compose, from_dict
from unimodal.training.run import train
from unimodal.vocabulary import Vocabulary

FOLDER = Path(__file__).parents[2] / "conf" / "experiment"
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")
)
TEXTS = ["a red apple", "the quick brown fox jumps over the lazy dog", "0123456789"]


def test_the_experiments_of_the_spine_are_there() -> None:
    assert {"demo", "dna", "speech", "captions", "fashion", "video", "spine"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_opens_with_its_command_and_result(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    assert f"unimodal train experiment={name}" in text
    assert "# Expected:" in text
    assert "_target_" not in text


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes_and_builds_on_the_meta_device(name: str) -> None:
    config = compose([f"experiment={name}"])
    assert config.name == name.rpartition("/")[2]
    assert config.folder == f"runs/{config.name}"
    if config.trains is not None:
        trained = build_modality(config.trains, config.modalities[config.trains])
        assert trained.needs_training
        assert trained.network is not None
        assert sum(p.numel() for p in trained.network.parameters()) > 1_000_000
        assert set(value_tasks(config)) == set(config.tasks)
        return
    modalities = {}
    for modality_name, given in config.modalities.items():
        settings = dict(given or {})
        fitted = build_modality(modality_name, settings)
        if fitted.needs_fit:
            fitted.fit(TEXTS * 20)
        modalities[modality_name] = fitted
    vocabulary = Vocabulary.of(modalities, config.openers)
    with torch.device("meta"):
        decoder = Decoder(config.model, vocabulary)
    assert all(parameter.is_meta for parameter in decoder.parameters())
    assert decoder.num_parameters() > 1_000_000
    for task_name, task in task_configs(config).items():
        assert build_task(task_name, task, vocabulary).name == task_name


def test_the_demo_has_three_to_four_million_parameters() -> None:
    config = compose(["experiment=demo"])
    vocabulary = Vocabulary.of({"dna": build_modality("dna", config.modalities["dna"])})
    with torch.device("meta"):
        decoder = Decoder(config.model, vocabulary)
    words = config.modalities["text"]["vocab_size"] * config.model.width
    assert 2.8e6 < decoder.num_parameters() + words < 4.2e6


def test_the_budget_of_an_experiment_is_the_only_one() -> None:
    training = compose(["experiment=dna"]).training
    assert training.max_minutes == 15
    assert training.max_steps is None


@pytest.mark.parametrize(
    ("overrides", "message", "remedy"),
    [
        (["experiment=dnaa"], "no experiment `dnaa`", "`dna`"),
        (["training.max_step=3"], "Unknown key `max_step`", "`max_steps`"),
        (["experiment=dna", "tasks.genome.weigth=3"], "Unknown key `weigth`", "`weight`"),
        (["experiment=dna", "modalities.dna.m=3"], "Unknown key `m`", "+modalities.dna.m="),
        (["+training.max_step=3"], "Unknown key `max_step`", "`max_steps`"),
        (["+trainnig.seed=1"], "Unknown key `trainnig`", "`training`"),
        (["experiment=dna", "+tasks.genome.weigth=3"], "Unknown key `weigth`", "`weight`"),
        (["trainnig.seed=1"], "Unknown key `trainnig`", "training"),
        (["training.seed=one"], "could not be converted to Integer", None),
        (["training.keep=1"], "`keep` must be at least 2, but is 1", None),
        (["device=tpu"], "`device` must be auto", None),
        (["a b"], "a b", "--help"),
    ],
)
def test_mistakes_are_typed_errors(overrides: list[str], message: str, remedy: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)
    if remedy is not None:
        assert remedy in (caught.value.remedy or "")


def test_misspelt_keys_in_a_file_of_ones_own_are_found(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nname: mine\ntraining:\n  max_step: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"Unknown key `max_step`.*`max_steps`"):
        compose(["experiment=mine"], str(tmp_path))
    (tmp_path / "experiment" / "mine.yaml").write_text(text.replace("max_step:", "max_steps:"))
    assert compose(["experiment=mine"], str(tmp_path)).training.max_steps == 3


def test_one_path_stands_in_for_the_data_of_every_task() -> None:
    config = compose(["experiment=dna", "data.path=genome.fa"])
    data = task_configs(config)["genome"].data
    assert (data.name, data.path) == (None, "genome.fa")
    own = compose(["experiment=dna"])
    assert task_configs(own)["genome"].data.name == "embedded/e_coli"
    assert [line.split()[0] for line in differences(trajectory(own), trajectory(config))] == [
        "`tasks.genome.data.name`",
        "`tasks.genome.data.path`",
    ]


SMALL = (
    *("model.width=64", "model.num_layers=1", "model.num_heads=1", "model.num_kv_heads=1"),
    *("training.max_minutes=null", "training.max_steps=1", "training.rows_per_step=1"),
    *("training.rows_per_batch=1", "training.evaluation_documents=2", "progress=false"),
)


@pytest.mark.parametrize("name", ["genome.fa", "reads.jsonl", "reads.parquet"])
def test_the_experiment_of_dna_trains_on_sequences_of_any_data_set(
    name: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = [{"id": f"r{i}", "dna": "".join(rng.choice(list("ACGT"), 2000))} for i in range(3)]
    data = tmp_path / name
    if name.endswith(".fa"):
        data.write_text("".join(f">{row['id']}\n{row['dna']}\n" for row in rows))
    elif name.endswith(".jsonl"):
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    paths = (f"data.path={data}", f"run_dir={tmp_path / 'run'}", "device=cpu")
    result = train(compose(["experiment=dna", *SMALL, *paths]))
    assert result.finished
    described = json.loads((result.folder / "model" / "experiment.json").read_text())
    assert described["tasks"]["genome"]["options"] == {"window": 768}
    assert result.progress.tokens > 500


@pytest.mark.parametrize("layout", ["transcripts", "table"])
@pytest.mark.parametrize("name", ["speech", "captions"])
def test_experiments_train_on_a_folder_of_ones_own(name: str, layout: str, tmp_path: Path) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "data"
    data.mkdir()
    rows = ["file_name,text"]
    for number in range(6):
        file = data / f"{number}.{'wav' if name == 'speech' else 'png'}"
        if name == "speech":
            samples = rng.normal(0, 0.1, 6000).astype(np.float32)
            write_audio(Audio(torch.from_numpy(samples), 16_000), file)
        else:
            write_image(image_from_array(rng.integers(0, 256, (24, 16, 3), np.uint8)), file)
        rows.append(f"{file.name},{TEXTS[number % 3]}")
        if layout == "transcripts":
            file.with_suffix(".txt").write_text(TEXTS[number % 3])
    if layout == "table":
        (data / "metadata.csv").write_text("\n".join(rows) + "\n")
    paths = (f"data.path={data}", f"run_dir={tmp_path / 'run'}", "device=cpu")
    result = train(compose([f"experiment={name}", *SMALL, *paths]))
    assert result.finished
    assert result.progress.tokens > 50
    assert not (result.folder / "bad_samples.jsonl").exists()


def test_the_schema_alone_is_a_config() -> None:
    assert from_dict({}) == ExperimentConfig()
    assert OmegaConf.to_object(OmegaConf.structured(ExperimentConfig)) == ExperimentConfig()
