"""`unimodal transcribe`: what is spoken in files, as txt, srt, vtt, tsv or json.

Takes Whisper's spellings, too: `--model`, `--output_format`, `--output_dir`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unimodal.cli.console import print_json
from unimodal.cli.options import add_compute_options
from unimodal.errors import ConfigError

if TYPE_CHECKING:
    from unimodal.runtime import Transcript

ABOUT = "Write down what is spoken: unimodal transcribe RUN FILES, or --model RUN FILES."
FORMATS = ("txt", "srt", "vtt", "tsv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `transcribe`."""
    parser.add_argument(
        "words", nargs="+", metavar="RUN FILE", help="the run, then files; with --model only files"
    )
    parser.add_argument("--model", metavar="RUN", help="folder of a run, or a shipped name")
    parser.add_argument(
        "--format",
        "--output_format",
        "-f",
        dest="format",
        choices=[*FORMATS, "all"],
        default=None,
        help="by default txt",
    )
    parser.add_argument(
        "--output_dir",
        "--output-dir",
        "-o",
        dest="folder",
        type=Path,
        metavar="FOLDER",
        help="write FILE.FORMAT there instead of printing",
    )
    parser.add_argument(
        "--window", type=float, default=30.0, metavar="SECONDS", help="heard at once"
    )
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of a window")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest id")
    add_compute_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Transcribe all files."""
    model_name, *files = [arguments.model, *arguments.words] if arguments.model else arguments.words
    if not files:
        raise ConfigError("There is no file to transcribe.", remedy="Name files after the run.")
    if arguments.format == "all" and arguments.folder is None:
        raise ConfigError("The format `all` needs a folder.", remedy="Give --output_dir FOLDER.")
    is_printed = arguments.folder is None and not arguments.json
    if len(files) > 1 and is_printed and (arguments.format or "txt") != "txt":
        raise ConfigError(
            f"{len(files)} transcripts printed one after another are no {arguments.format}.",
            remedy="Give --output_dir FOLDER, or --json for one JSON of all files.",
        )
    from unimodal.cli.inputs import Failures, check_file
    from unimodal.runtime import load

    model = load(model_name, arguments.device)
    failures = Failures()
    results = []
    for file in files:
        with failures.of(file):
            transcript = model.transcribe(
                check_file(file),
                window_seconds=arguments.window,
                max_tokens=arguments.max_tokens,
                temperature=arguments.temperature,
            )
            results.append({"file": file, **as_dict(transcript)})
            _give(transcript, Path(file), arguments, len(files) > 1)
    code = failures.finish(len(results))
    if arguments.json:
        print_json({"transcripts": results, "errors": failures.as_dicts()})
    return code


def as_dict(transcript: "Transcript") -> dict[str, object]:
    """A transcript in the form of Whisper's JSON."""
    segments = [
        {"id": number, "start": s.start, "end": s.end, "text": s.text}
        for number, s in enumerate(transcript.segments)
    ]
    return {"text": transcript.text, "segments": segments}


def written(transcript: "Transcript", form: str) -> str:
    """A transcript as a file of one of `FORMATS`."""
    lines: list[str] = []
    if form == "json":
        return json.dumps(as_dict(transcript), ensure_ascii=False, indent=1) + "\n"
    if form == "txt":
        lines = [segment.text.strip() for segment in transcript.segments]
    elif form == "tsv":
        lines = ["start\tend\ttext"]
        for s in transcript.segments:
            text = s.text.strip().replace("\t", " ")
            lines.append(f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{text}")
    else:
        lines = ["WEBVTT", ""] if form == "vtt" else []
        for number, s in enumerate(transcript.segments, start=1):
            lines += [str(number)] if form == "srt" else []
            mark = "," if form == "srt" else "."
            times = [stamp(s.start, mark), stamp(s.end, mark)]
            lines += [" --> ".join(times), s.text.strip().replace("-->", "->"), ""]
    return "\n".join(lines) + "\n"


def stamp(seconds: float, mark: str) -> str:
    """`00:01:02,500`."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, thousandths = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{thousandths:03d}"


def _give(
    transcript: "Transcript", file: Path, arguments: argparse.Namespace, several: bool
) -> None:
    forms: Sequence[str] = (arguments.format or "txt",)
    if arguments.format == "all":
        forms = FORMATS
    if arguments.folder is None:
        if not arguments.json:
            if several:
                print(f"# {file}")
            print(written(transcript, forms[0]), end="")
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for form in forms:
        target = arguments.folder / f"{file.stem}.{form}"
        target.write_text(written(transcript, form), encoding="utf-8")
        if not arguments.json:
            print(target)
