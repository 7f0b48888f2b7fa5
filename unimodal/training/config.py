"""What an experiment consists of: the dataclasses that YAML in `conf/` fills.

Every field is described below itself; `conf/` only selects and overrides. Converted once, at the
entry (`unimodal.training.main`); nothing after it sees a DictConfig. Tested by composing every
experiment.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from unimodal.devices import check_device
from unimodal.errors import ConfigError
from unimodal.model.config import DecoderConfig
from unimodal.stream import PackingConfig
from unimodal.tasks.base import DataConfig, TaskConfig

PRECISIONS = ("auto", "fp32", "bf16")
ROUNDINGS = ("fp32", "bf16")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd", "constant")
RESUMES = ("auto", "never", "must")


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019), or Muon for the matrices of the blocks."""

    kind: str = "adamw"
    """`adamw` or `muon`."""

    learning_rate: float = 1e-3
    """Peak learning rate, above 0."""

    beta1: float = 0.9
    """Decay of the mean of gradients, in [0, 1)."""

    beta2: float = 0.95
    """Decay of the mean of squared gradients, in [0, 1)."""

    momentum: float = 0.95
    """Muon's momentum, in [0, 1)."""

    eps: float = 1e-8
    """Added to the root of the second moment, above 0."""

    weight_decay: float = 0.1
    """Decay of matrices, at least 0; norms, biases and embeddings are not decayed."""

    clip_norm: float = 1.0
    """Largest norm of the gradient, above 0."""

    def __post_init__(self) -> None:
        _check(self, "kind", self.kind in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        _check(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        _check(self, "learning_rate", self.learning_rate > 0, "above 0")
        _check(self, "beta1", 0 <= self.beta1 < 1, "in [0, 1)")
        _check(self, "beta2", 0 <= self.beta2 < 1, "in [0, 1)")
        _check(self, "eps", self.eps > 0, "above 0")
        _check(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        _check(self, "clip_norm", self.clip_norm > 0, "above 0")


@dataclass(kw_only=True)
class ScheduleConfig:
    """The learning rate over a run: linear warm-up, then by the share of the budget that is spent.

    The budget in force is the one of `max_steps`, `max_tokens`, `max_minutes` that is spent most.
    """

    kind: str = "cosine"
    """`cosine`; `wsd`: constant, then linear decay over the last `decay_share`; `constant`."""

    warmup_steps: int = 50
    """Steps of linear warm-up, at least 0."""

    final_ratio: float = 0.1
    """Learning rate at the end over the peak, in [0, 1]."""

    decay_share: float = 0.2
    """Share of the budget over which `wsd` decays, in (0, 1]."""

    def __post_init__(self) -> None:
        _check(self, "kind", self.kind in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        _check(self, "warmup_steps", self.warmup_steps >= 0, "at least 0")
        _check(self, "final_ratio", 0 <= self.final_ratio <= 1, "in [0, 1]")
        _check(self, "decay_share", 0 < self.decay_share <= 1, "in (0, 1]")


@dataclass(kw_only=True)
class TrainingConfig:
    """One run of the loop."""

    max_steps: int | None = None
    """Optimizer steps after which the run ends; 1,000 if no budget is given. Only this budget
    resumes bitwise."""

    max_tokens: int | None = None
    """Positions (padding not counted; of a tokenizer: values) after which the run ends."""

    max_minutes: float | None = None
    """Minutes of the loop, by the clock, after which the run ends; resumed time adds up."""

    rows_per_step: int = 16
    """Packed rows (of a tokenizer: values) of one optimizer step, over all ranks and
    micro-batches."""

    rows_per_batch: int = 4
    """Rows or values that are computed at once on one rank; does not change the result beyond
    rounding."""

    seed: int = 0
    """Seeds the order of samples, masks, crops and dropout."""

    ema_decay: float = 0.0
    """Decay of the moving average of the weights, in [0, 1); 0 keeps none. Its start is warmed up:
    min(decay, (1 + step) / (10 + step))."""

    precision: str = "auto"
    """`auto`: bf16 autocast where the device is faster at it (`unimodal.devices`), else `fp32`."""

    compile: bool = False
    """Let torch.compile fuse the layers around attention: a fifth faster on a CPU after
    half a minute; needs a C++ compiler there."""

    round_to: str = "fp32"
    """What the weights of a tokenizer are rounded to when its training ends, before it is scored:
    `fp32` as they are, `bf16` for files of half the size that hold them without loss."""

    save_every: int = 500
    """Steps between checkpoints; one is always saved at the end."""

    save_every_minutes: float = 10.0
    """Minutes after which a checkpoint is saved even so."""

    keep: int = 2
    """Checkpoints that stay on the disk, at least 2."""

    evaluate_every: int = 250
    """Steps between held-out losses; 0: only at the end."""

    evaluation_documents: int = 64
    """Held-out documents of each task whose loss is measured; 0: none."""

    patience: int | None = None
    """Held-out losses in a row above the lowest after which the run ends. Where it is set, the
    finished model has the weights of the lowest one. None: neither."""

    sample_every: int = 0
    """Steps between evaluations with generated samples, and reports; 0: only at the end."""

    sample_records: int = 24
    """Records of each task's validation split in those evaluations."""

    final_records: int = 400
    """Held-out records of each task that are scored when the run ends; -1: all; 0: no scores, no
    report."""

    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""

    max_bad_samples: int = 100
    """Samples that may be unusable before the run stops; each is in `bad_samples.jsonl`."""

    max_skipped_steps: int = 5
    """Steps in a row that may be skipped for a gradient that is not finite."""

    prefetch: int | None = None
    """Steps whose batches a process prepares ahead; 0: none. By default 2 for a GPU, and 0 for a
    CPU, whose cores the step itself needs. The samples are the same."""

    fit_documents: int = 20_000
    """Records of each task from which a tokenizer is fitted, at most."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tokens", "max_minutes"):
            value = getattr(self, name)
            _check(self, name, value is None or value > 0, "above 0")
        for name in (
            "rows_per_step",
            "rows_per_batch",
            "save_every",
            "log_every",
            "sample_records",
        ):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("evaluate_every", "evaluation_documents", "sample_every"):
            _check(self, name, getattr(self, name) >= 0, "at least 0")
        _check(self, "final_records", self.final_records >= -1, "at least -1")
        for name in ("max_bad_samples", "max_skipped_steps", "prefetch"):
            _check(self, name, (getattr(self, name) or 0) >= 0, "at least 0")
        measures = self.evaluate_every > 0 and self.evaluation_documents > 0
        flat = self.patience is None or (self.patience >= 1 and measures)
        _check(self, "patience", flat, "at least 1, and held-out losses must be measured")
        _check(self, "ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        _check(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        _check(self, "round_to", self.round_to in ROUNDINGS, f"one of {', '.join(ROUNDINGS)}")
        _check(self, "save_every_minutes", self.save_every_minutes > 0, "above 0")
        _check(self, "keep", self.keep >= 2, "at least 2")
        _check(self, "fit_documents", self.fit_documents >= 1, "at least 1")


@dataclass(kw_only=True)
class ExperimentConfig:
    """An experiment: what is modelled, on which data, by what, and how it is trained."""

    name: str = "unnamed"
    """Name of the experiment; the run folder is `runs/NAME` unless `run_dir` says otherwise."""

    run_dir: str | None = None
    """Folder of the run: checkpoints, model, metrics, report."""

    modalities: dict[str, Any] = field(default_factory=dict)
    """Modalities by ledger name, in the order of their ids, each with its config."""

    tokenizers: dict[str, str] = field(default_factory=dict)
    """Trained tokenizers by ledger name: run, tokenizer or model folders, or shipped models, from
    which a modality is taken with its config and what it learned."""

    trains: str | None = None
    """The modality whose tokenizer is trained by gradient, in the place of a decoder. Tasks then
    name it as their target, and `training.rows_per_step` counts values."""

    openers: list[str] = field(default_factory=list)
    """Modalities that free switching may open."""

    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    """Tasks by name."""

    data: DataConfig = field(default_factory=DataConfig)
    """Stands in for the data of every task, where it is given: `data.path=genome.fa`."""

    model: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder."""

    packing: PackingConfig = field(default_factory=PackingConfig)
    """Rows."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW or Muon."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The loop."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` takes cuda, then cpu."""

    threads: int = 0
    """Threads of CPU kernels; 0: as many as PyTorch finds."""

    resume: str = "auto"
    """`auto`: go on from the newest checkpoint of the run folder, if there is one; `must`: fail
    without one; `never`: fail if there is one."""

    init_from: str | None = None
    """A run or model folder, a shipped model, or a Qwen3 folder of Hugging Face (safetensors and
    `tokenizer.json`), whose weights and tokenizers the run starts from. What it lacks of modalities
    is appended to its vocabulary."""

    progress: bool = True
    """Whether a progress bar is drawn, where the output is a terminal."""

    def __post_init__(self) -> None:
        check_device(self.device)
        _check(self, "resume", self.resume in RESUMES, f"one of {', '.join(RESUMES)}")
        _check(self, "threads", self.threads >= 0, "at least 0")
        for name, task in self.tasks.items():
            if not task.weight > 0:
                raise ConfigError(f"`tasks.{name}.weight` must be above 0, but is {task.weight}.")

    @property
    def folder(self) -> str:
        """The run folder."""
        return self.run_dir or f"runs/{self.name}"

    def task_data(self, name: str) -> DataConfig:
        """Where task `name` gets its records: its own data, unless the experiment's stands in."""
        own = self.tasks[name].data
        if self.data.name is None and self.data.path is None:
            return own
        return dataclasses.replace(self.data, options={**own.options, **self.data.options})


def _course_of(task: TaskConfig) -> dict[str, Any]:
    """What decides the course of a task; options that older runs lack only where they are set."""
    facts = dataclasses.asdict(task)
    if task.vary:
        del facts["vary"]
    return facts


def trajectory(config: ExperimentConfig) -> dict[str, Any]:
    """What decides the course of a run: a checkpoint resumes only under an equal one.

    The rest may change: name and folder, budgets, intervals, limits on faults, device, threads,
    precision, compiling, the number of ranks and the rows that are computed at once.
    """
    training = config.training
    course = {
        "init_from": config.init_from,
        "modalities": config.modalities,
        "openers": config.openers,
        "tasks": {
            name: _course_of(task) | {"data": dataclasses.asdict(config.task_data(name))}
            for name, task in config.tasks.items()
        },
        "data": {} if config.tasks else dataclasses.asdict(config.data),
        "model": dataclasses.asdict(config.model),
        "packing": dataclasses.asdict(config.packing),
        "optimizer": dataclasses.asdict(config.optimizer),
        "schedule": dataclasses.asdict(config.schedule),
        "training": {
            name: getattr(training, name) for name in ("seed", "rows_per_step", "ema_decay")
        },
    }
    course |= {"trains": config.trains} if config.trains else {}
    course |= {"tokenizers": config.tokenizers} if config.tokenizers else {}
    plain: dict[str, Any] = json.loads(json.dumps(course))
    return plain


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys at which two nested settings differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in {**old, **new}:
            below = f"{path}.{key}" if path else str(key)
            found += differences(old.get(key), new.get(key), below)
        return found
    return [] if old == new else [f"`{path}` was {old!r} and is {new!r}"]


def _check(config: object, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"`{name}` must be {rule}, but is {getattr(config, name)!r}.")
