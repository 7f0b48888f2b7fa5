"""The entry of training: Hydra's own main, so that --multirun, --cfg, --config-dir work.

`unimodal train experiment=NAME overrides...` calls `main` with what follows the verb. `compose`
gives the same config to code.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from unimodal.training.config import ExperimentConfig
from unimodal.training.convert import config_errors, from_dict, to_experiment

__all__ = ["compose", "from_dict", "main"]

SCHEMA = "experiment_schema"
CONFIG_MODULE = "unimodal.conf"
CONFIG_NAME = "config"
VERSION_BASE = "1.3"
VALUE_OPTIONS = {"--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn"}
"""Hydra's options whose next word is their value."""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `unimodal train`.

    Args:
        arguments: What follows the verb; by default the process's own.

    Returns:
        0, or 85 if the run was asked to stop, saved, and can be resumed.

    Raises:
        UnimodalError: for everything that the user can put right.
    """
    if arguments is not None:
        sys.argv = ["unimodal train", *options_first(arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and we word them
    try:
        with config_errors():
            _main()
    except _Stopped as stopped:
        return stopped.exit_code
    return 0


def options_first(arguments: Sequence[str]) -> list[str]:
    """Hydra's options before the overrides: argparse takes overrides in one run only."""
    options: list[str] = []
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        is_override = not word.startswith("-") and ("=" in word or word[:1] in ("+", "~"))
        (overrides if is_override else options).append(word)
        if word in VALUE_OPTIONS:
            options += [value for value in (next(words, None),) if value is not None]
    return [*options, *overrides]


class _Stopped(BaseException):
    """Carries the exit code of a stopped run through Hydra, and ends a sweep."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


@hydra.main(f"pkg://{CONFIG_MODULE}", CONFIG_NAME, VERSION_BASE)
def _main(composed: Any) -> None:
    from unimodal.training.finish import scorer
    from unimodal.training.run import train

    config = to_experiment(composed)
    now = HydraConfig.get()
    is_sweep = now.mode == RunMode.MULTIRUN
    run = Path(now.runtime.output_dir) if is_sweep else Path(config.folder)
    command = " ".join(["unimodal train", *sys.argv[1:]])
    whole, short = config.training.final_records, config.training.sample_records
    result = train(
        config,
        run,
        finish=scorer(whole, command) if whole else None,
        sample=scorer(short, command),
    )
    if not result.finished:
        raise _Stopped(result.exit_code)
