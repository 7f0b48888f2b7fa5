"""`unimodal VERB ...`: finds the verb, and turns every error into one clear message and exit code.

Exit codes: 0 done, 1 failure, 2 usage or bad input, 85 asked to stop and resumable. `--debug` lets
errors through with their traceback.

Nothing here imports torch: `unimodal --help` answers in half a second. Verbs are the modules of
`VERBS`; each has `ABOUT`, `add_arguments(parser)` and `run(arguments) -> int`.
"""

import argparse
import importlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from unimodal import __version__
from unimodal.cli.console import report_error, report_stop
from unimodal.errors import EXIT_FAILURE, EXIT_RESUMABLE, ConfigError, InternalError, UnimodalError

VERBS = {
    "train": "train an experiment: unimodal train experiment=NAME [overrides]",
    "generate": "generate a value from another: text, pictures, sequences",
    "transcribe": "write down what is spoken, as txt, srt, vtt, tsv or json",
    "eval": "score a run on held-out data, each score beside its baseline",
    "embed": "turn files into vectors",
    "score": "bits that each file costs the model",
    "data": "list, fetch, prepare, validate and count data sets",
    "schema": "spans, modalities and grammar of a run",
    "modality": "list modalities, check a class, or begin a new one",
    "bench": "time an operator against others, after checking its results",
    "doctor": "what this machine has, and which kernels run",
    "demo": "train, score and show a small model over five modalities",
}
"""Verbs in the order of the help, with what they do."""

RESUMABLE = {"train", "demo", "data prepare", "eval"}
"""Verbs that lose nothing by being stopped: the same command goes on, or begins again."""


DEBUG = "--debug"


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like all others."""

    def parse_anywhere(self, given: Sequence[str]) -> argparse.Namespace:
        """Parse with options before, between and after the values (but for verbs with actions)."""
        if any(action.nargs == argparse.PARSER for action in self._actions):
            return self.parse_args(given)
        return self.parse_intermixed_args(given)

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ")
        raise ConfigError(
            f"{message[:1].upper()}{message[1:]}.", subject=self.prog, remedy=f"Usage: {usage}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    given = [word for word in words if word != DEBUG]
    is_debug = len(given) < len(words)
    verb = given[0] if given and given[0] in VERBS else ""
    as_json = "--json" in given
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name on disk need not be UTF-8: it is shown escaped, as standard error does.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(given)
        sys.stdout.flush()
        return code
    except UnimodalError as error:
        if is_debug:
            raise
        report_error(error, as_json=as_json)
        return error.exit_code
    except KeyboardInterrupt:
        is_resumable = bool({verb, " ".join(given[:2])} & RESUMABLE)
        report_stop(verb, resumable=is_resumable)
        return EXIT_RESUMABLE if is_resumable else EXIT_FAILURE
    except BrokenPipeError:
        # The reader has gone: leave, and keep the interpreter's own last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if is_debug:
            raise
        report_error(_of_system(error), as_json=as_json)
        return EXIT_FAILURE
    except Exception as error:
        if is_debug:
            raise
        report_error(_unforeseen(error), as_json=as_json)
        return EXIT_FAILURE


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if given[0] == "--version":
        print(f"unimodal {__version__}")
        return 0
    verb = given[0]
    if verb not in VERBS:
        from unimodal.registry import did_you_mean

        raise ConfigError(f"There is no verb `{verb}`.", remedy=did_you_mean(verb, VERBS))
    module: Any = importlib.import_module(f"unimodal.cli.{verb}")
    if verb == "train":
        return int(module.run(given[1:]))
    parser = _Parser(prog=f"unimodal {verb}", description=module.ABOUT, allow_abbrev=False)
    module.add_arguments(parser)
    try:
        arguments = parser.parse_anywhere(given[1:])
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    arguments.typed = shlex.join(["unimodal", *given])  # recorded beside results
    return int(module.run(arguments))


def _overview() -> str:
    lines = ["One decoder over one stream of tokens, for any modality.", ""]
    lines += ["usage: unimodal VERB [arguments]", "", "verbs:"]
    lines += [f"  {verb:<11} {about}" for verb, about in VERBS.items()]
    lines += ["", "`unimodal VERB --help` says more. RUN is the folder of a run or a shipped name."]
    lines += ["`--debug`, with any verb, shows the traceback of an error."]
    return "\n".join(lines)


def _of_system(error: OSError) -> UnimodalError:
    return UnimodalError(
        f"{error.strerror or error} ({type(error).__name__}).",
        subject=str(error.filename) if error.filename else None,
        remedy="Check the path, its permissions and the space left.",
    )


def _unforeseen(error: Exception) -> InternalError:
    lines = str(error).strip().splitlines()
    return InternalError(
        f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__,
        remedy=f"The same command with `{DEBUG}` shows where it comes from.",
    )


if __name__ == "__main__":
    sys.exit(main())
