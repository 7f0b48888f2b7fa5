"""The command that scores drawings: draws, scores, stops and goes on, and fills a sheet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.benchmarks import gallery, pictures
from unimodal.errors import ConfigError
from unimodal.evaluation.drawing import (
    DrawingConfig,
    Relay,
    as_image,
    as_pixels,
    draw,
    reverse_of,
    written,
)
from unimodal.generation import Request, Sampling, score
from unimodal.grammar import Fixed
from unimodal.media.values import Image
from unimodal.modality import Modality, NoConfig, build_modality, modalities, register_modality
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import EXPERIMENT, save_model
from unimodal.runtime import Model, load
from unimodal.types import Tokens, raster_grid
from unimodal.vocabulary import Vocabulary


class Mosaic(Modality[Image, NoConfig]):
    """Pictures of 32 x 32 as 4 x 4 squares of 64 colours."""

    value_type = Image
    raw_unit = "pixel"
    spans = {"colour": 64}
    layout = Fixed((1, 4, 4))
    round_trip_error = 255.0

    def encode(self, value: Image) -> Tokens:
        """The mean colour of each square."""
        side = value.height // 4
        squares = value.pixels[: 4 * side, : 4 * side].float().view(4, side, 4, side, 3)
        levels = (squares.mean(dim=(1, 3)) / 64).long().clamp(0, 3).view(16, 3)
        return Tokens(grid=raster_grid(1, 4, 4), ids=(levels * torch.tensor([16, 4, 1])).sum(dim=1))

    def decode(self, tokens: Tokens) -> Image:
        """Flat squares."""
        assert tokens.ids is not None
        colours = torch.stack([tokens.ids // 16, tokens.ids // 4 % 4, tokens.ids % 4], dim=1)
        squares = (colours * 64 + 32).to(torch.uint8).view(4, 4, 3)
        return Image(squares.repeat_interleave(8, dim=0).repeat_interleave(8, dim=1))

    def distance(self, a: Image, b: Image) -> float:
        """Mean difference of colours."""
        return float((a.pixels.float() - b.pixels.float()).abs().mean())

    def raw_units(self, value: Image) -> float:
        """Pixels."""
        return float(value.height * value.width)

    def example(self, rng: np.random.Generator) -> Image:
        """Any picture."""
        return Image(torch.from_numpy(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))


def translation(source: str, target: str, data: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {
        "template": "translate", "source": source, "target": target, "data": data,
        "options": options,
    }  # fmt: skip


EMOJI = {"name": "embedded/emoji", "options": {"captions": "styled"}}
SCENES = {"name": "scenes", "options": {"drawings": "none", "length": 400}}
TASKS = {
    "draw": translation("text", "mosaic", EMOJI, target_field="image", null_rate=0.1),
    "draw_scenes": translation("text", "mosaic", SCENES, target_field="image"),
    "draw_again": translation("text", "mosaic", {"name": "embedded/emoji"}, target_field="image"),
    "caption": translation("mosaic", "text", EMOJI, source_field="image"),
    "redraw": translation("mosaic", "mosaic", EMOJI, source_field="image", target_field="image"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    register_modality("mosaic")(Mosaic)
    folder = tmp_path_factory.mktemp("run")
    text = build_modality("text", {"vocab_size": 300})
    text.fit(["a red apple, flat design", "two blue circles", "fox", "0123456789"] * 20)
    vocabulary = Vocabulary.of({"text": text, "mosaic": Mosaic(NoConfig())})
    small = DecoderConfig(
        width=32, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=32, mlp_width=32
    )
    save_model(folder / "model", Decoder(small, vocabulary))
    (folder / EXPERIMENT).write_text(json.dumps({"tasks": TASKS}))
    yield folder
    modalities._entries.pop("mosaic")


def test_a_run_is_scored_and_goes_on_where_it_was(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "image.json"
    words = [str(run), "--out", str(out), "--limit", "6", "--batch-size", "4", "--device", "cpu"]
    words += ["--judge-steps", "1", "--store", str(tmp_path / "drawn")]
    words += ["--judges", str(tmp_path / "judges")]
    assert pictures.main([*words, "--tasks", "draw_scenes"]) == 0
    assert pictures.main([*words, "--tasks", "draw", "--guidance", "2"]) == 0
    results = json.loads(out.read_text())
    assert set(results) == {"draw_scenes", "draw"}  # the second command keeps what was there
    assert {"objects", "objects_and_role", "codec_distance"} <= set(results["draw_scenes"])
    mine = results["draw"]
    assert {"top1_encoder", "top5_pixels", "near_duplicates_pixels"} <= set(mine)
    assert {"round_trip_exact_match", "round_trip_character_error_rate"} <= set(mine)
    for entry in mine.values():
        assert {"value", "baseline", "baseline_name", "better", "n", "split", "seed"} <= set(entry)
    assert mine["top1_encoder"]["n"] == 6
    assert "--guidance 2" in mine["top1_encoder"]["command"]
    table = (tmp_path / "image.md").read_text()
    assert "| draw | top1 encoder |" in table
    stored = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert len([file for file in stored if file.name.startswith("draw")]) == 4
    capsys.readouterr()
    assert pictures.main([*words, "--tasks", "draw", "--guidance", "2"]) == 0
    assert json.loads(out.read_text()) == results
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.safetensors")} == stored
    for option in ("--tasks", "--known"):
        with pytest.raises(ConfigError, match="`caption` draws no pictures"):
            pictures.main([*words, option, "caption"])
    before = sorted(file.name for file in (tmp_path / "judges").iterdir())
    assert pictures.main([*words, "--tasks", "draw_again", "--known", "draw"]) == 0
    again = json.loads(out.read_text())["draw_again"]
    assert again["top1_encoder"]["ceiling"] == mine["top1_encoder"]["ceiling"]
    assert sorted(file.name for file in (tmp_path / "judges").iterdir()) == before


def test_judges_that_see_a_codec_are_kept_apart_by_codec(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(run, "cpu").tasks["draw_scenes"]
    fingerprint = task.target.fingerprint()
    names = []
    for codec in (fingerprint, "another", fingerprint):
        monkeypatch.setattr(Mosaic, "fingerprint", lambda self, codec=codec: codec)
        judge = pictures._judge("scenes", task, tmp_path, 1, None)
        assert (judge.card["codec"], judge.card["codec_share"]) == (codec, 0.25)
        names.append({file.name for file in tmp_path.glob("scenes-*.safetensors")})
    assert list(map(len, names)) == [1, 2, 2]


def test_a_relay_draws_what_another_task_wrote(run: Path, tmp_path: Path) -> None:
    model = load(run, "cpu")
    redraw, caption, task = (model.tasks[name] for name in ("redraw", "caption", "draw"))
    config = DrawingConfig(limit=4, batch_size=2)
    drawn = draw(model.engine, redraw, config, tmp_path, relay=Relay(caption, task))
    for place, record in enumerate(drawn.records):
        given = {**record, "image": as_image(drawn.truths[place])}
        (text,) = written(model.engine, caption, [given])
        request = Request(task.request({"text": text}), sampling=Sampling(seed=place))
        (answer,) = model.engine.generate([request])
        assert (as_pixels([answer.value])[0] == drawn.pixels[place]).all()
    direct = draw(model.engine, redraw, config, tmp_path)  # what was stored is not taken
    assert (direct.pixels != drawn.pixels).any()
    with pytest.raises(ConfigError, match="reads `mosaic`, but `draw_again` gives `text`"):
        draw(model.engine, model.tasks["draw_again"], config, relay=Relay(caption, task))
    with pytest.raises(ConfigError, match="draws from `text`, but `redraw` writes `mosaic`"):
        Relay(redraw, task)


def test_the_command_scores_a_relay_under_a_name_of_its_own(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "image.json"
    words = [str(run), "--out", str(out), "--limit", "4", "--device", "cpu", "--judge-steps", "1"]
    words += ["--store", str(tmp_path / "drawn"), "--judges", str(tmp_path / "judges")]
    words += ["--tasks", "redraw", "--through", "caption"]
    assert pictures.main([*words, "--known", "draw"]) == 0
    assert set(json.loads(out.read_text())) == {"redraw through caption"}
    with pytest.raises(ConfigError, match="needs a task that draws"):
        pictures.main(words)
    with pytest.raises(ConfigError, match="no task `captoin`"):
        pictures.main([*words[:-1], "captoin", "--known", "draw"])


def likelihood(model: Model, text: str, pixels: np.ndarray[Any, Any]) -> float:
    record = {"image": as_image(pixels), "text": text}
    (found,) = score(model.decoder, model.tasks["caption"].scored_documents(record))
    return -found.segments[-1].nats


def test_the_best_of_several_is_the_one_that_its_caption_fits(run: Path, tmp_path: Path) -> None:
    model = load(run, "cpu")
    task, reverse = model.tasks["draw"], model.tasks["caption"]
    assert reverse_of(task, model.tasks, "text") is reverse
    one = DrawingConfig(limit=5, batch_size=3)
    several = DrawingConfig(limit=5, batch_size=3, best_of=4)
    chosen = draw(model.engine, task, several, tmp_path, reverse=reverse)
    again = draw(model.engine, task, several, tmp_path, reverse=reverse)  # from the store
    assert (chosen.pixels == again.pixels).all()
    single = draw(model.engine, task, one, tmp_path)
    assert (chosen.pixels != single.pixels).any()  # what was stored for one is not taken

    for place, record in enumerate(chosen.records):
        request = task.request(record).given()
        answers = [
            model.engine.generate([Request(request, "mosaic", Sampling(seed=4 * place + number))])
            for number in range(4)
        ]
        known = [likelihood(model, record["text"][0], as_pixels([a.value])[0]) for (a,) in answers]
        kept = likelihood(model, record["text"][0], chosen.pixels[place])
        assert kept == pytest.approx(max(known), abs=1e-4)
    with pytest.raises(ConfigError, match="nothing ranks"):
        draw(model.engine, task, several)


def test_the_gallery_has_a_line_a_prompt(run: Path, tmp_path: Path) -> None:
    from PIL import Image as Picture

    words = [str(run), "--prompts", "fox", "two blue circles", "--samples", "3", "--scale", "1"]
    sheets = []
    for name in ("a.png", "b.png"):
        out = tmp_path / "sheets" / name
        assert gallery.main([*words, "--out", str(out), "--device", "cpu"]) == 0
        with Picture.open(out) as file:
            sheets.append(np.asarray(file))
    assert (sheets[0] == sheets[1]).all()  # the same seeds draw the same
    cell = 32 + gallery.MARGIN
    assert sheets[0].shape == (2 * (cell + gallery.LINE) + 4, 3 * cell + 4, 3)


def test_the_gallery_keeps_the_drawings_that_their_captions_fit_best(run: Path) -> None:
    model, prompts = load(run, "cpu"), ["fox", "two blue circles"]
    drawn = gallery.draw_prompts(model, prompts, 6, Sampling(), seed=3)
    kept = gallery.draw_prompts(model, prompts, 2, Sampling(), seed=3, best_of=3)
    for prompt, everything, line in zip(prompts, drawn, kept, strict=True):
        known = sorted((likelihood(model, prompt, one) for one in everything), reverse=True)
        own = [likelihood(model, prompt, one) for one in line]
        assert own == pytest.approx(known[:2], abs=1e-4)
