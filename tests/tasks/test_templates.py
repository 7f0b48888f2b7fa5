import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unimodal.errors import ConfigError, DataError, VocabularyError
from unimodal.modality import build_modality
from unimodal.stream import StreamConfig, encode_document
from unimodal.tasks import DataConfig, Task, TaskConfig, build_task, tasks
from unimodal.vocabulary import Vocabulary

RECORD: dict[str, Any] = {"id": "r1", "text": "a red apple", "curve": torch.ones(3, 2)}


def make(vocabulary: Vocabulary, template: str, **fields: Any) -> Task:
    return build_task("job", TaskConfig(template=template, **fields), vocabulary)


@pytest.fixture(scope="module")
def dna() -> Vocabulary:
    return Vocabulary.of({"dna": build_modality("dna", {"both_strands": True})})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_four_templates_are_registered() -> None:
    assert {"model", "translate", "classify", "continue"} <= set(tasks.names())


def test_an_unknown_template_or_option_gets_a_suggestion(vocabulary: Vocabulary) -> None:
    with pytest.raises(ConfigError, match="Did you mean `translate`"):
        make(vocabulary, "translat", source="curve")
    with pytest.raises(ConfigError, match="Did you mean `window`"):
        make(vocabulary, "model", options={"windw": 3})


def test_a_target_that_cannot_be_generated_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(VocabularyError, match="input only"):
        make(vocabulary, "model", target="curve")
    with pytest.raises(VocabularyError, match="no modality `sound`"):
        make(vocabulary, "translate", source="sound")


def test_modelling_crops_in_training_and_covers_everything_when_scored(
    vocabulary: Vocabulary,
) -> None:
    task = make(vocabulary, "model", options={"window": 4})
    pieces = {task.document(RECORD, rng(seed)).segments[0].value for seed in range(40)}
    assert pieces == {RECORD["text"][i : i + 4] for i in range(8)}
    scored = [d.segments[0].value for d in task.scored_documents(RECORD)]
    assert "".join(scored) == RECORD["text"]
    assert task.document(RECORD, rng()).segments[0].objective == "next"
    assert task.request(RECORD).asked() == ["text"]


def test_a_source_that_cuts_is_told_the_window_and_others_are_cut_by_the_task(
    dna: Vocabulary, tmp_path: Path
) -> None:
    sequence = "".join(rng().choice(list("ACGT"), 100))
    (tmp_path / "one.fa").write_text(f">one\n{sequence}\n")
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "one", "dna": sequence}))
    for name, records in (("one.fa", 5), ("one.jsonl", 1)):
        data = DataConfig(path=str(tmp_path / name))
        task = make(dna, "model", target="dna", options={"window": 20}, data=data)
        source = task.open("train")
        assert len(source) == records
        pieces = [d.segments[0].value for d in task.scored_documents(source[0])]
        assert set(map(len, pieces)) == {20}
        assert sequence.startswith("".join(pieces))
        assert len(make(dna, "model", target="dna", data=data).open("train")) == 1


def test_training_reads_both_strands_by_chance_and_scoring_one(dna: Vocabulary) -> None:
    record = {"id": "one", "dna": "AAACC"}
    task = make(dna, "model", target="dna")
    read = [str(task.document(record, rng(seed)).segments[0].value) for seed in range(40)]
    assert set(read) == {"AAACC", "GGTTT"}
    assert 8 < read.count("GGTTT") < 32
    assert [d.segments[0].value for d in task.scored_documents(record)] == ["AAACC"]
    # The strand is chosen before a value is cut in two: the parts stay neighbours.
    task = make(dna, "continue", target="dna", options={"prefix": 2, "length": 3})
    documents = [task.document(record, rng(seed)).segments for seed in range(20)]
    assert {"".join(str(s.value) for s in several) for several in documents} <= {
        strand[i:j] for strand in ("AAACC", "GGTTT") for i in range(5) for j in range(i, 6)
    }
    plain = Vocabulary.of({"dna": build_modality("dna", {})})
    task = make(plain, "model", target="dna")
    assert {task.document(record, rng(s)).segments[0].value for s in range(20)} == {"AAACC"}


def test_a_window_of_a_value_that_is_no_sequence_is_refused(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "model", target="cells", options={"window": 2})
    with pytest.raises(ConfigError, match="cuts sequences"):
        task.document({"id": "x", "cells": 3}, rng())


