"""A bad file among good ones costs itself: named, counted, put away, and the good ones all arrive.

Each file of the corpus goes through the feed of a training in a process that may take 512 MiB more;
this module is that process too (`python test_bad_samples.py FOLDER`).
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from unimodal.errors import DataError
from unimodal.modality import build_modality, fit
from unimodal.stream import PackingConfig, StreamConfig
from unimodal.tasks.base import DataConfig, TaskConfig
from unimodal.testing.bad_inputs import BadInput, bad_inputs
from unimodal.training.build import build_streams, build_vocabulary
from unimodal.training.draws import Quarantine
from unimodal.training.feed import Feed
from unimodal.training.main import from_dict
from unimodal.training.mixture import Mixture
from unimodal.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
FIELDS = {"text": "text", "image": "image", "audio": "speech", "video": "video", "dna": "dna"}
CONFIGS: dict[str, dict[str, Any]] = {
    "image": {"patch_size": 8},
    "video": {"frames": 2, "patch_size": 8},
    "dna": {"n": 2},
}
GOOD = {
    "text": ("nul.txt", "byte_order_mark.txt", "looks_like_control_ids.txt"),
    "image": ("cmyk.jpg", "grey_16_bit.png", "rotated.jpg"),
    "audio": ("channels_1.wav", "channels_8.wav", "pcm_24.wav"),
    "video": ("good.mp4", "good.mkv", "good.gif"),
    "dna": ("lower_case.fa", "ambiguous.fa", "good.fa"),
}
"""Odd but good files of the corpus; those that it lacks are written."""
REFUSED_LATER = {
    "line_of_10_mib.txt": "DataError",
    "crlf.fa": "MediaError",
    "whole.fa.gz": "MediaError",
}
"""Files that the decoder reads, but that are no sample: too long for a row, or several records."""
SECONDS, MIB = 5.0, 512
PACKING = PackingConfig(row_length=1024, look_ahead=3)


def vocabulary_of(field: str) -> Vocabulary:
    """Text, which every task is asked for, and the modality under test."""
    text = build_modality("text", {"vocab_size": 300})
    fit(text, ["a red apple", "a green pear on a table", "two birds and one blue cat"] * 8)
    others = {} if field == "text" else {field: build_modality(field, CONFIGS.get(field, {}))}
    return Vocabulary.of({"text": text, **others})


def write_good(folder: Path, kind: str) -> list[Path]:
    """The good files of a kind, in the corpus's folder."""
    if kind == "video":
        import torch

        from unimodal.media import Video, write_video

        frames = torch.arange(8 * 16 * 16 * 3).reshape(8, 16, 16, 3).to(torch.uint8)
        for name in GOOD["video"]:
            write_video(Video(frames, 8.0), folder / kind / name)
    if kind == "dna":
        (folder / kind / "good.fa").write_text(">one\nACGTACGTAC\n")
    return [folder / kind / name for name in GOOD[kind]]


