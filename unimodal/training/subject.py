"""What a run trains: a decoder, or the tokenizer of one modality. All else is the same loop.

A subject builds what is trained, its mixture and its held-out samples, and writes it down.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimodal.errors import ConfigError
from unimodal.modality import Modality, build_modality
from unimodal.model.decoder import Decoder
from unimodal.model.folder import (
    WEIGHTS,
    load_weights,
    read_config,
    read_vocabulary,
    save_model,
    write_model_files,
)
from unimodal.model.tokenizer_folder import (
    load_tokenizer,
    save_tokenizer,
    write_tokenizer_files,
)
from unimodal.tasks.base import TaskConfig
from unimodal.training.build import (
    HELD_OUT_SPLIT,
    TRAINING_SPLIT,
    build_streams,
    build_vocabulary,
    decoder_from,
    fit_all,
    resolve_tasks,
    take_training_fields,
    value_streams,
    value_tasks,
)
from unimodal.training.checkpoint import Checkpoint
from unimodal.training.config import ExperimentConfig
from unimodal.training.draws import Draws, Quarantine
from unimodal.training.held_out import HeldOut, HeldOutBatches
from unimodal.training.mixture import Mixture
from unimodal.training.trainee import Trainee, check_compiler
from unimodal.training.values import HeldOutValues, TokenizerTrainee, ValueMixture

Trained = Decoder | Modality[Any, Any]


class Subject(ABC):
    """What a run trains.

    Attributes:
        trained: The decoder or the modality.
        trainee: The same as the loop sees it.
        tasks: What it is trained on.
    """

    trained: Trained
    trainee: Trainee
    tasks: dict[str, TaskConfig]

    def __init__(self, config: ExperimentConfig):
        self.config = config

    @abstractmethod
    def about(self) -> str:
        """Its size, for the log."""

    @abstractmethod
    def mixture(self, quarantine: Quarantine) -> Draws[Any, Any]:
        """What it is trained on."""

    @abstractmethod
    def held_out(self) -> HeldOutBatches:
        """What it is measured on."""

    @abstractmethod
    def write_files(self, folder: Path) -> None:
        """Its files in an open folder of a checkpoint."""

    @abstractmethod
    def finish(self, average: Mapping[str, Tensor] | None) -> None:
        """End training; averaged weights, where there are any, take the place of its own."""

    @abstractmethod
    def save(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Its own folder, with more files."""


