"""Fashion-MNIST: 60,000 + 10,000 grey pictures of garments, 28 x 28, ten classes.

Official split; of the training part one picture in twenty, drawn by hash, is `validation`.

References:
    Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017. arXiv:1708.07747.
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.cache import MappedArray, read_rows, write_arrays, write_rows
from unimodal.data.packages import Package
from unimodal.data.recipe import RECIPES, Recipe
from unimodal.data.sources import Source, stable_split
from unimodal.data.tables import ImageTable
from unimodal.errors import DataError

CLASSES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""The ten classes, in the order of their labels."""

_FOLDER = "usr/share/datasets/fashion-mnist/"


@RECIPES.register("fashion_mnist")
class FashionMnist(Recipe):
    """Records: `{"id", "image", "text": class name, "label": 0 to 9}`."""

    name = "fashion_mnist"
    about = "70,000 pictures of garments, ten classes, 28 x 28 grey"
    license = "MIT"
    packages = (
        Package(
            client="apt",
            name="dataset-fashion-mnist",
            version="0.0~git20200523.55506a9-1",
            sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ),
    )

    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        archive = archives["dataset-fashion-mnist"]
        files = dict(self.members(archive, lambda name: name.startswith(_FOLDER)))
        rows: list[dict[str, Any]] = []
        pictures = []
        for part, prefix in (("train", "train"), ("test", "t10k")):
            images, labels = (
                read_idx(self._file(files, archive, f"{prefix}-{kind}-ubyte.gz"))
                for kind in ("images-idx3", "labels-idx1")
            )
            if len(images) != len(labels) or images.shape[1:] != (28, 28):
                raise DataError(
                    f"Pictures {images.shape} and labels {labels.shape} do not fit.",
                    subject=str(archive),
                    remedy="It is of another version, or damaged: fetch the listed one.",
                )
            for index, label in enumerate(labels.tolist()):
                key = f"{part}-{index:05d}"
                split = part if part == "test" else stable_split(key, salt=self.name)
                rows.append(
                    {
                        "id": key,
                        "split": split,
                        "picture": len(rows),
                        "label": label,
                        "text": CLASSES[label],
                    }
                )
            pictures.append(images)
        write_arrays(folder / "pictures.safetensors", {"pixels": np.concatenate(pictures)})
        write_rows(folder / "rows.jsonl", rows)
        return {
            "official train": len(pictures[0]),
            "official test": len(pictures[1]),
            **{split: sum(row["split"] == split for row in rows) for split in self.splits},
        }

    def expected_counts(self) -> dict[str, int]:
        return {"official train": 60_000, "official test": 10_000}

    def open(self, split: str) -> Source:
        rows = [row for row in read_rows(self.folder / "rows.jsonl") if row["split"] == split]
        return ImageTable(
            MappedArray(self.folder / "pictures.safetensors", "pixels"),
            rows,
            name=self.name,
            license=self.license,
            split=split,
        )

    def _file(self, files: dict[str, bytes], archive: Path, name: str) -> bytes:
        if _FOLDER + name not in files:
            raise DataError(
                f"Member `{_FOLDER}{name}` is missing.",
                subject=str(archive),
                remedy="It is of another version, or damaged: fetch the listed one.",
            )
        return gzip.decompress(files[_FOLDER + name])


def read_idx(data: bytes) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes.

    Raises:
        DataError: if the header is not of that kind or the length is wrong.
    """
    axes = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    if not 1 <= axes <= 4 or len(data) != 4 + 4 * axes + int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"This is not an IDX file of bytes (shape {shape}, {len(data)} bytes).",
            remedy="It is of another version, or damaged: fetch the listed one.",
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
