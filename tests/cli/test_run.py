"""The verbs that take a run, on a small untrained model of five modalities."""

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.cli.transcribe import stamp, written
from unimodal.media import Audio, Image, write_audio, write_image
from unimodal.modality import Modality, build_modality, fit
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import save_model
from unimodal.runtime import Transcript, TranscriptSegment
from unimodal.testing.bad_inputs import bad_inputs
from unimodal.vocabulary import Vocabulary

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
LINES = ["a red apple", "a green pear on a table", "two birds and one blue cat sing", "apple pear"]
TASKS = {
    "genome": {
        "template": "model",
        "target": "dna",
        "data": {"path": "GENOME"},
        "options": {"window": 60},
    }
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "small"
    text = build_modality("text", {"vocab_size": 300})
    fit(text, LINES * 8)
    speech, image = build_modality("speech"), build_modality("image", {"patch_size": 8})
    dna = build_modality("dna", {"n": 2})
    video = build_modality("video", {"frames": 2, "patch_size": 8})
    vocabulary = Vocabulary.of(
        {"text": text, "speech": speech, "image": image, "dna": dna, "video": video}
    )
    shape = DecoderConfig(
        width=64, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=64, mlp_width=64
    )
    run.mkdir()
    rng = np.random.default_rng(0)
    genome = "".join(rng.choice(list("ACGT"), 3000))
    (run / "genome.fa").write_text(f">chromosome\n{genome}\n")
    tasks = json.loads(json.dumps(TASKS).replace("GENOME", str(run / "genome.fa")))
    (run / "experiment.json").write_text(json.dumps({"name": "small", "tasks": tasks}))
    save_model(run / "model", Decoder(shape, vocabulary))
    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    made = {name: place / name for name in ("a.png", "a.wav", "a.fa", "a.txt")}
    write_image(Image(torch.from_numpy(rng.integers(0, 256, (16, 16, 3), np.uint8))), made["a.png"])
    samples = torch.from_numpy(rng.normal(0, 0.1, 8000).astype(np.float32))
    write_audio(Audio(samples, 16_000), made["a.wav"])
    made["a.fa"].write_text(">one\nACGTACGTAC\n>two\nGGGG\n")
    made["a.txt"].write_text("a red apple")
    return made


def test_schema_names_spans_modalities_and_tasks(unimodal: Run, folder: Path) -> None:
    found = unimodal("schema", folder, "--json").json
    assert set(found["modalities"]) == {"text", "speech", "image", "dna", "video"}
    assert found["tasks"]["genome"]["template"] == "model"
    shown = unimodal("schema", folder)
    assert shown.code == 0
    assert "dna.dna" in shown.out
    assert "input only" in shown.out


def test_a_sequence_is_generated_and_written(unimodal: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.fa"
    argv = ["generate", folder, "--from", "text", "--to", "dna", "ACGT", "--out", out]
    done = unimodal(*argv, "--max-tokens", 20, "--json")
    assert done.code == 0
    bases = out.read_text().split("\n", 1)[1].replace("\n", "")
    assert bases
    assert done.json["value"].upper() == bases.upper()
    again = unimodal(*argv, "--max-tokens", 20, "--json")
    assert again.json["value"] == done.json["value"]


def test_an_answer_may_begin_with_what_is_given(
    unimodal: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.fa").write_text(">one\nGATTACA\n")
    argv = ["generate", folder, "--from", "text", "--to", "dna", "x", "--max-tokens", 30, "--json"]
    done = unimodal(*argv, "--prefix", "ACGTACGTA", "--prefix-cells", 2)
    assert done.json["value"].startswith("ACGT")  # cells of two bases
    whole = unimodal(*argv, "--prefix", "ACGTAC")
    assert whole.json["value"].startswith("ACGTAC")
    read = unimodal(*argv, "--prefix", tmp_path / "one.fa", "--prefix-cells", 2)
    assert read.json["value"].startswith("GATT")


def test_the_modality_of_a_file_is_found_out(
    unimodal: Run, folder: Path, files: dict[str, Path]
) -> None:
    for name in ("a.png", "a.wav", "a.txt"):
        done = unimodal("generate", folder, files[name], "--max-tokens", 4)
        assert done.code == 0, done.err
    assert unimodal("score", folder, files["a.fa"]).code == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("apple.png", None, "There is no such file"),
        ("genome.fa.gz", None, "There is no such file"),
        ("genome.fa", ">one\nACGT!\n", "No modality of this model reads it"),
        ("two.fa", ">one\nACGT\n>two\nACGT\n", "several records"),
    ],
)
def test_a_file_that_is_not_what_its_name_promises_is_no_prompt(
    unimodal: Run, folder: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    done = unimodal("generate", folder, path, "--max-tokens", 4)
    assert done.code == 2
    assert message in done.err
    assert name in done.err


def test_nothing_is_no_value(unimodal: Run, folder: Path) -> None:
    done = unimodal("generate", folder, "", "--max-tokens", 4)
    assert done.code == 2
    assert "It is empty" in done.err


def test_a_page_that_is_named_as_a_picture_is_not_taken_for_text(
    unimodal: Run, folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "apple.png"
    page.write_text("<html>404: there is no such picture</html>")
    done = unimodal("embed", folder, page, "--json")
    assert done.code == 2
    assert "No modality of this model reads it" in done.json["message"]
    assert unimodal("embed", folder, page, "--from", "text", "--json").code == 0
    same = page.rename(tmp_path / "apple.html")
    assert unimodal("embed", folder, same, "--json").code == 0


def test_scores_are_a_table_with_a_row_a_record(
    unimodal: Run, folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "s.tsv"
    assert unimodal("score", folder, files["a.fa"], files["a.txt"], "--out", out).code == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text()), delimiter="\t"))
    assert [r["modality"] for r in rows] == ["dna", "dna", "text"]
    assert [r["raw_units"] for r in rows] == ["10", "4", "11"]
    assert rows[0]["name"].endswith("a.fa:one")
    for row in rows:
        each = float(row["bits"]) / float(row["raw_units"])
        assert float(row["bits_per_raw_unit"]) == pytest.approx(each, rel=1e-4)
    assert unimodal("score", folder, files["a.fa"]).out.splitlines()[0].startswith("name\t")


def test_a_bad_file_costs_itself_alone(
    unimodal: Run, folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    words = (files["a.fa"], tmp_path / "nowhere.fa", files["a.txt"])
    scored = unimodal("score", folder, *words)
    assert scored.code == 2
    assert len(scored.out.splitlines()) == 1 + 3
    assert "nowhere.fa: There is no such file" in scored.err
    found = unimodal("embed", folder, *words, "--json")
    assert found.code == 2
    assert len(found.json["vectors"]) == 3
    assert [e["subject"] for e in found.json["errors"]] == [str(tmp_path / "nowhere.fa")]
    heard = unimodal("transcribe", folder, tmp_path / "no.wav", files["a.wav"], "--max-tokens", 4)
    assert heard.code == 2
    assert str(files["a.wav"]) in heard.out
    assert unimodal("embed", folder, files["a.fa"], "--out", tmp_path / "no" / "x.npy").code == 2


def test_a_gzipped_genome_is_scored_by_record_and_in_windows(
    unimodal: Run, folder: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "genome.bin"  # content decides, not the name
    packed.write_bytes(gzip.compress(b">one\n" + b"ACGTTGCA" * 4 + b"\n>two\nGGGG\n"))
    argv = ("score", folder, packed, "--from", "dna", "--json")
    whole = unimodal(*argv).json["scores"]
    pieces = unimodal(*argv, "--window", 8).json["scores"]
    assert [row["raw_units"] for row in whole] == [row["raw_units"] for row in pieces] == [32, 4]
    assert whole[0]["bits"] != pytest.approx(pieces[0]["bits"])
    assert whole[1]["bits"] == pytest.approx(pieces[1]["bits"])
    alone = tmp_path / "alone.fa"
    alone.write_text(">one\nACGTTGCA\n")
    bits = unimodal("score", folder, alone, "--json").json["scores"][0]["bits"]
    assert pieces[0]["bits"] == pytest.approx(4 * bits, rel=1e-4)


def test_a_sequence_is_scored_in_the_pieces_that_it_was_trained_in(
    unimodal: Run, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.fa"
    path.write_text(">one\n" + "ACGTTGCA" * 20 + "\n")
    argv = ("score", folder, path, "--json")
    usual, whole, given = (
        unimodal(*argv, *more).json["scores"][0]["bits"]
        for more in ((), ("--window", 0), ("--window", TASKS["genome"]["options"]["window"]))
    )
    assert usual == given
    assert usual != pytest.approx(whole)


def test_what_is_input_only_has_no_likelihood(
    unimodal: Run, folder: Path, files: dict[str, Path]
) -> None:
    done = unimodal("score", folder, files["a.png"])
    assert done.code == 2
    assert "input only: it has no likelihood" in done.err


def test_vectors_are_one_array(
    unimodal: Run, folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.npy"
    done = unimodal("embed", folder, *files.values(), "--out", out, "--json")
    vectors = np.load(out, allow_pickle=False)
    assert vectors.shape == (5, 64)
    assert vectors.dtype == np.float32
    assert len(done.json["names"]) == 5
    alone = unimodal("embed", folder, files["a.png"], "--json").json["vectors"]
    np.testing.assert_allclose(alone[0], vectors[0], atol=1e-5)
    assert unimodal("embed", folder, files["a.png"]).code == 2


def test_speech_is_transcribed_in_whisper_s_spelling(
    unimodal: Run, folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    argv = ["--model", folder, "--output_format", "all", "--output_dir", tmp_path / "t"]
    done = unimodal("transcribe", files["a.wav"], *argv, "--max-tokens", 6, "--window", "0.25")
    assert done.code == 0, done.err
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == ["a.json", "a.srt", "a.tsv", "a.txt", "a.vtt"]
    segments = json.loads((tmp_path / "t" / "a.json").read_text())["segments"]
    assert [(s["start"], s["end"]) for s in segments] == [(0.0, 0.25), (0.25, 0.5)]
    assert (tmp_path / "t" / "a.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")
    plain = unimodal("transcribe", folder, files["a.wav"], "--max-tokens", 6)
    assert plain.code == 0
    several = unimodal("transcribe", folder, files["a.wav"], files["a.wav"], "--format", "srt")
    assert several.code == 2
    assert "2 transcripts printed one after another are no srt" in several.err


def test_transcript_formats() -> None:
    made = Transcript(
        "hi there", [TranscriptSegment(0.0, 1.5, " hi"), TranscriptSegment(61.5, 62, "there")]
    )
    assert written(made, "txt") == "hi\nthere\n"
    assert written(made, "tsv") == "start\tend\ttext\n0\t1500\thi\n61500\t62000\tthere\n"
    assert written(made, "srt").startswith(
        "1\n00:00:00,000 --> 00:00:01,500\nhi\n\n2\n00:01:01,500"
    )
    assert stamp(3661.0004, ".") == "01:01:01.000"
    assert stamp(59.9996, ",") == "00:01:00,000"


def test_a_run_is_scored_and_reported(unimodal: Run, folder: Path, tmp_path: Path) -> None:
    done = unimodal("eval", folder, "--limit", 3, "--out", tmp_path, "--json")
    assert done.code == 0, done.err
    entry = done.json["genome"]["bits_per_base"]
    assert entry["n"] == 3
    assert entry["command"] == f"unimodal eval {folder} --limit 3 --out {tmp_path} --json"
    assert 1.5 < entry["value"] < 4.5
    page = (tmp_path / "report.html").read_text()
    assert "genome" in page
    assert json.loads((tmp_path / "results.json").read_text()) == done.json
    alone = unimodal("eval", folder, "--limit", 1, "--out", tmp_path)
    assert alone.code == 0
    assert "nan" not in alone.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["schema", "no/such/run"], "no such run"),
        (["generate", "RUN", "x", "--to", "dnaa"], "Did you mean `dna`"),
        (["generate", "RUN", "x", "--to", "speech"], "input only"),
        (["generate", "RUN", "x", "--from", "txt"], "no modality `txt`"),
        (["generate", "RUN", "x.png", "--from", "image"], "no such file"),
        (["generate", "RUN", "hello", "--from", "dna"], "DNA is written with"),
        (["generate", "RUN", "x", "--top-p", "2"], "top_p"),
        (["generate", "RUN", "x", "--temperature", "-1"], "temperature"),
        (["generate", "RUN", "x", "--n", "0"], "`n` must be"),
        (["generate", "RUN", "x", "--task", "none"], "no task `none`"),
        (["generate", "RUN", "x", "--out", "no/such/folder/x.txt"], "folder does not exist"),
        (["generate", "RUN", "x", "--device", "tpu"], "tpu"),
        (["generate", "RUN", "x", "--max-tokens", "0"], "max_tokens"),
        (["generate", "RUN", "x", "--dtype", "float16"], "`dtype` must be one of"),
        (["generate", "RUN", "x", "--guidance", "-1"], "`guidance` must be"),
        (["generate", "RUN", "x", "--guidance", "2"], "null conditions"),
        (["generate", "RUN", "x", "--rank", "reverse"], "no task from `text` to `text`"),
        (["generate", "RUN", "x", "--prefix-cells", "2"], "there is none"),
        (["score", "RUN", "nowhere.fa"], "no such file"),
        (["embed", "RUN", "nowhere.fa", "--json"], "no such file"),
        (["transcribe", "RUN", "nowhere.wav"], "no such file"),
        (["transcribe", "RUN"], "no file to transcribe"),
        (["transcribe", "RUN", "x.wav", "--format", "doc"], "invalid choice"),
        (["eval", "RUN", "--tasks", "genom"], "Did you mean `genome`"),
        (["eval", "RUN", "--split", "tset"], "tset"),
        (["eval", "RUN", "--full", "--limit", "3"], "not both"),
        (["train", "experiment=dnaa"], "dnaa"),
        (["train", "experiment=dna", "training.max_stps=3"], "max_stps"),
        (["train", "experiment=dna", "--device"], "needs a name"),
        (["demo", "--minutes", "0"], "`--minutes` must be"),
    ],
)
def test_wrong_requests_are_one_message_and_2(
    unimodal: Run, folder: Path, argv: list[str], message: str
) -> None:
    words = [str(folder) if word == "RUN" else word for word in argv]
    done = unimodal(*words)
    assert done.code == 2
    assert message in done.err + done.out
    as_json = unimodal(*words, "--json") if argv[0] not in ("train",) else None
    if as_json is not None:
        assert as_json.code == 2
        found = json.loads(as_json.out)
        assert set(found) == {"error", "message", "subject", "remedy"}


def test_odd_files_are_embedded_and_bad_ones_cost_one_message_each(
    unimodal: Run, folder: Path, tmp_path: Path
) -> None:
    names = {"text": "text", "image": "image", "audio": "speech", "dna": "dna", "video": "video"}
    cases = bad_inputs(tmp_path, kinds=names)
    assert len(cases) > 20
    for case in cases:
        is_long = case.name == "line_of_10_mib.txt"
        done = unimodal("embed", folder, case.path, "--from", names[case.kind], "--json")
        is_good = case.expect == "value" and not is_long
        if is_good or (case.expect == "either" and done.code == 0):
            assert done.code == 0, (case.name, done.out)
            assert len(done.json["vectors"]) > 0, case.name
            continue
        assert done.code == 2, case.name
        errors = done.json.get("errors", [done.json])  # records before a bad one are not lost
        expected = "DataError" if is_long else "MediaError"
        assert expected in {error["error"] for error in errors}, case.name
        for error in errors:
            assert error["subject"].startswith(str(case.path)), case.name
            assert error["remedy"], case.name


@pytest.mark.parametrize("options", [[], ["--from", "image"]])
def test_a_modality_that_fails_at_a_file_is_one_message(
    unimodal: Run,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    def read_all(self: object, path: Path) -> None:
        raise ValueError("no array in it")

    monkeypatch.setattr("unimodal.tokenizers.image.ImagePatches.read_all", read_all)
    file = tmp_path / "junk.png"
    file.write_bytes(b"\xff\xfe")
    done = unimodal("score", folder, file, *options)
    assert done.code == 2
    assert str(file) in done.err
    assert "ValueError: no array in it" in done.err


def test_a_changed_checkpoint_is_refused(unimodal: Run, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    done = unimodal("schema", copy)
    assert done.code == 2
    assert "model.safetensors" in done.err


def test_a_run_of_another_tokenizer_is_refused_by_name(unimodal: Run, tmp_path: Path) -> None:
    right = Vocabulary.of(["dna"]).entries["dna"].fingerprint
    shape = DecoderConfig(width=64, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=64)
    with pytest.MonkeyPatch.context() as patch:  # when it was trained, ids meant something else
        patch.setattr(Modality, "fingerprint", lambda self: "0" * len(right))
        save_model(tmp_path / "model", Decoder(shape, Vocabulary.of(["dna"])))
    done = unimodal("schema", tmp_path)
    assert done.code == 2
    assert "dna" in done.err
    assert right in done.err
    assert "0" * len(right) in done.err
    assert "Restore the tokenizer" in done.err


def test_results_do_not_go_into_a_sealed_model_folder(unimodal: Run, folder: Path) -> None:
    done = unimodal("eval", folder / "model", "--limit", 2)
    assert done.code == 2
    assert "--out" in done.err
    assert not (folder / "model" / "results.json").exists()


def test_in_a_process_of_its_own_errors_have_no_traceback(folder: Path) -> None:
    for argv, code in ((["schema", str(folder)], 0), (["schema", "nowhere"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "unimodal.cli.main", *argv],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
