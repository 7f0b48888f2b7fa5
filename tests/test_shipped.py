"""The shipped models: small enough, whole, with a card; every one reads and writes."""

from pathlib import Path

import numpy as np
import pytest

import unimodal as um
from unimodal.model.durable import files_of, verify_folder
from unimodal.runtime import Model
from unimodal.shipped import CARD, shipped_folder, shipped_names
from unimodal.training.release import LARGEST, LARGEST_FILE


@pytest.fixture(scope="module")
def demo() -> Model:
    return um.load("demo", "cpu")


def test_files_are_whole_and_small() -> None:
    assert "demo" in shipped_names()
    for name in shipped_names():
        folder = shipped_folder(name)
        assert folder is not None
        verify_folder(folder)
        sizes = [(folder / file).stat().st_size for file in files_of(folder)]
        assert max(sizes) <= LARGEST_FILE
        assert sum(sizes) <= LARGEST
        card = (folder / CARD).read_text("utf-8")
        for words in ("parameters", "tokens", "hours", "licence", "Held-out loss"):
            assert words in card


def test_the_demo_model_draws_the_same_picture_for_the_same_seed(demo: Model) -> None:
    given = um.Text("a red apple")
    one, same, other = (
        demo.generate(given, to="image_codes", guidance=2.0, seed=seed).value for seed in (3, 3, 4)
    )
    assert one.pixels.shape == (32, 32, 3)
    assert np.array_equal(one.pixels, same.pixels)
    assert not np.array_equal(one.pixels, other.pixels)


def test_an_answer_is_saved_as_its_modality_writes(demo: Model, tmp_path: Path) -> None:
    drawn = demo.generate(um.Text("a blue car"), to="image_codes", seed=0)
    path = demo.save(drawn, tmp_path / "car.png")
    read = demo.vocabulary.modality("image_codes").read(path)
    assert np.array_equal(read.pixels, drawn.value.pixels)
    words = demo.generate(um.Image(path), temperature=0)
    assert demo.save(words, tmp_path / "car.txt").read_text("utf-8") == words.value


def test_the_demo_model_reads_what_it_was_trained_on(demo: Model) -> None:
    """Pictures, sound, moving pictures and DNA of another make: any answer, and a likelihood."""
    rng = np.random.default_rng(0)
    for name in ("image", "speech", "video"):
        value = demo.vocabulary.modality(name).example(rng)
        assert isinstance(demo.generate(um.Segment(name, value), temperature=0).value, str)
    (bits,) = demo.score([um.Dna("ACGT" * 60)])
    assert 1.0 < bits.bits_per_raw_unit < 2.2
