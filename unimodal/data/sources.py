"""Sources: ordered, random-access collections of records, and the splits of a data set.

A record is a dict with an `id`, the fields that modalities read (a value, or a
`unimodal.media.FileRef` that a modality reads when it is needed), and plain facts (style, voice,
label). A source is cheap to open, deterministic, picklable and without threads: worker processes
index it in any order. `open_source` finds one by name or path. Nothing here decodes media or
shuffles; mixing and order belong to training.
"""

import dataclasses
import hashlib
import inspect
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from unimodal.errors import ConfigError, DataError, UnimodalError, sample_errors
from unimodal.registry import Registry, did_you_mean

Record = dict[str, Any]
"""One example: `{"id": ..., FIELD: value or FileRef, ...}`."""

NUM_HASHED = 256
"""Records that `content_hash` looks at, at most."""
HEAD_BYTES = 4096
"""Bytes of a file that it reads."""

GIVEN = ("cache", "files", "name", "path", "split")
"""Arguments of sources and recipes that are no options: whoever opens them gives these."""

SPLITS = ("train", "validation", "test")
"""The split names that every source knows; some have more (see their recipe)."""


@runtime_checkable
class Source(Protocol):
    """What training, evaluation and the command line read.

    Attributes:
        name: Where the records come from, for reports.
        license: SPDX identifier, or a sentence if there is none.
        split: Which part of the data set this is.
    """

    name: str
    license: str
    split: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Windowed(Protocol):
    """A source that cuts long sequences itself; a task that reads pieces says how long."""

    def windows(self, length: int) -> Source:
        """The same records cut into windows of `length` units, at least 1."""
        ...


SOURCES: Registry[Callable[..., Source]] = Registry(
    "source", package="unimodal.data.embedded", group="unimodal.sources"
)
"""Sources that need no fetch: a class or function called with `split=` and options."""


