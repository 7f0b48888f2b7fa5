"""What an experiment names, built: tokenizers fitted, vocabulary, decoder, tasks with their data.

Tokenizers that have something to learn are fitted on training records before they enter a ledger.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unimodal.data.sources import Source
from unimodal.errors import CheckpointError, ConfigError, DataError, UnimodalError, sample_errors
from unimodal.media import FileRef
from unimodal.modality import (
    Modality,
    build_modality,
    config_from_dict,
    config_type,
    fit,
    identity_of,
)
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import grow, load_model
from unimodal.model.tokenizer_folder import load_tokenizer
from unimodal.registry import did_you_mean
from unimodal.tasks.base import TaskConfig, TaskOptions, build_task, field_of, open_data
from unimodal.tasks.defaults import default_tasks
from unimodal.training.config import ExperimentConfig
from unimodal.training.counters import permuted
from unimodal.training.mixture import TaskStream
from unimodal.training.values import ValueStream
from unimodal.vocabulary import Vocabulary

log = logging.getLogger(__name__)
HELD_OUT_SPLIT = "validation"
TRAINING_SPLIT = "train"
ENOUGH_REPEATED = 500
"""Records in a row without a new string, after which fitting reads no more of a data set."""
CHOSEN_ANEW = ("dropout", "z_loss")
"""Fields of the decoder's config that fine-tuning takes from the experiment."""


def task_configs(config: ExperimentConfig) -> dict[str, TaskConfig]:
    """The experiment's tasks, each with the data that it reads in the end."""
    return {
        name: dataclasses.replace(task, data=config.task_data(name))
        for name, task in config.tasks.items()
    }


def resolve_tasks(config: ExperimentConfig, vocabulary: Vocabulary) -> dict[str, TaskConfig]:
    """The tasks, or, where none is written, those that follow from the data's fields.

    Raises:
        ConfigError: if there are neither tasks nor data.
    """
    if config.tasks:
        return task_configs(config)
    if config.data.name is None and config.data.path is None:
        raise ConfigError(
            "The experiment has no tasks and no data.",
            remedy="Choose one (`experiment=NAME`), or write `tasks:` or `data.path=`.",
        )
    return default_tasks(vocabulary, config.data)


def build_vocabulary(config: ExperimentConfig, *, fitted: bool = True) -> Vocabulary:
    """The vocabulary of a new run.

    Args:
        config: Names modalities, and the data on which they are fitted.
        fitted: Fit what needs it. Without it, such a modality is refused.

    Raises:
        ConfigError: if a modality or a key of its config is unknown, or there is none; if a
            tokenizer is not trained.
    """
    if not config.modalities:
        raise ConfigError(
            "The experiment names no modalities.",
            remedy="Choose an experiment (`experiment=NAME`), or write `modalities:`.",
        )
    built = _built(config, config.modalities)
    if fitted:
        check_trained(built)
        fit_all(built, config)
    return Vocabulary.of(built, config.openers)


def _built(config: ExperimentConfig, names: Iterable[str]) -> dict[str, Modality[Any, Any]]:
    """Modalities of the experiment: from the folders of `tokenizers`, else from their configs.

    Raises:
        ConfigError: if `tokenizers` names a modality that the experiment lacks.
        CheckpointError: if a folder holds no tokenizer of the modality.
    """
    for name in config.tokenizers:
        if name not in config.modalities:
            raise ConfigError(
                f"`tokenizers` names `{name}`, which is no modality of the experiment.",
                remedy=did_you_mean(name, config.modalities),
            )
    built = {}
    for name in names:
        given = config.modalities[name] or {}
        if folder := config.tokenizers.get(name):
            try:
                built[name] = load_tokenizer(folder, name)
            except CheckpointError as error:
                if not Path(folder).exists():
                    error.remedy = (
                        f"Train it (`unimodal train experiment=tokenizer/{field_of(name)}`, if "
                        f"there is one), or give a run or a shipped model: `tokenizers.{name}`."
                    )
                raise
            take_training_fields(built[name], name, given)
        else:
            built[name] = build_modality(name, given)
    return built


