"""Every bad file ends in one typed error, every odd one in a value, in little time and memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unimodal.errors import ConfigError, MediaError
from unimodal.media import read_audio, read_fasta, read_image, read_text, read_video
from unimodal.testing.bad_inputs import BadInput, bad_inputs

READERS: dict[str, Callable[[Any], Any]] = {
    "text": read_text,
    "image": read_image,
    "audio": read_audio,
    "video": read_video,
    "dna": lambda source: list(read_fasta(source)),
}
SECONDS = 5.0
MIB = 512

CAPPED = """
import json, resource, sys, time
from pathlib import Path
from unimodal.errors import MediaError
from unimodal.media import read_audio, read_fasta, read_image, read_text, read_video
import av, PIL.Image, soundfile
PIL.Image.preinit()
readers = {"text": read_text, "image": read_image, "audio": read_audio, "video": read_video,
           "dna": lambda path: sum(len(record.bases) for record in read_fasta(path))}
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = size + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for line in sys.stdin:
    kind, path = json.loads(line)
    start, got, error = time.monotonic(), "value", ""
    try:
        readers[kind](path)
    except MediaError as raised:
        got, error = "error", str(raised)
    print(json.dumps([path, got, error, time.monotonic() - start]), flush=True)
"""


def read_all(items: list[BadInput]) -> dict[str, tuple[str, str, float]]:
    """Outcome, message and seconds of each file, read in one process of bounded memory."""
    asked = "".join(json.dumps([item.kind, str(item.path)]) + "\n" for item in items)
    done = subprocess.run(
        [sys.executable, "-c", CAPPED, str(MIB)],
        input=asked,
        capture_output=True,
        text=True,
        timeout=120,
        env={"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {path: (got, error, seconds) for path, got, error, seconds in rows}


def check(items: list[BadInput]) -> None:
    outcomes = read_all(items)
    assert len(outcomes) == len(items)
    wrong = []
    for item in items:
        got, error, seconds = outcomes[str(item.path)]
        if seconds > SECONDS or (item.expect != "either" and got != item.expect):
            wrong.append(f"{item.kind} {item.name}: {got} in {seconds:.1f} s. {error}")
        if got == "error" and not error.startswith(str(item.path)):
            wrong.append(f"{item.kind} {item.name}: the message does not name the file: {error}")
        if "Traceback" in error or " at 0x" in error:
            wrong.append(f"{item.kind} {item.name}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[BadInput]:
    return bad_inputs(tmp_path_factory.mktemp("corpus"))


def test_the_corpus_passes_within_512_mib(corpus: list[BadInput]) -> None:
    assert len(corpus) > 90
    check(corpus)


@pytest.mark.soak
def test_the_huge_files_pass_within_512_mib(tmp_path: Path) -> None:
    items = bad_inputs(tmp_path, ["audio", "dna"], huge=True)
    assert {"hour_of_silence.flac", "line_of_1_gb.fa"} <= {item.name for item in items}
    check(items)


@pytest.mark.parametrize("kind", READERS)
def test_errors_name_the_file_and_a_remedy(kind: str, corpus: list[BadInput]) -> None:
    for item in corpus:
        if item.kind != kind or item.expect != "error" or "bomb" in item.name:
            continue
        with pytest.raises(MediaError) as raised:
            READERS[kind](item.path)
        assert raised.value.subject is not None
        assert raised.value.subject.startswith(str(item.path))
        assert raised.value.remedy, item.name
        assert raised.value.exit_code == 2


@pytest.mark.parametrize("kind", READERS)
def test_bytes_are_judged_as_the_file_is(kind: str, corpus: list[BadInput]) -> None:
    for item in corpus:
        if item.kind != kind or "bomb" in item.name or item.expect == "either":
            continue
        if item.expect == "error":
            with pytest.raises(MediaError):
                READERS[kind](item.path.read_bytes())
        else:
            READERS[kind](item.path.read_bytes())


def test_the_corpus_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    kinds = ["text", "image"]
    first, again = (bad_inputs(tmp_path / name, kinds) for name in ("a", "b"))
    other = bad_inputs(tmp_path / "c", kinds, seed=1)
    contents = [[item.path.read_bytes() for item in items] for items in (first, again, other)]
    assert [item.name for item in first] == [item.name for item in again]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smell"):
        bad_inputs(tmp_path, ["smell"])


@pytest.mark.parametrize("kind", READERS)
def test_missing_files_and_folders_are_refused(kind: str, tmp_path: Path) -> None:
    start = time.monotonic()
    for path in (tmp_path / "absent.bin", tmp_path, Path("/dev/zero"), tmp_path / "nul\0name"):
        with pytest.raises(MediaError):
            READERS[kind](path)
    assert time.monotonic() - start < SECONDS
