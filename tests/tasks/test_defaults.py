import pytest

from unimodal.errors import ConfigError
from unimodal.tasks import DataConfig, build_task, default_tasks
from unimodal.vocabulary import Vocabulary

DATA = DataConfig(name="mine")


def test_a_discrete_modality_gets_all_three_tasks(vocabulary: Vocabulary) -> None:
    derived = default_tasks(vocabulary, DATA, fields=["id", "text", "cells"])
    assert {n: (t.template, t.source, t.target) for n, t in derived.items()} == {
        "model_cells": ("model", None, "cells"),
        "cells_to_text": ("translate", "cells", "text"),
        "text_to_cells": ("translate", "text", "cells"),
    }
    for name, config in derived.items():
        build_task(name, config, vocabulary)


def test_a_continuous_modality_is_only_given(vocabulary: Vocabulary) -> None:
    assert list(default_tasks(vocabulary, DATA, fields=["curve", "text"])) == ["curve_to_text"]


def test_text_alone_is_modelled(vocabulary: Vocabulary) -> None:
    assert list(default_tasks(vocabulary, {"book": DATA}, fields=["text"])) == ["book_model_text"]


def test_fields_from_which_no_task_follows_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ConfigError, match=r"No task follows .*curve"):
        default_tasks(vocabulary, DATA, fields=["curve"])