def check_trained(built: Mapping[str, Modality[Any, Any]]) -> None:
    """Check that every tokenizer that is trained by gradient has been.

    Raises:
        ConfigError: naming the first that has not, and how to train it.
    """
    for name, modality in built.items():
        if modality.needs_training:
            base = field_of(name)
            raise ConfigError(
                f"The tokenizer of `{name}` is not trained: its ids would mean nothing.",
                remedy=f"Train one (`unimodal train experiment=tokenizer/{base}`, or an experiment "
                f"of your own with `trains: {base}`), then add `+tokenizers.{name}=RUN`.",
            )


def fit_all(built: Mapping[str, Modality[Any, Any]], config: ExperimentConfig) -> None:
    """Fit every modality that needs it on training records.

    Raises:
        DataError: if no task has values for one.
    """
    for name, modality in built.items():
        if not modality.needs_fit:
            continue
        values = list(_values(name, modality, config))
        if not values:
            raise DataError(
                f"Modality `{name}` must be fitted, but no task has values of it.",
                remedy=f"Name a task whose records hold `{field_of(name)}`, or give the modality "
                "a trained tokenizer.",
            )
        log.info("Fitting `%s` on %d values.", name, len(values))
        fit(modality, values)


def _values(name: str, modality: Modality[Any, Any], config: ExperimentConfig) -> Iterator[Any]:
    """Values of a modality in the training records, and in what the tasks themselves write."""
    limit = config.training.fit_documents
    tasks = list(task_configs(config).values()) or [TaskConfig(data=config.data, target=name)]
    seen: list[tuple[Any, str]] = []
    for task in tasks:
        if modality.value_type is str and name == task.options.get("prompt_modality", task.target):
            yield from task.options.get("prompts", ())
        for field in _fields(name, task):
            if (task.data, field) in seen:
                continue
            seen.append((task.data, field))
            source = open_data(task.data, TRAINING_SPLIT)
            yield from _spread(source, field, modality, limit)


def _spread(source: Source, field: str, modality: Modality[Any, Any], limit: int) -> Iterator[Any]:
    """Values of a field in an order that is not the file's (a data set may be sorted).

    Ends early once strings only repeat: reading on would cost time and teach nothing.
    """
    seen: set[str] = set()
    repeated = 0
    for i in range(min(limit, len(source))):
        index = permuted(i, len(source), len(source))
        try:
            with sample_errors(f"{source.name}, record {index}"):
                found = list(_read(source[index].get(field), modality))
        except (UnimodalError, OSError) as error:
            log.warning("A sample is left out of fitting: %s", error)
            continue
        yield from found
        texts = {value for value in found if isinstance(value, str)}
        repeated = repeated + 1 if texts and texts <= seen else 0
        seen |= texts
        if repeated == ENOUGH_REPEATED:
            return


def _fields(name: str, task: TaskConfig) -> list[str]:
    found = [field for field, used in task.options.get("context", {}).items() if used == name]
    for role, used in (("source_field", task.source), ("target_field", task.target)):
        if used == name:
            found.append(task.options.get(role) or field_of(name))
    return found


def _read(found: Any, modality: Modality[Any, Any]) -> Iterable[Any]:
    if found is None:
        return ()
    if isinstance(found, FileRef):
        return (modality.read(found.path),)
    if isinstance(found, list | tuple) and modality.value_type is str:
        return found
    return (found,)


def build_streams(
    tasks: Mapping[str, TaskConfig], vocabulary: Vocabulary, split: str
) -> dict[str, TaskStream]:
    """Every task with its records of one split.

    Raises:
        ConfigError, DataError: if a task or its data are not there.
    """
    streams = {}
    for name, config in tasks.items():
        task = build_task(name, config, vocabulary)
        streams[name] = TaskStream(task, task.open(split), config.weight)
    return streams


