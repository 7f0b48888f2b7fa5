"""Text as ids: SentencePiece trained by `fit`, or a Hugging Face `tokenizer.json`.

Any string that UTF-8 can hold comes back exactly: no normalisation, no dummy prefix, white space
kept, bytes as the fall-back, and U+2581 (SentencePiece's own sign for a space) escaped. A text that
looks like a control id, a special token or a byte piece stays text. What a file brings along (a
normaliser that changes letters, an unknown token) is found by a probe at load time, and such a
tokenizer counts as lossy.

Not here: reading files (`unimodal.media.text`) and the control ids of the vocabulary.

References: Kudo and Richardson 2018 (SentencePiece), Kudo 2018 (unigram),
Sennrich et al. 2016 (BPE).
Differs: the unknown piece has no id, since bytes cover everything.
"""

import html
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from unimodal.errors import ConfigError, MediaError, VocabularyError
from unimodal.grammar import Layout, Open
from unimodal.media.text import check_text, read_text, write_text
from unimodal.modality import Modality, register_modality
from unimodal.types import Tokens, line_grid

log = logging.getLogger(__name__)

Ids = NDArray[np.int64]

SENTENCEPIECE_FILE = "sentencepiece.model"
TOKENIZER_FILE = "tokenizer.json"
SPACE_SIGN = "\u2581"
ESCAPE = "\U0010fffd"
"""A private-use character; with a digit after it, it stands for itself (0) or U+2581 (1)."""

ALGORITHMS = ("unigram", "bpe")
NUM_BYTES = 256
MIN_VOCAB_SIZE = NUM_BYTES + 4
MAX_LINE_CHARACTERS = 4096
CHUNK = 65_536
"""Longer texts are encoded in pieces of so many characters, and decoded so many ids at a time: the
library needs over 100 bytes a character."""
_TOO_LARGE = re.compile(r"value <= (\d+)")
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
_PROBES = (
    "Hello,  world!\n\tx = 1\r\n",
    " leading and trailing ",
    "\u00e9 e\u0301 \ufb01 \u00bd \u212b",
    "\u65e5\u672c\u8a9e \u0939\u093f \U0001f600 \x00 \u2581 <s> </s> <unk> <0x41> <|endoftext|>",
)


@dataclass(kw_only=True)
class TextConfig:
    """How text becomes ids."""

    vocab_size: int = 4096
    """Ids of the span, at least 260; fewer if the texts to fit hold no more distinct pieces."""

    algorithm: str = "unigram"
    """How `fit` learns pieces: `unigram` or `bpe`."""

    max_characters: int = 20_000_000
    """Characters that `fit` reads at most, from the beginning."""

    model_file: str = ""
    """A SentencePiece `.model` or a `tokenizer.json` to use instead of fitting. Its content is
    taken over once; the path is not kept."""

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(
                f"`text.algorithm` must be one of {ALGORITHMS}, but is {self.algorithm!r}."
            )
        if self.vocab_size < MIN_VOCAB_SIZE and not self.model_file:
            raise ConfigError(
                f"`text.vocab_size` must be at least {MIN_VOCAB_SIZE} (256 bytes and some pieces), "
                f"but is {self.vocab_size}."
            )
        if self.max_characters < 1:
            raise ConfigError(
                f"`text.max_characters` must be at least 1, but is {self.max_characters}."
            )


class _Engine(Protocol):
    """What both kinds of tokenizer can do."""

    size: int

    def encode(self, texts: Sequence[str]) -> list[Ids]: ...

    def decode(self, ids: Ids) -> str: ...


