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

Not here: building the n-grams (`unimodal.kernels.dna_ngrams`), FASTA files
(`unimodal.media.fasta`).
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
from unimodal.kernels.dna_ngrams import dna_ngrams, first_single
from unimodal.media.fasta import NUCLEOTIDES, FastaRecord, read_fasta, write_fasta
from unimodal.modality import Modality, register_modality, training_only
from unimodal.types import Tokens, line_grid

BASES = "ACGT"
OTHERS = "".join(letter for letter in NUCLEOTIDES if letter not in BASES)
LETTERS = BASES + OTHERS
NO_LETTER = 255
NUM_CODES = len(LETTERS)


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
        self._first_single = first_single(config.n)
        self.size = self._first_single + NUM_CODES
        self.spans = {"dna": self.size}
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
        config = self.config
        ids: NDArray[np.unsignedinteger] = dna_ngrams(
            torch.from_numpy(self._codes(bases)),
            config.n,
            overlapping=config.overlapping,
            num_letters=NUM_CODES,
        ).numpy()
        return ids

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
        raise MediaError(
            "A sequence must have at least one base, but is empty.",
            remedy="Leave it out.",
        )
    # Bytes that may be written to, since torch takes no others.
    codes = bytearray(_ascii(bases)).translate(_CODES[to_n])
    if (place := codes.find(NO_LETTER)) >= 0:
        raise _no_nucleotide(bases, place)
    return np.frombuffer(codes, dtype=np.uint8)


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
