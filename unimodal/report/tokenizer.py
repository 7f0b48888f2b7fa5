"""Scores and report of a trained tokenizer, in its run folder: its health on held-out values."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from unimodal.data.sources import Source
from unimodal.errors import ConfigError, DataError
from unimodal.evaluation import Evaluation, EvaluationConfig, write_results
from unimodal.evaluation.evaluate import score_entry
from unimodal.evaluation.metrics import Metric, Pairs
from unimodal.evaluation.records import UsableRecords, drawn, open_held_out
from unimodal.modality import Modality, build_modality, config_to_dict
from unimodal.report.codebook import CodecHealth, describe_codes, measure_codes
from unimodal.report.gather import environment
from unimodal.report.page import DATA_FILE, RESULTS_FILE, write_report
from unimodal.tasks.base import TaskConfig, open_data
from unimodal.training.build import value_streams

UNTRAINED = "untrained"
"""Name of the baseline: the same tokenizer with its first weights."""


def report_tokenizer(
    run: Path,
    modality: Modality[Any, Any],
    configs: Mapping[str, TaskConfig],
    config: EvaluationConfig | None = None,
    *,
    results_file: str = RESULTS_FILE,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Measure a tokenizer on held-out values of every task; write the results and the report.

    Each metric of `Modality.fidelity` stands beside the rivals at the same rate and the same
    tokenizer with its first weights; then the perplexity and the share of codes in use.

    Args:
        run: Run folder; gets the results, `report_data.json` and `report.html`.
        modality: The tokenizer.
        configs: The tasks that it was trained on.
        config: Split, limit, seed.
        results_file: Name of the results.
        should_stop: Polled between records; True raises KeyboardInterrupt.
    """
    config = config or EvaluationConfig()
    evaluation = Evaluation()
    codes, about = {}, {}
    for name, task in configs.items():
        try:
            split, values = _held_out(name, task, modality, config, should_stop, evaluation)
        except DataError as error:
            evaluation.notes.append(f"{name}: not scored: {error}")
            continue
        found = measure_codes(modality, values, num_shown=config.num_examples)
        first = build_modality(modality.name, config_to_dict(modality.config))
        untrained = measure_codes(first, values, rivals=False)
        scored = _scores(found, untrained, modality.raw_unit, config.seed)
        facts = {"n": len(values), "split": split, "seed": config.seed, "command": config.command}
        evaluation.results[name] = {metric: entry | facts for metric, entry in scored.items()}
        codes[name] = describe_codes(found, modality.raw_unit)
        about[name] = _about(task)
    write_results(evaluation.results, run / results_file)
    data = {
        "codes": codes,
        "tasks": about,
        "model": _shape(modality),
        "environment": environment(_device_of(modality)),
        "notes": evaluation.notes,
        "results_file": results_file,
    }
    (run / DATA_FILE).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    write_report(run)
    return evaluation


@dataclass(frozen=True)
class _Data:
    """The data set of one task, by split."""

    name: str
    config: TaskConfig

    def open(self, split: str) -> Source:
        return open_data(self.config.data, split, f"task `{self.name}`")


def _held_out(
    name: str,
    task: TaskConfig,
    modality: Modality[Any, Any],
    config: EvaluationConfig,
    should_stop: Callable[[], bool],
    evaluation: Evaluation,
) -> tuple[str, list[Any]]:
    """The split that is measured, and its values.

    Raises:
        DataError: if there is none that can be read.
    """
    split, source = open_held_out(_Data(name, task), config.split)
    stream = value_streams({name: task}, modality, split)[name]
    records = UsableRecords(source, drawn(len(source), config.limit, config.seed), should_stop)
    values = [value for _, value in records.read(stream.value)]
    if note := records.note(name):
        evaluation.notes.append(note)
    if not values:
        raise DataError(
            f"None of its records in `{split}` can be read.",
            remedy="Correct them: `unimodal data validate PATH` names every error.",
        )
    return split, values


def _scores(
    found: CodecHealth, untrained: CodecHealth, unit: str, seed: int
) -> dict[str, dict[str, Any]]:
    scored: dict[str, dict[str, Any]] = {}
    for metric, (numbers, better) in found.fidelity.items():
        others = {UNTRAINED: _pairs(untrained.fidelity[metric][0])}
        others |= {name: _pairs(numbers[metric]) for name, (numbers, _) in found.rivals.items()}
        way = cast(Literal["higher", "lower"], better)
        entry = score_entry(Metric(metric, way, _not_asked), _pairs(numbers), others, seed)
        entry[f"bits_per_{unit}"] = found.bits / found.units
        entry["rates"] = {name: bits / found.units for name, (_, bits) in found.rivals.items()}
        scored[metric] = entry
    for name, use in found.use.items():
        first = untrained.use[name]
        size = len(use.counts)
        scored[f"{name}_perplexity"] = _use_entry(use.perplexity, first.perplexity, size)
        shares = (use.used / size, first.used / size)
        scored[f"{name}_share_of_codes_used"] = _use_entry(*shares, 1.0)
    return scored


def _use_entry(value: float, untrained: float, ceiling: float) -> dict[str, Any]:
    return {
        "value": value,
        "baseline": untrained,
        "baseline_name": UNTRAINED,
        "better": "higher",
        "baselines": {UNTRAINED: untrained},
        "above_baseline": value > untrained,
        "ceiling": ceiling,
    }


def _pairs(numbers: Sequence[float]) -> Pairs:
    return np.stack([np.array(numbers, np.float64), np.ones(len(numbers))], axis=1)


def _not_asked(answer: Any, truth: Any, modality: Any) -> tuple[float, float]:
    raise ConfigError("Fidelity is the modality's own.")


def _about(task: TaskConfig) -> dict[str, Any]:
    data: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        try:
            source = open_data(task.data, split)
        except (ConfigError, DataError) as error:
            data[split] = type(error).__name__
            continue
        data |= {split: str(len(source)), "name": source.name, "license": source.license}
    return {"weight": task.weight, "loss_weight": task.loss_weight, "data": data}


def _shape(modality: Modality[Any, Any]) -> dict[str, Any]:
    network = modality.network
    return {
        "parameters": 0 if network is None else sum(p.numel() for p in network.parameters()),
        "modalities": modality.name,
        "fingerprint": modality.fingerprint(),
        "decoder": modality.decoder_hash(),
    }


def _device_of(modality: Modality[Any, Any]) -> str:
    network = modality.network
    return "cpu" if network is None else str(next(network.parameters()).device)
