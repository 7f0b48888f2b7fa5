"""What the script for a GPU counts as a fault."""

import pytest

from unimodal.kernels.bench import gpu


def test_a_case_that_fails_is_a_fault_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class TritonError(Exception):
        pass

    def fail(spec: object) -> None:
        raise TritonError("out of resource: shared memory")

    monkeypatch.setattr(gpu, "check_twice", fail)
    monkeypatch.setattr(gpu, "bench", fail)
    results: dict[str, list[object]] = {"checked": [], "timed": []}
    for run, key in ((gpu._check, "checked"), (gpu._time, "timed")):
        assert run(gpu.checked_specs()[0], results) == 1
        assert "TritonError: out of resource" in str(results[key])


@pytest.mark.parametrize(
    ("is_right", "same_twice", "faults"), [(True, True, 0), (True, False, 1), (False, True, 1)]
)
def test_what_differs_between_two_runs_is_a_fault_as_what_is_wrong(
    is_right: bool, same_twice: bool, faults: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"is_right": is_right, "same_twice": same_twice}
    monkeypatch.setattr(gpu, "check_twice", lambda spec: found)
    results: dict[str, list[object]] = {"checked": []}
    assert gpu._check(gpu.checked_specs()[0], results) == faults
    assert results["checked"] == [found]
