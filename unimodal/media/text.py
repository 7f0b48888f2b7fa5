"""Text files: strict UTF-8 within a size and a character limit.

No normalisation: what the file says is what the value is, except for a byte order mark at its
start, which belongs to the encoding and not to the text.
"""

import os
from pathlib import Path

from unimodal.errors import MediaError
from unimodal.media.limits import DEFAULT_LIMITS, MediaLimits
from unimodal.media.sources import Source, open_size, source_name


def read_text(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> str:
    """Read a UTF-8 text; line ends, NUL and all other characters stay as they are.

    Args:
        source: Path or bytes.
        limits: Caps on bytes and characters.

    Raises:
        MediaError: If the file is missing, empty, over a limit, or not UTF-8 (lone surrogates are
            not); the message gives the offset of the first bad byte.
    """
    name = source_name(source)
    open_size(source, limits.max_text_bytes)
    data = source if isinstance(source, bytes) else Path(os.fspath(source)).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaError(
            f"The text is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x} "
            f"({error.reason}).",
            subject=name,
            remedy="Convert it, for example with `iconv -t UTF-8`.",
        ) from None
    return check_text(text, name, limits)


def check_text(text: str, name: str, limits: MediaLimits = DEFAULT_LIMITS) -> str:
    """Return `text` if it is within the character limit and can be written as UTF-8.

    Raises:
        MediaError: If it is too long or holds a lone surrogate.
    """
    if len(text) > limits.max_text_characters:
        raise MediaError(
            f"A text may have {limits.max_text_characters:,} characters, but this one has "
            f"{len(text):,}.",
            subject=name,
            remedy="Split it, or raise `max_text_characters`.",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MediaError(
            f"Character {error.start:,} is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which no UTF-8 text can hold.",
            subject=name,
            remedy="Remove it, or decode the text with the right encoding.",
        ) from None
    return text


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a text as UTF-8, byte for byte (no line end translation).

    Raises:
        MediaError: If it holds a lone surrogate, or the file cannot be written.
    """
    check_text(text, os.fspath(path))
    try:
        Path(os.fspath(path)).write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise MediaError(
            f"The file cannot be written ({type(error).__name__}).",
            subject=os.fspath(path),
            remedy="Check its folder, permissions and the space on the disk.",
        ) from None
