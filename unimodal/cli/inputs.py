"""Words of the command line as values: files by their modality, or literal strings.

The modality is what `--from` names; without it, every modality of the model tries to read the
file, and the one that can is taken. Text reads anything in UTF-8, so it counts only when no other
does, and the file is not named as something else (a picture, a sound, a film, FASTA).
"""

import mimetypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from unimodal.cli.console import report_error
from unimodal.data.folders import FASTA_SUFFIXES
from unimodal.errors import ConfigError, MediaError, UnimodalError, sample_errors
from unimodal.vocabulary import Vocabulary

CATCH_ALL = "text"
"""The modality that reads any UTF-8 file."""


@dataclass(frozen=True)
class Input:
    """One value to work on.

    Attributes:
        name: What output calls it: the file, with the record where it holds several.
        modality: Ledger name.
        value: The value.
    """

    name: str
    modality: str
    value: Any


@contextmanager
def naming(items: Sequence[Input]) -> Iterator[None]:
    """An error inside that names nothing names these inputs, or the first of many."""
    try:
        yield
    except UnimodalError as error:
        if error.subject is None and items:
            more = f" or another of {len(items)} inputs" if len(items) > 1 else ""
            error.subject = items[0].name + more
        raise


class Failures:
    """Errors that cost one input each."""

    def __init__(self) -> None:
        self.errors: list[UnimodalError] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """An error inside is kept, by this name if it has none, and goes no further."""
        try:
            yield
        except UnimodalError as error:
            error.subject = error.subject or name
            self.errors.append(error)

    def finish(self, done: int) -> int:
        """Show the errors; the exit code of the command.

        Args:
            done: Inputs that went well.

        Raises:
            UnimodalError: the only error, if nothing went well.
        """
        if not done and len(self.errors) == 1:
            raise self.errors[0]
        for error in self.errors:
            report_error(error, as_json=False)
        return self.errors[0].exit_code if self.errors else 0

    def as_dicts(self) -> list[dict[str, Any]]:
        """The errors as plain values."""
        return [error.as_dict() for error in self.errors]


def read_files(
    paths: Sequence[str], vocabulary: Vocabulary, given: str | None, failures: Failures
) -> Iterator[Input]:
    """The values of files; one with several records gives each. A bad file costs itself."""
    for word in paths:
        with failures.of(word):
            yield from read_file(word, vocabulary, given)


def read_file(word: str, vocabulary: Vocabulary, given: str | None) -> Iterator[Input]:
    """The values of one file.

    Raises:
        MediaError: if it cannot be read by the modality, or by any.
        ConfigError: if several modalities read it, and none was named.
    """
    path = check_file(word)
    name = given or sniff(path, vocabulary)
    with sample_errors(str(path)):
        for record, value in vocabulary.modality(name).read_all(path):
            yield Input(f"{path}:{record}" if record else str(path), name, value)


def check_file(word: str) -> Path:
    """The path of a file that is there.

    Raises:
        MediaError: if there is none.
    """
    path = Path(word)
    if not path.is_file():
        what = "This is a folder, not a file." if path.is_dir() else "There is no such file."
        raise MediaError(what, subject=word, remedy="Check the path.")
    return path


def check_out(path: Path | None) -> None:
    """See to it that a file can be written, before there is something to lose.

    Raises:
        ConfigError: if its folder does not exist.
    """
    if path is not None and not path.resolve().parent.is_dir():
        raise ConfigError(
            "Its folder does not exist.",
            subject=str(path),
            remedy=f"Make it first: mkdir -p {path.parent}",
        )


def read_word(word: str, vocabulary: Vocabulary, given: str | None) -> Input:
    """The value of one word: a file, or a literal string of a modality of strings.

    Raises:
        MediaError: if it is no file but named as one, or the modality takes no strings, or it is
            empty, or a file of several records.
    """
    if not word:
        raise MediaError("It is empty.", subject="VALUE", remedy="Leave it out to give nothing.")
    if _is_file(word):
        first, *more = islice(read_file(word, vocabulary, given), 2)
        if more:
            raise MediaError(
                "It holds several records, and one value is asked for.",
                subject=word,
                remedy="Give a file of one record, or the letters themselves.",
            )
        return first
    if " " not in word and _is_named_as_other(Path(word)):
        check_file(word)
    name = given or _of_strings(vocabulary, word)
    if vocabulary.modality(name).value_type is not str:
        raise MediaError(
            f"There is no such file, and `{name}` takes no text.",
            subject=word,
            remedy="Check the path, or name another modality with --from.",
        )
    return Input(word, name, word)


def sniff(path: Path, vocabulary: Vocabulary) -> str:
    """The modality that reads a file.

    Raises:
        MediaError: if none does, with what each says.
        ConfigError: if several kinds of value fit.
    """
    able: list[str] = []
    refused: dict[str, UnimodalError] = {}
    for name in vocabulary.modalities:
        try:
            with sample_errors(str(path)):
                next(vocabulary.modality(name).read_all(path))
            able.append(name)
        except UnimodalError as error:
            refused[name] = error
    if CATCH_ALL in able and (len(able) > 1 or _is_named_as_other(path)):
        able.remove(CATCH_ALL)
    kinds = {vocabulary.modality(name).value_type for name in able}
    if len(kinds) == 1:
        return able[0]  # several modalities of one kind of value: the first of the ledger
    if able:
        raise ConfigError(
            f"Several modalities read this file: {', '.join(able)}.",
            subject=str(path),
            remedy=f"Name one, e.g. --from {able[0]}.",
        )
    reasons = "; ".join(f"{name}: {error.message}" for name, error in refused.items())
    raise MediaError(
        f"No modality of this model reads it ({reasons})",
        subject=str(path),
        remedy="Name the modality with --from to see its reason alone.",
    )


def _is_named_as_other(path: Path) -> bool:
    """Whether the name promises no text: a page saved as `x.png` is no caption."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    is_sequence = Path(path.name.removesuffix(".gz")).suffix.lower() in FASTA_SUFFIXES
    return is_sequence or kind.partition("/")[0] in ("image", "audio", "video")


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # too long for a path, or with a NUL: a literal
        return False


def _of_strings(vocabulary: Vocabulary, word: str) -> str:
    names = [n for n, m in vocabulary.modalities.items() if m.value_type is str]
    if CATCH_ALL in names:
        return CATCH_ALL
    if not names:
        raise MediaError(
            "There is no such file, and no modality of this model takes text.",
            subject=word,
            remedy="Check the path, or say what it is with --from.",
        )
    return names[0]
