"""`unimodal train`: hands its arguments to Hydra's main in `unimodal.training`.

`--device NAME` is taken as `device=NAME`, `--json` prints what came of the run; everything else is
Hydra's (`--multirun`, `--cfg job`, `--config-dir`, `--help`, overrides).
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unimodal.cli.console import print_json
from unimodal.errors import ConfigError

if TYPE_CHECKING:
    from unimodal.training.run import RunResult

ABOUT = "Train an experiment: unimodal train experiment=NAME [key=value ...]"

HELP = f"""{ABOUT}

usage: unimodal train experiment=NAME [key=value ...] [--device NAME] [--json] [Hydra's options]

  experiment=NAME          a file of conf/experiment (or of --config-dir): demo, dna, speech, ...
  data.path=FILE           your own manifest, folder or file, e.g. data.path=genome.fa
  training.max_minutes=4   a budget by the clock; max_steps, max_tokens likewise
  run_dir=FOLDER           where the run lies; by default runs/NAME. Run it again to resume
  init_from=RUN            start from another run's weights and tokenizers
  --device NAME            cpu, cuda, cuda:1; the same as device=NAME
  --json                   print folder, steps and results as JSON (a list with --multirun)
  --cfg job                print the composed config and stop
  --multirun               every combination of comma-separated values
  --config-dir FOLDER      experiments of your own
  --hydra-help             all of Hydra's options

A stopped run (Ctrl-C, SIGTERM) saves, exits with 85, and resumes with the same command."""


def run(argv: Sequence[str]) -> int:
    """Train; the exit code is 0, or 85 for a run that was asked to stop."""
    if not argv or any(word in ("-h", "--help") for word in argv):
        print(HELP)
        return 0
    words = [word for word in argv if word != "--json"]
    arguments = _own_options(words)
    import unimodal.training.main as training
    from unimodal.training.ranks import is_first_process

    ended: list[RunResult] = []
    code = training.main(arguments, ended.append)
    if len(words) < len(argv) and ended and is_first_process():
        found = [_described(result) for result in ended]
        print_json(found if len(found) > 1 else found[0])
    return code


def _described(result: "RunResult") -> dict[str, Any]:
    scores = result.folder / "results.json"
    return {
        "folder": str(result.folder),
        "finished": result.finished,
        "stopped_by": result.stopped_by,
        "steps": result.progress.step,
        "tokens": result.progress.tokens,
        "minutes": result.progress.seconds / 60,
        "results": json.loads(scores.read_text("utf-8")) if scores.is_file() else None,
    }


def _own_options(argv: list[str]) -> list[str]:
    """Hydra's arguments: `--device NAME` becomes an override."""
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--device":
            value = next(words, None)
            if value is None:
                raise ConfigError("`--device` needs a name.", remedy="E.g. --device cpu.")
            rest.append(f"device={value}")
        elif word.startswith("--device="):
            rest.append(f"device={word.partition('=')[2]}")
        else:
            rest.append(word)
    return rest