@register_modality("text")
class Text(Modality[str, TextConfig]):
    """Text of any language; `fit` it, or give it a file, before it encodes."""

    value_type = str
    raw_unit = "byte"
    layout: Layout | None = Open()

    def __init__(self, config: TextConfig):
        super().__init__(config)
        self._file: tuple[str, bytes] | None = None
        self._engine: _Engine | None = None
        if config.model_file:
            path = Path(config.model_file)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"`text.model_file` cannot be read ({type(error).__name__}).", subject=str(path)
                ) from None
            name = TOKENIZER_FILE if data.lstrip()[:1] == b"{" else SENTENCEPIECE_FILE
            self._load(name, data, str(path))
            self.config = replace(config, model_file="", vocab_size=self._ready().size)

    @property
    def spans(self) -> Mapping[str, int]:  # type: ignore[override]
        """One span; before `fit`, as large as it may become."""
        return {"text": self._engine.size if self._engine else self.config.vocab_size}

    @property
    def needs_fit(self) -> bool:
        """Whether there are no pieces yet."""
        return self._file is None

    def encode(self, value: str) -> Tokens:
        """The ids of a text, from its first character to its last.

        Raises:
            MediaError: if it holds a lone surrogate, or is longer than the limits allow.
        """
        return self.encode_batch([value])[0]

    def encode_batch(self, values: Sequence[str]) -> list[Tokens]:
        """`encode` of each text, in one call of the library."""
        engine = self._ready()
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise MediaError(
                    f"A text must be a str, but is a {type(value).__name__}.",
                    subject=f"text {number}",
                    remedy="Give text as a string; for bytes, decode them first.",
                )
            check_text(value, f"text {number}")
        return [_tokens(ids) for ids in engine.encode(list(values))]

    def decode(self, tokens: Tokens) -> str:
        """The text of any ids; bytes that are no UTF-8 become U+FFFD."""
        assert tokens.ids is not None
        return self._ready().decode(tokens.ids.numpy())

    def length(self, value: str) -> int:
        """Ids of a text."""
        return len(self._ready().encode([check_text(value, "text")])[0])

    def example(self, rng: np.random.Generator) -> str:
        """A few words, blanks, breaks and characters of all planes, or nothing."""
        words = ["a", "red", "apple", "\n", "  ", "<s>", SPACE_SIGN, "\u65e5\u672c", ESCAPE, "\x00"]
        chosen = [words[i] for i in rng.integers(0, len(words), rng.integers(0, 9))]
        others = [chr(c) for c in rng.integers(0x20, 0xD800, rng.integers(0, 4))]
        return " ".join(chosen) + "".join(others)

    def fit(self, values: Iterable[str]) -> None:
        """Learn pieces from texts: deterministic for the same texts in the same order.

        A text too poor for `vocab_size` pieces makes a smaller vocabulary, and says so.

        Raises:
            MediaError: if the texts hold no character, or a lone surrogate.
        """
        lines = list(_lines(values, self.config.max_characters))
        if not lines:
            raise MediaError(
                "`text` has nothing to fit: the texts hold no characters.",
                remedy="Give texts that are not empty.",
            )
        data = _train(lines, self.config)
        self._load(SENTENCEPIECE_FILE, data, "the fitted model")

    def read(self, path: Path) -> str:
        """A UTF-8 file."""
        return read_text(path)

    def write(self, value: str, path: Path) -> None:
        """A UTF-8 file, byte for byte."""
        write_text(value, path)

    def show(self, value: str) -> str:
        """The text with its breaks and blanks."""
        return f'<span style="white-space:pre-wrap">{html.escape(value)}</span>'

    def state(self) -> dict[str, bytes]:
        """The tokenizer's file."""
        return dict([self._file]) if self._file else {}

    def load_state(self, files: Mapping[str, bytes]) -> None:
        """Take over a tokenizer's file.

        Raises:
            VocabularyError: if there is none among the files, or it does not load.
        """
        for name in (SENTENCEPIECE_FILE, TOKENIZER_FILE):
            if name in files:
                return self._load(name, files[name], name)
        raise VocabularyError(
            f"`text` needs {SENTENCEPIECE_FILE} or {TOKENIZER_FILE}, but found {sorted(files)}."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file:
            self._engine = _open(*self._file)

    def _load(self, name: str, data: bytes, subject: str) -> None:
        try:
            engine = _open(name, data)
        except VocabularyError:
            raise
        except Exception as error:
            raise VocabularyError(
                f"The tokenizer does not load ({type(error).__name__}).",
                subject=subject,
                remedy="Give a SentencePiece model with byte fall-back, or a tokenizer.json.",
            ) from None
        self._engine, self._file = engine, (name, data)
        exact = all(engine.decode(ids) == text for text, ids in _probed(engine))
        self.round_trip_error = 0.0 if exact else float("inf")
        if not exact:
            log.warning("%s changes some texts: `text` counts as lossy.", subject)

    def _ready(self) -> _Engine:
        if self._engine is None:
            raise VocabularyError(
                "`text` has no pieces yet.", remedy="Call `fit`, or set `model_file`."
            )
        return self._engine


class _SentencePiece:
    """A SentencePiece model; ids count without the unknown piece, which is last if not first."""

    def __init__(self, data: bytes):
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        processor = self._processor
        total = processor.vocab_size()
        if not any(processor.is_byte(i) for i in range(total)):
            raise VocabularyError(
                "The SentencePiece model has no byte fall-back.",
                remedy="Train it with `byte_fallback=true`, or let `text` fit one of its own.",
            )
        # A fitted model has its unknown piece first, and the span begins after it.
        self._first = 1 if processor.unk_id() == 0 else 0
        self.size = total - self._first
        self._bytes = [self._piece(i) for i in range(self._first, total)]

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        escaped = [_escape(text) for text in texts]
        short = [text for text in escaped if len(text) <= CHUNK]
        found = iter(self._encode(short))
        return [
            next(found)
            if len(text) <= CHUNK
            else np.concatenate(
                [self._encode([text[at : at + CHUNK]])[0] for at in range(0, len(text), CHUNK)]
            )
            for text in escaped
        ]

    def _encode(self, texts: list[str]) -> list[Ids]:
        # A pool of threads is made for each call: one text is many times faster without.
        threads = min(len(texts), torch.get_num_threads())
        found: list[list[int]] = (
            self._processor.encode(texts, out_type=int, num_threads=threads)
            if threads > 1
            else [self._processor.encode(text, out_type=int) for text in texts]
        )
        return [np.array(ids, dtype=np.int64) - self._first for ids in found]

    def decode(self, ids: Ids) -> str:
        table = self._bytes
        parts = [
            b"".join([table[i] for i in ids[at : at + CHUNK].tolist()])
            for at in range(0, len(ids), CHUNK)
        ]
        text = b"".join(parts).decode("utf-8", errors="replace")
        # The sign is a space, whether it came as a piece or as bytes: a real one is escaped.
        return _unescape(text.replace(SPACE_SIGN, " "))

    def _piece(self, number: int) -> bytes:
        piece: str = self._processor.id_to_piece(number)
        if self._processor.is_byte(number):
            return bytes([int(piece[3:5], 16)])
        if self._processor.is_control(number) or self._processor.is_unknown(number):
            return b""
        return piece.encode()


class _HuggingFace:
    """A `tokenizer.json`. Special tokens in a text are read as text."""

    def __init__(self, data: bytes):
        self._tokenizer = Tokenizer.from_buffer(data)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(known.values()) + 1

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in found]

    def decode(self, ids: Ids) -> str:
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text


