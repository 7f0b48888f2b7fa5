"""Emoji in several designs: one concept drawn in many styles, with names in 28 languages.

Pictures are 32 x 32 RGB on white. A pair is (style, concept). Some pairs are held out whose
concept is seen in another style (`validation`, `test`); some concepts are held out in every style
(`concepts`). Splits are by drawing, never by package: drawings that look alike (a design that two
packages carry, or one that ignores the skin tone) always share a split.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.data.cache import (
    MappedArray,
    read_manifest,
    read_rows,
    write_arrays,
    write_json,
    write_rows,
)
from unimodal.data.captions import check_captions, styled
from unimodal.data.drawings import group_drawings, hold_out
from unimodal.data.packages import Package
from unimodal.data.recipe import RECIPES, Recipe
from unimodal.data.sources import BaseSource, Record, Source
from unimodal.data.tables import ImageTable
from unimodal.errors import BackendUnavailableError, ConfigError, DataError
from unimodal.registry import did_you_mean

SIZE = 32
"""Height and width of a picture in pixels."""

STYLES = {
    "noto": ("emoji-datasource-google", "Apache-2.0"),
    "twemoji": ("emoji-datasource-twitter", "CC-BY-4.0"),
    "fluent": ("@iconify-json/fluent-emoji", "MIT"),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "MIT"),
    "fxemoji": ("@iconify-json/fxemoji", "Apache-2.0"),
    "emojione": ("@iconify-json/emojione", "CC-BY-4.0"),
    "openmoji": ("openmoji", "CC-BY-SA-4.0"),
}
"""Style to (package, licence)."""

PERMISSIVE = frozenset({"Apache-2.0", "MIT", "CC-BY-4.0"})
"""Licences under which weights that were trained on a drawing may be shipped with a notice."""

_PACKAGES = (
    (
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    (
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    (
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
    (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    (
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    ),
    (
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    (
        "openmoji",
        "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    ),
    (
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
)


@RECIPES.register("emoji")
class Emoji(Recipe):
    """Records: `{"id", "image", "text", "style", "concept", "tone", "language", "license"}`.

    Args:
        cache: See `Recipe`.
        languages: Languages of the captions; each pair is one record a language that names it.
        styles: Only these styles; all that were prepared by default.
        skin_tones: Also the variants with a skin tone.
        openmoji: Prepare the OpenMoji style too (CC-BY-SA-4.0: weights trained on it inherit a
            question, so it is off by default).
        licenses: `all` that were prepared, or only `permissive` ones (see `PERMISSIVE`).
        captions: `name`, or `styled`: a list of phrasings, some with the design ("a red apple, flat
            design" comes first); see `unimodal.data.captions`.
    """

    name = "emoji"
    about = "pictures of emoji in six designs (seven with OpenMoji), named in 28 languages"
    license = "Apache-2.0, MIT and CC-BY-4.0, by style; with OpenMoji also CC-BY-SA-4.0"
    splits = ("train", "validation", "test", "concepts")
    packages = tuple(
        Package(client="npm", name=name, version=version, sha256=sha256)
        for name, version, sha256 in _PACKAGES
    )

    def __init__(
        self,
        *,
        cache: Path | None = None,
        languages: Sequence[str] = ("en",),
        styles: Sequence[str] | None = None,
        skin_tones: bool = False,
        openmoji: bool = False,
        licenses: str = "all",
        captions: str = "name",
    ):
        super().__init__(cache=cache, openmoji=openmoji)
        self._known_styles = [s for s in STYLES if s != "openmoji" or openmoji]
        for style in styles or ():
            if style not in self._known_styles:
                remedy = "Pass `openmoji=true`." if style in STYLES else did_you_mean(style, STYLES)
                raise ConfigError(f"Style `{style}` is not prepared.", remedy=remedy)
        if not languages:
            raise ConfigError("`languages` must name at least one language, but is empty.")
        if licenses not in ("all", "permissive"):
            raise ConfigError(f"`licenses` must be all or permissive, but is {licenses!r}.")
        self._languages, self._styles, self._skin_tones = tuple(languages), styles, skin_tones
        self._permissive, self._captions = licenses == "permissive", check_captions(captions)

    def needed(self) -> tuple[Package, ...]:
        styles = {STYLES[style][0] for style in self._known_styles}
        return tuple(p for p in self.packages if p.name in styles or p.name == "emojibase-data")

    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        concepts, labels = self._concepts(archives["emojibase-data"])
        rows: list[dict[str, Any]] = []
        pictures = []
        for style in self._known_styles:
            seen = set()
            for concept, picture in self._drawings(style, archives, concepts):
                if concept in seen:
                    continue
                seen.add(concept)
                facts = concepts[concept]
                row = {"id": f"{style}/{concept}", "style": style, "concept": concept}
                row |= {"base": facts["base"], "tone": facts["tone"], "group": facts["group"]}
                rows.append({**row, "license": STYLES[style][1], "picture": len(rows)})
                pictures.append(picture)
        if not rows:
            raise DataError(
                "The packages hold no drawing of a known concept.",
                subject=self.name,
                remedy="It is of another version, or damaged: fetch the listed one.",
            )
        pixels = np.stack(pictures)
        splits = hold_out(rows, group_drawings(pixels))
        for row, split in zip(rows, splits, strict=True):
            row["split"] = split
        write_arrays(folder / "pictures.safetensors", {"pixels": pixels})
        write_rows(folder / "rows.jsonl", rows)
        write_json(folder / "labels.json", labels)
        counts = {f"style {s}": sum(r["style"] == s for r in rows) for s in self._known_styles}
        counts |= {split: splits.count(split) for split in self.splits}
        return {**counts, "concepts known": len(concepts), "languages": len(labels)}

    def expected_counts(self) -> dict[str, int]:
        return {"languages": 28}

    def open(self, split: str) -> Source:
        labels = json.loads((self.folder / "labels.json").read_text("utf-8"))
        for language in self._languages:
            if language not in labels:
                raise ConfigError(
                    f"There are no captions in language `{language}`.",
                    subject=self.name,
                    remedy=did_you_mean(language, labels),
                )
        rows = [
            row
            for row in read_rows(self.folder / "rows.jsonl")
            if row["split"] == split
            and (self._skin_tones or row["tone"] == "")
            and (self._styles is None or row["style"] in self._styles)
            and (row["license"] in PERMISSIVE or not self._permissive)
        ]
        table = ImageTable(
            MappedArray(self.folder / "pictures.safetensors", "pixels"),
            rows,
            name=self.name,
            license=self._license_of(rows),
            split=split,
        )
        names = {language: labels[language] for language in self._languages}
        return Captioned(table, rows, names, self._captions)

    def _license_of(self, rows: Sequence[Record]) -> str:
        if self._permissive:
            return ", ".join(sorted({row["license"] for row in rows}))
        return str(read_manifest(self.folder)["license"])

    def _concepts(
        self, archive: Path
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
        """Concepts (by hex code) with their facts, and their names by language."""
        pattern = re.compile(r"package/([a-z-]+)/data\.json")
        concepts: dict[str, dict[str, Any]] = {}
        labels: dict[str, dict[str, str]] = {}
        for name, content in self.members(archive, lambda n: bool(pattern.fullmatch(n))):
            match = pattern.fullmatch(name)
            assert match is not None
            names = labels.setdefault(match[1], {})
            for item in json.loads(content):
                base = clean_code(item["hexcode"])
                for entry in (item, *item.get("skins", ())):
                    code = clean_code(entry["hexcode"])
                    names[code] = entry["label"]
                    if match[1] == "en":
                        tone = entry.get("tone", "")
                        tone = "-".join(map(str, tone)) if isinstance(tone, list) else str(tone)
                        facts = {"base": base, "tone": tone, "group": item.get("group", -1)}
                        concepts[code] = {**facts, "label": entry["label"]}
        if not concepts:
            raise DataError(
                "The English names are missing.",
                subject=str(archive),
                remedy="It is of another version, or damaged: fetch the listed one.",
            )
        return concepts, labels

    def _drawings(
        self, style: str, archives: dict[str, Path], concepts: dict[str, dict[str, Any]]
    ) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """(concept, picture) of one style's package, for known concepts."""
        archive = archives[STYLES[style][0]]
        folders = {"noto": "img/google/64/", "twemoji": "img/twitter/64/"}
        if style in folders:
            prefix, suffix = f"package/{folders[style]}", ".png"
        elif style == "openmoji":
            prefix, suffix = "package/color/svg/", ".svg"
        else:
            yield from self._iconify(style, archives, concepts)
            return
        for name, content in self.members(
            archive, lambda n: n.startswith(prefix) and n.endswith(suffix)
        ):
            code = clean_code(name[len(prefix) : -len(suffix)])
            if code in concepts:
                yield code, draw(content if suffix == ".png" else render_svg(content.decode()))

    def _iconify(
        self, style: str, archives: dict[str, Path], concepts: dict[str, dict[str, Any]]
    ) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Drawings of an icon set: matched by its code table if it has one, else by name."""
        icons = json.loads(self.member(archives[STYLES[style][0]], "package/icons.json"))
        codes: dict[str, str] = {}
        if style.startswith("fluent"):
            table = archives[STYLES["fluent-flat"][0]]
            for code, name in json.loads(self.member(table, "package/chars.json")).items():
                codes[name] = clean_code(code)
        else:
            squeezed = {
                re.sub(r"[^a-z0-9]", "", f["label"].lower()): c for c, f in concepts.items()
            }
            for name in icons["icons"]:
                code = squeezed.get(re.sub(r"[^a-z0-9]", "", name))
                if code:
                    codes[name] = code
        for name, icon in icons["icons"].items():
            self.stop_point()
            if codes.get(name) in concepts:
                width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
                yield (
                    codes[name],
                    draw(
                        render_svg(
                            '<svg xmlns="http://www.w3.org/2000/svg" '
                            'xmlns:xlink="http://www.w3.org/1999/xlink" '
                            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
                        )
                    ),
                )


class Captioned(BaseSource):
    """A picture table with one record for each picture and each language that names it.

    Args:
        table: The pictures.
        rows: Their facts, in the same order.
        labels: Language to concept to name.
        captions: See `Emoji`.
    """

    def __init__(
        self,
        table: ImageTable,
        rows: Sequence[Record],
        labels: dict[str, dict[str, str]],
        captions: str = "name",
    ):
        super().__init__(table.name, table.license, table.split)
        self._table, self._labels, self._captions = table, labels, captions
        self._index = [
            (index, language)
            for index, row in enumerate(rows)
            for language, names in labels.items()
            if row["concept"] in names
        ]

    def __len__(self) -> int:
        return len(self._index)

    def record(self, index: int) -> Record:
        position, language = self._index[index]
        record = self._table[position]
        text: Any = self._labels[language][record["concept"]]
        if self._captions == "styled":
            text = styled(text, record["style"], language)
        return {**record, "id": f"{record['id']}/{language}", "text": text, "language": language}


def clean_code(code: str) -> str:
    """A sequence of code points as packages agree on it: upper case, no variation selector."""
    return "-".join(part.zfill(4) for part in code.upper().split("-") if part != "FE0F")


def render_svg(text: str) -> bytes:
    """An SVG as a PNG of `SIZE` x `SIZE`.

    Raises:
        BackendUnavailableError: if resvg is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise BackendUnavailableError(
            "Drawings in SVG need the package `resvg-py`.",
            remedy="Install the extra: `pip install 'unimodal[data]'`.",
        ) from None
    return bytes(
        resvg_py.svg_to_bytes(svg_string=text, width=SIZE, height=SIZE, skip_system_fonts=True)
    )


def draw(png: bytes) -> NDArray[np.uint8]:
    """A PNG on white as uint8 [SIZE, SIZE, 3]."""
    from PIL import Image as Picture

    with Picture.open(io.BytesIO(png), formats=("PNG",)) as file:
        picture = file.convert("RGBA")
    white = Picture.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    rgb = white.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Picture.Resampling.LANCZOS)
    return np.asarray(rgb, np.uint8)
