"""The contract of a modality: one class in one file, and everything else follows from it.

A modality turns values into `Tokens` and back and says what the core must know about them: its
spans or features, its layout, how it attends. Classes register by decorator, or through the entry
point group `unimodal.modalities` of an outside package. `unimodal.testing.check_modality` holds a
class to the laws below.

Laws: `encode` is deterministic and in float32; ids lie inside their spans; the grid agrees with
the layout; whatever the grammar accepts, `decode` has a value for (it sees only ids, grid and
seconds); decode(encode(v)) is within `round_trip_error` of v; `length` equals the encoded length;
instances pickle.
"""

import dataclasses
import hashlib
import html
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from unimodal.errors import CheckpointError, ConfigError, MediaError, VocabularyError
from unimodal.grammar import Layout
from unimodal.patterns import Causal, Pattern
from unimodal.registry import Registry, did_you_mean
from unimodal.types import Tokens

Value = TypeVar("Value")
Config = TypeVar("Config")
Attend = Literal["causal", "full"]
NETWORK_FILE = "network.safetensors"
TRAINING_ONLY = "training_only"
SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
"""Types of config values that are checked, and what they are called."""
STRING_UNITS: dict[str, Callable[[str], int]] = {"byte": lambda s: len(s.encode()), "base": len}
"""Raw units of strings that `Modality.raw_units` counts by itself."""
DECODER_PREFIX = "decoder."
"""Parameters of a codec's network under this prefix may be replaced without a new span."""


@dataclasses.dataclass(kw_only=True)
class NoConfig:
    """The config of a modality that has nothing to choose."""


