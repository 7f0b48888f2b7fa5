"""The page: one HTML file without outside links, from the files of a run folder.

Reads `results*.json`, `metrics.jsonl`, `report_data.json` (see `gather`) and `experiment.json`;
what is missing is left out and said so. What another model did comes first, from the file of its
part (see `write_part`). Text from data is escaped here, values are shown by their modalities.
"""

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from unimodal.errors import CheckpointError
from unimodal.evaluation.results import Results, is_better, not_above, read_results
from unimodal.report.codebook import codes_section
from unimodal.report.figures import has_matplotlib, loss_svg, speed_svg
from unimodal.training.metrics import METRICS, read_metrics

REPORT_FILE = "report.html"
DATA_FILE = "report_data.json"
RESULTS_FILE = "results.json"
EXPERIMENT_FILE = "experiment.json"
PART_FILE = "report_part_{}.json"
BAR_WIDTH, BAR_HEIGHT = 170, 22


def write_report(run: Path | str) -> Path:
    """Write `report.html` into a run folder.

    Returns:
        Its path.

    Raises:
        CheckpointError: if the folder is missing, or holds nothing to report.
    """
    run = Path(run)
    if not run.is_dir():
        raise CheckpointError(
            "There is no such run.",
            subject=str(run),
            remedy="Check the path: a run is a folder, such as runs/NAME.",
        )
    data = _read_json(run / DATA_FILE)
    results_path = run / str(data.get("results_file", RESULTS_FILE))
    results = read_results(results_path) if results_path.is_file() else {}
    metrics = run / METRICS
    lines = read_metrics(metrics) if metrics.is_file() else []
    parts = [_read_json(path) for path in sorted(run.glob(PART_FILE.format("*")))]
    if not (data or results or lines or parts):
        raise CheckpointError(
            "The run folder holds nothing to report.",
            subject=str(run),
            remedy="Train it, or score it with `unimodal eval`.",
        )
    path = run / REPORT_FILE
    first = {str(part["title"]): _part(run, part) for part in parts}
    text = _page(run.name, first, results, lines, data, _read_json(run / EXPERIMENT_FILE))
    fresh = path.with_suffix(".next")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return path


def write_part(run: Path, name: str, title: str, data: Mapping[str, Any]) -> Path:
    """Write what the page shows first, under a title of its own, or add to it.

    Args:
        run: Run folder.
        name: Of the part, in the name of its file.
        title: Its headline.
        data: `intro` (text), `pictures` (sources of images by caption), and what `gather` finds,
            with the name of its `results_file`; each may be missing.
    """
    path = run / PART_FILE.format(name)
    text = json.dumps({**_read_json(path), **data, "title": title}, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def _part(run: Path, data: Mapping[str, Any]) -> str:
    path = run / str(data.get("results_file", ""))
    results = read_results(path) if path.is_file() else {}
    figures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{source}" style="width:auto">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, source in data.get("pictures", {}).items()
    )
    intro = f"<p>{html.escape(str(data['intro']))}</p>" if data.get("intro") else ""
    shown = f'<div class="card">{figures}</div>' if figures else ""
    samples = _samples(data.get("samples", {}), data.get("tasks", {}), results)
    return intro + shown + _scores(results) + samples


def _page(
    name: str,
    first: Mapping[str, str],
    results: Results,
    lines: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    experiment: Mapping[str, Any],
) -> str:
    sections = {
        **first,
        "Scores": _scores(results),
        "Samples": _samples(data.get("samples", {}), data.get("tasks", {}), results),
        "Codes": codes_section(data.get("codes", {})),
        "Training": _curves(lines, data),
        "Attention": _attention(data.get("attention")),
        "Data": _data(data.get("tasks", {}), lines),
        "Vocabulary": _vocabulary(data.get("vocabulary", [])),
        "Settings": _settings(data, experiment),
    }
    shown = {title: body for title, body in sections.items() if body}
    title = str(experiment.get("name") or name)
    style = resources.files("unimodal.report").joinpath("style.css").read_text("utf-8")
    anchors = {t: html.escape(t.lower().replace(" ", "-")) for t in shown}
    links = "".join(f'<a href="#{anchors[t]}">{html.escape(t)}</a>' for t in shown)
    body = "".join(f'<h2 id="{anchors[t]}">{html.escape(t)}</h2>{b}' for t, b in shown.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{html.escape(title)}</h1>{_headline(results, lines, data)}"
        f"<nav>{links}</nav></header>{body}</body></html>\n"
    )


