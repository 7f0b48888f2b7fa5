"""Every relative link in the documents leads to a file, and its anchor to a heading."""

import re
from pathlib import Path

LINK = re.compile(
    r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|(?:src|href)=\"([^\"]+)\""
)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`\n]*`")


def _prose(text: str) -> str:
    return CODE_SPAN.sub("", FENCE.sub("", text))


def relative_links(text: str) -> list[str]:
    found = (a or b for a, b in LINK.findall(_prose(text)))
    return [link for link in found if not re.match(r"[a-z][a-z0-9+.-]*:", link)]


def anchors(text: str) -> set[str]:
    """Anchors of the headings as Git hosts derive them: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+\s+(.*?)\s*#*$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return set(plain)


def broken_links(root: Path, document: Path) -> list[str]:
    wrong = []
    for link in relative_links((root / document).read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        base = root if name.startswith("/") else (root / document).parent
        target = base / name.lstrip("/") if name else root / document
        if not target.exists():
            wrong.append(f"{document}: {link}")
        elif anchor and target.suffix == ".md":
            if anchor not in anchors(target.read_text(encoding="utf-8")):
                wrong.append(f"{document}: {link} (no such heading)")
    return wrong


def test_every_relative_link_resolves(root: Path, files: list[Path]) -> None:
    documents = [path for path in files if path.suffix == ".md"]
    assert sum(len(relative_links((root / d).read_text(encoding="utf-8"))) for d in documents) > 0
    assert [wrong for document in documents for wrong in broken_links(root, document)] == []


def test_the_guard_sees_a_broken_link(tmp_path: Path) -> None:
    tmp_path.joinpath("there.md").write_text("# A heading, here\n", encoding="utf-8")
    tmp_path.joinpath("page.md").write_text(
        "[a](there.md) [b](gone.md) [c](there.md#a-heading-here) [d](there.md#none) "
        "[e](https://example.org) `[f](code.md)`\n```\n[g](fenced.md)\n```\n",
        encoding="utf-8",
    )
    assert broken_links(tmp_path, Path("page.md")) == [
        "page.md: gone.md",
        "page.md: there.md#none (no such heading)",
    ]
