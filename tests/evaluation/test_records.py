"""Records that cannot be read cost themselves alone, whatever it is that they raise."""

from typing import Any

import pytest

from unimodal.data.sources import ListSource
from unimodal.errors import MediaError
from unimodal.evaluation.records import UsableRecords


@pytest.mark.parametrize("error", [KeyError("text"), ValueError("no number"), OSError("gone")])
def test_any_error_of_a_record_costs_that_record_and_is_told(error: Exception) -> None:
    source = ListSource([{"id": str(i)} for i in range(4)], name="mine", split="test")

    def make(record: dict[str, Any]) -> str:
        if record["id"] == "2":
            raise error
        return str(record["id"])

    records = UsableRecords(source, range(4))
    assert [number for number, _ in records.read(make)] == [0, 1, 3]  # type: ignore[arg-type]
    assert set(records.bad) == {2}
    assert str(error) in records.bad[2]
    note = records.note("job")
    assert note is not None
    assert "1 of 4 records of `test` are left out" in note


def test_an_error_without_a_name_names_the_record() -> None:
    def make(record: Any) -> None:
        raise TypeError("no string") if record["id"] == "0" else MediaError("cut", subject="a.png")

    records = UsableRecords(ListSource([{"id": "0"}, {"id": "1"}], name="mine"), range(2))
    assert not list(records.read(make))
    assert records.bad[0].startswith("mine, record 0 of train: ")
    assert "TypeError: no string" in records.bad[0]
    assert records.bad[1].startswith("a.png: ")