def _headline(results: Results, lines: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> str:
    parts = []
    if model := data.get("model"):
        parts.append(f"{model['parameters']:,} parameters")
        parts.append(html.escape(str(model["modalities"])))
    trained = [line for line in lines if line.get("kind") == "train"]
    if trained:
        last = trained[-1]
        parts.append(f"{last['step']:,} steps, {last.get('minutes') or 0:.1f} minutes")
        parts.append(f"{last.get('total_tokens', 0):,} {_counted(data)}")
    entries = [entry for task in results.values() for entry in task.values()]
    if entries:
        above = len(entries) - len(not_above(results))
        parts.append(
            f"{above} of {len(entries)} scores above their baseline by two standard errors"
        )
    return f'<p class="soft">{" &middot; ".join(parts)}</p>'


def _scores(results: Results) -> str:
    if not results:
        return ""
    rows = []
    for task, entries in results.items():
        for metric, entry in entries.items():
            rows.append(_score_row(task, metric, entry))
    head = "".join(
        f"<th{' class=number' if name in ('value', 'baseline', 'margin', 'n') else ''}>{name}</th>"
        for name in ("task", "metric", "value", "", "baseline", "which", "margin", "n", "split")
    )
    return (
        f'<div class="card"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
        '<p class="soft">Dot: the model, with two standard errors as the band; line: the best '
        "baseline. Margin: standard errors of the difference, positive where the model is better."
        f"</p>{_below(results)}"
    )


def _below(results: Results) -> str:
    names = not_above(results)
    if not names:
        return ""
    listed = html.escape(", ".join(names))
    return f"<p>Not above their strongest baseline by two standard errors: {listed}.</p>"


def _score_row(task: str, metric: str, entry: Mapping[str, Any]) -> str:
    margin = entry.get("margin")
    colour = "" if entry["baseline"] is None else (" good" if is_better(entry) else " bad")
    arrow = "&uarr;" if entry["better"] == "higher" else "&darr;"
    others = entry.get("baselines", {})
    tip = "; ".join(f"{name}: {_number(value)}" for name, value in others.items())
    error = entry.get("standard_error")
    spread = f' <span class="soft">&plusmn; {_number(error)}</span>' if error is not None else ""
    value = f'<span class="value{colour}">{_number(entry["value"])}</span>{spread}'
    cells = (
        f"<td>{html.escape(task)}</td>",
        f"<td>{html.escape(metric.replace('_', ' '))} {arrow}</td>",
        f'<td class="number">{value}</td>',
        f"<td>{_bar(entry)}</td>",
        f'<td class="number">{_number(entry["baseline"])}</td>',
        f'<td title="{html.escape(tip)}">{html.escape(str(entry["baseline_name"] or "none"))}</td>',
        f'<td class="number{colour}">{"" if margin is None else f"{margin:+.1f}"}</td>',
        f'<td class="number">{entry["n"]}</td>',
        f"<td>{html.escape(str(entry['split']))}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _bar(entry: Mapping[str, Any]) -> str:
    """Value with its band, and the baseline, on one axis."""
    value, baseline = entry["value"], entry["baseline"]
    if value is None:
        return ""
    error = 2 * (entry.get("standard_error") or 0.0)
    points = [value - error, value + error] + ([] if baseline is None else [baseline])
    low, high = min(0.0, *points), max(points)
    if high <= low:
        high = low + 1.0
    scale = (BAR_WIDTH - 12) / (high - low)
    at = [6 + (x - low) * scale for x in (value - error, value + error, value)]
    middle = BAR_HEIGHT / 2
    base = ""
    if baseline is not None:
        x = 6 + (baseline - low) * scale
        base = f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="3" y2="{BAR_HEIGHT - 3}"/>'
    return (
        f'<svg class="bar" width="{BAR_WIDTH}" height="{BAR_HEIGHT}" role="img">'
        f'<line class="axis" x1="6" x2="{BAR_WIDTH - 6}" y1="{middle}" y2="{middle}"/>'
        f'<rect class="band" x="{at[0]:.1f}" y="{middle - 5}" height="10" rx="4" '
        f'width="{max(at[1] - at[0], 1):.1f}"/>{base}'
        f'<circle class="dot" cx="{at[2]:.1f}" cy="{middle}" r="4.5"/></svg>'
    )


def _samples(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    tasks: Mapping[str, Mapping[str, Any]],
    results: Results,
) -> str:
    parts = []
    for name, examples in samples.items():
        if not examples:
            continue
        about = tasks.get(name, {})
        line = html.escape(f"{about.get('direction', '')}, {about.get('template', '')}")
        cards = "".join(_sample(example) for example in examples)
        parts.append(
            f'<div class="card"><h3>{html.escape(name)}</h3><p class="soft">{line}</p>'
            f'<div class="samples">{cards}</div></div>'
        )
    return "".join(parts)


def _sample(example: Mapping[str, Any]) -> str:
    """Input, answer and truth side by side; the fragments come from `Modality.show`."""
    given = "".join(f'<div class="given">{part["html"]}</div>' for part in example["given"])
    rows = []
    if "answer" in example:
        colour = "good" if example.get("right") else "bad"
        rows.append(f'<dt>answer</dt><dd class="{colour}">{example["answer"]}</dd>')
    label = "truth" if "answer" in example else "value"
    rows.append(f"<dt>{label}</dt><dd>{example['truth']}</dd>")
    rows.append(f'<dt>id</dt><dd class="soft">{html.escape(example["id"])}</dd>')
    return f'<div class="sample">{given}<dl>{"".join(rows)}</dl></div>'


def _counted(data: Mapping[str, Any]) -> str:
    """What training counted: a tokenizer learns from values."""
    return "values" if data.get("codes") else "positions"


def _curves(lines: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> str:
    if not any(line.get("kind") == "train" for line in lines):
        return ""
    if not has_matplotlib():
        return '<p class="soft">No curves: matplotlib is not installed (extra `report`).</p>'
    unit = "loss" if data.get("codes") else "nats an id"
    speed = speed_svg(lines, _counted(data))
    figures = ((loss_svg(lines, unit), "loss of each task"), (speed, "speed"))
    shown = "".join(
        f'<figure><img alt="{alt} over the steps" src="{source}"></figure>'
        for source, alt in figures
    )
    return f'<div class="card">{shown}</div>'


def _attention(figure: Mapping[str, Any] | None) -> str:
    if not figure:
        return ""
    caption = html.escape(str(figure["caption"]))
    return (
        f'<div class="card"><figure><img alt="attention map" src="{figure["png"]}">'
        f"<figcaption>{caption}</figcaption></figure></div>"
    )


def _data(tasks: Mapping[str, Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> str:
    if not tasks:
        return ""
    columns = ("task", "data", "train", "validation", "test", "weight", "loss weight", "licence")
    rows = []
    for name, about in tasks.items():
        data = about.get("data", {})
        counts = [data.get(split, "") for split in ("train", "validation", "test")]
        weights = (about.get("weight"), about.get("loss_weight"))
        rows.append([name, data.get("name", ""), *counts, *weights, data.get("license", "")])
    train = [line for line in lines if line.get("kind") == "train"]
    facts = {}
    if train:
        fill = [line["fill"] for line in train if line.get("fill") is not None]
        speed = [line["tokens_per_second"] for line in train if line.get("tokens_per_second")]
        facts["rows filled"] = f"{100 * sum(fill) / len(fill):.1f} %" if fill else ""
        facts["positions a second"] = f"{sum(speed) / len(speed):,.0f}" if speed else ""
        facts["bad samples"] = str(train[-1].get("bad_samples", 0))
        facts["skipped steps"] = str(train[-1].get("skipped", 0))
    return f'<div class="card">{_table(columns, rows)}</div>{_facts(facts)}'


def _vocabulary(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = ("span", "first id", "ids", "owner", "fingerprint")
    return f'<div class="card">{_table(columns, [list(row.values()) for row in rows])}</div>'


def _settings(data: Mapping[str, Any], experiment: Mapping[str, Any]) -> str:
    facts = {**data.get("model", {}), **data.get("environment", {})}
    notes = "".join(f"<li>{html.escape(str(note))}</li>" for note in data.get("notes", []))
    parts = [_facts(facts)]
    if notes:
        parts.append(f'<div class="card"><h3>Notes</h3><ul>{notes}</ul></div>')
    if experiment:
        text = html.escape(json.dumps(experiment, indent=1, ensure_ascii=False))
        parts.append(
            '<details class="card"><summary>The experiment, with every default</summary>'
            f"<pre>{text}</pre></details>"
        )
    return "".join(parts)


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    cells = "".join(
        f"<div><span>{html.escape(str(k))}</span>"
        f"{html.escape(f'{v:,}' if isinstance(v, int) else str(v))}</div>"
        for k, v in facts.items()
    )
    return f'<div class="card facts">{cells}</div>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [
        bool(rows) and all(_is_number(row[number]) for row in rows)
        for number in range(len(columns))
    ]
    mark = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    head = "".join(f"<th{m}>{html.escape(c)}</th>" for c, m in zip(columns, mark, strict=True))
    body = ""
    for row in rows:
        cells = "".join(f"<td{m}>{_cell(cell)}</td>" for cell, m in zip(row, mark, strict=True))
        body += f"<tr>{cells}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) or (isinstance(cell, str) and cell.isdigit())


def _cell(cell: Any) -> str:
    if isinstance(cell, str) and cell.isdigit():
        cell = int(cell)
    return html.escape(f"{cell:,}" if isinstance(cell, int) else str(cell))


def _number(value: Any) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise CheckpointError(
            "It is no JSON.",
            subject=str(path),
            remedy="Remove it, and write it again with `unimodal eval RUN`.",
        ) from None
    return found if isinstance(found, dict) else {}
