"""Translation: a value of one modality is given, a value of another is learned and asked for.

Captions, transcripts, descriptions of video and pictures from text are all this template. A prompt
(a short text, one of several phrasings) may come first, further given fields after the source.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from unimodal.errors import ConfigError
from unimodal.modality import Attend
from unimodal.stream import Document, Segment
from unimodal.tasks.base import ConditionOptions, Record, Task, TaskConfig, field_of, tasks
from unimodal.vocabulary import Vocabulary


@dataclass(kw_only=True)
class TranslateOptions(ConditionOptions):
    """Options of `translate` and `classify`."""

    source_field: str | None = None
    """Field of the record that holds the source; by default the name of its modality."""

    context: dict[str, str] = field(default_factory=dict)
    """Further given fields, after the source: field to modality, e.g. `{question: text}`."""

    prompts: tuple[str, ...] = ()
    """Phrasings of a prompt before the source; training draws one, a request takes the first."""

    prompt_modality: str = "text"
    """Modality of the prompt."""

    attend: Attend | None = None
    """How the source attends: `causal`, `full`, or None for what its modality says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not prompt for prompt in self.prompts):
            raise ConfigError("`prompts` must not hold an empty string.")


@tasks.register("translate")
class TranslateTask(Task):
    """Prompt (optional), source, context (optional), then the target that is asked for."""

    options_type = TranslateOptions

    def __init__(self, name: str, config: TaskConfig, vocabulary: Vocabulary):
        super().__init__(name, config, vocabulary)
        if config.source is None:
            raise ConfigError(
                f"The template `{config.template}` needs a source.",
                subject=f"task `{name}`",
                remedy="Set `source` to the modality that is given.",
            )
        self.source_name = config.source
        given = [self.source_name, *self.options.context.values()]
        given += [self.options.prompt_modality] if self.options.prompts else []
        for modality in given:
            vocabulary.modality(modality)

    @property
    def source_field(self) -> str:
        """The field of a record that holds what is given."""
        return self.options.source_field or field_of(self.source_name)

    def document(self, record: Record, rng: np.random.Generator) -> Document:
        document = self._with_target(record, self._given(record, rng), rng)
        return self.learned(self.dropped(document, rng))

    def scored_documents(self, record: Record) -> list[Document]:
        return [self._with_target(record, self._given(record, None), None)]

    def request(self, record: Record) -> Document:
        asked = Segment(self.config.target, role="asked")
        return self._document(record, [*self._given(record, None), asked])

    def null(self, document: Document) -> Document:
        """The prompt and the target alone: everything else that was given is left out."""
        num_prompts = 1 if self.options.prompts else 0
        kept = [
            segment
            for number, segment in enumerate(document.segments)
            if number < num_prompts or segment.role == "asked"
        ]
        return replace(document, segments=tuple(kept))

    def _given(self, record: Record, rng: np.random.Generator | None) -> list[Segment]:
        o = self.options
        segments = []
        if o.prompts:
            number = 0 if rng is None else int(rng.integers(len(o.prompts)))
            segments.append(Segment(o.prompt_modality, o.prompts[number]))
        source = self.one_value(record, self.source_field, self.source_name, rng)
        segments.append(Segment(self.source_name, source, attend=o.attend))
        for name, modality in o.context.items():
            segments.append(Segment(modality, self.one_value(record, name, modality, rng)))
        return segments

    def _with_target(
        self, record: Record, given: list[Segment], rng: np.random.Generator | None
    ) -> Document:
        target = Segment(
            self.config.target,
            self.one_value(record, self.target_field, self.config.target, rng),
            attend="causal",
            objective="next",
            weight=self.config.loss_weight,
            role="asked",
        )
        return self._document(record, [*given, target])

    def _document(self, record: Record, segments: list[Segment]) -> Document:
        return Document(tuple(segments), id=str(record.get("id", "")), task=self.name)