class Modality(ABC, Generic[Value, Config]):
    """One modality. Members marked * are required.

    Attributes:
        value_type: * Python type of a raw value.
        raw_unit: * What `raw_units` counts: "byte", "pixel", "second", "base", "step".
        spans: * if discrete: span names to sizes, in code order.
        feature_shape: * if continuous: shape of one position's features.
        layout: * if discrete: `Fixed`, `Grid` or `Open`.
        attend: How its segments attend unless a task says otherwise.
        pattern: Restricts attention inside its segments, on layers that do not name their own.
        seconds_per_cell: Duration of one step of t, where there is time.
        decoded_by: For continuous modalities, the discrete partner that draws or speaks them.
        round_trip_error: Bound on `distance(value, decode(encode(value)))`.
        network: A trainable tokenizer's network; saved and hashed.
        is_trained: Whether the network is more than its first weights.
    """

    value_type: ClassVar[type]
    raw_unit: ClassVar[str]
    spans: Mapping[str, int] = {}
    feature_shape: tuple[int, ...] = ()
    layout: Layout | None = None
    attend: Attend = "causal"
    pattern: Pattern = Causal()
    seconds_per_cell: float | None = None
    decoded_by: str | None = None
    round_trip_error: float = 0.0
    network: nn.Module | None = None
    frozen: bool = False
    is_trained: bool = False

    def __init__(self, config: Config):
        self.config = config

    @abstractmethod
    def encode(self, value: Value) -> Tokens:
        """* The stream positions of a value. Deterministic, float32.

        Raises:
            MediaError: if the value breaks a rule of the modality.
        """

    def decode(self, tokens: Tokens) -> Value:
        """* if discrete: the value of a sequence of ids. Total over what the grammar accepts."""
        raise ConfigError(
            f"`{self.name}` is input only: it has no `decode`.",
            remedy=f"Ask for `{self.decoded_by}`." if self.decoded_by else None,
        )

    @abstractmethod
    def example(self, rng: np.random.Generator) -> Value:
        """* A small valid value, for the conformance kit."""

    # All below have defaults.

    @property
    def name(self) -> str:
        """The registered name."""
        return modalities.name_of(type(self)) or type(self).__name__.lower()

    @property
    def is_discrete(self) -> bool:
        """Whether values become ids."""
        return bool(self.spans)

    @property
    def is_continuous(self) -> bool:
        """Whether values become features."""
        return bool(self.feature_shape)

    @property
    def is_lossless(self) -> bool:
        """Whether bits a raw unit mean something: the round trip is exact."""
        return self.is_discrete and self.round_trip_error == 0.0

    def distance(self, a: Value, b: Value) -> float:
        """How far apart two values are; 0 or infinity unless overridden."""
        return 0.0 if _equal(a, b) else float("inf")

    def fidelity(self, value: Value, decoded: Value) -> Mapping[str, tuple[float, str]]:
        """How well a decoded value stands for the original: (number, `higher` or `lower`) by name.

        Reports of lossy tokenizers show it; `distance` unless overridden.
        """
        return {"distance": (self.distance(value, decoded), "lower")}

    def rivals(
        self, values: Sequence[Value], bits: float
    ) -> Mapping[str, tuple[list[Value], float]]:
        """What well-known codecs make of values in about `bits`: (decoded values, bits) by name."""
        return {}

    def length(self, value: Value) -> int:
        """Positions of `encode(value)`, header, opener and end not counted."""
        return len(self.encode(value))

    def raw_units(self, value: Value) -> float:
        """* if discrete: how many `raw_unit` the value holds; known for bytes and bases of strings.

        Raises:
            ConfigError: if the modality does not say. No count would be true of every unit.
        """
        if isinstance(value, str) and self.raw_unit in STRING_UNITS:
            return float(STRING_UNITS[self.raw_unit](value))
        raise ConfigError(
            f"`{self.name}` does not say how many {self.raw_unit}s a value holds.",
            remedy="Define `raw_units`.",
        )

    def embedder(self, width: int) -> nn.Module:
        """Continuous: features of whole segments (n, T, *feature_shape) to (n, T, width).

        It sees segments of equal length stacked, never packed rows, and keeps the length.
        """
        return LinearEmbedder(self.feature_shape, width)

    def vary(self, value: Value, rng: np.random.Generator) -> Value:
        """A training-time change of a value before it is encoded; the identity unless overridden.

        What is held out, and what a request gives, is never varied.
        """
        return value

    def augment(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """A training-time change of the encoded value; the identity unless overridden."""
        return tokens

    def variants(self, value: Value) -> Sequence[Value]:
        """Values that training takes in turn for this one, which comes first: equally true ones,
        e.g. the other strand of a sequence. What is held out is read as it stands."""
        return (value,)

    def draw_variant(self, value: Value, rng: np.random.Generator) -> Value:
        """One of `variants`, each as likely; no number is drawn where there is one."""
        variants = self.variants(value)
        return variants[int(rng.integers(len(variants)))] if len(variants) > 1 else variants[0]

    def encode_batch(self, values: Sequence[Value]) -> list[Tokens]:
        """`encode` of each value."""
        return [self.encode(value) for value in values]

    def decode_batch(self, tokens: Sequence[Tokens]) -> list[Value]:
        """`decode` of each, up to rounding."""
        return [self.decode(one) for one in tokens]

    def fit(self, values: Iterable[Value]) -> None:
        """Learn from values, where the tokenizer has something to learn (e.g. SentencePiece)."""

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must run before `encode`."""
        return False

    @property
    def needs_training(self) -> bool:
        """Whether a tokenizer that is trained by gradient has not been, nor read from a folder."""
        return type(self).loss is not Modality.loss and not self.is_trained

    def loss(self, values: Sequence[Value]) -> Float[Tensor, ""]:
        """Training loss of a gradient-trained tokenizer: a mean over the values."""
        raise ConfigError(f"`{self.name}` is not trained by gradient.")

    def read(self, path: Path) -> Value:
        """A value from a file."""
        raise MediaError(
            f"`{self.name}` does not read files.",
            subject=str(path),
            remedy="Give values from Python, or define its method `read`.",
        )

    def read_all(self, path: Path) -> Iterator[tuple[str, Value]]:
        """The values of a file that may hold several, each with its name in it ("" if alone)."""
        yield "", self.read(path)

    def write(self, value: Value, path: Path) -> None:
        """A value to a file."""
        if not isinstance(value, str):
            raise MediaError(
                f"`{self.name}` does not write files.",
                subject=str(path),
                remedy="Take the value in Python, or define its method `write`.",
            )
        Path(path).write_text(value, encoding="utf-8")

    def show(self, value: Value) -> str:
        """The value as a self-contained HTML fragment, for reports."""
        return f"<code>{html.escape(str(value))}</code>"

    def state(self) -> dict[str, bytes]:
        """Files that hold what was learned, by name: saved beside the weights, and hashed.

        A weight whose every number bfloat16 can hold is stored so, without loss.
        """
        if self.network is None:
            return {}
        held = {name: _halved(tensor) for name, tensor in self.network.state_dict().items()}
        return {NETWORK_FILE: save_safetensors(held)}

    def load_state(self, files: Mapping[str, bytes]) -> None:
        """Restore what `state` returned."""
        if self.network is None:
            return
        try:
            self.network.load_state_dict(load_safetensors(files[NETWORK_FILE]))
            self.is_trained = True
        except (KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"`{NETWORK_FILE}` does not hold this tokenizer's network "
                f"({type(error).__name__}: {error}).",
                subject=f"modality `{self.name}`",
                remedy="Restore the tokenizer that the checkpoint was trained with.",
            ) from None

    def fingerprint(self) -> str:
        """Hash of config, encoder and quantizer: two modalities with one mean the same by an id."""
        return self._hash(decoder=False)

    def decoder_hash(self) -> str:
        """Hash of the part that may be replaced without a new span: a codec's decoder."""
        return self._hash(decoder=True)

    def _hash(self, decoder: bool) -> str:
        digest = hashlib.sha256()
        if not decoder:
            described = [self.name, identity_of(self.config), dict(self.spans)]
            described += [repr(tuple(self.feature_shape)), repr(self.layout)]
            digest.update(json.dumps(described, sort_keys=True).encode())
        for name, data in sorted(self.state().items()):
            if name != NETWORK_FILE:
                digest.update(b"" if decoder else name.encode() + b"\0" + data)
        if self.network is not None:
            for key, tensor in sorted(self.network.state_dict().items()):
                if key.startswith(DECODER_PREFIX) == decoder:
                    digest.update(key.encode())
                    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                    digest.update(raw.numpy().tobytes())
        return digest.hexdigest()[:32]


class LinearEmbedder(nn.Module):
    """One linear layer on flattened features."""

    def __init__(self, feature_shape: Sequence[int], width: int):
        super().__init__()
        self.num_features = int(np.prod(tuple(feature_shape)))
        self.linear = nn.Linear(self.num_features, width)

    def forward(self, features: Tensor) -> Tensor:
        """(n, T, *feature_shape) to (n, T, width)."""
        embedded: Tensor = self.linear(features.flatten(2))
        return embedded


modalities: Registry[type[Modality[Any, Any]]] = Registry(
    "modality", package="unimodal.tokenizers", group="unimodal.modalities"
)
register_modality = modalities.register


def config_type(kind: type[Modality[Any, Any]]) -> type:
    """The config dataclass that a modality class names as its second type argument.

    Generic bases in between pass it on; a class that names none has `NoConfig`.

    Raises:
        ConfigError: if it names something that is not a dataclass.
    """
    found = _config_argument(kind, {})
    if found is None:
        return NoConfig
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(
            f"Its config must be a dataclass, but is {found}.",
            subject=f"modality class `{kind.__name__}`",
            remedy="Derive it from Modality[Value, Config] with a dataclass, or with NoConfig.",
        )
    return found


def _config_argument(kind: type, given: Mapping[Any, Any]) -> Any:
    """What stands for `Config` above `kind`, its own type variables replaced; None if nothing."""
    for written in vars(kind).get("__orig_bases__", kind.__bases__):
        base = get_origin(written) or written
        arguments = [given.get(x, x) for x in get_args(written)]
        if base is Modality:
            return arguments[1] if arguments else None
        if isinstance(base, type) and issubclass(base, Modality):
            parameters = getattr(base, "__parameters__", ())
            return _config_argument(base, dict(zip(parameters, arguments, strict=False)))
    return None


def training_only(default: Any) -> Any:
    """A config field that matters in training alone (`vary`, `augment`, `loss`, the first weights
    of a network): it does not enter the fingerprint."""
    return dataclasses.field(default=default, metadata={TRAINING_ONLY: True})


def identity_of(config: Any) -> dict[str, Any]:
    """The fields of a config that decide what ids and features mean."""
    ignored = {f.name for f in dataclasses.fields(config) if TRAINING_ONLY in f.metadata}
    return {k: v for k, v in config_to_dict(config).items() if k not in ignored}


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON-ready values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_from_dict(kind: type, values: Mapping[str, Any], subject: str) -> Any:
    """Build a config dataclass from JSON or YAML values, dataclasses inside it included.

    Where several strings may stand, one may stand alone.

    Raises:
        ConfigError: on a key that the dataclass lacks, with the nearest that it has; on a value of
            another type than its field declares.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise ConfigError(
                f"Unknown key `{key}`.", subject=subject, remedy=did_you_mean(key, known)
            )
    hints = get_type_hints(kind)
    return kind(**{k: _built(hints[k], v, f"{subject}, `{k}`") for k, v in values.items()})


def _built(hint: Any, value: Any, subject: str) -> Any:
    """A plain value as the type that its field declares."""
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return config_from_dict(cast(type, hint), value, subject)
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return _built_as_one_of(arguments, value, subject)
    if kind in SCALARS and not _is_scalar(kind, value):
        raise ConfigError(f"It must be {SCALARS[kind]}, but is {value!r}.", subject=subject)
    if kind in (tuple, list, Sequence):
        if not isinstance(value, str | list | tuple):
            raise ConfigError(f"It must be a list, but is {value!r}.", subject=subject)
        items = [value] if isinstance(value, str) else list(value)
        is_fixed = kind is tuple and Ellipsis not in arguments and len(arguments) == len(items)
        of = arguments if is_fixed else [*arguments, Any][:1] * len(items)
        built = [_built(h, item, subject) for h, item in zip(of, items, strict=True)]
        return built if kind is list else tuple(built)
    if kind is dict and len(arguments) == 2 and isinstance(value, Mapping):
        return {key: _built(arguments[1], item, subject) for key, item in value.items()}
    return value


def _is_scalar(kind: type, value: Any) -> bool:
    """Whether a value is of a scalar type: a whole number is a number, too, but true is none."""
    if isinstance(value, bool) or kind is bool:
        return kind is type(value)
    return isinstance(value, (int, float) if kind is float else kind)


def _built_as_one_of(arms: Sequence[Any], value: Any, subject: str) -> Any:
    """A plain value as the first type of a union that changes it, or else that takes it."""
    if type(value) in arms:
        return value
    taken, refused = [], []
    for arm in arms:
        try:
            taken += [] if arm is type(None) else [_built(arm, value, subject)]
        except ConfigError as error:
            refused.append(error)
    if not taken:
        raise refused[-1]
    return next((built for built in taken if built is not value), value)


def build_modality(name: str, config: Mapping[str, Any] | None = None) -> Modality[Any, Any]:
    """An instance of the registered modality `name`.

    Args:
        name: Registered name, or `name@2` for a retrained tokenizer under a new span.
        config: Fields of its config that differ from their defaults.

    Raises:
        ConfigError: if the name or a key is unknown.
    """
    kind = modalities.get(name.partition("@")[0])
    return kind(config_from_dict(config_type(kind), config or {}, f"modality `{name}`"))


def freeze(modality: Modality[Any, Any]) -> None:
    """End training: ids in a ledger keep their meaning.

    `fit` refuses from now on, and the network takes no gradient. What still changes in place is
    found before a checkpoint is written, by its fingerprint.
    """
    modality.frozen = True
    if modality.network is not None:
        modality.network.requires_grad_(False).eval()
    vars(modality)["fit"] = partial(_refuse_fit, modality.name)


def _refuse_fit(name: str, values: Iterable[Any]) -> NoReturn:
    raise VocabularyError(
        f"`{name}` is frozen: its ids are in a ledger.",
        remedy=f"Train a new one and add it as `{name}@2`.",
    )


def fit(modality: Modality[Any, Any], values: Iterable[Any]) -> None:
    """Run `Modality.fit`.

    Raises:
        VocabularyError: if it already entered a ledger.
    """
    modality.fit(values)


def _halved(tensor: Tensor) -> Tensor:
    """A tensor in bfloat16 if that changes none of its numbers."""
    if tensor.dtype != torch.float32:
        return tensor.contiguous()
    half = tensor.to(torch.bfloat16)
    return (half if torch.equal(half.to(tensor.dtype), tensor) else tensor).contiguous()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and bool(np.array_equal(a, b))
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)
