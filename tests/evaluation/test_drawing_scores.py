"""Scores of drawings: perfect drawings reach the ceiling, copies and mix-ups are found out."""

from typing import Any

import numpy as np
import pytest
import torch

from unimodal.data.scenes import Scenes
from unimodal.data.sources import open_source
from unimodal.errors import CheckpointError, ConfigError
from unimodal.evaluation.drawing import DrawingConfig, Drawn, Library, chosen, in_another_style
from unimodal.evaluation.drawing_scores import audit, garments, nearest_pixels, ranks, retrieval
from unimodal.evaluation.drawing_scores import scenes as scene_scores
from unimodal.evaluation.encoder import (
    EMBEDDING,
    Judge,
    PictureNetwork,
    load_judge,
    stack,
    to_input,
    train_judge,
    vary,
)
from unimodal.evaluation.scene_reading import (
    has_objects,
    map_names,
    read_scenes,
    scene_targets,
    share_read,
    shows_role,
)
from unimodal.tasks.translate import TranslateTask

CONFIG = DrawingConfig()


def logits(heat: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """What a network that has learned its targets would give."""
    shares = torch.cat([heat, sizes.clamp(min=0.01)[:, None]], dim=1).clamp(1e-4, 1 - 1e-4)
    return torch.logit(shares)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    source = open_source("scenes", "test", drawings="none", length=160)
    assert isinstance(source, Scenes)
    return source


def test_scenes_are_read_back_from_their_own_maps(scenes: Scenes) -> None:
    records = list(scenes)
    names = map_names(scenes.names)
    seen = read_scenes(logits(*scene_targets(records, names, 32, 1.0)), names)
    found = share_read(seen, records)
    assert found["objects"] > 0.97
    assert found["role"] > 0.95
    # The reading of one scene must not fit another.
    assert share_read(seen[1:] + seen[:1], records)["objects"] < 0.1


def test_a_role_is_not_shown_when_objects_change_places(scenes: Scenes) -> None:
    names = map_names(scenes.names)
    for record in list(scenes)[:80]:
        if record["relation"] not in ("left of", "above"):
            continue
        (heat, sizes) = scene_targets([record], names, 32, 1.0)
        (seen,) = read_scenes(logits(heat, sizes), names)
        assert shows_role(seen, record)
        swapped = {"left of": "right of", "above": "below"}
        wrong = {**record, "relation": swapped[record["relation"]]}
        assert has_objects(seen, wrong)
        assert not shows_role(seen, wrong)


def test_the_rank_of_the_own_picture() -> None:
    gallery = np.eye(4, dtype=np.float32)
    assert ranks(gallery, gallery).tolist() == [0, 0, 0, 0]
    queries = np.array([[0, 1, 0, 0]] * 4, np.float32)
    assert ranks(queries, gallery)[1] == 0
    assert ranks(queries, gallery)[0] >= 1
    same = np.zeros((5, 2), np.float32)
    assert ranks(same, same).tolist() == [2] * 5  # all alike says nothing: the middle


def fake_drawn(pixels: np.ndarray[Any, Any], records: list[dict[str, Any]], **more: Any) -> Drawn:
    task = object.__new__(TranslateTask)  # these scores do not ask it
    return Drawn(task, "test", records, pixels, more.get("truths", pixels), pixels)


@pytest.fixture(scope="module")
def encoder() -> Judge:
    torch.manual_seed(0)
    network = PictureNetwork(EMBEDDING, has_maps=False).eval()
    return Judge("pictures", network, {"kind": "pictures", "names": []})


def test_true_pictures_are_found_and_others_are_not(encoder: Judge) -> None:
    pixels, records = stack(open_source("embedded/emoji", "test"), 30)
    others, others_records = stack(open_source("embedded/emoji", "train"), 400)
    copies = others[in_another_style(others_records, records)]
    found = retrieval(fake_drawn(pixels, records), copies, encoder, CONFIG)
    assert found["top1_pixels"]["value"] == found["top1_pixels"]["ceiling"] == 1
    assert found["top5_pixels"]["baselines"]["chance"] == pytest.approx(5 / 30)
    mixed = fake_drawn(np.roll(pixels, 1, axis=0), records, truths=pixels)
    assert retrieval(mixed, copies, encoder, CONFIG)["top1_pixels"]["value"] < 0.1


def test_a_copy_of_a_training_picture_is_a_near_duplicate(encoder: Judge) -> None:
    pixels, records = stack(open_source("embedded/emoji", "test"), 20)
    known, its_records = stack(open_source("embedded/emoji", "train"), 200)
    library = Library(known, its_records)
    drawn = fake_drawn(known[:20].copy(), records, truths=pixels)
    drawn.coded = pixels
    found = audit(drawn, library, encoder, CONFIG)
    assert found["near_duplicates_pixels"]["value"] == 1
    assert found["near_duplicates_pixels"]["baseline"] < 0.3
    assert found["near_duplicates_encoder"]["value"] == 1
    assert nearest_pixels(known[3:4], known)[0] < 0.1


def test_one_prompt_a_concept() -> None:
    source = open_source("embedded/emoji", "test")
    numbers = chosen(source, 400, 0)
    concepts = [source[n]["concept"] for n in numbers]
    assert len(concepts) == len(set(concepts)) > 200
    assert chosen(source, 5, 0) == numbers[:5]
    assert chosen(source, 5, 1) != numbers[:5]


def test_a_judge_learns_and_is_the_same_from_its_file(tmp_path: Any) -> None:
    train = open_source("embedded/fashion", "validation")
    judge = train_judge("classes", train, train, steps=25)
    accuracy = judge.card["held_out"]["accuracy"]
    assert accuracy > 0.25  # chance is 0.1
    judge.save(tmp_path / "judge.safetensors")
    again = load_judge(tmp_path / "judge.safetensors")
    pixels, records = stack(train, 40)
    assert again.classes(pixels) == judge.classes(pixels)
    found = garments(fake_drawn(pixels, records), again, CONFIG)["class_seen"]
    assert found["value"] == found["ceiling"] == found["real_pictures"]
    assert found["baseline"] < 0.4
    (tmp_path / "judge.json").write_text("{}")
    with pytest.raises(CheckpointError):
        load_judge(tmp_path / "judge.safetensors")
    with pytest.raises(ConfigError, match="`kind`"):
        train_judge("sounds", train, train)


def test_a_judge_sees_a_share_of_its_pictures_through_the_codec() -> None:
    train = open_source("embedded/fashion", "validation")
    seen: list[tuple[int, ...]] = []

    def through(pixels: Any) -> Any:
        seen.append(pixels.shape)
        return 255 - pixels

    judge, plain = (
        train_judge("classes", train, train, steps=2, through=t) for t in (through, None)
    )
    assert seen == [(16, 32, 32, 3)] * 2
    assert (judge.card["codec_share"], plain.card["codec_share"]) == (0.25, 0.0)
    weights = [j.network.leave.state_dict()["bias"] for j in (judge, plain)]
    assert not torch.equal(*weights)


def test_scores_of_scenes_tell_what_was_held_out(scenes: Scenes) -> None:
    records = list(scenes)[:40]
    names = map_names(scenes.names)
    outputs = logits(*scene_targets(records, names, 32, 1.0))

    class Perfect(Judge):
        def outputs(self, pixels: Any) -> torch.Tensor:
            return outputs

    judge = Perfect("scenes", PictureNetwork(1, has_maps=True), {"names": names})
    pixels = np.zeros((40, 32, 32, 3), np.uint8)
    found = scene_scores(fake_drawn(pixels, records), judge, CONFIG)
    assert found["objects_held_out_pair"]["n"] == found["objects_held_out_role"]["n"] == 20
    assert found["objects"]["value"] > 0.9 > 0.2 > found["objects"]["baseline"]
    assert found["objects_and_role"]["ceiling"] > 0.9


def test_variations_keep_shape_and_range() -> None:
    pixels, _ = stack(open_source("embedded/emoji", "test"), 4)
    x = to_input(pixels)
    varied = vary(x, torch.Generator().manual_seed(0))
    assert varied.shape == x.shape
    assert float(varied.abs().max()) <= 1
    assert 0.02 < float((varied - x).abs().mean()) < 0.8
