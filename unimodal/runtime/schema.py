"""A model described as plain values: spans, modalities with their grammar, tasks."""

from collections.abc import Mapping
from typing import Any

from unimodal.grammar import SegmentGrammar, header_axes
from unimodal.modality import Modality, config_to_dict
from unimodal.model.decoder import Decoder
from unimodal.tasks import Task


def describe(decoder: Decoder, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Spans, modalities with their grammar, and tasks, as plain values."""
    vocabulary = decoder.vocabulary
    modalities = {}
    for name, modality in vocabulary.modalities.items():
        described = _describe(modality)
        described["config"] = vocabulary.entries[name].config
        described["fingerprint"] = vocabulary.entries[name].fingerprint
        if name in vocabulary.grammars:
            described["grammar"] = _describe_grammar(vocabulary.grammars[name])
        modalities[name] = described
    spans = [
        {"name": s.name, "start": s.start, "stop": s.stop, "owner": s.owner}
        for s in vocabulary.spans
    ]
    return {
        "num_parameters": decoder.num_parameters(),
        "model": config_to_dict(decoder.config),
        "vocabulary_size": vocabulary.size,
        "spans": spans,
        "modalities": modalities,
        "openers": list(vocabulary.openers_listed),
        "tasks": {
            name: {
                "template": task.config.template,
                "source": task.config.source,
                "target": task.config.target,
                "metrics": list(task.metrics),
            }
            for name, task in tasks.items()
        },
    }


def _describe(modality: Modality[Any, Any]) -> dict[str, Any]:
    return {
        "value_type": modality.value_type.__name__,
        "raw_unit": modality.raw_unit,
        "spans": dict(modality.spans),
        "feature_shape": list(modality.feature_shape),
        "attend": modality.attend,
        "pattern": repr(modality.pattern),
        "lossless": modality.is_lossless,
        "decoded_by": modality.decoded_by,
        "sizes": {} if modality.layout is None else header_axes(modality.layout),
    }


def _describe_grammar(grammar: SegmentGrammar) -> dict[str, Any]:
    return {
        "opener": grammar.opener,
        "end": grammar.end,
        "headers": [
            {"axis": "thw"[h.axis], "first_id": h.first_id, "sizes": [h.low, h.high]}
            for h in grammar.headers
        ],
        "cycle": [
            {"head_set": s.head_set, "ids": [list(r) for r in s.ranges]} for s in grammar.slots
        ],
        "cells": [grammar.min_cells, grammar.max_cells],
        "shortest": grammar.shortest(),
    }
