"""Sources: what tells their contents apart."""

from pathlib import Path
from typing import Any

import torch

from unimodal.data.sources import NUM_HASHED, ListSource, content_hash
from unimodal.media import FileRef, Image


def hashed(*records: dict[str, Any]) -> str:
    return content_hash(ListSource(records))


def test_a_hash_of_the_content_changes_with_texts_tensors_and_files(tmp_path: Path) -> None:
    pixels = torch.zeros(2, 2, 3, dtype=torch.uint8)
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF one")
    record = {"id": "a", "text": "red", "image": Image(pixels), "speech": FileRef(file)}
    first = hashed(record)
    assert hashed(dict(reversed(record.items()))) == first
    assert hashed({**record, "text": "bed"}) != first
    assert hashed({**record, "image": Image(pixels + 1)}) != first
    assert hashed(record, record) != first
    file.write_bytes(b"RIFF two")
    assert hashed(record) != first
    file.unlink()
    assert hashed(record) != first


def test_many_records_are_sampled_and_bad_ones_count(monkeypatch: Any) -> None:
    read = []

    class Counting(ListSource):
        def record(self, index: int) -> dict[str, Any]:
            read.append(index)
            if index == 0:
                raise KeyError("bad")
            return super().record(index)

    records = [{"id": str(i)} for i in range(10 * NUM_HASHED + 3)]
    content_hash(Counting(records))
    assert NUM_HASHED // 2 < len(read) <= NUM_HASHED
    assert content_hash(Counting(records)) != content_hash(ListSource(records))
