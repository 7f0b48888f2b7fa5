"""The emoji and spoken-captions recipes on archives made here: told apart, checked, split."""

import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from unimodal.cli.main import main
from unimodal.data.cache import MANIFEST
from unimodal.data.captions import styled
from unimodal.data.commands import prepare
from unimodal.data.recipes import spoken_captions
from unimodal.data.recipes.emoji import STYLES, Emoji
from unimodal.data.recipes.spoken_captions import HELD_OUT_VOICES, SpokenCaptions
from unimodal.data.synthesis import ESPEAK_VOICES, FLITE_VOICES, SAMPLE_RATE_HZ, Voice
from unimodal.errors import BackendUnavailableError, ConfigError, DataError

LANGUAGES = [f"l{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(26)]
WORDS = "apple bird cloud door eagle fish grape horse iron jar kite lamp moon nest owl".split()
CONCEPTS = {f"{0x1F300 + i:X}": f"{WORDS[i % 15]} {WORDS[i // 15]}" for i in range(75)}
TONED = "1F310"
COLOURED = ("fluent", "fluent-flat", "fxemoji", "emojione")


def packed(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """A tarball named as the registry's client names it."""
    path = folder / f"{package.lstrip('@').replace('/', '-')}-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def names() -> dict[str, bytes]:
    """Names of the concepts in 28 languages; one concept has a variant with a skin tone."""
    files = {}
    for language in ("en", "de", *LANGUAGES):
        mark = "" if language == "en" else f"{language} "
        rows: list[dict[str, Any]] = [
            {"hexcode": code, "label": mark + label, "group": 3} for code, label in CONCEPTS.items()
        ]
        for row in rows:
            if row["hexcode"] == TONED:
                tone = {"hexcode": f"{TONED}-1F3FB", "label": row["label"] + " light", "tone": 1}
                row["skins"] = [tone]
        files[f"{language}/data.json"] = json.dumps(rows).encode()
    return files


def colour(style: str, code: str) -> tuple[int, int, int]:
    """A colour of its own for each drawing; two styles draw one concept alike."""
    if (style, code) == ("emojione", "1F305"):
        style = "fxemoji"
    number = int(code[:5], 16) - 0x1F300 + 75 * list(STYLES).index(style)
    rng = np.random.default_rng(number + 1000 * len(code))
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def png(rgb: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), rgb).save(buffer, "PNG")
    return buffer.getvalue()


def icons(style: str) -> dict[str, bytes]:
    """An icon set: squares of a colour, named after the concept."""
    found = {}
    for code, label in CONCEPTS.items():
        fill = "#{:02x}{:02x}{:02x}".format(*colour(style, code))
        body = f'<rect width="16" height="16" fill="{fill}"/>'
        found[label.replace(" ", "-")] = {"body": body}
    files = {"icons.json": json.dumps({"icons": found, "width": 16, "height": 16}).encode()}
    if style == "fluent-flat":
        codes = {c.lower(): label.replace(" ", "-") for c, label in CONCEPTS.items()}
        files["chars.json"] = json.dumps(codes).encode()
    return files


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All packages that the emoji recipe takes without OpenMoji."""
    folder = tmp_path_factory.mktemp("archives")
    made = [packed(folder, "emojibase-data", names())]
    for style, place in (("noto", "img/google/64"), ("twemoji", "img/twitter/64")):
        drawings = {f"{place}/{c.lower()}.png": png(colour(style, c)) for c in CONCEPTS}
        toned = f"{TONED}-1F3FB"
        drawings[f"{place}/{toned.lower()}.png"] = png(colour(style, toned))
        drawings[f"{place}/ffff.png"] = png((0, 0, 0))
        made.append(packed(folder, STYLES[style][0], drawings))
    return made + [packed(folder, STYLES[style][0], icons(style)) for style in COLOURED]


@pytest.fixture(scope="module")
def emoji(archives: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Emoji:
    pytest.importorskip("resvg_py", reason="drawings in SVG need resvg-py")
    recipe = Emoji(cache=tmp_path_factory.mktemp("emoji"))
    recipe.prepare(archives, accept_other=True)
    return recipe


def pairs(recipe: Emoji) -> dict[str, list[dict[str, Any]]]:
    """The prepared rows of each split, pictures left out."""
    rows = [json.loads(x) for x in (recipe.folder / "rows.jsonl").read_text().splitlines()]
    found = defaultdict(list)
    for row in rows:
        found[row["split"]].append(row)
    return found


def test_emoji_holds_out_pairs_of_seen_concepts_and_whole_concepts(emoji: Emoji) -> None:
    found = pairs(emoji)
    assert set(found) == set(emoji.splits)
    seen = {(row["style"], row["base"]) for row in found["train"]}
    bases = {base for _, base in seen}
    for split in ("validation", "test"):
        for row in found[split]:
            assert row["base"] in bases
            assert (row["style"], row["base"]) not in seen
    assert not bases & {row["base"] for row in found["concepts"]}
    alike = [
        split
        for split, rows in found.items()
        for row in rows
        if row["concept"] == "1F305" and row["style"] in ("fxemoji", "emojione")
    ]
    assert len(alike) == 2
    assert len(set(alike)) == 1


def test_emoji_of_permissive_licences_alone(emoji: Emoji, monkeypatch: pytest.MonkeyPatch) -> None:
    every = Emoji(cache=emoji.cache, licenses="permissive").source("train")
    assert len(every) == len(emoji.source("train"))
    assert every.license == "Apache-2.0, CC-BY-4.0, MIT"
    monkeypatch.setattr("unimodal.data.recipes.emoji.PERMISSIVE", {"MIT"})
    some = Emoji(cache=emoji.cache, licenses="permissive").source("train")
    assert {some[i]["style"] for i in range(len(some))} == {"fluent", "fluent-flat"}
    with pytest.raises(ConfigError, match="all or permissive"):
        Emoji(cache=emoji.cache, licenses="free")


def test_captions_of_emoji_may_name_the_design(emoji: Emoji) -> None:
    source = Emoji(cache=emoji.cache, captions="styled", styles=["fluent-flat"]).source("train")
    record = source[0]
    plain = Emoji(cache=emoji.cache, styles=["fluent-flat"]).source("train")[0]["text"]
    article = "an" if plain[0] in "aeiou" else "a"
    assert record["text"][0] == f"{article} {plain}, flat design"
    assert record["text"][-1] == plain
    assert styled("glasses", "noto") == ["glasses, noto design", "glasses"]
    assert styled("Apfel", "noto", "de") == ["Apfel, noto design", "Apfel"]
    with pytest.raises(ConfigError, match="`captions`"):
        Emoji(cache=emoji.cache, captions="long")


def test_emoji_records_say_picture_name_style_and_licence(emoji: Emoji) -> None:
    counts = emoji.counts()
    assert counts["style noto"] == len(CONCEPTS) + 1
    assert counts["style fluent"] == counts["style fxemoji"] == len(CONCEPTS)
    assert counts["languages"] == 28
    source = emoji.source("train")
    assert source.license == Emoji.license
    for record in (source[0], source[len(source) - 1]):
        assert record["text"] == CONCEPTS[record["concept"]]
        assert record["license"] == STYLES[record["style"]][1]
        wanted = colour(record["style"], record["concept"])
        assert np.abs(record["image"].pixels[16, 16].numpy() - np.array(wanted)).max() <= 1
    with_tones = Emoji(cache=emoji.cache, skin_tones=True, languages=("en", "de"))
    known = [with_tones.source(split) for split in Emoji.splits]
    texts = {source[i]["text"] for source in known for i in range(len(source))}
    assert f"{CONCEPTS[TONED]} light" in texts
    assert f"de {CONCEPTS[TONED]}" in texts
    with pytest.raises(ConfigError, match="xx"):
        Emoji(cache=emoji.cache, languages=("xx",)).source("train")
    with pytest.raises(ConfigError, match="openmoji=true"):
        Emoji(cache=emoji.cache, styles=("openmoji",))


def test_preparing_emoji_again_changes_nothing(
    emoji: Emoji, archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Emoji, "build", None)
    before = {path: path.stat().st_mtime_ns for path in emoji.folder.iterdir()}
    assert emoji.prepare(archives) == emoji.folder
    assert {path: path.stat().st_mtime_ns for path in emoji.folder.iterdir()} == before


def test_emoji_archives_of_another_hash_or_content_are_refused(
    archives: list[Path], tmp_path: Path
) -> None:
    recipe = Emoji(cache=tmp_path / "cache")
    with pytest.raises(DataError, match="SHA-256") as caught:
        recipe.prepare(archives)
    assert "--accept-other" in str(caught.value)
    unnamed = packed(tmp_path, "emojibase-data", {"de/data.json": names()["de/data.json"]})
    with pytest.raises(DataError, match="English names"):
        recipe.prepare([unnamed, *archives[1:]], accept_other=True)
    missing = packed(tmp_path, STYLES["fluent"][0], {"other.json": b"{}"})
    others = [path for path in archives if path.name != missing.name]
    with pytest.raises(DataError, match=r"package/icons\.json"):
        recipe.prepare([missing, *others], accept_other=True)
    assert not recipe.is_prepared
    assert not list((tmp_path / "cache" / "prepared").glob("*"))


def test_the_command_line_prepares_from_files_and_shows_the_licence(
    archives: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("resvg_py", reason="drawings in SVG need resvg-py")
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path))
    words = ["data", "prepare", "emoji", "--from", *map(str, archives)]
    assert main(words) == 2
    refused = capsys.readouterr()
    assert "SHA-256" in refused.err
    assert "Traceback" not in refused.err
    assert main([*words, "--accept-other"]) == 0
    shown = capsys.readouterr().out
    assert f"emoji (licence: {Emoji.license})" in shown
    assert "languages: 28" in shown


def beep(text: str, voice: Voice, *, speed: float = 1.0, pitch: float = 1.0) -> np.ndarray:
    """A made-up synthesizer: a tone that text, voice, speed and pitch decide."""
    number = sum(map(ord, text + voice.name)) % 97
    length = round((400 + 10 * len(text)) / speed)
    wave = 9000 * np.sin(np.arange(length) * (0.05 + 0.004 * number) * pitch)
    return np.rint(wave).astype(np.int16)


@pytest.fixture
def spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpokenCaptions:
    """The recipe with the synthesizers replaced, so that it runs where there are none."""
    monkeypatch.setattr(spoken_captions, "require_synthesizers", lambda: None)
    monkeypatch.setattr(spoken_captions, "check_distinct", lambda voices: None)
    monkeypatch.setattr(spoken_captions, "synthesize", beep)
    return SpokenCaptions(cache=tmp_path / "cache", num_clips=600)


def captions_archive(folder: Path) -> Path:
    return packed(folder, "emojibase-data", {"en/data.json": names()["en/data.json"]})


def test_spoken_captions_hold_out_voices_and_captions(
    spoken: SpokenCaptions, tmp_path: Path
) -> None:
    spoken.prepare([captions_archive(tmp_path)], accept_other=True)
    sources = {split: spoken.source(split) for split in spoken.splits}
    parts = {s: [source[i] for i in range(len(source))] for s, source in sources.items()}
    assert sum(map(len, parts.values())) == 600 == spoken.counts()["clips"]
    voices = {split: {record["voice"] for record in records} for split, records in parts.items()}
    texts = {split: {record["text"] for record in records} for split, records in parts.items()}
    assert voices["test"] == HELD_OUT_VOICES
    assert {record["engine"] for record in parts["test"]} == {"espeak", "flite"}
    for split in ("train", "validation", "captions"):
        assert parts[split]
        assert not voices[split] & HELD_OUT_VOICES
    assert not texts["captions"] & (texts["train"] | texts["validation"])
    said = [{(r["text"], r["voice"]) for r in records} for records in parts.values()]
    assert sum(map(len, said)) == len(set.union(*said)) == 600
    assert any(label in texts["train"] for label in CONCEPTS.values())
    record = parts["train"][0]
    voice = next(v for v in (*FLITE_VOICES, *ESPEAK_VOICES) if v.name == record["voice"])
    expected = beep(record["text"], voice, speed=record["speed"], pitch=record["pitch"])
    sound = record["speech"]
    assert sound.sample_rate_hz == SAMPLE_RATE_HZ
    assert np.abs(sound.samples.numpy() * 32768 - expected).max() < 2
    assert "CMU" in spoken.source("test").license


def test_spoken_captions_are_the_same_for_a_seed_and_made_once(
    spoken: SpokenCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = captions_archive(tmp_path)
    with pytest.raises(DataError, match="SHA-256"):
        spoken.prepare([archive])
    assert not spoken.is_prepared
    first = spoken.prepare([archive], accept_other=True)
    again = SpokenCaptions(cache=tmp_path / "again", num_clips=600)
    other = SpokenCaptions(cache=tmp_path / "again", num_clips=600, seed=1)
    rows = [
        (recipe.prepare([archive], accept_other=True) / "rows.jsonl").read_bytes()
        for recipe in (spoken, again, other)
    ]
    assert rows[0] == rows[1] != rows[2]
    before = (first / MANIFEST).stat().st_mtime_ns
    monkeypatch.setattr(spoken_captions, "synthesize", None)
    assert spoken.prepare() == first
    assert (first / MANIFEST).stat().st_mtime_ns == before


def test_more_clips_than_captions_and_voices_give_are_refused(
    spoken: SpokenCaptions, tmp_path: Path
) -> None:
    recipe = SpokenCaptions(cache=tmp_path / "many", num_clips=10**7)
    with pytest.raises(ConfigError, match=r"`num_clips` must be at most [\d,]+ .* 10,000,000"):
        recipe.prepare([captions_archive(tmp_path)], accept_other=True)
    assert not recipe.is_prepared
    with pytest.raises(ConfigError, match="at least 100, but is 99"):
        SpokenCaptions(cache=tmp_path, num_clips=99)


def test_the_command_line_takes_options_after_a_recipe(
    spoken: SpokenCaptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path / "own"))
    words = ["data", "prepare", "spoken_captions", "num_clips=120", "seed=3", "--accept-other"]
    words += ["--from", str(captions_archive(tmp_path))]
    assert main(words) == 0
    assert "clips: 120" in capsys.readouterr().out
    assert SpokenCaptions(num_clips=120, seed=3).is_prepared
    assert not SpokenCaptions(num_clips=120).is_prepared
    assert main(["data", "prepare", "spoken_captions", "num_clip=120"]) == 2
    assert "`num_clip` is no option of the data `spoken_captions`" in capsys.readouterr().err
    assert main(["data", "prepare", "seed=3"]) == 2
    assert "stands before any recipe" in capsys.readouterr().err


def test_without_synthesizers_the_recipe_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="espeak-ng") as caught:
        prepare("spoken_captions", [captions_archive(tmp_path)], accept_other=True)
    assert "apt-get install" in str(caught.value)
    assert not list((tmp_path / "cache" / "prepared").glob("*"))
