"""The classes in docs/adding_a_modality.md hold the contract, as they stand there."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unimodal.data.manifest import validate_manifest
from unimodal.errors import MediaError
from unimodal.modality import config_from_dict
from unimodal.testing import check_modality
from unimodal.training.main import compose

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_modality.md"


def blocks(language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All blocks of the page, in order, imported as one module (workers import it by name)."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "page_of_modalities.py").write_text("\n".join(blocks()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return vars(importlib.import_module("page_of_modalities"))


@pytest.mark.parametrize("name", ["Weather", "Sensor"])
def test_a_class_of_the_page_holds_the_contract(names: dict[str, Any], name: str) -> None:
    assert check_modality(names[name]).ok


def test_the_classes_are_as_short_as_promised() -> None:
    classes = [b for b in blocks() if "class " in b]
    assert len(classes) == 2
    assert all(len([x for x in b.splitlines() if x.strip()]) <= 40 for b in classes)


def test_the_weather_comes_back_and_what_is_no_map_is_refused(names: dict[str, Any]) -> None:
    weather = names["Weather"](names["WeatherConfig"]())
    value = np.array([[1, -3], [20, 59]])
    assert (weather.decode(weather.encode(value)) == value).all()
    with pytest.raises(MediaError, match="100 degrees"):
        weather.encode(np.array([[200]]))


def test_the_manifest_and_the_experiment_of_the_page_are_taken(
    names: dict[str, Any], tmp_path: Path
) -> None:
    [line], [experiment] = blocks("json"), blocks("yaml")
    path = tmp_path / json.loads(line)["weather"]
    path.parent.mkdir()
    value = np.array([[1, -3], [20, 59]])
    modality = names["Weather"](names["WeatherConfig"]())
    modality.write(value, path)
    assert (modality.read(path) == value).all()
    (tmp_path / "maps.jsonl").write_text(line)
    assert validate_manifest(tmp_path / "maps.jsonl", kinds={"weather": "file"}) == []
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "weather.yaml").write_text(experiment)
    config = compose(["experiment=weather"], str(tmp_path))
    assert (config.name, config.data.path) == ("weather", "maps.jsonl")
    given = config_from_dict(names["WeatherConfig"], config.modalities["weather"], "weather")
    assert given == names["WeatherConfig"]()


def test_the_table_names_only_members_that_exist() -> None:
    from unimodal.modality import Modality

    table = [r for r in PAGE.read_text(encoding="utf-8").splitlines() if r.startswith("| `")]
    members = [m for row in table for m in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(members) > 20
    known = {*dir(Modality), *Modality.__annotations__}
    assert [m for m in members if m not in known] == []
