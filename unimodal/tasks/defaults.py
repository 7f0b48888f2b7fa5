"""Default tasks, derived from what a record holds, so that a stranger writes none.

For each modality among the fields: modelling, text to NAME, NAME to text, as far as each is
possible (a continuous modality is input only).
"""

from collections.abc import Collection, Mapping

from unimodal.errors import ConfigError
from unimodal.tasks.base import DataConfig, TaskConfig, field_of, open_data
from unimodal.vocabulary import Vocabulary

TEXT = "text"


def default_tasks(
    vocabulary: Vocabulary,
    data: Mapping[str, DataConfig] | DataConfig,
    *,
    fields: Collection[str] | None = None,
) -> dict[str, TaskConfig]:
    """Tasks over data sets whose records hold fields named as modalities.

    Args:
        vocabulary: Modalities of the model.
        data: The data set, or several by a name that prefixes the names of their tasks.
        fields: Fields of their records; by default those of each first training record.

    Returns:
        Configs by task name: `model_NAME`, `text_to_NAME`, `NAME_to_text`.

    Raises:
        ConfigError: if no field is a modality of the vocabulary from which a task follows.
    """
    chosen = {"": data} if isinstance(data, DataConfig) else dict(data)
    found: dict[str, TaskConfig] = {}
    for prefix, config in chosen.items():
        held = set(_fields(config) if fields is None else fields)
        derived = _tasks_of(vocabulary, config, held)
        if not derived:
            raise ConfigError(
                f"No task follows from the fields {sorted(held)} and the modalities "
                f"{sorted(vocabulary.modalities)}.",
                subject=config.path or config.name,
                remedy="Name fields as modalities, or write a task.",
            )
        found |= {f"{prefix}_{name}" if prefix else name: task for name, task in derived.items()}
    return found


def _fields(config: DataConfig) -> list[str]:
    source = open_data(config, "train")
    if len(source) == 0:
        raise ConfigError("The data set has no training record.", subject=source.name)
    return list(source[0])


def _tasks_of(vocabulary: Vocabulary, config: DataConfig, held: set[str]) -> dict[str, TaskConfig]:
    names = [name for name in vocabulary.modalities if field_of(name) in held]
    has_text = TEXT in names
    derived: dict[str, TaskConfig] = {}
    others = [name for name in names if name != TEXT]
    if has_text and not others:
        derived[f"model_{TEXT}"] = TaskConfig(template="model", target=TEXT, data=config)
    for name in others:
        discrete = vocabulary.modality(name).is_discrete
        if discrete:
            derived[f"model_{name}"] = TaskConfig(template="model", target=name, data=config)
        if has_text:
            derived[f"{name}_to_{TEXT}"] = TaskConfig(
                template="translate", source=name, target=TEXT, data=config
            )
        if has_text and discrete:
            derived[f"{TEXT}_to_{name}"] = TaskConfig(
                template="translate", source=TEXT, target=name, data=config
            )
    return derived
