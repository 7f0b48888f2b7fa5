"""Short captions spoken in 36 synthetic voices: unlimited speech with exact transcripts.

Captions are one to three words: names of emoji, things with a colour, numbers. Some voices are
held out wholly (`test`), of both engines; some captions are held out in the voices that are trained
(`captions`); `validation` has seen voices and seen captions in new combinations.

eSpeak NG is GPL-3 software; what it says is not covered by its licence. Flite and its voices are
under a permissive licence of Carnegie Mellon University.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from unimodal.data.cache import MappedArray, read_rows, write_arrays, write_rows
from unimodal.data.recipe import RECIPES, Recipe
from unimodal.data.recipes.emoji import Emoji
from unimodal.data.sources import Source, hash_fraction, hash_seed
from unimodal.data.synthesis import (
    ESPEAK_VOICES,
    FLITE_VOICES,
    SAMPLE_RATE_HZ,
    Voice,
    check_distinct,
    espeak,
    flite,
    require_synthesizers,
    synthesize,
)
from unimodal.data.tables import ClipTable
from unimodal.errors import ConfigError

COLOURS = "red orange yellow green blue purple pink brown black white gray".split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
).split()

HELD_OUT_VOICES = frozenset(
    voice.name
    for voice in (
        flite("rms"),
        espeak("en-us+f5"),
        espeak("en-us+Michael"),
        espeak("en+linda"),
        espeak("en-gb-scotland+m8"),
    )
)
"""Voices that only the test split has."""


@RECIPES.register("spoken_captions")
class SpokenCaptions(Recipe):
    """Records: `{"id", "speech", "text", "voice", "engine", "speed", "pitch"}`.

    Args:
        cache: See `Recipe`.
        num_clips: How many clips are made in all.
        seed: Another seed draws other captions, voices, speeds and pitches.
    """

    name = "spoken_captions"
    about = "captions of one to three words, spoken by eSpeak NG and Flite in 36 voices"
    license = "synthesised; captions MIT, Flite voices CMU (permissive), eSpeak NG output free"
    splits = ("train", "validation", "test", "captions")
    packages = tuple(p for p in Emoji.packages if p.name == "emojibase-data")

    def __init__(self, *, cache: Path | None = None, num_clips: int = 4_000, seed: int = 0):
        if num_clips < 100:
            raise ConfigError(f"`num_clips` must be at least 100, but is {num_clips}.")
        super().__init__(cache=cache, num_clips=num_clips, seed=seed)
        self._num_clips, self._seed = num_clips, seed

    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        require_synthesizers()
        check_distinct((*FLITE_VOICES, *ESPEAK_VOICES))
        names = json.loads(self.member(archives["emojibase-data"], "package/en/data.json"))
        labels = [item["label"] for item in names if item.get("group") not in (0, 2, 9)]
        captions = make_captions(labels)
        if self._num_clips > (most := len(captions) * len((*FLITE_VOICES, *ESPEAK_VOICES))):
            raise ConfigError(
                f"`num_clips` must be at most {most:,} with these captions and voices, but is "
                f"{self._num_clips:,}."
            )
        rng = np.random.default_rng(hash_seed(self.name, self._seed))
        flite_voices = [v for v in FLITE_VOICES if v.name not in HELD_OUT_VOICES]
        espeak_voices = [v for v in ESPEAK_VOICES if v.name not in HELD_OUT_VOICES]
        unseen = [v for v in (*FLITE_VOICES, *ESPEAK_VOICES) if v.name in HELD_OUT_VOICES]
        rows: list[dict[str, Any]] = []
        clips = []
        position = 0
        said = set()
        while len(rows) < self._num_clips:
            self.stop_point()
            # A tenth has unseen voices; of the rest a third is Flite, which is the clearer one.
            part = rng.uniform()
            voices = unseen if part < 0.1 else flite_voices if part < 0.4 else espeak_voices
            voice: Voice = voices[int(rng.integers(len(voices)))]
            text = captions[int(rng.integers(len(captions)))]
            speed, pitch = (round(float(rng.uniform(*r)), 3) for r in ((0.85, 1.2), (0.85, 1.15)))
            if (text, voice.name) in said:
                continue
            said.add((text, voice.name))
            samples = synthesize(text, voice, speed=speed, pitch=pitch)
            rows.append(
                {
                    "id": f"clip-{len(rows):06d}",
                    "split": split_of(text, voice.name),
                    "text": text,
                    "voice": voice.name,
                    "engine": voice.engine,
                    "speed": speed,
                    "pitch": pitch,
                    "start": position,
                    "length": len(samples),
                }
            )
            clips.append(samples)
            position += len(samples)
        write_arrays(folder / "clips.safetensors", {"samples": np.concatenate(clips)})
        write_rows(folder / "rows.jsonl", rows)
        counts = {split: sum(row["split"] == split for row in rows) for split in self.splits}
        seconds = position // SAMPLE_RATE_HZ
        return {**counts, "clips": len(rows), "captions known": len(captions), "seconds": seconds}

    def expected_counts(self) -> dict[str, int]:
        return {"clips": self._num_clips}

    def open(self, split: str) -> Source:
        rows = [row for row in read_rows(self.folder / "rows.jsonl") if row["split"] == split]
        return ClipTable(
            MappedArray(self.folder / "clips.safetensors", "samples"),
            rows,
            sample_rate_hz=SAMPLE_RATE_HZ,
            name=self.name,
            license=self.license,
            split=split,
        )


def make_captions(labels: list[str]) -> list[str]:
    """Captions of one to three words of the letters a to z, sorted, without repeats."""
    names = {label.lower() for label in labels}
    simple = {name for name in names if re.fullmatch(r"[a-z]{2,12}( [a-z]{2,12}){0,2}", name)}
    things = sorted(name for name in simple if " " not in name)
    coloured = {f"{c} {t}" for c in COLOURS for t in things if hash_fraction("pair", c, t) < 0.1}
    counted = {f"{tens} {ones}" for tens in NUMBERS[20:] for ones in NUMBERS[1:10]}
    return sorted(simple | coloured | counted | set(COLOURS) | set(NUMBERS))


def split_of(text: str, voice: str) -> str:
    """`test` for an unseen voice; else `captions` for an unseen caption (6 %); else by pair."""
    if voice in HELD_OUT_VOICES:
        return "test"
    if hash_fraction("caption", text) < 0.06:
        return "captions"
    return "validation" if hash_fraction("said", text, voice) < 0.04 else "train"
