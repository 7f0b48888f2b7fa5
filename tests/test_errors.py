"""A module run as a program ends with an exit code, and with a message instead of a traceback."""

import pytest

from unimodal.errors import CertificateError, ConfigError, UnimodalError, run_module


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (3, 3), ([1], 0)])
def test_what_a_module_returns_is_its_exit_code(returned: object, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        run_module(lambda: returned)
    assert left.value.code == code


@pytest.mark.parametrize("kind", [ConfigError, CertificateError])
def test_a_typed_error_is_one_line(
    kind: type[UnimodalError], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise kind("It is not there.", subject="runs/x", remedy="Train it.")

    with pytest.raises(SystemExit) as left:
        run_module(fails)
    assert left.value.code == kind.exit_code
    said = capsys.readouterr().err
    assert said == f"{kind.__name__}: runs/x: It is not there. Train it.\n"
