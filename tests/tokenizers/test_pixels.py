"""Variations of pictures: off by default, drawn by the generator alone, each does what it says."""

import dataclasses

import numpy as np
import pytest
import torch

from unimodal.errors import ConfigError
from unimodal.media.values import Image
from unimodal.modality import build_modality, identity_of
from unimodal.stream import Document, Segment, StreamConfig, encode_document, varied
from unimodal.tokenizers.pixels import PictureVariation, vary_picture
from unimodal.vocabulary import Vocabulary

ALL = {
    "flip": 0.5, "shift": 0.2, "scale": 0.5, "turn": 30, "hue": 90, "background": 0.5,
    "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "erase": 0.5,
}  # fmt: skip


def drawing() -> Image:
    """A red and blue block on white, with a white hole."""
    pixels = torch.full((12, 16, 3), 255, dtype=torch.uint8)
    pixels[3:9, 4:12] = torch.tensor([200, 10, 10], dtype=torch.uint8)
    pixels[3:9, 4:6] = torch.tensor([10, 10, 220], dtype=torch.uint8)
    pixels[5:7, 8:10] = 255
    return Image(pixels)


def drawn(seed: int = 0, **options: float) -> torch.Tensor:
    chosen = PictureVariation(**options)
    return vary_picture(drawing(), chosen, np.random.default_rng(seed)).pixels


def test_nothing_is_varied_by_default() -> None:
    value, rng = drawing(), np.random.default_rng(0)
    state = rng.bit_generator.state
    assert vary_picture(value, PictureVariation(), rng) is value
    assert rng.bit_generator.state == state


def test_the_generator_alone_decides() -> None:
    assert torch.equal(drawn(3, **ALL), drawn(3, **ALL))
    assert not torch.equal(drawn(3, **ALL), drawn(4, **ALL))


@pytest.mark.parametrize("name", ALL)
def test_each_option_changes_a_picture_by_itself(name: str) -> None:
    changed = [not torch.equal(drawn(s, **{name: ALL[name]}), drawing().pixels) for s in range(8)]
    assert any(changed)
    assert all(drawn(s, **{name: ALL[name]}).shape == (12, 16, 3) for s in range(3))


def test_a_flip_is_the_mirror_image() -> None:
    assert torch.equal(drawn(flip=1.0), drawing().pixels.flip(1))


def test_a_shift_moves_and_repeats_the_edge() -> None:
    for seed in range(5):
        moved = drawn(seed, shift=0.1)
        assert bool((moved[0] == 255).all())
        assert not torch.equal(moved, drawing().pixels)


def test_a_turned_hue_keeps_grey_and_changes_colours() -> None:
    turned = drawn(2, hue=120)
    assert bool((turned[0, 0] == 255).all())
    assert bool((turned[5:7, 8:10] == 255).all())
    assert not torch.equal(turned[4, 7], drawing().pixels[4, 7])


def test_a_new_background_reaches_in_from_the_edges_and_leaves_holes() -> None:
    changed = drawn(1, background=1.0)
    assert len({tuple(p) for p in changed[0].tolist()}) == 1
    assert not bool((changed[0, 0] == 255).all())
    assert bool((changed[5:7, 8:10] == 255).all())
    assert torch.equal(changed[4:8, 5:7], drawing().pixels[4:8, 5:7])


def test_brightness_is_one_factor_for_all_pixels() -> None:
    changed = next(p for p in (drawn(s, brightness=0.5) for s in range(9)) if p.max() < 250)
    factor = changed.double() / drawing().pixels
    assert torch.allclose(factor, factor[0, 0, 0].expand_as(factor), atol=0.06)


def test_contrast_keeps_the_mean_grey_and_saturation_each_grey() -> None:
    def grey(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)

    lower = next(p for p in (drawn(s, contrast=0.5) for s in range(9)) if p.max() < 250)
    assert abs(float(grey(lower).mean() - grey(drawing().pixels).mean())) < 1
    assert float(grey(lower).std()) < float(grey(drawing().pixels).std())
    paler = next(p for p in (drawn(s, saturation=0.5) for s in range(9)) if p[4, 7, 0] < 198)
    assert torch.allclose(grey(paler), grey(drawing().pixels), atol=1.0)
    assert int(paler[4, 7].max() - paler[4, 7].min()) < 188


def test_an_erased_rectangle_has_one_colour_and_leaves_the_rest() -> None:
    areas = []
    for seed in range(40):
        changed = drawn(seed, erase=1.0)
        rows, columns = torch.nonzero((changed != drawing().pixels).any(dim=2), as_tuple=True)
        found = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len({tuple(p) for p in found.reshape(-1, 3).tolist()}) == 1
        areas.append(len(found.reshape(-1, 3)) / (12 * 16))
    assert 0.01 <= min(areas) < 0.1
    assert 0.2 < max(areas) <= 0.4


@pytest.mark.parametrize(("name", "value"), [("flip", 1.5), ("turn", 200), ("scale", -0.1)])
def test_what_is_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"`vary.{name}` must lie in"):
        PictureVariation(**{name: value})


@pytest.mark.parametrize("name", ["image", "image_codes"])
def test_variation_is_of_training_alone(name: str) -> None:
    """It reaches `varied` documents, never others, and not the fingerprint."""
    plain, varying = build_modality(name), build_modality(name, {"vary": {"flip": 1.0}})
    assert varying.config.vary == PictureVariation(flip=1.0)
    assert plain.fingerprint() == varying.fingerprint()
    assert "vary" not in identity_of(varying.config)
    vocabulary = Vocabulary.of({name: varying})
    document = Document([Segment(name, drawing(), objective="none")])
    mirrored = dataclasses.replace(
        document, segments=(Segment(name, Image(drawing().pixels.flip(1)), objective="none"),)
    )

    def content(of: Document) -> torch.Tensor:
        found = encode_document(of, vocabulary, StreamConfig())
        return found.features[0].values if found.features else found.ids

    trained = content(varied(document, vocabulary, np.random.default_rng(0)))
    assert torch.equal(trained, content(mirrored))
    assert not torch.equal(trained, content(document))
