"""The tokenizer benchmark runs, reports every tokenizer, and gives no number to a wrong one."""

import json

import pytest

from unimodal.benchmarks import tokenize
from unimodal.errors import CertificateError
from unimodal.tokenizers.dna import Dna


def test_it_prints_one_row_for_each_tokenizer(tmp_path, capsys) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a red apple and a green one\n\n" * 40, encoding="utf-8")
    tokenize.main(["--file", str(path), "--megabytes", "0.01", "--repeats", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["data"] for row in rows} == {"text", "bases", "bases with N"}
    assert {row["tokenizer"].split()[0] for row in rows} == {"unimodal", "tokenizers"}
    assert all(row["exact"] and row["megabytes_per_second"] > 0 for row in rows)


def test_a_wrong_round_trip_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dna, "decode", lambda self, tokens: "A")
    with pytest.raises(CertificateError, match="speed means nothing"):
        tokenize.dna_rows(1000, 1)
