"""The entry of training: Hydra's own main, so that --multirun, --cfg, --config-dir work.

`unimodal train experiment=NAME overrides...` calls `main` with what follows the verb. `compose`
gives the same config to code.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from unimodal.errors import ConfigError
from unimodal.registry import did_you_mean
from unimodal.training.config import ExperimentConfig
from unimodal.training.convert import config_errors, from_dict, to_experiment

if TYPE_CHECKING:
    from unimodal.training.run import RunResult

__all__ = ["compose", "from_dict", "main"]

SCHEMA = "experiment_schema"
CONFIG_MODULE = "unimodal.conf"
CONFIG_NAME = "config"
VERSION_BASE = "1.3"
VALUE_OPTIONS = {
    *("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn"),
    *("--config-path", "-cp", "--experimental-rerun"),
}
"""Hydra's options whose next word is their value."""
OTHER_OPTIONS = {
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc", "--info", "-i"),
}
"""Hydra's options that may stand alone."""

ConfigStore.instance().store(name=SCHEMA, node=ExperimentConfig)


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> ExperimentConfig:
    """The experiment that `unimodal train` with these overrides would run.

    Args:
        overrides: As on the command line, e.g. `["experiment=dna", "training.seed=1"]`.
        config_dir: A folder of one's own YAML files, as --config-dir.

    Raises:
        ConfigError: on an unknown experiment, key or value.
    """
    with ExitStack() as stack, config_errors():
        stack.enter_context(hydra.initialize_config_module(CONFIG_MODULE, "train", VERSION_BASE))
        added = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
        composed = hydra.compose(CONFIG_NAME, [*added, *overrides])
        return to_experiment(composed)


def main(
    arguments: Sequence[str] | None = None, ended: "Callable[[RunResult], None] | None" = None
) -> int:
    """Run `unimodal train`.

    Args:
        arguments: What follows the verb; by default the process's own.
        ended: Called with the result of each run.

    Returns:
        0, or 85 if the run was asked to stop, saved, and can be resumed.

    Raises:
        UnimodalError: for everything that the user can put right.
    """
    if arguments is not None:
        sys.argv = ["unimodal train", *options_first(arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and we word them

    def job(composed: Any) -> None:
        try:
            with config_errors():
                result = _train(composed)
        except Exception as error:
            raise _Ended(error=error) from error
        if ended is not None:
            ended(result)
        if not result.finished:
            raise _Ended(exit_code=result.exit_code)

    try:
        with config_errors():
            hydra.main(f"pkg://{CONFIG_MODULE}", CONFIG_NAME, VERSION_BASE)(job)()
    except _Ended as end:
        if end.error is not None:
            raise end.error from end.error.__cause__
        return end.exit_code
    return 0


def options_first(arguments: Sequence[str]) -> list[str]:
    """Hydra's options before the overrides: argparse takes overrides in one run only.

    Raises:
        ConfigError: if an option is unknown, or lacks its value.
    """
    options: list[str] = []
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        name = word.partition("=")[0]
        if not word.startswith("-"):
            is_override = "=" in word or word[:1] in ("+", "~")
            (overrides if is_override else options).append(word)
            continue
        if name not in VALUE_OPTIONS | OTHER_OPTIONS:
            near = did_you_mean(name, sorted(VALUE_OPTIONS | OTHER_OPTIONS))
            raise ConfigError(f"`train` has no option `{name}`.", remedy=near)
        options.append(word)
        if word in VALUE_OPTIONS:
            value = next(words, None)
            if value is None:
                raise ConfigError(f"`{word}` needs a value.")
            options.append(value)
    return [*options, *overrides]


class _Ended(BaseException):
    """Carries the error or exit code of a run past Hydra's own report, and ends a sweep."""

    def __init__(self, *, error: Exception | None = None, exit_code: int = 0):
        super().__init__(exit_code)
        self.error, self.exit_code = error, exit_code


def _train(composed: Any) -> "RunResult":
    from unimodal.training.finish import sampler, scorer
    from unimodal.training.ranks import launched_world
    from unimodal.training.run import train

    config = to_experiment(composed)
    now = HydraConfig.get()
    is_sweep = now.mode == RunMode.MULTIRUN
    if is_sweep and launched_world() > 1:
        raise ConfigError(
            "--multirun cannot run under several processes of a launcher.",
            remedy="Start one run of several processes after another.",
        )
    run = Path(now.runtime.output_dir) if is_sweep else Path(config.folder)
    command = shlex.join(["unimodal", "train", *sys.argv[1:]])
    whole, short = config.training.final_records, config.training.sample_records
    return train(
        config,
        run,
        finish=scorer(whole, command) if whole else None,
        sample=sampler(short, command),
    )
