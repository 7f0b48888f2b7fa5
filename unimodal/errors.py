"""The error tree. Every mistake that a user can make raises one of these.

A message names the argument (or the file, line, sample), the rule, and the value that broke it;
`remedy` says what to do. The command line prints both on one screen without a traceback and exits
with `exit_code`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_RESUMABLE = 85
"""A run was asked to stop (SIGTERM, SIGINT, SIGUSR1), saved, and can be resumed."""


class UnimodalError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong: the rule and the value, in one sentence.
        subject: The file, sample, line or argument that it is about.
        remedy: What the reader can do about it, as one sentence.
    """

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, subject: str | None = None, remedy: str | None = None):
        # What is not an argument is an attribute, so that an error can be sent between processes.
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.subject}: {self.message}" if self.subject else self.message
        return f"{text} {self.remedy}" if self.remedy else text

    def as_dict(self) -> dict[str, str | None]:
        """The error as JSON-ready fields, for `--json`."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "subject": self.subject,
            "remedy": self.remedy,
        }


class ConfigError(UnimodalError):
    """A configuration value, key or name is not acceptable."""


class ShapeError(UnimodalError):
    """A tensor has the wrong shape, dtype or range."""


class MediaError(UnimodalError):
    """A file or a raw value cannot be read, or breaks a limit."""


class DataError(UnimodalError):
    """A manifest, folder or data set breaks a rule."""


class VocabularyError(UnimodalError):
    """Ids, spans or fingerprints do not fit the ledger."""


class GrammarError(UnimodalError):
    """A sequence of ids is not one that the grammar accepts."""


class CheckpointError(UnimodalError):
    """A run folder or checkpoint is missing, incomplete, corrupt, or of another model."""


class BackendUnavailableError(UnimodalError):
    """A device, an optional package or a kernel backend is not there."""


class CertificateError(UnimodalError):
    """Two ways of computing the same thing disagree."""

    exit_code = EXIT_FAILURE


class InternalError(UnimodalError):
    """Something that nobody foresaw: a fault of this program, or of code that it was given."""

    exit_code = EXIT_FAILURE


@contextmanager
def sample_errors(subject: str) -> Iterator[None]:
    """Whatever a source, a task or a modality raises about a sample, as an error that names it.

    Args:
        subject: The sample, for what names none itself.

    Raises:
        DataError: for what is neither a `UnimodalError` nor an `OSError`.
    """
    try:
        yield
    except (UnimodalError, OSError):
        raise
    except Exception as error:
        raise DataError(
            f"The sample cannot be used ({type(error).__name__}: {error}).",
            subject=subject,
            remedy="Correct the sample, or the code that reads and encodes it.",
        ) from error


def run_module(main: Callable[[], object]) -> NoReturn:
    """Run the `main` of a module as a program; an integer that it returns is the exit code.

    A mistake of the user's is one message on standard error, without a traceback.
    """
    try:
        code: object = main()
    except UnimodalError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
