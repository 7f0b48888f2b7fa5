"""Small fake modalities, one for each mechanism that real ones need.

They hold the contract and nothing else: tests of packing, labelling, losses, generation and ledgers
use them instead of real tokenizers. They register (names prefixed `fake_`) when this module is
imported, and only then.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unimodal.errors import ConfigError, MediaError, VocabularyError
from unimodal.grammar import Fixed, Grid, Layout, Open
from unimodal.modality import Modality, NoConfig, register_modality
from unimodal.types import Tokens, line_grid, raster_grid

FRAME_SECONDS = 0.08
TICK_SECONDS = 0.02


@dataclass(frozen=True)
class Events:
    """Letters, each at a time.

    Attributes:
        letters: 0 to 25.
        ticks: Start of each in steps of 20 ms, never falling.
    """

    letters: tuple[int, ...]
    ticks: tuple[int, ...]


@register_modality("fake_line")
class FakeLine(Modality[str, NoConfig]):
    """Lower-case letters one by one until an end: the smallest discrete modality."""

    value_type = str
    raw_unit = "byte"
    spans = {"letter": 26}
    layout = Open(max_cells=64)

    def encode(self, value: str) -> Tokens:
        """One id a letter."""
        if not all("a" <= letter <= "z" for letter in value):
            raise MediaError(f"A value must be of letters a to z, but is {value!r}.")
        ids = torch.tensor([ord(letter) - ord("a") for letter in value], dtype=torch.int64)
        return Tokens(grid=line_grid(len(ids)), ids=ids)

    def decode(self, tokens: Tokens) -> str:
        """One letter an id."""
        assert tokens.ids is not None
        return "".join(chr(ord("a") + number) for number in tokens.ids.tolist())

    def example(self, rng: np.random.Generator) -> str:
        """Up to 20 letters."""
        return "".join(chr(ord("a") + n) for n in rng.integers(0, 26, rng.integers(0, 21)))


@dataclass(kw_only=True)
class FakeResidualConfig:
    """Levels of the residual code."""

    levels: int = 3
    """Codes a frame, each in a span of its own with 8 ids."""

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ConfigError(f"`levels` must be at least 1, but is {self.levels}.")


@register_modality("fake_residual")
class FakeResidual(Modality[np.ndarray, FakeResidualConfig]):
    """A signal in [0, 1) as residual codes: several spans a frame, frame-major, with time."""

    value_type = np.ndarray
    raw_unit = "second"
    layout = Open(min_cells=1, max_cells=40)
    seconds_per_cell = FRAME_SECONDS

    def __init__(self, config: FakeResidualConfig):
        super().__init__(config)
        self.spans = {f"level_{number}": 8 for number in range(config.levels)}
        self.round_trip_error = 8.0**-config.levels

    def encode(self, value: np.ndarray) -> Tokens:
        """The digits of each sample to base 8, the highest first."""
        levels = self.config.levels
        number = (np.asarray(value, dtype=np.float64) * 8**levels).astype(np.int64)
        digits = [number // 8 ** (levels - 1 - level) % 8 for level in range(levels)]
        grid = raster_grid(len(number), 1, 1, levels)
        return Tokens(
            grid=grid,
            ids=torch.from_numpy(np.stack(digits, axis=1).reshape(-1)),
            span=torch.arange(levels).repeat(len(number)),
            seconds=grid[:, 0].float() * FRAME_SECONDS,
        )

    def decode(self, tokens: Tokens) -> np.ndarray:
        """The middle of the interval that the digits name."""
        assert tokens.ids is not None
        levels = self.config.levels
        digits = tokens.ids.numpy().reshape(-1, levels)
        weights = 8 ** np.arange(levels - 1, -1, -1)
        return ((digits * weights).sum(axis=1) + 0.5) / 8**levels

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Largest difference."""
        return float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")

    def raw_units(self, value: np.ndarray) -> float:
        """Seconds."""
        return len(value) * FRAME_SECONDS

    def example(self, rng: np.random.Generator) -> np.ndarray:
        """1 to 10 samples."""
        return rng.random(int(rng.integers(1, 11)))


