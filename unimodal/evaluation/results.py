"""Results of an evaluation in the project's one form, and their file.

`{task: {metric: {"value", "baseline", "baseline_name", "better", "n", "split", "seed"}}}`, with
more beside: `standard_error`, `margin` (in standard errors of the difference, positive when the
model is better), `above_baseline` (whether by more than two of them), `baselines` (all of them),
`limit`, `max_tokens` and `command`.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unimodal.errors import CheckpointError

Results = dict[str, dict[str, dict[str, Any]]]

REQUIRED = ("value", "baseline", "baseline_name", "better", "n", "split", "seed")
"""Keys that every entry has."""


ENOUGH = 2.0
"""Standard errors of the difference by which a score must be above its baseline to say so."""


def is_better(entry: Mapping[str, Any]) -> bool:
    """Whether the value beats its baseline; False if either is missing."""
    value, baseline = entry["value"], entry["baseline"]
    if value is None or baseline is None:
        return False
    return bool(value > baseline if entry["better"] == "higher" else value < baseline)


def not_above(results: Results) -> list[str]:
    """Scores that are not above their strongest baseline by two standard errors, named."""
    return [
        f"{task} {metric.replace('_', ' ')}"
        for task, entries in results.items()
        for metric, entry in entries.items()
        if entry["baseline"] is not None and not entry.get("above_baseline", is_better(entry))
    ]


def missing_scores(results: Results, tasks: Iterable[str]) -> list[str]:
    """Tasks without a score: left out, or with a value that is no finite number."""
    return [
        task
        for task in tasks
        if not results.get(task)
        or not all(_is_finite(entry["value"]) for entry in results[task].values())
    ]


def as_text(value: float | None, error: float | None = None) -> str:
    """A score for a table, with its standard error where it has one; empty for None."""
    if value is None:
        return ""
    return f"{value:.3f}" + (f" \u00b1 {error:.3f}" if _is_finite(error) else "")


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def write_results(results: Results, path: Path) -> Path:
    """Write results as JSON: whole or not at all. NaN and infinity become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(results), indent=1, ensure_ascii=False, allow_nan=False)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def read_results(path: Path) -> Results:
    """Results that `write_results` wrote.

    Raises:
        CheckpointError: if the file is missing, no JSON, or of another form.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"The results cannot be read ({type(error).__name__}).",
            subject=str(path),
            remedy="Write them with `unimodal eval RUN`.",
        ) from None
    except ValueError:
        raise CheckpointError(
            "The results are no JSON.",
            subject=str(path),
            remedy="Write them again with `unimodal eval RUN`.",
        ) from None
    is_right = isinstance(found, dict) and all(
        isinstance(entries, dict)
        and all(isinstance(e, dict) and set(REQUIRED) <= set(e) for e in entries.values())
        for entries in found.values()
    )
    if not is_right:
        raise CheckpointError(
            f"Results must be task, metric, and {', '.join(REQUIRED)}.",
            subject=str(path),
            remedy="Run `unimodal eval` again.",
        )
    return dict(found)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
