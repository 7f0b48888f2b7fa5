"""Speed of the text and DNA tokenizers against Hugging Face's, on one thread.

    python -m unimodal.benchmarks.tokenize [--file TEXT] [--megabytes 8] [--repeats 5] [--json]

Text: the help texts of Python's own `pydoc_data` (or a file), the first four fifths to train on and
all of them to time. Ours is timed to finished `Tokens`, theirs (byte-level BPE of the same size,
trained on the same text) to their encodings. DNA: uniform random bases, once plain and once with
runs of N; theirs is a regular expression that cuts n-grams before a table of words. `ids` rows stop
at the array in the smallest integer type. Times are minima over the repeats.

A tokenizer whose round trip is not exact gets no number: the command fails.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from unimodal.errors import CertificateError, run_module
from unimodal.media.text import read_text
from unimodal.tokenizers.dna import Dna, DnaConfig
from unimodal.tokenizers.text import Text, TextConfig

DNA_DOCUMENT = 100_000
"""Bases of one document."""


@dataclass(frozen=True)
class Row:
    """One timing.

    Attributes:
        data: What was encoded.
        tokenizer: What was timed.
        megabytes_per_second: Input bytes over the shortest time, in 10^6.
        bytes_per_token: Input bytes over ids.
        exact: Whether all of the input came back.
    """

    data: str
    tokenizer: str
    megabytes_per_second: float
    bytes_per_token: float
    exact: bool


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and print its rows."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.benchmarks.tokenize")
    parser.add_argument("--file", type=Path, help="a UTF-8 text to use instead of Python's help")
    parser.add_argument("--megabytes", type=float, default=8.0, help="DNA to encode")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        documents = _documents(options.file)
        rows = text_rows(documents, options.vocab_size, options.repeats)
        rows += dna_rows(int(options.megabytes * 1e6), options.repeats)
    finally:
        torch.set_num_threads(threads)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print(rows)
    return rows


def text_rows(documents: list[str], vocab_size: int, repeats: int) -> list[Row]:
    """Time text tokenizers of `vocab_size` ids, trained on the first four fifths."""
    training = documents[: max(1, len(documents) * 4 // 5)]
    rows = []
    for algorithm in ("unigram", "bpe"):
        text = Text(TextConfig(vocab_size=vocab_size, algorithm=algorithm))
        text.fit(training)
        encoded = text.encode_batch(documents)
        _require([text.decode(t) for t in encoded] == documents, f"text ({algorithm})")
        seconds = shortest(partial(text.encode_batch, documents), repeats)
        count = sum(map(len, encoded))
        rows.append(_row("text", f"unimodal {algorithm}", documents, seconds, count))
    theirs = byte_level_bpe(training, vocab_size)
    found = theirs.encode_batch_fast(documents)
    decoded = [theirs.decode(e.ids, skip_special_tokens=False) for e in found]
    _require(decoded == documents, "tokenizers BPE")
    seconds = shortest(
        lambda: [torch.tensor(e.ids) for e in theirs.encode_batch_fast(documents)], repeats
    )
    count = sum(len(e.ids) for e in found)
    return [*rows, _row("text", "tokenizers byte-level BPE", documents, seconds, count)]


def dna_rows(num_bases: int, repeats: int) -> list[Row]:
    """Time n-gram encodings of random bases, with and without N."""
    rows = []
    for data, documents in (("bases", bases(num_bases, 0)), ("bases with N", bases(num_bases, 50))):
        for config in (DnaConfig(n=1), DnaConfig(n=3), DnaConfig(n=6), _overlapping(3)):
            dna = Dna(config)
            encoded = dna.encode_batch(documents)
            name = f"unimodal {config.n}-grams" + (", overlapping" * config.overlapping)
            _require([dna.decode(t) for t in encoded] == documents, name)
            count = sum(map(len, encoded))
            for label, encode in (("ids", dna.encode_ids), ("Tokens", dna.encode)):
                seconds = shortest(partial(_each, encode, documents), repeats)
                rows.append(_row(data, f"{name} ({label})", documents, seconds, count))
    some = bases(min(num_bases, 1_000_000), 0)
    theirs = gram_tokenizer(3)
    found = theirs.encode_batch_fast(some)
    written = ["".join(str(theirs.id_to_token(i)) for i in encoding.ids) for encoding in found]
    _require(written == some, "tokenizers 3-grams")
    seconds = shortest(lambda: [torch.tensor(e.ids) for e in theirs.encode_batch_fast(some)], 2)
    count = sum(len(e.ids) for e in found)
    return [*rows, _row("bases", "tokenizers 3-grams by regex", some, seconds, count)]


def byte_level_bpe(training: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE as GPT-2 has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training, trainer)
    return tokenizer


def gram_tokenizer(n: int) -> Tokenizer:
    """Blocks of n letters cut by a regular expression, and the letters of the remainder."""
    grams = ["".join(g) for size in range(1, n + 1) for g in product("ACGTN", repeat=size)]
    tokenizer = Tokenizer(models.WordLevel({g: i for i, g in enumerate(grams)}, unk_token="N"))
    pattern = Regex(f"[ACGTN]{{1,{n}}}")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    return tokenizer


def bases(count: int, num_gaps: int) -> list[str]:
    """Uniform random bases in documents of 100,000, with runs of 100 N."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(0, 4, count)]
    for start in rng.integers(0, count, num_gaps):
        letters[start : start + 100] = ord("N")
    joined = letters.tobytes().decode("ascii")
    return [joined[at : at + DNA_DOCUMENT] for at in range(0, count, DNA_DOCUMENT)]


def shortest(work: Callable[[], object], repeats: int) -> float:
    """The shortest of several times, in seconds."""
    times = []
    for _ in range(max(1, repeats)):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _each(work: Callable[[str], object], documents: list[str]) -> None:
    for document in documents:
        work(document)


def _documents(path: Path | None) -> list[str]:
    text = read_text(path) if path else "\n\n".join(topics[name] for name in sorted(topics))
    return [part for part in text.split("\n\n") if part]


def _overlapping(n: int) -> DnaConfig:
    return DnaConfig(n=n, overlapping=True)


def _row(data: str, name: str, documents: list[str], seconds: float, count: int) -> Row:
    size = sum(len(document.encode()) for document in documents)
    return Row(data, name, round(size / seconds / 1e6, 2), round(size / count, 3), True)


def _require(exact: bool, name: str) -> None:
    if not exact:
        raise CertificateError(
            f"`{name}` does not give back what it encoded: its speed means nothing."
        )


def _print(rows: list[Row]) -> None:
    table = Table("data", "tokenizer", "MB/s", "bytes a token", "round trip")
    for row in rows:
        speed = f"{row.megabytes_per_second:,.1f}"
        exact = "exact" if row.exact else "not exact"
        table.add_row(row.data, row.tokenizer, speed, f"{row.bytes_per_token:.2f}", exact)
    Console().print(table)


if __name__ == "__main__":
    run_module(main)
