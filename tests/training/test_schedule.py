"""Budgets and learning rates, the optimizer's groups, the moving average, precision, stop flags."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unimodal.errors import CheckpointError, ConfigError
from unimodal.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from unimodal.training.ema import Ema
from unimodal.training.metrics import MetricsLog, open_board, read_metrics
from unimodal.training.optimizer import (
    Optimizer,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
)
from unimodal.training.progress import Bar
from unimodal.training.schedule import Progress, rate_factor, spent
from unimodal.training.signals import stop_on_signals
from unimodal.training.trainee import choose_precision


def test_the_budget_that_is_spent_most_ends_a_run() -> None:
    config = TrainingConfig(max_steps=100, max_tokens=1000, max_minutes=2)
    assert spent(config, Progress(step=10, tokens=500, seconds=30)) == 0.5
    assert spent(config, Progress(step=10, tokens=50, seconds=90)) == 0.75
    assert spent(config, Progress(step=100)) == 1
    assert spent(TrainingConfig(max_minutes=1), Progress(step=10**6)) == 0


def test_a_run_without_a_budget_gets_one() -> None:
    assert spent(TrainingConfig(), Progress(step=500)) == 0.5
    assert spent(TrainingConfig(max_minutes=4), Progress(step=5000)) == 0


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("cosine", {0.0: 1.0, 0.5: 0.55, 1.0: 0.1, 1.5: 0.1}),
        ("wsd", {0.0: 1.0, 0.8: 1.0, 0.9: 0.55, 1.0: 0.1, 2.0: 0.1}),
        ("constant", {0.0: 1.0, 1.0: 1.0}),
    ],
)
def test_decay(kind: str, points: dict[float, float]) -> None:
    config = ScheduleConfig(kind=kind, warmup_steps=0, final_ratio=0.1)
    for share, factor in points.items():
        assert rate_factor(config, 5, share) == pytest.approx(factor)


def test_warm_up_is_linear_and_never_zero() -> None:
    config = ScheduleConfig(kind="constant", warmup_steps=4)
    assert [rate_factor(config, step, 0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ParameterDict({"a": torch.ones(3, 2)})
        self.linear = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.fixed = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        self.blocks = nn.Sequential(nn.Linear(2, 3, bias=False))


def test_only_matrices_are_decayed() -> None:
    module = Parts()
    optimizer = build_optimizer(module.named_parameters(), OptimizerConfig(weight_decay=0.5))
    decay = {
        id(p): group["weight_decay"]
        for part in optimizer.parts
        for group in part.param_groups
        for p in group["params"]
    }
    found = {name: decay.get(id(p)) for name, p in module.named_parameters()}
    assert found == {
        "fixed": None,
        "embeddings.a": 0.0,
        "linear.weight": 0.5,
        "linear.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "blocks.0.weight": 0.5,
    }


def test_muon_takes_the_matrices_of_the_blocks_alone() -> None:
    module = Parts()
    optimizer = build_optimizer(module.named_parameters(), OptimizerConfig(kind="muon"))
    adamw, muon = optimizer.parts
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(3, 2)]
    optimizer.set_learning_rate(0.25)
    assert {g["lr"] for part in (adamw, muon) for g in part.param_groups} == {0.25}
    before = module.blocks[0].weight.detach().clone()
    _stepped(module, optimizer, 1)
    change = (module.blocks[0].weight - before * (1 - 0.25 * 0.1)).norm()
    # An orthogonal update of rank 1 here (its gradient is constant), scaled by .2 sqrt(max(3, 2)).
    assert float(change.detach()) == pytest.approx(0.25 * 0.2 * 3**0.5, rel=0.35)


def _stepped(module: Parts, optimizer: Optimizer, steps: int) -> None:
    for number in range(steps):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 0.1 * (number + len(name)))
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_optimizers_state_comes_back_bitwise(kind: str) -> None:
    one, other = Parts(), Parts()
    other.load_state_dict(one.state_dict())
    config = OptimizerConfig(kind=kind)
    first = build_optimizer(one.named_parameters(), config)
    _stepped(one, first, 3)
    other.load_state_dict(one.state_dict())
    second = build_optimizer(other.named_parameters(), config)
    load_optimizer_state(
        second, other.named_parameters(), optimizer_state(first, one.named_parameters())
    )
    _stepped(one, first, 2)
    _stepped(other, second, 2)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("key", ["exp_avg:unknown", "exp_avg:linear.bias"])
def test_state_of_another_model_is_refused(key: str) -> None:
    module = Parts()
    optimizer = build_optimizer(module.named_parameters(), OptimizerConfig())
    with pytest.raises(CheckpointError, match=key):
        load_optimizer_state(optimizer, module.named_parameters(), {key: torch.ones(7)})


def test_the_average_follows_the_formula_and_gives_the_weights_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    ema = Ema(module.state_dict(keep_vars=True), 0.5)
    expected = 0.0
    for step in range(30):
        with torch.no_grad():
            module.weight.fill_(float(step))
        ema.update(step)
        rate = 1 - min(0.5, (1 + step) / (10 + step))
        expected += rate * (step - expected)
    assert ema.average["weight"].item() == pytest.approx(expected, rel=1e-5)
    with ema.applied():
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() == 29.0
    with pytest.raises(CheckpointError, match="differ in weight"):
        ema.load({"other": torch.ones(1)})


@pytest.mark.parametrize(
    ("amx", "avx512", "reason"),
    [(True, True, "AMX"), (False, True, "AVX"), (False, False, "neither")],
)
def test_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, reason: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    device = torch.device("cpu")
    chosen = choose_precision("auto", device)
    assert chosen.name == ("bf16" if amx or avx512 else "fp32")
    assert reason in chosen.reason
    assert choose_precision("fp32", device).name == "fp32"
    with choose_precision("bf16", device).autocast(device):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signals_set_the_flag_and_handlers_come_back(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stop_on_signals() as flag:
        assert not flag
        os.kill(os.getpid(), number)
        assert flag.reason == name
    assert signal.getsignal(number) == before


def test_work_that_loses_nothing_is_interrupted_by_the_first_signal_and_never_begun_after() -> None:
    with stop_on_signals() as flag:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), flag.interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a loop that polls is never interrupted
        begun = False
        with pytest.raises(KeyboardInterrupt), flag.interrupts():
            begun = True
        assert not begun


def test_a_second_interrupt_does_not_wait() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainingConfig, {"keep": 1}),
        (TrainingConfig, {"precision": "fp16"}),
        (TrainingConfig, {"rows_per_step": 0}),
        (TrainingConfig, {"max_minutes": 0.0}),
        (OptimizerConfig, {"learning_rate": 0.0}),
        (OptimizerConfig, {"beta2": 1.0}),
        (ScheduleConfig, {"kind": "linear"}),
        (ScheduleConfig, {"decay_share": 0.0}),
    ],
)
def test_values_out_of_range_are_named(kind: Any, values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=f"`{name}` must be"):
        kind(**values)


class DeadBoard:
    """A TensorBoard writer whose disk is gone."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        raise OSError("gone")

    def close(self) -> None:
        return


