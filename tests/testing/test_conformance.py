"""Every law has a class that breaks it, and the report names that law and says what is wrong."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unimodal.errors import CertificateError, ConfigError
from unimodal.grammar import Open
from unimodal.modality import LinearEmbedder, Modality, NoConfig
from unimodal.testing import check_modality
from unimodal.testing.fixtures import (
    FAKES,
    FakeCodec,
    FakeCodecConfig,
    FakeContinuous,
    FakeEvents,
    FakeGrid,
    FakeLine,
    FakeResidual,
    FakeWords,
)
from unimodal.testing.laws import LAWS
from unimodal.types import Tokens


@pytest.mark.parametrize("fake", FAKES, ids=lambda kind: kind.__name__)
def test_a_fake_modality_holds_every_law(fake: type[Modality[Any, Any]]) -> None:
    report = check_modality(fake, num_examples=6)
    assert report.ok, str(report)
    assert set(report.laws) == set(LAWS)
    assert report.require() is report


class NoSpans(FakeLine):
    spans = {}


class NoLayout(FakeLine):
    layout = None


class WrongExample(FakeLine):
    def example(self, rng):
        return 3


class RandomExample(FakeLine):
    def example(self, rng):
        return "a" * int(torch.randint(1, 60, ()))


class RandomEncoding(FakeContinuous):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, features=tokens.features + torch.rand(len(tokens), 3))


class LeakedIds(FakeLine):
    spans = {"letter": 25}

    def example(self, rng):
        return "xyz"


class ShortIds(FakeLine):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, ids=tokens.ids.int())


class DoubleFeatures(FakeContinuous):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, features=tokens.features.double())


class WideFeatures(FakeContinuous):
    feature_shape = (5,)


class NotANumber(FakeContinuous):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, features=tokens.features * float("nan"))


class ColumnMajor(FakeGrid):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, grid=tokens.grid[:, [0, 2, 1]])


class TooManyCells(FakeLine):
    layout = Open(max_cells=2)

    def example(self, rng):
        return "abcde"


class LevelsSwapped(FakeResidual):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, span=tokens.span.flip(0))


class LateClock(FakeResidual):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, seconds=tokens.seconds * 2 + 1)


class NoClock(FakeResidual):
    def encode(self, value):
        return dataclasses.replace(super().encode(value), seconds=None)


class BackwardClock(FakeEvents):
    def encode(self, value):
        tokens = super().encode(value)
        return dataclasses.replace(tokens, seconds=10 - torch.arange(len(tokens)).float())


class PartialDecode(FakeEvents):
    def decode(self, tokens):
        if int(tokens.spans()[0]) == 0:
            raise ValueError("a letter came before a time")
        return super().decode(tokens)


class WrongDecode(FakeLine):
    def decode(self, tokens):
        return list(super().decode(tokens))


class ReadsFeatures(FakeLine):
    def encode(self, value):
        self.memory = value
        return super().encode(value)

    def decode(self, tokens):
        return self.memory


class Lossy(FakeResidual):
    def decode(self, tokens):
        return super().decode(tokens) + 0.5


class WrongLength(FakeLine):
    def length(self, value):
        return len(value) + 1


class ReversedBatch(FakeLine):
    def encode_batch(self, values):
        return [self.encode(value) for value in reversed(values)]


class ReversedDecodes(FakeLine):
    def decode_batch(self, tokens):
        return [self.decode(one) for one in reversed(tokens)]


class OneDecode(FakeLine):
    def decode_batch(self, tokens):
        return super().decode_batch(tokens)[:1]


class NoUnits(FakeContinuous):
    def raw_units(self, value):
        return 0.0


class UnknownUnits(FakeEvents):
    raw_units = Modality.raw_units


class DoubleBytes(FakeLine):
    def raw_units(self, value):
        return 2 * len(value)


class BadAugment(FakeContinuous):
    def augment(self, tokens, rng):
        return dataclasses.replace(tokens, features=tokens.features.half())


class VariesType(FakeLine):
    def vary(self, value, rng):
        return list(value)


class VariesByItself(FakeLine):
    def vary(self, value, rng):
        return "a" * int(torch.randint(1, 60, ()))


class VariesTooFar(FakeLine):
    def vary(self, value, rng):
        return "a" * 65


class Downsample(FakeContinuous):
    def embedder(self, width):
        return nn.Sequential(LinearEmbedder((3,), width), Halve())


class Halve(nn.Module):
    def forward(self, x):
        return x[:, ::2]


class Leak(FakeContinuous):
    def embedder(self, width):
        return nn.Sequential(LinearEmbedder((3,), width), Mix())


class Mix(nn.Module):
    def forward(self, x):
        return x + x.mean(dim=0, keepdim=True)


class NoGradient(FakeContinuous):
    def embedder(self, width):
        return Deaf(width)


class Deaf(LinearEmbedder):
    def __init__(self, width):
        super().__init__((3,), width)
        self.unused = nn.Parameter(torch.zeros(2))


class Forgets(FakeWords):
    def state(self):
        return {}


class SameFingerprint(FakeCodec):
    def fingerprint(self):
        return "constant"


class Unpicklable(FakeLine):
    def __init__(self, config):
        super().__init__(config)
        self.letter = lambda number: chr(number)


class ShowsRemote(FakeLine):
    def show(self, value):
        return '<img src="http://127.0.0.1/a.png">'


class ShowsScript(FakeLine):
    def show(self, value):
        return "<script>alert(1)</script>"


@dataclasses.dataclass(kw_only=True)
class NestedConfig:
    sizes: dict[int, int] = dataclasses.field(default_factory=lambda: {1: 2})


class LosesConfig(FakeLine):
    def __init__(self, config: Any):
        super().__init__(NestedConfig())


class WritesBeside(FakeLine):
    def write(self, value, path):
        path.with_name(path.name + ".npy").write_text(value)

    def read(self, path):
        return path.read_text()


class ReadsAnother(FakeLine):
    def read(self, path):
        return path.read_text(encoding="utf-8") + "z"


BROKEN: list[tuple[type[Modality[Any, Any]], str, str]] = [
    (NoSpans, "declaration", "neither `spans` nor `feature_shape`"),
    (NoLayout, "declaration", "needs a `layout`"),
    (WrongExample, "examples", "must be a str, but is a int"),
    (RandomExample, "examples", "the same generator must draw the same value"),
    (RandomEncoding, "determinism", "gave different tokens"),
    (LeakedIds, "ids", "id 25 lies outside its span `letter` of size 25"),
    (ShortIds, "ids", "must be int64"),
    (DoubleFeatures, "features", "must be float32"),
    (WideFeatures, "features", "rows must have shape (5,)"),
    (NotANumber, "features", "NaN"),
    (ColumnMajor, "grid", "raster"),
    (TooManyCells, "grid", "the layout allows 0 to 2 cells"),
    (LevelsSwapped, "cycle", "Code 0 must come from `levelsswapped.level_0`"),
    (LateClock, "seconds", "must be t x seconds_per_cell"),
    (NoClock, "seconds", "gives no seconds"),
    (BackwardClock, "seconds", "must not fall"),
    (PartialDecode, "total_decode", "refused a legal sequence"),
    (WrongDecode, "total_decode", "gave a list instead of a str"),
    (ReadsFeatures, "round_trip", "`distance` after a round trip may be 0, but reaches inf"),
    (Lossy, "round_trip", "after a round trip may be"),
    (WrongLength, "length", "positions"),
    (ReversedBatch, "batches", "differs from `encode`"),
    (ReversedDecodes, "batches", "differs from `decode`"),
    (OneDecode, "batches", "gave 1"),
    (NoUnits, "raw_units", "counts 0.0 steps"),
    (UnknownUnits, "raw_units", "does not say how many steps"),
    (DoubleBytes, "raw_units", "counts"),
    (BadAugment, "augmentation", "after `augment`, features must be float32"),
    (VariesType, "variation", "`vary` gave a list instead of a str"),
    (VariesByItself, "variation", "must depend on its generator alone"),
    (VariesTooFar, "variation", "after `vary`, grid"),
    (Downsample, "embedding", "the embedder must give (2,"),
    (Leak, "embedding", "changes the embedding of another"),
    (NoGradient, "embedding", "no gradient reaches the embedder's `unused`"),
    (Forgets, "state", "raised VocabularyError"),
    (SameFingerprint, "fingerprint", "a change of `config.size` does not change"),
    (Unpicklable, "workers", "does not travel to workers"),
    (ReadsAnother, "files", "file reads with"),
    (WritesBeside, "files", "made no file at value.png, but value.png.npy"),
    (ShowsRemote, "showing", "nothing from outside"),
    (ShowsScript, "showing", "<script>"),
    (LosesConfig, "config", "comes back from JSON as"),
]


@pytest.mark.parametrize(("kind", "law", "words"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_a_broken_class_fails_its_law_with_a_message_of_its_own(
    kind: type[Modality[Any, Any]], law: str, words: str
) -> None:
    report = check_modality(kind, num_examples=6)
    messages = [finding.message for finding in report.findings if finding.law == law]
    assert any(words in message for message in messages), str(report)
    with pytest.raises(CertificateError, match=law):
        report.require()


def test_every_law_is_broken_by_some_class() -> None:
    assert {law for _, law, _ in BROKEN} == set(LAWS)


def test_a_class_that_cannot_be_built_is_refused() -> None:
    class NeedsAnArgument(FakeLine):
        def __init__(self, config: NoConfig, other: int):
            super().__init__(config)

    with pytest.raises(ConfigError, match="cannot be built"):
        check_modality(NeedsAnArgument)


def test_a_report_is_json_ready() -> None:
    report = check_modality(WrongLength, num_examples=2).as_dict()
    assert report["modality"] == "wronglength"
    assert report["findings"][0]["law"] == "length"


def test_an_instance_with_its_own_config_is_checked_as_it_is() -> None:
    codec = FakeCodec(FakeCodecConfig(size=5))
    codec.fit([torch.rand(50, generator=torch.Generator().manual_seed(0))])
    assert check_modality(codec).ok
    tokens = codec.encode(torch.tensor([0.0, 1.0]))
    assert isinstance(tokens, Tokens)
    assert tokens.ids is not None
    assert tokens.ids.tolist() == [0, 4]


def test_retraining_changes_the_fingerprint_and_decoder_training_does_not() -> None:
    rng = np.random.default_rng(0)
    codec = FakeCodec(FakeCodecConfig(size=8))
    before, decoder_before = codec.fingerprint(), codec.decoder_hash()
    with torch.no_grad():
        codec.codes.decoder["levels"].add_(0.1)
    assert (codec.fingerprint(), codec.decoder_hash() != decoder_before) == (before, True)
    codec.fit([torch.from_numpy(rng.random(100).astype(np.float32))])
    assert codec.fingerprint() != before


def test_a_gradient_trained_codec_learns_from_its_loss() -> None:
    codec = FakeCodec(FakeCodecConfig(size=4))
    values: list[Tensor] = [torch.tensor([0.1, 0.2, 0.25, 0.9])]
    optimizer = torch.optim.SGD(codec.codes.parameters(), lr=0.5)
    first = float(codec.loss(values).detach())
    for _ in range(20):
        optimizer.zero_grad()
        codec.loss(values).backward()
        optimizer.step()
    assert float(codec.loss(values).detach()) < first / 2