class BaseSource(ABC):
    """The three attributes, negative indices, bounds and iteration; a child gives `record`.

    Args:
        name: See `Source`.
        license: See `Source`.
        split: See `Source`.
    """

    def __init__(self, name: str, license: str, split: str):
        self.name = name
        self.license = license
        self.split = split

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> Record:
        """The record at `index`, which is between 0 and the length."""

    def __getitem__(self, index: int) -> Record:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"{self.name} ({self.split}) has {length} records, not {index}.")
        return self.record(index % length)

    def __iter__(self) -> Iterator[Record]:
        return (self.record(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.split}: {len(self)} records>"


class ListSource(BaseSource):
    """Records that are held in memory.

    Args:
        records: Any sequence of records; each is copied when it is handed out.
        name: See `Source`.
        license: See `Source`.
        split: See `Source`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        name: str = "list",
        license: str = "unknown",
        split: str = "train",
    ):
        super().__init__(name, license, split)
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> Record:
        return dict(self._records[index])


class Subset(BaseSource):
    """Some records of another source, in the order given.

    Args:
        source: Where the records come from.
        indices: Their positions.
        split: Name of this part; the other's by default.
    """

    def __init__(self, source: Source, indices: Sequence[int], *, split: str | None = None):
        super().__init__(source.name, source.license, split or source.split)
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def record(self, index: int) -> Record:
        return self._source[self._indices[index]]


def hash_fraction(*keys: object) -> float:
    """A number in [0, 1) that depends on the keys alone, on every machine and in every run."""
    digest = hashlib.sha256("\x1f".join(map(str, keys)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def hash_seed(*keys: object) -> int:
    """A 53-bit seed that depends on the keys alone."""
    return int(hash_fraction(*keys) * 2**53)


def stable_split(key: str, *, validation: float = 0.05, test: float = 0.0, salt: str = "") -> str:
    """The split of `key` (an id, or a group that must stay together), by hash.

    Adding or removing other records never moves a record to another split.

    Args:
        key: The id or group.
        validation: Share that goes to `validation`.
        test: Share that goes to `test`.
        salt: Another salt draws another split.
    """
    fraction = hash_fraction("split", salt, key)
    if fraction < test:
        return "test"
    return "validation" if fraction < test + validation else "train"


def content_hash(source: Source) -> str:
    """A hash of a source's records: of all, or of at most `NUM_HASHED` evenly spread ones.

    Strings and numbers count as they are, tensors by their values, files by length and first bytes.
    """
    digest = hashlib.sha256(str(len(source)).encode())
    step = max(1, -(-len(source) // NUM_HASHED))
    for index in range(0, len(source), step):
        try:
            with sample_errors(f"{source.name}, record {index}"):
                record = source[index]
                parts = [f"{key}\x1f".encode() + _content(record[key]) for key in sorted(record)]
        except (UnimodalError, OSError) as error:
            parts = [type(error).__name__.encode()]
        digest.update(b"".join(parts))
    return digest.hexdigest()[:16]


def _content(value: Any) -> bytes:
    """What tells one value from another; nothing for what is of no known kind."""
    if isinstance(value, Path):
        size = value.stat().st_size if value.is_file() else -1
        with value.open("rb") if size >= 0 else io.BytesIO() as file:
            return f"{size}:".encode() + file.read(HEAD_BYTES)
    if dataclasses.is_dataclass(value):
        return b"".join(_content(getattr(value, f.name)) for f in dataclasses.fields(value))
    if hasattr(value, "numpy"):
        return bytes(value.numpy().tobytes())
    if isinstance(value, str | int | float | list | tuple):
        return repr(value).encode("utf-8", "backslashreplace") + b"\x1e"
    return b""


def assign_splits(
    records: Sequence[tuple[str | None, str]], *, validation: float = 0.05, test: float = 0.0
) -> list[str]:
    """The split of each record: the one that it names, else one drawn by hash of its group.

    If `validation` is above 0, but no record falls to it, it gets the group of least hash among
    those drawn for `train`, as long as another one stays there: a small data set, too, has
    something held out.

    Args:
        records: The named split, None or "" for none; and the group (the id, where there is none).
        validation: See `stable_split`.
        test: See `stable_split`.
    """
    drawn = {group for named, group in records if not named}
    splits = {group: stable_split(group, validation=validation, test=test) for group in drawn}
    filled = {*splits.values(), *(named for named, _ in records)}
    if validation > 0 and "validation" not in filled:
        train = [group for group in drawn if splits[group] == "train"]
        if len(train) > 1:
            least = min(train, key=lambda group: (hash_fraction("split", "", group), group))
            splits[least] = "validation"
    return [named or splits[group] for named, group in records]


def check_split(split: str, known: Sequence[str], subject: str) -> str:
    """`split`, if it is one of `known`.

    Raises:
        ConfigError: otherwise, with the nearest names.
    """
    if split not in known:
        raise ConfigError(
            f"There is no split `{split}`.", subject=subject, remedy=did_you_mean(split, known)
        )
    return split


def check_options(kind: str, options: Mapping[str, Any], taker: Callable[..., Any] | None) -> None:
    """Check that a source takes the options that it is given, and that it is given what it needs.

    Raises:
        DataError: naming the first that it does not take or that lacks, and what to write instead.
    """
    lacking = [] if taker is None else [n for n in needed_options(taker) if n not in options]
    if lacking:
        raise DataError(
            f"The data `{kind}` need the option `{lacking[0]}`.",
            remedy=f"Give it (in an experiment: `+tasks.TASK.data.options.{lacking[0]}=...`; in "
            f'Python: `open_source("{kind}", {lacking[0]}=...)`).',
        )
    taken = {} if taker is None else inspect.signature(taker).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return  # it checks them itself
    known = [name for name in taken if name not in GIVEN]
    for name in sorted(set(options) - set(known)):
        raise DataError(
            f"`{name}` is no option of the data `{kind}`.",
            remedy=f"Leave it out (of an experiment: `~tasks.TASK.data.options.{name}`). "
            f"Known: {', '.join(known) or 'none'}.",
        )


def needed_options(taker: Callable[..., Any]) -> list[str]:
    """Options that a source cannot be opened without, e.g. the parts of one that joins others."""
    taken = inspect.signature(taker).parameters
    return [
        name
        for name, p in taken.items()
        if p.default is p.empty and p.kind is p.KEYWORD_ONLY and name not in GIVEN
    ]


def open_source(name: str, split: str = "train", **options: Any) -> Source:
    """Open a data set by name or path.

    Args:
        name: An embedded set (`embedded/emoji`), a recipe that was prepared (`fashion_mnist`), or
            the path of a manifest, file or folder (see `unimodal.data.folders`).
        split: Which part.
        **options: What the source, recipe or folder takes besides.

    Raises:
        ConfigError: if nothing has that name.
        DataError: if the recipe was not prepared, or the path breaks a rule.
    """
    from unimodal.data.recipe import RECIPES, build_recipe

    looks_like_path = name.startswith((".", "/", "~")) or Path(name).suffix != ""
    if not looks_like_path:
        if name in SOURCES.names():
            check_options(name, options, SOURCES.get(name))
            return SOURCES.get(name)(split=split, **options)
        if name in RECIPES.names():
            return build_recipe(name, **options).source(split)
    path = Path(name).expanduser()
    if path.exists():
        from unimodal.data.folders import open_path

        return open_path(path, split=split, **options)
    if looks_like_path:
        raise DataError(
            "The data path does not exist.", subject=name, remedy="Check the path for a typo."
        )
    known = [*SOURCES.names(), *RECIPES.names()]
    raise ConfigError(f"Unknown data set `{name}`.", remedy=did_you_mean(name, known))
