"""From plain settings to an `ExperimentConfig`, with errors that say what to write instead.

The only place, with `main`, that sees OmegaConf. Unknown keys fail with a suggestion, wrong types
and values name the key.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from unimodal.errors import ConfigError
from unimodal.registry import did_you_mean
from unimodal.training.config import ExperimentConfig

EXPERIMENT_GROUP = "experiment"
HEADER = "# @package _global_"
"""First line of an experiment's file: its keys are those of the whole config."""


def from_dict(*settings: Mapping[str, Any]) -> ExperimentConfig:
    """An experiment from nested settings; later ones win. Dotted keys reach into nested ones.

    Raises:
        ConfigError: on an unknown key, or a value of the wrong type or range.
    """
    with config_errors():
        merged = OmegaConf.structured(ExperimentConfig)
        for given in settings:
            nested = OmegaConf.create({k: v for k, v in given.items() if "." not in k})
            merged = OmegaConf.merge(merged, nested)
            for key, value in given.items():
                if "." in key:
                    OmegaConf.update(merged, key, value, merge=True)
        return to_experiment(merged)


def to_experiment(config: Any) -> ExperimentConfig:
    """The experiment of a composed config: the one conversion of a run.

    Raises:
        ConfigError: on a value of the wrong type or range.
    """
    with config_errors():
        _check_keys(config)
        experiment = OmegaConf.to_object(config)
    if not isinstance(experiment, ExperimentConfig):
        raise ConfigError("The config is not an experiment: its schema is missing.")
    return experiment


def _check_keys(node: Any, path: str = "") -> None:
    """Refuse keys that no field takes; `+key=value` brings them past the schema.

    Raises:
        ConfigError: on the first one.
    """
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    kind = OmegaConf.get_type(node)
    known = {f.name for f in fields(kind)} if is_dataclass(kind) else None
    for key in node:
        full = f"{path}.{key!s}" if path else str(key)
        if known is not None and key not in known:
            raise _unknown(full, sorted(known))
        _check_keys(node._get_node(key), full)


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn the errors of YAML, Hydra and OmegaConf into `ConfigError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise as_config_error(error) from error


def as_config_error(error: Exception) -> ConfigError:
    """The error in our words, with the nearest key where one is unknown."""
    if isinstance(error, MissingConfigException):
        return _missing(error)
    for cause in _causes(error):
        if isinstance(cause, yaml.YAMLError):
            return _broken_yaml(cause)
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return _unknown_key(cause)
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException):
            key = getattr(cause, "full_key", None)
            return ConfigError(_first_line(cause), subject=f"`{key}`" if key else None)
    return ConfigError(_first_line(error), remedy="`unimodal train --help` shows how to override.")


def _broken_yaml(error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    return ConfigError(
        f"This is not YAML: {problem or _first_line(error)}.",
        subject=f"{mark.name}, line {mark.line + 1}" if mark else getattr(error, "name", None),
        remedy="Correct the file: look at this line and the one before it.",
    )


def _unknown_key(error: OmegaConfBaseException) -> ConfigError:
    full = str(getattr(error, "full_key", "") or getattr(error, "key", ""))
    parent = getattr(error, "parent_node", None)
    known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    is_free = isinstance(parent, DictConfig) and not is_dataclass(OmegaConf.get_type(parent))
    add = f"To add a key that is not in the file, write `+{full}=...`." if is_free else ""
    return _unknown(full, known, add)


def _unknown(full: str, known: Sequence[str], add: str = "") -> ConfigError:
    """The error of a dotted key that is not known."""
    path, _, name = full.rpartition(".")
    near = did_you_mean(name, known) if known else ""
    # A file of a group without the header stays under the group's name.
    is_packed = full.partition(".")[0] == EXPERIMENT_GROUP
    header = f"If this is a file of yours, its first line must be `{HEADER}`." if is_packed else ""
    return ConfigError(
        f"Unknown key `{name}`.",
        subject=f"`{path}`" if path else None,
        remedy=f"{header or near} {add}".strip() or None,
    )


def _missing(error: MissingConfigException) -> ConfigError:
    missing = str(error.missing_cfg_file or "")
    group, _, name = missing.rpartition("/")
    if error.options:
        what = f"There is no {group or 'config'} `{name}`."
        return ConfigError(what, remedy=did_you_mean(name, list(error.options)))
    return ConfigError(
        _first_line(error), remedy="Check the name; --config-dir adds a folder of your own."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
