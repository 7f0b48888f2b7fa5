"""Classification: as `translate`, with the answer chosen by likelihood among the labels.

A label is a value of the target modality, written out ("ankle boot"); there is no class id. The
labels are those of the options, else all that the training records hold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unimodal.errors import ConfigError, DataError
from unimodal.tasks.base import Mode, Record, tasks
from unimodal.tasks.translate import TranslateOptions, TranslateTask

MAX_LABELS = 2000
"""Above this many distinct answers a task is no classification."""


@dataclass(kw_only=True)
class ClassifyOptions(TranslateOptions):
    """Options of `classify`."""

    labels: tuple[str, ...] = ()
    """All labels; by default those of the training records."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError("`labels` must be distinct.")


@tasks.register("classify")
class ClassifyTask(TranslateTask):
    """A given value, and the most likely of the labels."""

    mode: ClassVar[Mode] = "choose"
    options_type = ClassifyOptions

    _seen: tuple[Any, ...] = ()

    def observe(self, records: Iterable[Record]) -> None:
        """Collect the labels of training records, unless the options name them."""
        if self.options.labels or self._seen:
            return
        seen: dict[Any, None] = {}
        for record in records:
            seen.setdefault(self.one_value(record, self.target_field, self.config.target))
            if len(seen) > MAX_LABELS:
                raise DataError(
                    f"A classification may have at most {MAX_LABELS} labels.",
                    subject=f"task `{self.name}`",
                    remedy="Use the template `translate`, or name the `labels`.",
                )
        self._seen = tuple(sorted(seen, key=str))

    def choices(self) -> Sequence[Any]:
        """The labels.

        Raises:
            ConfigError: if there are none: neither in the options nor observed.
        """
        labels = tuple(self.options.labels) or self._seen
        if not labels:
            raise ConfigError(
                "There are no labels to choose among.",
                subject=f"task `{self.name}`",
                remedy="Name them in the option `labels`, or call `observe` with training records.",
            )
        return labels

    def default_metrics(self) -> Sequence[str]:
        return ("exact_match",)

    def default_baselines(self) -> Sequence[str]:
        return ("majority", "chance", "nearest", "linear")