def _open(name: str, data: bytes) -> _Engine:
    return _HuggingFace(data) if name == TOKENIZER_FILE else _SentencePiece(data)


def _probed(engine: _Engine) -> Iterator[tuple[str, Ids]]:
    return zip(_PROBES, engine.encode(_PROBES), strict=True)


def _tokens(ids: Ids) -> Tokens:
    return Tokens(grid=line_grid(len(ids)), ids=torch.from_numpy(ids))


def _escape(text: str) -> str:
    if ESCAPE in text:
        text = text.replace(ESCAPE, ESCAPE + "0")
    return text.replace(SPACE_SIGN, ESCAPE + "1") if SPACE_SIGN in text else text


def _unescape(text: str) -> str:
    if ESCAPE not in text:
        return text
    return text.replace(ESCAPE + "1", SPACE_SIGN).replace(ESCAPE + "0", ESCAPE)


def _lines(values: Iterable[str], max_characters: int) -> Iterator[str]:
    """Lines to learn from: escaped, cut to a bounded length; breaks have pieces of their own."""
    left = max_characters
    for number, value in enumerate(values):
        text = check_text(value, f"text {number}")[:left]
        left -= len(text)
        # SentencePiece drops whole lines that hold one of its own signs.
        for line in re.split("[\n\r\t\x00\u2585]", _escape(text)):
            for start in range(0, len(line), MAX_LINE_CHARACTERS):
                yield line[start : start + MAX_LINE_CHARACTERS]
        if left <= 0:
            return


def _train(lines: list[str], config: TextConfig) -> bytes:
    """Train, with the vocabulary and the characters shrunk to what the texts and it can hold."""
    size = config.vocab_size + 1
    for _ in range(4):
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=size,
                character_coverage=1.0,
                model_type=config.algorithm,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                user_defined_symbols=["\n"],
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,
                max_sentence_length=8 * MAX_LINE_CHARACTERS,
                minloglevel=2,
            )
            return model.getvalue()
        except RuntimeError as error:
            if found := _TOO_LARGE.search(str(error)):
                size = int(found[1])
                log.warning(
                    "`text.vocab_size` is %d, but the texts hold only %d pieces: using %d.",
                    config.vocab_size,
                    size - 1,
                    size - 1,
                )
            elif _TOO_SMALL.search(str(error)):
                lines, share = _frequent(lines, (size - NUM_BYTES - 2) // 2)
                log.warning(
                    "`text.vocab_size` %d is too small for every character of the texts: the "
                    "rarest are written as bytes (%.2f %% of the text).",
                    config.vocab_size,
                    100 * (1 - share),
                )
            else:
                raise MediaError(
                    f"SentencePiece cannot be trained on these texts: {error}",
                    remedy="Give more text, or a smaller `text.vocab_size`.",
                ) from None
    raise MediaError(
        "SentencePiece found no vocabulary that these texts fill.",
        remedy="Give more text, or a smaller `text.vocab_size`.",
    )


def _frequent(lines: Sequence[str], num_characters: int) -> tuple[list[str], float]:
    """Lines cut at all but the most frequent characters, and the share of text that is left."""
    counts = Counter[str]()
    for line in lines:
        counts.update(line)
    kept = dict(counts.most_common(max(1, num_characters)))
    others = re.compile(f"[^{re.escape(''.join(kept))}]+")
    parts = [part for line in lines for part in others.split(line)]
    return parts, sum(kept.values()) / counts.total()
