import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from unimodal.cli.main import main


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def unimodal(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*argv: object) -> Done:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return Done(code, captured.out, captured.err)

    return run