@register_modality("fake_grid")
class FakeGrid(Modality[Tensor, NoConfig]):
    """Pictures of four colours whose height and width stand in a header."""

    value_type = Tensor
    raw_unit = "pixel"
    spans = {"colour": 4}
    layout = Grid(max_size=(1, 6, 5))

    def encode(self, value: Tensor) -> Tokens:
        """One id a pixel, in raster order."""
        h, w = value.shape
        return Tokens(grid=raster_grid(1, h, w), ids=value.reshape(-1).long())

    def decode(self, tokens: Tokens) -> Tensor:
        """The picture; its size is that of the grid."""
        assert tokens.ids is not None
        _, h, w = (tokens.grid.max(dim=0).values + 1).tolist()
        return tokens.ids.reshape(h, w)

    def raw_units(self, value: Tensor) -> float:
        """Pixels."""
        return float(value.numel())

    def example(self, rng: np.random.Generator) -> Tensor:
        """1 to 6 rows and 1 to 5 columns."""
        return torch.from_numpy(rng.integers(0, 4, (rng.integers(1, 7), rng.integers(1, 6))))


@register_modality("fake_marked")
class FakeMarked(Modality[str, NoConfig]):
    """Letters a to d, each with a mark of one id: a code that leaves nothing to choose."""

    value_type = str
    raw_unit = "byte"
    spans = {"letter": 4, "mark": 1}
    layout = Open(max_cells=16)

    def encode(self, value: str) -> Tokens:
        """Two ids a letter."""
        ids = [number for letter in value for number in (ord(letter) - ord("a"), 0)]
        return Tokens(
            grid=raster_grid(len(value), 1, 1, 2),
            ids=torch.tensor(ids, dtype=torch.int64),
            span=torch.arange(2).repeat(len(value)),
        )

    def decode(self, tokens: Tokens) -> str:
        """The letters."""
        assert tokens.ids is not None
        return "".join(chr(ord("a") + number) for number in tokens.ids[::2].tolist())

    def example(self, rng: np.random.Generator) -> str:
        """Up to 8 letters."""
        return "".join("abcd"[n] for n in rng.integers(0, 4, rng.integers(0, 9)))


@register_modality("fake_events")
class FakeEvents(Modality[Events, NoConfig]):
    """Letters with timestamps: two spans that share one slot, an event is a time, then a letter.

    Any order of times and letters decodes: a letter takes the last time before it, and a time
    before the last one counts as the last. `NonDecreasing` is the rule for generation.
    """

    value_type = Events
    raw_unit = "step"
    spans = {"letter": 26, "tick": 50}
    layout: Layout | None = Open(max_cells=64, cycle=(("letter", "tick"),))

    def encode(self, value: Events) -> Tokens:
        """Time and letter in turn."""
        pairs = [x for t, n in zip(value.ticks, value.letters, strict=True) for x in (t, n)]
        spans = [1, 0] * len(value.letters)
        seconds = np.repeat(np.array(value.ticks, dtype=np.float32) * TICK_SECONDS, 2)
        return Tokens(
            grid=line_grid(len(pairs)),
            ids=torch.tensor(pairs, dtype=torch.int64),
            span=torch.tensor(spans, dtype=torch.int64),
            seconds=torch.from_numpy(seconds.astype(np.float32)),
        )

    def decode(self, tokens: Tokens) -> Events:
        """Every letter with the highest time before it."""
        assert tokens.ids is not None
        now, letters, ticks = 0, [], []
        for number, span in zip(tokens.ids.tolist(), tokens.spans().tolist(), strict=True):
            if span == 1:
                now = max(now, number)
            else:
                letters.append(number)
                ticks.append(now)
        return Events(tuple(letters), tuple(ticks))

    def raw_units(self, value: Events) -> float:
        """Ticks up to the last letter."""
        return float(max(value.ticks) + 1)

    def example(self, rng: np.random.Generator) -> Events:
        """1 to 5 events."""
        count = int(rng.integers(1, 6))
        ticks = np.sort(rng.integers(0, 50, count)).tolist()
        return Events(tuple(rng.integers(0, 26, count).tolist()), tuple(ticks))

    def show(self, value: Events) -> str:
        """Each letter with its second."""
        pairs = zip(value.letters, value.ticks, strict=True)
        return " ".join(f"{chr(ord('a') + n)}<sub>{t * TICK_SECONDS:.2f}</sub>" for n, t in pairs)


