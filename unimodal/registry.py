"""Typed registries: names to classes, filled by decorators and by entry points of outside packages.

A registry refuses duplicates, loads its own package and the entry points on first need, and
answers an unknown name with the nearest known one. A name found in a file is only ever looked up
here: it never becomes an import path.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from unimodal.errors import ConfigError

Entry = TypeVar("Entry")
Registered = TypeVar("Registered")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy sentence: the nearest known names, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(f"`{match}`" for match in close) + "?"
    return "Known: " + ", ".join(f"`{n}`" for n in names) + "." if names else "None is registered."


class Registry(Generic[Entry]):
    """Names to entries of one kind.

    Args:
        kind: What an entry is, for messages ("modality").
        package: A package whose modules register entries when they are imported; its modules are
            imported on the first look-up of a name that is not there yet.
        group: Entry point group through which outside packages register.
    """

    def __init__(self, kind: str, *, package: str | None = None, group: str | None = None):
        self.kind = kind
        self._package = package
        self._group = group
        self._entries: dict[str, Entry] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Decorator that adds a class or function under `name`.

        Raises:
            ConfigError: if another entry has the name already.
        """

        def add(entry: Registered) -> Registered:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise ConfigError(
                    f"{self.kind} `{name}` is registered twice: by {_origin(known)} and by "
                    f"{_origin(entry)}.",
                    remedy="Choose another name for one of them.",
                )
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return add

    def get(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            ConfigError: if there is none; the message suggests the nearest names.
        """
        if name not in self._entries:
            self._import_module(name)
        if name not in self._entries:
            self._load()
        try:
            return self._entries[name]
        except KeyError:
            remedy = did_you_mean(name, self._entries)
            raise ConfigError(f"Unknown {self.kind} `{name}`.", remedy=remedy) from None

    def names(self) -> list[str]:
        """All names, sorted. Imports everything that registers."""
        self._load()
        return sorted(self._entries)

    def name_of(self, entry: object) -> str | None:
        """The name under which `entry` (a class or function) stands, if any."""
        return next((name for name, known in self._entries.items() if known is entry), None)

    def _import_module(self, name: str) -> None:
        if self._package and name.isidentifier():
            package = importlib.import_module(self._package)
            if name in {m.name for m in pkgutil.iter_modules(package.__path__)}:
                importlib.import_module(f"{self._package}.{name}")

    def _load(self) -> None:
        if self._loaded:
            return
        if self._package:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
        for point in entry_points(group=self._group) if self._group else ():
            self._load_point(point)
        self._loaded = True

    def _load_point(self, point: EntryPoint) -> None:
        package = point.dist.name if point.dist else point.value
        try:
            entry = point.load()
            self.register(point.name)(entry)
        except ConfigError as error:
            error.subject = f"package `{package}`"
            raise
        except Exception as error:
            raise ConfigError(
                f"Its {self.kind} `{point.name}` ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}.",
                subject=f"package `{package}`",
                remedy="Repair the package, or uninstall it.",
            ) from error


def _origin(entry: object) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', repr(entry))}"