class DecoderSubject(Subject):
    """A decoder over the modalities of the experiment.

    Args:
        config: The experiment.
        checkpoint: Where to go on from.
        device: Where it is trained.
    """

    def __init__(
        self, config: ExperimentConfig, checkpoint: Checkpoint | None, device: torch.device
    ):
        super().__init__(config)
        self.decoder = _build_decoder(config, checkpoint)
        self.tasks = resolve_tasks(config, self.decoder.vocabulary)
        self.trained = self.trainee = self.decoder = self.decoder.to(device)
        if config.training.compile:
            check_compiler(device)
            self.decoder.compile_layers()

    def about(self) -> str:
        """Parameters and ids."""
        decoder = self.decoder
        return f"{decoder.num_parameters()} parameters, {decoder.vocabulary.size} ids"

    def mixture(self, quarantine: Quarantine) -> Mixture:
        """Documents of the tasks, packed."""
        return Mixture(
            build_streams(self.tasks, self.decoder.vocabulary, TRAINING_SPLIT),
            self.decoder.vocabulary,
            self.decoder.stream,
            self.config.packing,
            self.config.training.seed,
            quarantine,
        )

    def held_out(self) -> HeldOut:
        """Held-out documents of the tasks, packed."""
        training, vocabulary = self.config.training, self.decoder.vocabulary
        documents = training.evaluation_documents
        return HeldOut(
            build_streams(self.tasks, vocabulary, HELD_OUT_SPLIT) if documents else {},
            vocabulary,
            self.decoder.stream,
            self.config.packing,
            documents=documents,
            rows_per_batch=training.rows_per_batch,
            seed=training.seed,
        )

    def write_files(self, folder: Path) -> None:
        """Those of a model folder."""
        write_model_files(folder, self.decoder)

    def finish(self, average: Mapping[str, Tensor] | None) -> None:
        """Ready to answer."""
        if average is not None:
            self.decoder.load_state_dict(average)
        self.decoder.eval()

    def save(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """A model folder."""
        save_model(folder, self.decoder, files, replace=True)


class TokenizerSubject(Subject):
    """The tokenizer of one modality, trained by gradient.

    Args:
        config: The experiment; `trains` names the modality.
        checkpoint: Where to go on from.
        device: Where it is trained.

    Raises:
        ConfigError: if the modality has nothing that is trained by gradient, or `training.compile`
            is set.
    """

    def __init__(
        self, config: ExperimentConfig, checkpoint: Checkpoint | None, device: torch.device
    ):
        super().__init__(config)
        if config.training.compile:
            raise ConfigError(
                "A tokenizer is not compiled: the groups of its values have other sizes at every "
                "step, and each size would be compiled anew.",
                subject="`training.compile`",
            )
        self.name = name = str(config.trains)
        given = config.modalities.get(name) or {}
        start = config.init_from if checkpoint is None else checkpoint.folder
        if start is None:
            modality = build_modality(name, given)
        else:
            modality = load_tokenizer(start, name)
            take_training_fields(modality, name, given)
        network = modality.network
        if network is None or type(modality).loss is Modality.loss:
            raise ConfigError(
                f"`{name}` has nothing that is trained by gradient.",
                subject="`trains`",
                remedy="A tokenizer that is fitted lies in every model folder: name one as "
                f"`tokenizers.{name}`.",
            )
        self.tasks = value_tasks(config)
        if start is None:
            fit_all({name: modality}, config)
        network.to(device)
        self.trained, self.modality, self.network = modality, modality, network
        self.trainee = TokenizerTrainee(modality)

    def about(self) -> str:
        """Parameters."""
        count = sum(p.numel() for p in self.network.parameters())
        return f"{count} parameters of the tokenizer `{self.name}`"

    def mixture(self, quarantine: Quarantine) -> ValueMixture:
        """Values of the tasks."""
        streams = value_streams(self.tasks, self.modality, TRAINING_SPLIT)
        return ValueMixture(streams, self.config.training.seed, quarantine)

    def held_out(self) -> HeldOutValues:
        """Held-out values of the tasks."""
        training = self.config.training
        count = training.evaluation_documents
        return HeldOutValues(
            value_streams(self.tasks, self.modality, HELD_OUT_SPLIT) if count else {},
            count=count,
            per_batch=training.rows_per_batch,
            seed=training.seed,
        )

    def write_files(self, folder: Path) -> None:
        """Those of a tokenizer folder."""
        write_tokenizer_files(folder, self.name, self.modality)

    def finish(self, average: Mapping[str, Tensor] | None) -> None:
        """Ready to encode."""
        if average is not None:
            self.network.load_state_dict(average)
        if self.config.training.round_to == "bf16":
            with torch.no_grad():
                for parameter in self.network.parameters():
                    parameter.copy_(parameter.to(torch.bfloat16))
        self.network.eval()
        self.modality.is_trained = True

    def save(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """A tokenizer folder."""
        save_tokenizer(folder, self.name, self.modality, files)


def build_subject(
    config: ExperimentConfig, checkpoint: Checkpoint | None, device: torch.device
) -> Subject:
    """What the experiment trains, from its beginning or a checkpoint."""
    kind = DecoderSubject if config.trains is None else TokenizerSubject
    return kind(config, checkpoint, device)


def _build_decoder(config: ExperimentConfig, checkpoint: Checkpoint | None) -> Decoder:
    if checkpoint is not None:
        folder = checkpoint.folder
        decoder = Decoder(read_config(folder), read_vocabulary(folder))
        load_weights(decoder, folder / WEIGHTS)
        return decoder
    if config.init_from is not None:
        return decoder_from(Path(config.init_from), config)
    return Decoder(config.model, build_vocabulary(config))
