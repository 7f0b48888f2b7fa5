"""Two sources joined by a field that both have: every record of the one with matching others."""

from collections import defaultdict
from collections.abc import Mapping

from unimodal.data.sources import BaseSource, Record, Source, hash_fraction
from unimodal.errors import ConfigError, DataError


class Joined(BaseSource):
    """Pairs of records that agree in a field; record: the fields of both, the first's win.

    The id names both records. Where one record of `first` matches more of `second` than `most`,
    those are drawn by a hash of the two ids, so that all of `second` are used over the whole.

    Args:
        first: One source.
        second: The other.
        on: The field; strings are compared without regard to case.
        aliases: Values of `first`, and what `second` calls them.
        most: Matches of one record of `first`, at least 1.
        split: See `Source`.

    Raises:
        ConfigError: if `most` is below 1.
        DataError: if the records of one lack the field, or it holds no string or number.
    """

    def __init__(
        self,
        first: Source,
        second: Source,
        *,
        on: str = "text",
        aliases: Mapping[str, str] | None = None,
        most: int = 8,
        split: str = "train",
    ):
        super().__init__(
            f"{first.name} + {second.name}", f"{first.license}; {second.license}", split
        )
        if most < 1:
            raise ConfigError(f"`most` must be at least 1, but is {most}.")
        self._first, self._second = first, second
        called = {str(key).casefold(): value for key, value in (aliases or {}).items()}
        places: dict[str, list[int]] = defaultdict(list)
        names = [str(second[index].get("id", index)) for index in range(len(second))]
        for index in range(len(second)):
            places[_key(second, index, on)].append(index)
        self._index: list[tuple[int, int]] = []
        for index in range(len(first)):
            key = _key(first, index, on)
            matches = places.get(str(called.get(key, key)).casefold(), [])
            if len(matches) > most:
                own = str(first[index].get("id", index))
                order = sorted(matches, key=lambda m: hash_fraction("join", own, names[m]))
                matches = sorted(order[:most])
            self._index += [(index, match) for match in matches]

    def __len__(self) -> int:
        return len(self._index)

    def record(self, index: int) -> Record:
        one, other = self._index[index]
        first, second = self._first[one], self._second[other]
        return {**second, **first, "id": f"{first.get('id', one)}+{second.get('id', other)}"}


def _key(source: Source, index: int, on: str) -> str:
    """What a record is joined by."""
    record = source[index]
    value = record.get(on)
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if not isinstance(value, str | int):
        raise DataError(
            f"The field `{on}` must hold a string or a number to join by, but "
            + ("is missing." if value is None else f"is a {type(value).__name__}."),
            subject=f"{source.name}, record {record.get('id', index)}",
            remedy="Name another field with `on`.",
        )
    return str(value).casefold()