@dataclass(frozen=True)
class NonDecreasing:
    """Decode constraint for `fake_events`: time, letter, time, letter; times never fall.

    It never removes every id: while a time is due, the last time itself may be repeated.

    Attributes:
        first_letter: Global id of letter 0.
        first_tick: Global id of time 0.
    """

    first_letter: int
    first_tick: int

    def keep(self, written: Sequence[int], ids: Int[Tensor, " C"]) -> Tensor | None:
        """Times from the last one on (or the end) after a letter, letters after a time."""
        is_tick = (ids >= self.first_tick) & (ids < self.first_tick + 50)
        is_letter = (ids >= self.first_letter) & (ids < self.first_letter + 26)
        ticks = [i for i in written if self.first_tick <= i < self.first_tick + 50]
        if written and written[-1] in ticks:
            return is_letter
        return ~is_letter & ~(is_tick & (ids < max(ticks, default=self.first_tick)))


@register_modality("fake_masked")
class FakeMasked(Modality[Tensor, NoConfig]):
    """A continuous input beside discrete ids of the same positions: what is masked is predicted.

    The value is a (T, 4) float32 signal; its id is the place of the largest channel. Decoding gives
    the one-hot signal, so the round trip compares those places only.
    """

    value_type = Tensor
    raw_unit = "step"
    spans = {"unit": 4}
    feature_shape = (4,)
    layout = Fixed(6)
    attend = "full"

    def encode(self, value: Tensor) -> Tokens:
        """Both the ids and the features."""
        if value.shape != (6, 4):
            raise MediaError(f"A value must have shape (6, 4), but has {tuple(value.shape)}.")
        return Tokens(grid=line_grid(6), ids=value.argmax(dim=1), features=value.float())

    def decode(self, tokens: Tokens) -> Tensor:
        """One-hot rows."""
        assert tokens.ids is not None
        return nn.functional.one_hot(tokens.ids, 4).float()

    def distance(self, a: Tensor, b: Tensor) -> float:
        """Share of rows whose largest channel differs."""
        return float((a.argmax(dim=1) != b.argmax(dim=1)).float().mean())

    def raw_units(self, value: Tensor) -> float:
        """Steps."""
        return float(len(value))

    def example(self, rng: np.random.Generator) -> Tensor:
        """Normal noise."""
        return torch.from_numpy(rng.normal(size=(6, 4)).astype(np.float32))


@register_modality("fake_continuous")
class FakeContinuous(Modality[Tensor, NoConfig]):
    """A (T, 3) float32 signal of any length: input only."""

    value_type = Tensor
    raw_unit = "step"
    feature_shape = (3,)
    attend = "full"
    decoded_by = "fake_residual"

    def encode(self, value: Tensor) -> Tokens:
        """The rows as they are."""
        return Tokens(grid=line_grid(len(value)), features=value.float())

    def raw_units(self, value: Tensor) -> float:
        """Steps."""
        return float(len(value))

    def example(self, rng: np.random.Generator) -> Tensor:
        """1 to 12 steps of normal noise."""
        return torch.from_numpy(rng.normal(size=(int(rng.integers(1, 13)), 3)).astype(np.float32))


class _Codes(nn.Module):
    """Centres of a scalar quantizer, and the values that decoding puts for them."""

    def __init__(self, size: int):
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(0, 1, size))
        self.decoder = nn.ParameterDict({"levels": nn.Parameter(torch.linspace(0, 1, size))})


@dataclass(kw_only=True)
class FakeCodecConfig:
    """Size of the code."""

    size: int = 8
    """Number of centres."""


