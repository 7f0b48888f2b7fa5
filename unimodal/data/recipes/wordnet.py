"""WordNet 3.0 as prose: a word, what it means, and an example sentence, one entry a record."""

import re
from pathlib import Path

from unimodal.data.cache import read_rows, write_rows
from unimodal.data.packages import Package
from unimodal.data.recipe import RECIPES, Recipe
from unimodal.data.sources import ListSource, Source, stable_split

_FILES = tuple(f"usr/share/wordnet/data.{part}" for part in ("noun", "verb", "adj", "adv"))


@RECIPES.register("wordnet")
class WordNet(Recipe):
    """Records: `{"id", "text"}`; only entries that have an example sentence."""

    name = "wordnet"
    about = "English dictionary entries with example sentences"
    license = "WordNet-3.0"
    packages = (
        Package(
            client="apt",
            name="wordnet-base",
            version="1:3.0-37",
            sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        ),
    )

    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        archive = archives["wordnet-base"]
        rows = []
        for name, content in self.members(archive, lambda member: member in _FILES):
            part = name.rsplit(".", 1)[1]
            for line in content.decode("utf-8").splitlines():
                entry = read_entry(line)
                if entry is not None:
                    key = f"{part}-{line[:8]}"
                    split = stable_split(key, validation=0.03, test=0.07, salt=self.name)
                    rows.append({"id": key, "split": split, "text": entry})
        write_rows(folder / "rows.jsonl", rows)
        counts = {split: sum(row["split"] == split for row in rows) for split in self.splits}
        return {"entries": len(rows), **counts}

    def expected_counts(self) -> dict[str, int]:
        return {"entries": 32_843}

    def open(self, split: str) -> Source:
        rows = [row for row in read_rows(self.folder / "rows.jsonl") if row["split"] == split]
        return ListSource(rows, name=self.name, license=self.license, split=split)


def read_entry(line: str) -> str | None:
    """`word: meaning. "Example."` of one line of a data file; None without an example."""
    head, separator, gloss = line.partition(" | ")
    examples = re.findall(r'"([^"]{8,200})"', gloss)
    meaning = gloss.split('; "')[0].strip().strip(";")
    if not separator or line.startswith(" ") or not examples or '"' in meaning:
        return None
    word = re.sub(r"\([a-z]+\)$", "", head.split(" ")[4]).replace("_", " ")
    sentences = " ".join(e.strip()[:1].upper() + e.strip()[1:].rstrip(".") + "." for e in examples)
    return f"{word}: {meaning}. {sentences}"