def test_a_dead_board_costs_a_warning_and_metrics_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path, 0, DeadBoard())
    for step in (1, 2):
        log.write(step, "train", {"loss": float("nan"), "tasks": {"a": 1.5}})
    log.close()
    assert caplog.text.count("TensorBoard is off") == 1
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines == [
        {"step": step, "kind": "train", "loss": None, "tasks": {"a": 1.5}} for step in (1, 2)
    ]


def test_lines_after_the_checkpoint_and_a_cut_line_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, "train", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ki')
    MetricsLog(tmp_path, 2)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_board_hides_what_a_killed_run_drew_after_its_checkpoint(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resumed_at, last in ((0, 3), (1, 2)):
        log = MetricsLog(tmp_path, resumed_at, open_board(tmp_path, resumed_at))
        for step in range(resumed_at + 1, last + 1):
            log.write(step, "train", {"loss": float(10 * resumed_at + step)})
        log.close()
        time.sleep(1.1)  # files are told apart by their second
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 1.0), (2, 12.0)]


def test_without_a_terminal_a_line_is_logged_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.training.progress.SECONDS_BETWEEN_LINES", 0.0)
    for is_shown in (False, True):
        with caplog.at_level("INFO"), Bar("tiny", is_shown) as bar:
            bar.show(0.25, 10, 1234.5, 2.0)
    assert caplog.messages == ["25 %  step 10  1,234 tokens/s  loss 2.000"]
