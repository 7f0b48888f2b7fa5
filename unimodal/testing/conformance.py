"""`check_modality`: holds a class to the contract of a modality and says what it does wrong.

Each law is one function in `unimodal.testing.laws` or `instance_laws`; it yields a message for each
way in which the modality breaks it. An exception inside a law is a finding too, with type and text.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unimodal.errors import CertificateError, ConfigError
from unimodal.modality import Modality, config_type
from unimodal.testing import instance_laws, laws
from unimodal.testing.laws import LAWS, Subject

LAWS_MODULES = (laws, instance_laws)
"""Importing them fills `LAWS`."""


@dataclass(frozen=True)
class Finding:
    """One way in which a modality breaks a law.

    Attributes:
        law: Name of the law.
        message: What was expected, and what happened.
    """

    law: str
    message: str

    def __str__(self) -> str:
        return f"{self.law}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What `check_modality` found.

    Attributes:
        modality: Its registered name.
        laws: Names of the laws that were checked.
        findings: The breaches; empty if there are none.
    """

    modality: str
    laws: tuple[str, ...]
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether all laws hold."""
        return not self.findings

    def require(self) -> "Report":
        """The report itself, if all laws hold.

        Raises:
            CertificateError: with all findings.
        """
        if self.findings:
            raise CertificateError(
                f"{len(self.findings)} of the contract's laws do not hold:\n"
                + "\n".join(f"- {finding}" for finding in self.findings),
                subject=f"modality `{self.modality}`",
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready fields."""
        found = [{"law": f.law, "message": f.message} for f in self.findings]
        return {"modality": self.modality, "laws": list(self.laws), "findings": found}

    def __str__(self) -> str:
        if self.ok:
            return f"`{self.modality}` holds all {len(self.laws)} laws."
        return f"`{self.modality}` breaks the contract:\n" + "\n".join(map(str, self.findings))


def check_modality(
    modality: Modality[Any, Any] | type[Modality[Any, Any]],
    *,
    seed: int = 0,
    num_examples: int = 8,
) -> Report:
    """Check a modality against the laws of its contract.

    Args:
        modality: An instance, or a class, which is built with its default config. One that needs
            `fit` and has not had it is fitted on its own examples.
        seed: Of the examples and the random walks.
        num_examples: Values drawn from `example`, and random walks through the grammar.

    Returns:
        The report; `report.require()` raises if a law does not hold.

    Raises:
        ConfigError: if the class cannot be built with its default config, or draws no examples.
    """
    subject = _subject(modality, seed, num_examples)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        subject.folder = Path(folder)
        for name, law in LAWS.items():
            findings += [Finding(name, message) for message in _messages(law(subject))]
    return Report(subject.modality.name, tuple(LAWS), tuple(findings))


def _subject(
    modality: Modality[Any, Any] | type[Modality[Any, Any]], seed: int, num_examples: int
) -> Subject:
    try:
        if isinstance(modality, type):
            modality = modality(config_type(modality)())
        examples = [
            modality.example(np.random.default_rng((seed, number)))
            for number in range(num_examples)
        ]
        if modality.needs_fit:
            modality.fit(examples)
    except Exception as error:
        raise ConfigError(
            f"The modality cannot be built from its defaults and draw examples: "
            f"{type(error).__name__}: {error}",
            subject=str(modality),
            remedy="Give `__init__` a config with defaults, and let `example` return a value.",
        ) from error
    return Subject(modality, examples, seed)


def _messages(law: Iterator[str]) -> Iterator[str]:
    """The messages of a law, the same one once; an exception in it is a message."""
    seen: set[str] = set()
    try:
        for message in law:
            if message not in seen:
                seen.add(message)
                yield message
    except Exception as error:
        yield f"raised {type(error).__name__}: {error}"
