"""FASTA files, plain or gzipped: one record at a time, checked to be nucleotides.

Biopython's parser reads the records. A guard below it bounds each line and the decompressed total,
so that neither a one-line file nor a gzip bomb fills the memory.
"""

import gzip
import os
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO

from Bio.SeqIO.FastaIO import SimpleFastaParser

from unimodal.errors import MediaError
from unimodal.media.limits import DEFAULT_LIMITS, MediaLimits
from unimodal.media.sources import Source, open_size, source_name

NUCLEOTIDES = "ACGTUNRYSWKMBDHV-"
"""What a DNA or RNA record may hold: bases, N, IUPAC ambiguity codes, gaps; either case."""

_ALLOWED = (NUCLEOTIDES + NUCLEOTIDES.lower()).encode()
_OTHER = re.compile(f"[^{re.escape(NUCLEOTIDES)}]", re.IGNORECASE)


@dataclass(frozen=True)
class FastaRecord:
    """One record of a FASTA file.

    Attributes:
        id: The title's first word, "" if there is none.
        description: The whole title line without ">".
        bases: The sequence as stored, white space removed; case kept.
    """

    id: str
    description: str
    bases: str


def read_fasta(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> Iterator[FastaRecord]:
    """Iterate over the records of a FASTA file; a `.gz` is recognised by its content.

    Lower case (soft masking), CRLF line ends, blank lines and N or IUPAC codes are fine.

    Args:
        source: Path or bytes.
        limits: Caps on file, decompressed total, and one record.

    Yields:
        The records in order, each checked.

    Raises:
        MediaError: While iterating: a file that is missing, cut, or not FASTA, a record that is
            empty, too long, or holds letters that are no nucleotides (a protein, say).
    """
    for _, found in scan_fasta(source, limits):
        if isinstance(found, MediaError):
            raise found
        yield found


def scan_fasta(
    source: Source, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[tuple[int, FastaRecord | MediaError]]:
    """`read_fasta` that goes on after an unsound record.

    Yields:
        The number of its title line, and the record, or what is wrong with it.

    Raises:
        MediaError: While iterating: a file that is missing, cut, or not FASTA.
    """
    name = source_name(source)
    open_size(source, limits.max_fasta_bytes)
    titles: deque[int] = deque()
    try:
        with _open(source) as raw:
            head = raw.read(2)
            raw.seek(0)
            packed = head == b"\x1f\x8b"
            stream: BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
            lines = _lines(stream, raw, name, limits, titles)
            for count, (title, bases) in enumerate(_parse(lines), start=1):
                found: FastaRecord | MediaError
                try:
                    found = _record(title, bases, f"{name}, record {count}", limits)
                except MediaError as error:
                    found = error
                yield titles.popleft(), found
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MediaError(
            f"The gzip file is cut or damaged ({error}).", subject=name, remedy="Fetch it again."
        ) from None
    except OSError as error:
        raise MediaError(
            f"The file cannot be read ({type(error).__name__}).",
            subject=name,
            remedy="Check the path and its permissions.",
        ) from None


def write_fasta(records: Iterable[FastaRecord], path: str | os.PathLike[str]) -> None:
    """Write records with 70 bases a line.

    Raises:
        MediaError: If a title holds a line break, a record is empty or no nucleotides, or the file
            cannot be written.
    """
    name = os.fspath(path)
    try:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for record in records:
                if "\n" in record.description or "\r" in record.description:
                    raise MediaError(
                        "A title must be one line.",
                        subject=f"{name}, {record.id}",
                        remedy="Take the line ends out of it.",
                    )
                check_bases(record.bases, f"{name}, {record.id}")
                file.write(f">{record.description or record.id}\n")
                for start in range(0, len(record.bases), 70):
                    file.write(record.bases[start : start + 70] + "\n")
    except OSError as error:
        raise MediaError(
            f"The file cannot be written ({type(error).__name__}).",
            subject=name,
            remedy="Check its folder, permissions and the space on the disk.",
        ) from None


def check_bases(bases: str, name: str, limits: MediaLimits = DEFAULT_LIMITS) -> str:
    """Return `bases` if it is a non-empty nucleotide sequence within the limit.

    Raises:
        MediaError: Otherwise; the message gives the first letter that is none and its position.
    """
    if not bases:
        raise MediaError("The record has no bases.", subject=name, remedy="Remove the record.")
    if len(bases) > limits.max_record_bases:
        raise _too_long(name, limits)
    if bases.encode("utf-8", "replace").translate(None, _ALLOWED):
        other = _OTHER.search(bases)
        assert other is not None
        protein = "It looks like a protein. " if _is_protein(bases) else ""
        raise MediaError(
            f"DNA is written with {NUCLEOTIDES} in either case, but letter {other.start() + 1:,} "
            f"is {other.group()!r}. {protein}".rstrip(),
            subject=name,
            remedy="Give a nucleotide FASTA file.",
        )
    return bases


def _is_protein(bases: str) -> bool:
    """Whether the letters are the amino acids' and several are no nucleotide codes."""
    return set(bases.upper()) <= set("ACDEFGHIKLMNPQRSTVWYXBZUOJ*-")


def _open(source: Source) -> BufferedIOBase:
    return BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _lines(
    stream: BufferedIOBase,
    raw: BufferedIOBase,
    name: str,
    limits: MediaLimits,
    titles: deque[int],
) -> Iterator[str]:
    """Decoded lines of bounded length and total; the first non-blank one must start with ">".

    Numbers of title lines are added to `titles`.
    """
    total, number, begun = 0, 0, False
    bases = 0
    while line := stream.readline(limits.max_record_bases + 2):
        number += 1
        total += len(line)
        if total > limits.max_fasta_bytes or (
            stream is not raw and total > 2**20 + limits.max_ratio * raw.tell()
        ):
            raise MediaError(
                f"The file may unpack to {limits.max_fasta_bytes:,} bytes and to "
                f"{limits.max_ratio:,} times its size, and this one does not stop there.",
                subject=name,
                remedy="Unpack and split it.",
            )
        if not begun and line.strip():
            begun = True
            if not line.startswith(b">"):
                raise MediaError(
                    f"A FASTA file starts with '>', but line {number} starts with {line[:1]!r}.",
                    subject=name,
                    remedy="Give a nucleotide FASTA file.",
                )
        if line.startswith(b">"):
            titles.append(number)
            bases = 0
        else:
            bases += len(line.strip())
        if bases > limits.max_record_bases:
            raise _too_long(f"{name}, line {number}", limits)
        yield _decode(line, name, number)
    if not begun:
        raise MediaError(
            "The file holds no FASTA record.",
            subject=name,
            remedy="Give a nucleotide FASTA file.",
        )


def _decode(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("utf-8" if line.startswith(b">") else "ascii")
    except UnicodeDecodeError as error:
        raise MediaError(
            f"Byte {error.start:,} of the line is 0x{line[error.start]:02x}, which no FASTA holds.",
            subject=f"{name}, line {number}",
            remedy="Give a nucleotide FASTA file.",
        ) from None


def _parse(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Title and sequence of each record."""
    records: Iterator[tuple[str, str]] = SimpleFastaParser(lines)  # type: ignore[no-untyped-call]
    return records


def _record(title: str, bases: str, name: str, limits: MediaLimits) -> FastaRecord:
    words = title.split(None, 1)
    return FastaRecord(words[0] if words else "", title, check_bases(bases, name, limits))


def _too_long(name: str, limits: MediaLimits) -> MediaError:
    return MediaError(
        f"A record may have {limits.max_record_bases:,} bases, but this one has more.",
        subject=name,
        remedy="Split it, or raise `max_record_bases`.",
    )