def manifest(path: Path, field: str, files: dict[str, Path]) -> Path:
    """Records of one file each, in the manifest's folder."""
    lines = []
    for name, file in files.items():
        row = {
            "id": name,
            "split": "train",
            field: {"path": file.relative_to(path.parent).as_posix()},
        }
        lines.append(json.dumps(row if field == "text" else {**row, "text": "a red apple"}))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def fed(
    data: Path,
    field: str,
    vocabulary: Vocabulary,
    out: Path,
    *,
    ahead: int = 0,
    budget: int = 1000,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Feed three epochs of a data path; what arrived, what was put away, how it was counted."""
    given = field not in ("text", "dna")
    task = TaskConfig(
        template="translate" if given else "model",
        source=field if given else None,
        target="text" if given else field,
        data=DataConfig(path=str(data), options=options or {}),
    )
    streams = build_streams({"task": task}, vocabulary, "train")
    quarantine = Quarantine(out, budget)
    mixture = Mixture(streams, vocabulary, StreamConfig(), PACKING, 0, quarantine)
    draws = 3 * len(streams["task"].source) + PACKING.look_ahead
    arrived: dict[str, int] = {}
    state = mixture.state()
    with Feed(mixture, 1, 1, ahead) as feed:
        for step in feed:
            for name in step.sample_ids():
                arrived[name.partition(":")[2]] = arrived.get(name.partition(":")[2], 0) + 1
            state = step.state
            if state.draws >= draws:
                break
    lines = out.read_text("utf-8").splitlines() if out.is_file() else []
    return {
        "arrived": arrived,
        "bad": [json.loads(line) for line in lines],
        "counted": len(state.bad),
        "reasons": dict(Counter(reason for *_, reason in state.bad)),
    }


def work(folder: Path) -> None:
    """Feed each file named on standard input among good ones; a line of JSON about each."""
    import av  # noqa: F401
    import PIL.Image
    import soundfile  # noqa: F401

    PIL.Image.preinit()
    rooms = {}
    for kind, field in FIELDS.items():
        files = {f"good-{i}": path for i, path in enumerate(write_good(folder, kind))}
        rooms[kind] = files, vocabulary_of(field)
        warm = manifest(folder / "warm.jsonl", field, files)
        fed(warm, field, rooms[kind][1], folder / "warm")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + MIB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number, line in enumerate(sys.stdin):
        kind, name = json.loads(line)
        files, vocabulary = rooms[kind]
        data = manifest(folder / f"{number}.jsonl", FIELDS[kind], {**files, "bad": Path(name)})
        start = time.monotonic()
        found = fed(data, FIELDS[kind], vocabulary, folder / f"{number}.bad")
        print(json.dumps({**found, "seconds": time.monotonic() - start}), flush=True)


def outcomes(folder: Path, items: list[BadInput]) -> list[dict[str, Any]]:
    """What `work` says about each file, from a process of bounded memory."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        input="".join(json.dumps([item.kind, str(item.path)]) + "\n" for item in items),
        capture_output=True,
        text=True,
        timeout=180,
        env={
            **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(item: BadInput, found: dict[str, Any]) -> list[str]:
    """What is wrong with the outcome of one file among three good ones."""
    reason = REFUSED_LATER.get(item.name, "MediaError" if item.expect == "error" else None)
    if item.expect == "either":
        reason = "MediaError" if found["bad"] else None
    wrong = []
    if found["seconds"] > SECONDS:
        wrong.append(f"{found['seconds']:.1f} s")
    good = {name for name in found["arrived"] if name.startswith("good-")}
    if good != {f"good-{i}" for i in range(3)}:
        wrong.append(f"of the good ones only {sorted(good)} arrived")
    if ("bad" in found["arrived"]) is (reason is not None):
        wrong.append(f"arrived: {found['arrived']}")
    expected = {} if reason is None else {reason: 1}
    if found["reasons"] != expected or found["counted"] != len(expected):
        wrong.append(f"counted {found['reasons']}, {found['counted']}; expected {expected}")
    if [(line["id"], line["reason"]) for line in found["bad"]] != [("bad", r) for r in expected]:
        wrong.append(f"put away: {found['bad']}")
    for line in found["bad"]:
        named = item.name in line["message"] or line["reason"] == "DataError"
        if not named or "Traceback" in line["message"] or " at 0x" in line["message"]:
            wrong.append(f"message: {line['message']}")
    return [f"{item.kind} {item.name}: {text}" for text in wrong]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[BadInput]:
    return bad_inputs(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def fed_corpus(corpus: list[BadInput]) -> list[tuple[BadInput, dict[str, Any]]]:
    """Each file with its outcome, all from one process."""
    return list(zip(corpus, outcomes(corpus[0].path.parents[1], corpus), strict=True))


@pytest.mark.parametrize("kind", FIELDS)
def test_each_bad_file_costs_itself_alone(
    kind: str, fed_corpus: list[tuple[BadInput, dict[str, Any]]]
) -> None:
    mine = [(item, found) for item, found in fed_corpus if item.kind == kind]
    assert len(mine) > 9
    wrong = [text for item, found in mine for text in faults(item, found)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.soak
def test_a_huge_file_costs_itself_alone(tmp_path: Path) -> None:
    items = bad_inputs(tmp_path, FIELDS, huge=True)
    huge = [item for item in items if item.name in ("hour_of_silence.flac", "line_of_1_gb.fa")]
    assert len(huge) == 2
    found = outcomes(tmp_path, huge)
    wrong = [text for item, one in zip(huge, found, strict=True) for text in faults(item, one)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_folder_of_captions_counts_every_bad_file(
    kind: str, corpus: list[BadInput], tmp_path: Path
) -> None:
    """Also those whose content no longer shows what they were; read ahead by the feed's worker."""
    source = tmp_path / "corpus"
    (source / kind).mkdir(parents=True)
    for item in corpus:
        if item.kind == kind:
            shutil.copyfile(item.path, source / kind / item.name)
    good = {path.name for path in write_good(source, kind)}
    # A picture named .wav, and a GIF among videos, make it a folder of two kinds of media.
    bad = {
        item.name
        for item in corpus
        if item.kind == kind
        and item.expect == "error"
        and item.name != "picture.wav"
        and not (kind == "video" and item.name.endswith(".gif"))
    }
    good -= {name for name in good if kind == "video" and name.endswith(".gif")}
    assert len(bad) > 8
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(sorted(good | bad)):
        shutil.copyfile(source / kind / name, data / f"{number}-{name}")
        (data / f"{number}-{name}").with_suffix(".txt").write_text("a red apple")
    field = FIELDS[kind]
    vocabulary = vocabulary_of(field)
    options = {"validation_fraction": 0.0}
    found = fed(data, field, vocabulary, tmp_path / "bad", ahead=1, options=options)
    assert {line["id"].split("-", 1)[1] for line in found["bad"]} == bad
    assert {name.split("-", 1)[1] for name in found["arrived"]} == good
    assert found["counted"] == len(found["bad"]) == len(bad)
    assert found["reasons"] == {"MediaError": len(bad)}
    with pytest.raises(DataError, match=r"6 samples are unusable \(6 x MediaError\)") as caught:
        fed(data, field, vocabulary, tmp_path / "few", ahead=1, budget=5, options=options)
    assert "max_bad_samples" in str(caught.value)
    assert len((tmp_path / "few").read_text().splitlines()) == 6


def test_a_bad_text_does_not_end_the_fitting_of_a_tokenizer(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"a red apple and {number} green pears")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    files = {path.name: path for path in sorted(tmp_path.glob("*.txt"))}
    data = manifest(tmp_path / "texts.jsonl", "text", files)
    config = from_dict(
        {
            "modalities": {"text": {"vocab_size": 300}},
            "tasks": {"task": {"target": "text", "data": {"path": str(data)}}},
        },
        {},
    )
    found = fed(data, "text", build_vocabulary(config), tmp_path / "bad")
    assert [line["id"] for line in found["bad"]] == ["bad.txt"]
    assert len(found["arrived"]) == 8


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("protein.fa", ">one\nMKTAYIAKQRQISFVKSHFSRQ\n", ("protein.fa, line 1", "protein.")),
        ("two.jsonl", '{"id": "a", "dna": "ACGT"}\n{"id": "a"}\n', ("two.jsonl, line 2", "unique")),
    ],
)
def test_data_that_is_checked_at_opening_stops_a_training_before_it_begins(
    tmp_path: Path, name: str, content: str, words: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(content)
    command = [sys.executable, "-m", "unimodal.cli.main", "train", "experiment=dna", "device=cpu"]
    done = subprocess.run(
        [*command, f"data.path={tmp_path / name}", f"run_dir={tmp_path / 'run'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = " ".join(done.stderr.split())
    for word in words:
        assert word in message
    assert not (tmp_path / "run" / "checkpoints").exists()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