def test_translation_gives_the_source_and_learns_the_target(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "translate", source="curve", loss_weight=0.5)
    document = task.document(RECORD, rng())
    given, asked = document.segments
    assert (given.modality, given.objective, given.role) == ("curve", "none", "given")
    assert (asked.modality, asked.objective, asked.weight) == ("text", "next", 0.5)
    encoded = encode_document(document, vocabulary, StreamConfig())
    learned = encoded.targets >= 0
    assert int(learned.sum()) == len(RECORD["text"]) + 1
    assert float(encoded.loss_weight.sum()) == 0.5 * int(learned.sum())
    request = task.request(RECORD)
    assert request.segments[0].value is RECORD["curve"]
    assert request.segments[1].value is None
    assert task.truth(RECORD) == "a red apple"


def test_prompts_are_drawn_in_training_and_fixed_in_requests(vocabulary: Vocabulary) -> None:
    options = {"prompts": ["describe", "what is it"], "context": {"question": "text"}}
    task = make(vocabulary, "translate", source="curve", options=options)
    record = {**RECORD, "question": "which fruit"}
    drawn = {task.document(record, rng(seed)).segments[0].value for seed in range(20)}
    assert drawn == {"describe", "what is it"}
    request = task.request(record)
    assert [s.value for s in request.segments if s.modality == "text"] == [
        "describe",
        "which fruit",
        None,
    ]
    null = task.null(task.document(record, rng()))
    assert [s.modality for s in null.segments] == ["text", "text"]
    assert null.segments[-1].value == "a red apple"


def test_the_null_rate_drops_the_condition_at_its_rate(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "translate", source="curve", options={"null_rate": 0.25})
    dropped = sum(len(task.document(RECORD, rng(seed)).segments) == 1 for seed in range(400))
    assert 70 <= dropped <= 130
    assert len(task.scored_documents(RECORD)[0].segments) == 2


def test_of_several_right_answers_training_draws_one(vocabulary: Vocabulary) -> None:
    record = {**RECORD, "text": ["apple", "fruit"]}
    task = make(vocabulary, "translate", source="curve")
    drawn = {task.document(record, rng(seed)).segments[1].value for seed in range(20)}
    assert drawn == {"apple", "fruit"}
    assert task.truth(record) == ("apple", "fruit")


def test_a_missing_field_names_record_and_task(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "translate", source="curve")
    with pytest.raises(ConfigError, match=r"r1: Task `job` needs the field `curve`.*source_field"):
        task.document({"id": "r1", "text": "x"}, rng())


def test_the_source_may_be_a_field_of_another_name(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "translate", source="curve", options={"source_field": "line"})
    record = {"id": "x", "line": torch.zeros(2, 2), "text": "b"}
    assert task.request(record).segments[0].value is record["line"]


def test_classification_collects_its_labels_from_training_records(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "classify", source="curve")
    with pytest.raises(ConfigError, match="no labels"):
        task.choices()
    task.observe([{**RECORD, "text": word} for word in ("pear", "apple", "pear")])
    assert task.choices() == ("apple", "pear")


def test_too_many_labels_are_no_classification(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "classify", source="curve")
    with pytest.raises(DataError, match="at most 2000 labels"):
        task.observe({**RECORD, "text": f"{i}"} for i in range(3000))


def test_continuation_parts_join_to_the_value(vocabulary: Vocabulary) -> None:
    task = make(vocabulary, "continue", options={"prefix": 5, "length": 6})
    first, rest = task.scored_documents(RECORD)[0].segments
    assert first.value + rest.value == RECORD["text"]
    assert task.truth(RECORD) == rest.value
    assert task.request(RECORD).segments[0].value == first.value
    for seed in range(30):
        first, rest = task.document(RECORD, rng(seed)).segments
        assert first.value + rest.value in RECORD["text"]
        assert 1 <= len(first.value) <= 5
        assert 1 <= len(rest.value) <= 6


def test_a_file_is_read_by_its_modality(
    vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unimodal.media import FileRef

    path = tmp_path / "a.txt"
    path.write_text("hello")
    modality = vocabulary.modality("text")
    monkeypatch.setattr(type(modality), "read", lambda self, path: path.read_text())
    assert make(vocabulary, "model").truth({"id": "a", "text": FileRef(path)}) == "hello"
