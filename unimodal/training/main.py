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
        sys.argv = ["unimodal train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and we word them
    try:
        with config_errors():
            _main()
    except _Stopped as stopped:
        return stopped.exit_code
    return 0


class _Stopped(BaseException):
    """Carries the exit code of a stopped run through Hydra, and ends a sweep."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


@hydra.main(f"pkg://{CONFIG_MODULE}", CONFIG_NAME, VERSION_BASE)
def _main(composed: Any) -> None:
    from unimodal.training.finish import finish_run, sample_run
    from unimodal.training.run import train

    config = to_experiment(composed)
    now = HydraConfig.get()
    is_sweep = now.mode == RunMode.MULTIRUN
    run = Path(now.runtime.output_dir) if is_sweep else Path(config.folder)
    wanted = config.training.final_evaluation
    result = train(config, run, finish=finish_run if wanted else None, sample=sample_run)
    if not result.finished:
        raise _Stopped(result.exit_code)
