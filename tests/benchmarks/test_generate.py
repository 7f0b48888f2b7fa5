"""The benchmark of generation refuses contenders that write different ids."""

import pytest

from unimodal.benchmarks.generate import measure
from unimodal.errors import CertificateError


def test_contenders_take_turns_and_are_timed():
    order = []

    def contender(name):
        return lambda: order.append(name) or [[1, 2, 3]]

    found = measure({"a": contender("a"), "b": contender("b")}, 1, 3, repeats=2)
    assert order == ["a", "b"] * 3
    assert [m.name for m in found] == ["a", "b"]
    assert all(m.tokens_per_second > 0 for m in found)


def test_different_ids_are_an_error():
    with pytest.raises(CertificateError, match="different ids"):
        measure({"a": lambda: [[1]], "b": lambda: [[2]]}, 1, 1, repeats=1)
