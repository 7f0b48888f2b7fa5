"""Registries: entry points of outside packages are refused by name, and not forgotten."""

from types import SimpleNamespace
from typing import Any

import pytest

import unimodal.registry
from unimodal.errors import ConfigError
from unimodal.registry import Registry


class One:
    pass


class Other:
    pass


def registry_with(monkeypatch: pytest.MonkeyPatch, load: Any) -> Registry[Any]:
    point = SimpleNamespace(
        name="thing", value="pkg.m:C", dist=SimpleNamespace(name="pkg"), load=load
    )
    monkeypatch.setattr(unimodal.registry, "entry_points", lambda group: [point])
    return Registry("thing", group="unimodal.things")


def test_an_entry_point_registers(monkeypatch):
    assert registry_with(monkeypatch, lambda: One).get("thing") is One


def test_an_entry_point_may_name_what_its_module_registered_itself(monkeypatch):
    registry = registry_with(monkeypatch, lambda: One)
    registry.register("thing")(One)
    assert registry.names() == ["thing"]


def test_an_entry_point_that_takes_a_name_is_refused(monkeypatch):
    registry = registry_with(monkeypatch, lambda: Other)
    registry.register("thing")(One)
    with pytest.raises(ConfigError, match=r"package `pkg`: .*registered twice.*One.*Other"):
        registry.names()


def test_a_broken_plugin_names_its_package_every_time(monkeypatch):
    def load():
        raise ImportError("no module named foo")

    registry = registry_with(monkeypatch, load)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"package `pkg`: .*foo.*uninstall"):
            registry.names()
