"""DNA as ids: n-grams of A, C, G, T, overlapping or not, and single letters for all else.

Every string of nucleotide letters (IUPAC codes, N, U and gaps included) has exactly one encoding
and comes back from it, in upper case: soft masking by lower case is dropped. So the total bits over
raw bases are honest: no model scores uniform random bases below two bits a base on average.

- Not overlapping: blocks of `n` letters from the start. A block of A, C, G, T is one id; a block
  that holds another letter, and the remainder at the end, are written letter by letter. The frame
  never shifts.
- Overlapping: one id a start within each run of A, C, G, T; runs shorter than `n`, and all other
  letters, letter by letter. Decoding reads the first letter of each n-gram, and all of the last one
  of a run.

Not here: FASTA files (`unimodal.media.fasta`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unimodal.errors import ConfigError, MediaError
from unimodal.grammar import Open
from unimodal.media.fasta import NUCLEOTIDES, FastaRecord, read_fasta, write_fasta
from unimodal.modality import Modality, register_modality, training_only
from unimodal.types import Tokens, line_grid

BASES = "ACGT"
OTHERS = "".join(letter for letter in NUCLEOTIDES if letter not in BASES)
LETTERS = BASES + OTHERS
NO_LETTER = 255
NUM_CODES = len(LETTERS)
CHUNK = 16_384
"""N-grams that are built at once."""


def _translation(to_n: bool) -> bytes:
    """Bytes to letter codes: 0 to 3 for bases, 4 upwards for the others, 255 for no nucleotide."""
    table = bytearray([NO_LETTER] * 256)
    for code, letter in enumerate(LETTERS):
        if to_n and code >= len(BASES):
            code = LETTERS.index("N")
        table[ord(letter)] = table[ord(letter.lower())] = code
    return bytes(table)


_CODES = {to_n: _translation(to_n) for to_n in (False, True)}
_COMPLEMENT = bytes.maketrans(
    b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv", b"TGCAANYRSWMKVHDBtgcaanyrswmkvhdb"
)


@dataclass(kw_only=True)
class DnaConfig:
    """How bases become ids."""

    n: int = 3
    """Letters of an n-gram, 1 to 8."""

    overlapping: bool = False
    """Whether an n-gram begins at every base instead of every `n` bases."""

    ambiguity: str = "letters"
    """How letters other than A, C, G, T are written: `letters` keeps each, `n` makes each an N,
    which is lossy: no bits a base are reported."""

    both_strands: bool = training_only(False)
    """Whether training reads a sequence, by chance, from its other strand."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 8:
            raise ConfigError(f"`dna.n` must be between 1 and 8, but is {self.n}.")
        if self.ambiguity not in ("letters", "n"):
            raise ConfigError(
                f"`dna.ambiguity` must be `letters` or `n`, but is {self.ambiguity!r}."
            )


def reverse_complement(bases: str) -> str:
    """The other strand, read in its own direction; case, gaps and IUPAC codes follow.

    U counts as T, so that RNA answers with the DNA of its template strand.

    Raises:
        MediaError: on a character outside ASCII.
    """
    return _ascii(bases).translate(_COMPLEMENT)[::-1].decode("ascii")


