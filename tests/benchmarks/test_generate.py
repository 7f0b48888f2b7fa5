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


def test_the_share_of_right_ids_is_stated_where_they_may_differ():
    runs = {"a": lambda: [[1, 2, 3, 4], [5]], "b": lambda: [[1, 9, 3, 4], [5]]}
    exact, other = measure(runs, 2, 5, repeats=1, inexact=["b"])
    assert (exact.same_ids, exact.same_before_difference) == (1.0, 1.0)
    assert (other.same_ids, other.same_before_difference) == (0.8, 0.4)