def value_tasks(config: ExperimentConfig) -> dict[str, TaskConfig]:
    """The tasks whose values train the tokenizer of `config.trains`.

    Raises:
        ConfigError: if there is none, or one has another target.
    """
    name = str(config.trains)
    tasks = task_configs(config)
    if not tasks and (config.data.name or config.data.path):
        tasks = {name: TaskConfig(data=config.data, target=name)}
    if not tasks:
        raise ConfigError(
            f"There are no values of `{name}` to train on.",
            remedy="Write `tasks:` or `data.path=`.",
        )
    for task, own in tasks.items():
        if own.target != name:
            raise ConfigError(
                f"Its target must be `{name}`, whose tokenizer is trained, but is `{own.target}`.",
                subject=f"task `{task}`",
            )
    return tasks


def value_streams(
    tasks: Mapping[str, TaskConfig], modality: Modality[Any, Any], split: str
) -> dict[str, ValueStream]:
    """The values of every task in one split.

    Raises:
        ConfigError, DataError: if an option is unknown, or data are not there.
    """
    streams = {}
    for name, task in tasks.items():
        options = config_from_dict(TaskOptions, task.options, f"options of task `{name}`")
        field = options.target_field or field_of(task.target)
        source = open_data(task.data, split, f"task `{name}`")
        streams[name] = ValueStream(
            modality, source, field, task.weight, task.loss_weight, task.vary
        )
    return streams


def decoder_from(folder: Path, config: ExperimentConfig) -> Decoder:
    """The decoder of another run as the beginning of this one.

    Its shape and tokenizers are those of the other run; modalities that it lacks are appended.

    Raises:
        CheckpointError: if the folder holds no model.
        ConfigError: if a modality that is added is unknown.
    """
    old = load_model(folder)
    tell_shape(config.model, old.config, folder)
    ledger = old.vocabulary
    added = _built(config, [name for name in config.modalities if name not in ledger.entries])
    check_trained(added)
    fit_all(added, config)
    states = {name: modality.state() for name, modality in ledger.modalities.items()}
    vocabulary = Vocabulary.from_json(ledger.to_json(), states)
    for name in config.modalities.keys() & vocabulary.entries.keys():
        take_training_fields(vocabulary.modality(name), name, config.modalities[name] or {})
    for name, modality in added.items():
        vocabulary.add(name, modality)
    for name in config.openers:
        vocabulary.list_opener(name)
    old.config = dataclasses.replace(
        old.config,
        patterns={**old.config.patterns, **config.model.patterns},
        **{name: getattr(config.model, name) for name in CHOSEN_ANEW},
    )
    return grow(old, vocabulary)


def take_training_fields(modality: Modality[Any, Any], name: str, given: Mapping[str, Any]) -> None:
    """Set the fields that concern training alone; warn where another one differs.

    Raises:
        ConfigError: on a key that the modality's config lacks.
    """
    asked = config_from_dict(config_type(type(modality)), given, f"modality `{name}`")
    fixed = identity_of(modality.config)
    for key in given:
        wanted = getattr(asked, key)
        if key not in fixed:
            setattr(modality.config, key, wanted)
        elif getattr(modality.config, key) != wanted:
            log.warning(
                "`modalities.%s.%s` stays %r, and is not %r: ids keep their meaning.",
                *(name, key, getattr(modality.config, key), wanted),
            )


def tell_shape(asked: DecoderConfig, have: DecoderConfig, folder: Path) -> None:
    """Warn where an experiment asks for another shape than the model has that it starts from."""
    other = [
        f"{field.name} {getattr(have, field.name)!r} instead of {getattr(asked, field.name)!r}"
        for field in dataclasses.fields(DecoderConfig)
        if field.name not in (*CHOSEN_ANEW, "patterns", "seed", "init_std")
        and getattr(asked, field.name) != getattr(have, field.name)
    ]
    if other:
        log.warning("The model has the shape of %s: %s.", folder, ", ".join(other))