@register_modality("dna")
class Dna(Modality[str, DnaConfig]):
    """Nucleotide sequences."""

    value_type = str
    raw_unit = "base"
    layout = Open(min_cells=1)

    def __init__(self, config: DnaConfig):
        super().__init__(config)
        self.num_grams = len(BASES) ** config.n
        # At n = 1 a base and its n-gram are the same id.
        self._first_single = self.num_grams - (len(BASES) if config.n == 1 else 0)
        self.size = self._first_single + NUM_CODES
        self.spans = {"dna": self.size}
        self.dtype = np.min_scalar_type(self.size - 1)
        # At worst every letter becomes an N.
        self.round_trip_error = 1.0 if config.ambiguity == "n" else 0.0

    def encode(self, value: str) -> Tokens:
        """The ids of a sequence.

        Raises:
            MediaError: if it is empty or holds a letter that is no nucleotide, with its position.
        """
        ids = torch.from_numpy(self.encode_ids(value).astype(np.int64))
        return Tokens(grid=line_grid(len(ids)), ids=ids)

    def variants(self, value: str) -> Sequence[str]:
        """The sequence, and its reverse complement where both strands are read."""
        return (value, reverse_complement(value)) if self.config.both_strands else (value,)

    def encode_ids(self, bases: str) -> NDArray[np.unsignedinteger]:
        """The ids alone, in the smallest unsigned integer type that holds the span.

        Raises:
            MediaError: as `encode`.
        """
        codes = self._codes(bases)
        plain = int(codes.max()) < len(BASES)
        if self.config.overlapping:
            return self._overlapping(codes, plain)
        return self._blocks(codes, plain)

    def decode(self, tokens: Tokens) -> str:
        """The sequence of any ids."""
        assert tokens.ids is not None
        ids = tokens.ids.numpy()
        grams = ids < self.num_grams
        keep = np.zeros((len(ids), self.config.n), dtype=bool)
        keep[:, 0] = True
        whole = grams.copy()
        if self.config.overlapping:
            whole[:-1] &= ~grams[1:]
        keep[whole] = True
        return self._letters[ids][keep].tobytes().decode("ascii")

    def length(self, value: str) -> int:
        """Ids of a sequence: counted where all letters are A, C, G, T, else encoded."""
        n = self.config.n
        codes = self._codes(value)
        if int(codes.max()) >= len(BASES):
            return len(self.encode_ids(value))
        if self.config.overlapping:
            return len(codes) - n + 1 if len(codes) >= n else len(codes)
        return len(codes) // n + len(codes) % n

    def distance(self, a: str, b: str) -> float:
        """Share of letters that differ, upper case alike; infinity if the lengths differ."""
        first, second = (_letter_codes(bases, to_n=False) for bases in (a, b))
        if len(first) != len(second):
            return math.inf
        return float((first != second).mean())

    def example(self, rng: np.random.Generator) -> str:
        """A sequence of 1 to 60 letters, mostly bases, some in lower case."""
        length = int(rng.integers(1, 60))
        rare = rng.random(length) < (0.1 if rng.random() < 0.5 else 0.0)
        chosen = np.where(rare, rng.integers(4, NUM_CODES, length), rng.integers(0, 4, length))
        letters = "".join(LETTERS[code] for code in chosen)
        return letters.lower() if rng.random() < 0.2 else letters

    def read(self, path: Path) -> str:
        """The bases of a FASTA file with one record.

        Raises:
            MediaError: if it holds several, or is no FASTA.
        """
        records = read_fasta(path)
        record = next(records)
        if (second := next(records, None)) is not None:
            raise MediaError(
                f"A single sequence was asked for, but a second record `{second.id}` follows.",
                subject=str(path),
                remedy="Split the file, or prepare it as a data set.",
            )
        return record.bases

    def read_all(self, path: Path) -> Iterator[tuple[str, str]]:
        """Every record of a FASTA file, by its id."""
        for record in read_fasta(path):
            yield record.id, record.bases

    def write(self, value: str, path: Path) -> None:
        """A FASTA file with one record."""
        write_fasta([FastaRecord("dna", "dna", value)], path)

    def show(self, value: str) -> str:
        """The letters, coloured by base, at most 2,000 of them."""
        shown = value[:2000]
        inner = "".join(
            f'<span style="color:{_COLOURS.get(letter.upper(), "#888")}">{letter}</span>'
            for letter in shown
        )
        more = f" and {len(value) - len(shown):,} more bases" if len(value) > len(shown) else ""
        return f'<code style="word-break:break-all">{inner}</code>{more}'

    def _codes(self, bases: str) -> NDArray[np.uint8]:
        """Letter codes, checked. uint8 (bases,)."""
        return _letter_codes(bases, to_n=self.config.ambiguity == "n")

    def _blocks(self, codes: NDArray[np.uint8], plain: bool) -> NDArray[np.unsignedinteger]:
        """Not overlapping; in chunks that stay in the processor's cache."""
        n = self.config.n
        if n == 1:
            return codes.astype(self.dtype)
        whole = len(codes) // n * n
        parts = []
        for start in range(0, whole, n * CHUNK):
            chunk = codes[start : min(start + n * CHUNK, whole)].reshape(-1, n)
            grams = self._combine([chunk[:, place] for place in range(n)])
            is_plain = plain or int(chunk.max()) < len(BASES)
            parts.append(grams if is_plain else self._mixed_blocks(chunk, grams))
        return np.concatenate([*parts, self._singles(codes[whole:])])

    def _mixed_blocks(
        self, blocks: NDArray[np.uint8], grams: NDArray[np.unsignedinteger]
    ) -> NDArray[np.unsignedinteger]:
        n = self.config.n
        mixed = blocks[:, 0] >= len(BASES)
        for place in range(1, n):
            mixed |= blocks[:, place] >= len(BASES)
        sizes = np.where(mixed, n, 1)
        starts = np.cumsum(sizes) - sizes
        ids = np.empty(int(sizes.sum()), dtype=self.dtype)
        ids[starts] = grams
        ids[starts[mixed][:, None] + np.arange(n)] = self._singles(blocks[mixed])
        return ids

    def _overlapping(self, codes: NDArray[np.uint8], plain: bool) -> NDArray[np.unsignedinteger]:
        if plain:
            return self._run(codes)
        other = codes >= len(BASES)
        edges = np.flatnonzero(other[1:] != other[:-1]) + 1
        if len(edges) * CHUNK < len(codes):
            runs = np.split(codes, edges)
            return np.concatenate([self._run(r) if r[0] < 4 else self._singles(r) for r in runs])
        n, count = self.config.n, len(codes) - self.config.n + 1
        ids = self._singles(codes)
        if count < 1:
            return ids
        bad = np.concatenate([[0], np.cumsum(other)])
        starts = bad[n:] == bad[:-n]
        # Letters inside an n-gram are written by it, except where the next one begins.
        keep = np.ones(len(codes), dtype=bool)
        for place in range(1, n):
            keep[place : place + count] &= ~starts
        keep[:count] |= starts
        grams = self._combine([codes[place : place + count] for place in range(n)])
        ids[:count][starts] = grams[starts]
        return ids[keep]

    def _run(self, codes: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """Overlapping n-grams of a run of A, C, G, T; single letters if it is too short."""
        n, count = self.config.n, len(codes) - self.config.n + 1
        if count < 1:
            return self._singles(codes)
        if n == 1:
            return codes.astype(self.dtype)
        grams = np.empty(count, dtype=self.dtype)
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            grams[start:stop] = self._combine(
                [codes[start + place : stop + place] for place in range(n)]
            )
        return grams

    def _singles(self, codes: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        return codes.astype(self.dtype) + self.dtype.type(self._first_single)

    def _combine(self, columns: list[NDArray[np.uint8]]) -> NDArray[np.unsignedinteger]:
        """Codes of the letters of each n-gram to its number, first letter highest."""
        grams = columns[0].astype(self.dtype)
        for column in columns[1:]:
            grams <<= 2
            grams |= column
        return grams

    @cached_property
    def _letters(self) -> NDArray[np.uint8]:
        """The letters of each id, ASCII (size, n); single letters stand in the first column."""
        n = self.config.n
        table = np.zeros((self.size, n), dtype=np.uint8)
        table[self._first_single :, 0] = np.frombuffer(LETTERS.encode(), dtype=np.uint8)
        grams = np.arange(self.num_grams)
        alphabet = np.frombuffer(BASES.encode(), dtype=np.uint8)
        for place in range(n):
            table[: self.num_grams, place] = alphabet[grams >> (2 * (n - 1 - place)) & 3]
        return table


_COLOURS = {"A": "#2a8a2a", "C": "#2a4ac0", "G": "#b07a00", "T": "#c03030", "U": "#c03030"}


def _letter_codes(bases: str, *, to_n: bool) -> NDArray[np.uint8]:
    """Letter codes, checked; each ambiguous letter as that of N if asked. uint8 (bases,)."""
    if not bases:
        raise MediaError("A sequence must have at least one base, but is empty.")
    codes = np.frombuffer(_ascii(bases).translate(_CODES[to_n]), dtype=np.uint8)
    if int(codes.max()) == NO_LETTER:
        raise _no_nucleotide(bases, int((codes == NO_LETTER).argmax()))
    return codes


def _ascii(bases: str) -> bytes:
    try:
        return bases.encode("ascii")
    except UnicodeEncodeError as error:
        raise _no_nucleotide(bases, error.start) from None


def _no_nucleotide(bases: str, place: int) -> MediaError:
    return MediaError(
        f"DNA is written with {NUCLEOTIDES} in either case, but letter {place + 1:,} is "
        f"{bases[place]!r}.",
        remedy="Give nucleotides; a protein is another modality.",
    )