@register_modality("fake_codec")
class FakeCodec(Modality[Tensor, FakeCodecConfig]):
    """A trained tokenizer: samples in [0, 1] to the nearest of learned centres.

    `fit` moves the centres to quantiles, `loss` trains them by gradient. A retrained one enters a
    ledger as `fake_codec@2`.
    """

    value_type = Tensor
    raw_unit = "step"
    layout = Open(min_cells=1, max_cells=32)
    round_trip_error = 1.0

    def __init__(self, config: FakeCodecConfig):
        super().__init__(config)
        self.spans = {"code": config.size}
        self.codes = _Codes(config.size)
        self.network = self.codes

    def encode(self, value: Tensor) -> Tokens:
        """The nearest centre of each sample; the lower of two equally near."""
        with torch.no_grad():
            nearest = (value.float()[:, None] - self.codes.centres[None]).abs().argmin(dim=1)
        return Tokens(grid=line_grid(len(value)), ids=nearest)

    def decode(self, tokens: Tokens) -> Tensor:
        """The decoder's value of each code."""
        assert tokens.ids is not None
        return self.codes.decoder["levels"].detach()[tokens.ids]

    def distance(self, a: Tensor, b: Tensor) -> float:
        """Largest difference."""
        return float((a - b).abs().max()) if a.shape == b.shape else float("inf")

    def loss(self, values: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Squared distance of samples to their centres and to what they decode to."""
        samples = torch.cat(list(values)).float()
        nearest = (samples[:, None] - self.codes.centres[None]).abs().argmin(dim=1)
        error = self.codes.centres[nearest] - samples
        decoded = self.codes.decoder["levels"][nearest] - samples
        return error.square().mean() + decoded.square().mean()

    def fit(self, values: Iterable[Tensor]) -> None:
        """Centres at the quantiles of the samples."""
        samples = torch.cat(list(values)).float()
        places = (torch.arange(self.config.size) + 0.5) / self.config.size
        with torch.no_grad():
            centres = torch.quantile(samples, places)
            self.codes.centres.copy_(centres)
            self.codes.decoder["levels"].copy_(centres)

    def raw_units(self, value: Tensor) -> float:
        """Samples."""
        return float(len(value))

    def example(self, rng: np.random.Generator) -> Tensor:
        """1 to 20 samples in [0, 1]."""
        return torch.from_numpy(rng.random(int(rng.integers(1, 21))).astype(np.float32))


@register_modality("fake_words")
class FakeWords(Modality[str, NoConfig]):
    """A tokenizer that must be fitted and keeps a file: words by number, others spelt as bytes."""

    value_type = str
    raw_unit = "byte"
    layout = Open()
    MAX_WORDS = 16

    def __init__(self, config: NoConfig):
        super().__init__(config)
        self.spans = {"byte": 256, "word": self.MAX_WORDS}
        self.layout = Open(cycle=(("byte", "word"),))
        self.words: list[str] | None = None

    @property
    def needs_fit(self) -> bool:
        """Whether no words are known yet."""
        return self.words is None

    def encode(self, value: str) -> Tokens:
        """Words that are known by number; blanks and all else by bytes."""
        if self.words is None:
            raise VocabularyError("`fake_words` has no words yet.", remedy="Call `fit`.")
        ids: list[int] = []
        spans: list[int] = []
        for number, word in enumerate(value.split(" ")):
            if number:
                ids.append(32)
                spans.append(0)
            if word in self.words:
                ids.append(self.words.index(word))
                spans.append(1)
            else:
                ids.extend(word.encode())
                spans.extend([0] * len(word.encode()))
        span = torch.tensor(spans, dtype=torch.int64)
        return Tokens(grid=line_grid(len(ids)), ids=torch.tensor(ids, dtype=torch.int64), span=span)

    def decode(self, tokens: Tokens) -> str:
        """Bytes and words joined; numbers beyond the known words are nothing."""
        assert tokens.ids is not None
        known = [word.encode() for word in self.words or []]
        known += [b""] * (self.MAX_WORDS - len(known))
        pairs = zip(tokens.ids.tolist(), tokens.spans().tolist(), strict=True)
        joined = b"".join(known[i] if span else bytes([i]) for i, span in pairs)
        return joined.decode("utf-8", errors="replace")

    def fit(self, values: Iterable[str]) -> None:
        """The most frequent words, ties in alphabetical order."""
        counts: dict[str, int] = {}
        for value in values:
            for word in filter(None, value.split(" ")):
                counts[word] = counts.get(word, 0) + 1
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self.words = ranked[: self.MAX_WORDS]

    def state(self) -> dict[str, bytes]:
        """One word a line."""
        return {} if self.words is None else {"words.txt": "\n".join(self.words).encode()}

    def load_state(self, files: Mapping[str, bytes]) -> None:
        """Take over the words."""
        if "words.txt" in files:
            self.words = files["words.txt"].decode().split("\n")

    def example(self, rng: np.random.Generator) -> str:
        """Up to six words."""
        names = ["red", "green", "apple", "\u00e9t\u00e9"]
        return " ".join(names[i] for i in rng.integers(0, 4, rng.integers(0, 7)))


def digest(tokens: Tokens) -> str:
    """A hash of ids and spans, to compare encodings over processes and versions."""
    ids = tokens.ids if tokens.ids is not None else torch.zeros(0, dtype=torch.int64)
    return hashlib.sha256(ids.numpy().tobytes() + tokens.spans().numpy().tobytes()).hexdigest()[:16]


FAKES: tuple[type[Modality[object, object]], ...] = (
    FakeLine,
    FakeResidual,
    FakeGrid,
    FakeMarked,
    FakeEvents,
    FakeMasked,
    FakeContinuous,
    FakeCodec,
    FakeWords,
)  # type: ignore[assignment]
"""All of them."""
