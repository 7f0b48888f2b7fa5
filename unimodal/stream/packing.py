"""Packing: fills rows of fixed length with whole documents.

The oldest waiting document opens a row, then the longest that still fits is added until none does
(best fit decreasing over a look-ahead buffer). No document shorter than a row is cut, and none
waits for ever. Rows at least eight times the median document fill to 98 % and more.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from unimodal.errors import ConfigError
from unimodal.stream.encoding import EncodedDocument, check_length

Key = TypeVar("Key")


@dataclass(kw_only=True)
class PackingConfig:
    """How rows are filled."""

    row_length: int = 1024
    """Positions of a row."""

    look_ahead: int = 256
    """Documents that wait to fill gaps; at least 1."""

    def __post_init__(self) -> None:
        for name in ("row_length", "look_ahead"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")


class Packer(Generic[Key]):
    """Packs a stream of documents into rows.

    Args:
        config: Row length and look-ahead.
        more: Gives up to n more of (key, document), none when there are no more; a key names a
            document so that it can be made again.

    Raises:
        DataError: when a row is asked for, if the next document is longer than one.
    """

    def __init__(
        self,
        config: PackingConfig,
        more: Callable[[int], Iterable[tuple[Key, EncodedDocument]]],
    ):
        self.config = config
        self._more = more
        self._waiting: dict[int, tuple[Key, EncodedDocument]] = {}
        self._by_length: list[tuple[int, int]] = []  # (length, -ticket): among equals, oldest last
        self._ticket = 0

    def pending(self) -> list[Key]:
        """Keys of the waiting documents, oldest first: the state to save."""
        return [key for _, (key, _) in sorted(self._waiting.items())]

    def restore(self, documents: Iterable[tuple[Key, EncodedDocument]]) -> None:
        """Put documents of a saved state back, oldest first."""
        for key, document in documents:
            self._push(key, document)

    def row(self) -> list[EncodedDocument]:
        """The next row; empty when there are no more and nothing waits."""
        self._fill()
        if not self._waiting:
            return []
        oldest = min(self._waiting)
        row = [self._take(oldest)]
        room = self.config.row_length - len(row[0])
        while True:
            place = bisect_right(self._by_length, (room, 1)) - 1
            if place < 0:
                return row
            document = self._take(-self._by_length[place][1])
            row.append(document)
            room -= len(document)

    def rows(self, count: int) -> list[list[EncodedDocument]]:
        """Up to `count` rows; fewer when there are no more."""
        rows = [self.row() for _ in range(count)]
        return [row for row in rows if row]

    def _fill(self) -> None:
        while (lacking := self.config.look_ahead - len(self._waiting)) > 0:
            before = self._ticket
            for key, document in self._more(lacking):
                self._push(key, document)
            if self._ticket == before:
                return

    def _push(self, key: Key, document: EncodedDocument) -> None:
        check_length(document.document, len(document), self.config.row_length)
        self._waiting[self._ticket] = (key, document)
        insort(self._by_length, (len(document), -self._ticket))
        self._ticket += 1

    def _take(self, ticket: int) -> EncodedDocument:
        _, document = self._waiting.pop(ticket)
        entry = (len(document), -ticket)
        del self._by_length[bisect_right(self._by_length, entry) - 1]
        return document
