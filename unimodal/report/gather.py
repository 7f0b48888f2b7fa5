"""What the report shows beyond scores and curves, gathered while the model is there.

Everything is put into plain JSON (`report_data.json` in the run folder), so that the page can be
written again without the model: samples as HTML fragments of their modalities, the ledger, counts
of the data, an attention map, the environment.
"""

import html
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

from unimodal.evaluation import Evaluation
from unimodal.evaluation.metrics import metrics
from unimodal.model.decoder import Decoder
from unimodal.report.attention import attention_figure
from unimodal.tasks.base import Example, Task

MAX_FRAGMENT = 400_000
"""Characters of one sample's HTML; a larger one is left out, and the page says so."""


def gather(decoder: Decoder, tasks: Mapping[str, Task], found: Evaluation) -> dict[str, Any]:
    """Everything that the page needs from the model, JSON-ready."""
    notes = list(found.notes)
    return {
        "samples": {
            name: [_sample(tasks[name], example) for example in examples]
            for name, examples in found.examples.items()
        },
        "tasks": {name: _about(task) for name, task in tasks.items()},
        "vocabulary": _ledger(decoder),
        "model": _shape(decoder),
        "attention": attention_figure(decoder, tasks, found.examples, notes),
        "environment": environment(str(decoder.device)),
        "notes": notes,
    }


def environment(device: str) -> dict[str, str]:
    """Versions and device."""
    try:
        version = metadata.version("unimodal")
    except metadata.PackageNotFoundError:
        version = "a source tree, not installed"
    return {
        "unimodal": version,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "device": device,
        "threads": str(torch.get_num_threads()),
        "machine": platform.machine(),
    }


def _sample(task: Task, example: Example) -> dict[str, Any]:
    request = task.request(example.record)
    given = [
        {"modality": s.modality, "html": _show(task, s.modality, s.value)}
        for s in request.segments
        if s.role == "given"
    ]
    target = task.config.target
    truths = example.truth if _several(task, example.truth) else (example.truth,)
    shown: dict[str, Any] = {
        "id": str(example.record.get("id", "")),
        "given": given,
        "truth": " or ".join(_show(task, target, truth) for truth in truths[:3]),
    }
    if task.mode != "likelihood":
        answered = example.answer is not None
        shown["answer"] = _show(task, target, example.answer) if answered else "(no answer)"
        pairs = metrics.get("exact_match").pairs([example.answer], [example.truth], task.target)
        shown["right"] = bool(pairs[0, 0]) if answered else False
    return shown


def _several(task: Task, truth: Any) -> bool:
    return isinstance(truth, tuple) and task.target.value_type is str


def _show(task: Task, modality: str, value: Any) -> str:
    if isinstance(value, str) and not value.strip():
        return "<em>(empty)</em>"
    fragment = task.vocabulary.modality(modality).show(value)
    if len(fragment) <= MAX_FRAGMENT:
        return fragment
    return f"<em>{html.escape(modality)}: {len(fragment):,} characters, not shown</em>"


def _about(task: Task) -> dict[str, Any]:
    data = {}
    for split in ("train", "validation", "test"):
        try:
            source = task.open(split)
        except Exception as error:  # the report says what it could not open; scoring has succeeded
            data[split] = f"{type(error).__name__}"
            continue
        data[split] = str(len(source))
        data["name"], data["license"] = source.name, source.license
    config = task.config
    direction = f"{config.source} to {config.target}" if config.source else config.target
    return {
        "template": config.template,
        "direction": direction,
        "weight": config.weight,
        "loss_weight": config.loss_weight,
        "data": data,
    }


def _ledger(decoder: Decoder) -> list[dict[str, Any]]:
    vocabulary = decoder.vocabulary
    rows = []
    for span in vocabulary.spans:
        entry = vocabulary.entries.get(span.owner)
        rows.append(
            {
                "span": span.name,
                "first": span.start,
                "size": span.size,
                "owner": span.owner,
                "fingerprint": entry.fingerprint[:12] if entry else "",
            }
        )
    return rows


def _shape(decoder: Decoder) -> dict[str, Any]:
    config = decoder.config
    kinds: Sequence[str] = list(decoder.vocabulary.modalities)
    return {
        "parameters": decoder.num_parameters(),
        "layers": config.num_layers,
        "width": config.width,
        "heads": f"{config.num_heads} x {config.head_dim}, {config.num_kv_heads} for keys",
        "ids": decoder.vocabulary.size,
        "modalities": ", ".join(kinds),
    }
