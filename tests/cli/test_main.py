import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unimodal.cli import doctor
from unimodal.cli.main import VERBS, main
from unimodal.errors import MediaError

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]


def test_help_lists_every_verb(unimodal: Run) -> None:
    done = unimodal("--help")
    assert done.code == 0
    assert all(f"  {verb} " in done.out for verb in VERBS)
    assert unimodal().out == done.out


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(unimodal: Run, verb: str) -> None:
    done = unimodal(verb, "--help")
    assert done.code == 0
    assert "usage" in done.out.lower()


def test_an_unknown_verb_gets_a_suggestion(unimodal: Run) -> None:
    done = unimodal("generat", "x")
    assert done.code == 2
    assert "no verb `generat`" in done.err
    assert "Did you mean `generate`?" in done.err


@pytest.mark.parametrize(
    "argv",
    [
        ["data"],
        ["data", "lst"],
        ["modality", "check"],
        ["doctor", "--jsn"],
        ["modality", "check", "dna", "--seed", "x"],
    ],
)
def test_wrong_usage_is_one_message_and_2(unimodal: Run, argv: list[str]) -> None:
    done = unimodal(*argv)
    assert done.code == 2
    assert done.out == ""
    assert "Usage: unimodal" in done.err


def test_errors_are_json_when_asked(unimodal: Run) -> None:
    done = unimodal("modality", "check", "dnb", "--json")
    assert done.code == 2
    assert done.json["error"] == "ConfigError"
    assert done.json["remedy"] == "Did you mean `dna`?"
    assert done.err == ""


def test_debug_lets_the_error_through() -> None:
    with pytest.raises(Exception, match="Unknown modality"):
        main(["modality", "check", "dnb", "--debug"])


def test_markup_in_a_name_is_printed_as_it_is(unimodal: Run) -> None:
    assert "[bold]x[/bold]" in unimodal("modality", "check", "[bold]x[/bold]").err


def test_version(unimodal: Run) -> None:
    assert unimodal("--version").out.startswith("unimodal ")


def test_doctor_tells_what_runs(unimodal: Run) -> None:
    done = unimodal("doctor", "--json")
    found = done.json
    assert done.code == 0, found["faults"]
    assert {"attention", "cross_entropy"} <= {k["op"] for k in found["kernels"]}
    assert all(k["runs"] and k["why"] for k in found["kernels"])
    assert found["devices"][0]["device"] == "cpu"
    assert found["optional"]["triton"]["extra"] == "gpu"
    assert "attention" in unimodal("doctor").out


def test_doctor_reports_a_fault_with_1(unimodal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "no-such-package"))
    done = unimodal("doctor")
    assert done.code == 1
    assert "no-such-package" in done.err


def test_a_stopped_command_says_so(unimodal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", stop)
    done = unimodal("doctor")
    assert done.code == 1
    assert done.err == "doctor: stopped.\n"


def test_a_full_disk_is_one_message(unimodal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr(doctor, "examine", full)
    done = unimodal("doctor")
    assert done.code == 1
    assert "out.json" in done.err
    assert "No space left" in done.err


def test_what_nobody_foresaw_is_one_message_and_1(
    unimodal: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise TypeError("'<' not supported\nand more")

    monkeypatch.setattr(doctor, "examine", broken)
    done = unimodal("doctor")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[0] == "internal error: TypeError: '<' not supported"
    assert "--debug" in done.err
    told = unimodal("doctor", "--json")
    assert (told.code, told.json["error"]) == (1, "InternalError")
    with pytest.raises(TypeError, match="not supported"):
        main(["doctor", "--debug"])


def test_an_error_keeps_its_own_exit_code(unimodal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise MediaError("It is cut.", subject="a.wav", remedy="Fetch it again.")

    monkeypatch.setattr(doctor, "examine", broken)
    done = unimodal("doctor")
    assert (done.code, done.out) == (2, "")
    assert done.err == "media error: a.wav: It is cut.\nFetch it again.\n"


def test_a_reader_that_leaves_is_no_failure() -> None:
    command = f"{sys.executable} -m unimodal.cli.main modality list | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from unimodal.cli.main import main, VERBS\n"
        "for verb in VERBS: main([verb, '--help'])\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "False False\n"
