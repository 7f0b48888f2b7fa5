"""From a trained model to its scores and its report, in the run folder."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from unimodal.evaluation import Evaluation, EvaluationConfig, Results, evaluate, write_results
from unimodal.model.decoder import Decoder
from unimodal.report.gather import gather
from unimodal.report.page import DATA_FILE, RESULTS_FILE, write_part, write_report
from unimodal.tasks.base import TaskConfig, build_task


def score_and_report(
    run: Path,
    decoder: Decoder,
    configs: Mapping[str, TaskConfig],
    config: EvaluationConfig | None = None,
    *,
    results_file: str = RESULTS_FILE,
    part: tuple[str, str] | None = None,
    more: Results | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Score every task, write the results, and the report beside them.

    Args:
        run: Run folder; gets the results, `report_data.json` and `report.html`.
        decoder: The model.
        configs: Its tasks.
        config: How they are scored.
        results_file: Name of the results.
        part: Show this before what the run itself did: name and title of a part.
        more: Scores that were found elsewhere, to stand first.
        progress: See `evaluate`.
        should_stop: See `evaluate`.
    """
    tasks = {name: build_task(name, c, decoder.vocabulary) for name, c in configs.items()}
    found = evaluate(decoder, tasks, config, progress=progress, should_stop=should_stop)
    found.results = {**(more or {}), **found.results}
    write_results(found.results, run / results_file)
    data = gather(decoder, tasks, found) | {"results_file": results_file}
    if part is None:
        (run / DATA_FILE).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    else:
        write_part(run, *part, data)
    write_report(run)
    return found
