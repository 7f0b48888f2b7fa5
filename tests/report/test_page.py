import html.parser
import json
from pathlib import Path
from typing import Any

import pytest

from unimodal.errors import CheckpointError
from unimodal.report import write_report
from unimodal.report.figures import has_matplotlib
from unimodal.report.page import write_part

ENTRY = {
    "value": 0.75,
    "baseline": 0.5,
    "baseline_name": "majority answer",
    "better": "higher",
    "n": 100,
    "split": "test",
    "seed": 0,
    "standard_error": 0.04,
    "margin": 4.5,
    "baselines": {"majority answer": 0.5, "chance": 0.1},
    "command": "unimodal eval runs/x",
}
WORSE = {**ENTRY, "value": 2.5, "baseline": 2.0, "better": "lower", "margin": -9.0}
SAMPLE = {
    "id": "<script>alert(1)</script>",
    "given": [{"modality": "image", "html": '<img alt="p" src="data:image/png;base64,AA==">'}],
    "answer": "a red apple",
    "truth": "a green pear",
    "right": False,
}


class Links(html.parser.HTMLParser):
    """Addresses and scripts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    results = {"caption": {"exact_match": ENTRY}, "genome": {"bits_per_base": WORSE}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    lines = [
        {"step": step, "kind": "train", "loss": 3.0, "tasks": {"caption": 3.0 - step / 50}}
        | {"tokens_per_second": 900.0, "fill": 0.99, "minutes": step / 60, "total_tokens": 9 * step}
        for step in range(10, 60, 10)
    ]
    lines.append({"step": 50, "kind": "held_out", "tasks": {"caption": 2.1}, "bits": {}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 60, "ki')
    data: dict[str, Any] = {
        "samples": {"caption": [SAMPLE]},
        "tasks": {
            "caption": {
                "template": "translate",
                "direction": "image to text",
                "weight": 1.0,
                "loss_weight": 1.0,
                "data": {"name": "emoji", "license": "MIT", "train": "2000", "test": "100"},
            }
        },
        "vocabulary": [
            {"span": "text.text", "first": 9, "size": 1024, "owner": "text", "fingerprint": "ab"}
        ],
        "model": {"parameters": 1234567, "modalities": "text, image"},
        "environment": {"PyTorch": "2.13"},
        "attention": None,
        "notes": ["no `linear` baseline"],
    }
    (tmp_path / "report_data.json").write_text(json.dumps(data))
    (tmp_path / "experiment.json").write_text(json.dumps({"name": "x & y", "note": "</pre>"}))
    return tmp_path


def test_the_page_shows_scores_samples_curves_and_ledger(run: Path) -> None:
    page = write_report(run).read_text()
    assert "x &amp; y" in page
    assert "0.750" in page
    assert "&plusmn; 0.040" in page
    assert "majority answer" in page
    assert "+4.5" in page
    assert "1 of 2 scores above their baseline" in page
    assert "a red apple" in page
    assert "a green pear" in page
    assert "text.text" in page
    assert "1,234,567" in page
    assert "no `linear` baseline" in page
    assert ("data:image/svg+xml;base64," in page) == has_matplotlib()


def test_the_page_needs_nothing_from_outside_and_runs_nothing(run: Path) -> None:
    page = write_report(run).read_text()
    links = Links()
    links.feed(page)
    assert "script" not in links.tags
    assert links.addresses
    assert all(a.startswith(("data:", "#")) for a in links.addresses)
    assert "url(" not in page
    assert "@import" not in page


def test_better_and_worse_have_their_colours(run: Path) -> None:
    page = write_report(run).read_text()
    rows = page.split("<tr>")
    caption = next(row for row in rows if "<td>caption</td><td>exact" in row)
    genome = next(row for row in rows if "bits per base" in row)
    assert "value good" in caption
    assert "value bad" in genome


def test_a_page_can_be_written_from_curves_alone(run: Path) -> None:
    for name in ("results.json", "report_data.json", "experiment.json"):
        (run / name).unlink()
    page = write_report(run).read_text()
    assert 'id="training"' in page
    assert 'id="scores"' not in page


def test_missing_values_are_shown_as_missing(run: Path) -> None:
    none = {**ENTRY, "value": None, "baseline": None, "baseline_name": None, "margin": None}
    (run / "results.json").write_text(json.dumps({"t": {"m": none}}))
    assert "&ndash;" in write_report(run).read_text()


def test_other_results_are_named_by_the_data(run: Path) -> None:
    data = json.loads((run / "report_data.json").read_text()) | {"results_file": "scratch.json"}
    (run / "report_data.json").write_text(json.dumps(data))
    (run / "results.json").rename(run / "scratch.json")
    assert "majority answer" in write_report(run).read_text()


def test_no_run_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run"):
        write_report(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="nothing to report"):
        write_report(tmp_path)
    (tmp_path / "report_data.json").write_text("{cut")
    with pytest.raises(CheckpointError, match="no JSON"):
        write_report(tmp_path)


def test_what_another_model_did_comes_first(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "loss": 2.0}\n')
    write_part(tmp_path, "other", "Another <model>", {"pictures": {"a & b": "data:image/png,x"}})
    write_part(tmp_path, "other", "Another <model>", {"intro": "It draws."})
    page = write_report(tmp_path).read_text("utf-8")
    assert "Another &lt;model&gt;" in page
    assert "a &amp; b" in page
    assert "It draws." in page
    assert page.index("It draws.") < page.index('<h2 id="training">')
