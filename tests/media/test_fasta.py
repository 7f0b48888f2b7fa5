"""FASTA: records as they are, one at a time; wrong letters named by record and position."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimodal.errors import MediaError
from unimodal.media import FastaRecord, MediaLimits, check_bases, read_fasta, write_fasta


def records(data: bytes, limits: MediaLimits | None = None) -> list[FastaRecord]:
    return list(read_fasta(data, limits or MediaLimits()))


def test_titles_case_and_line_ends() -> None:
    got = records(b"\n>one first of two\r\nACgt\r\nnnRY\r\n\r\n>\nAC GT\n")
    assert got == [
        FastaRecord("one", "one first of two", "ACgtnnRY"),
        FastaRecord("", "", "ACGT"),
    ]


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    path.write_bytes(gzip.compress(b">one\nACGT\n"))
    assert [record.bases for record in read_fasta(path)] == ["ACGT"]


@given(st.lists(st.text("ACGTNacgtn", min_size=1, max_size=200), min_size=1, max_size=4))
def test_what_is_written_is_read(bases: list[str]) -> None:
    lines = "".join(f">r{i} x\n{b[:70]}\n{b[70:]}\n" for i, b in enumerate(bases))
    assert [record.bases for record in records(lines.encode())] == bases


def test_files_round_trip(tmp_path: Path) -> None:
    written = [FastaRecord("a", "a long title", "ACGT" * 50), FastaRecord("b", "b", "N")]
    write_fasta(written, tmp_path / "a.fa")
    assert list(read_fasta(tmp_path / "a.fa")) == written
    assert max(len(line) for line in (tmp_path / "a.fa").read_text().splitlines()) == 70


def test_records_before_a_bad_one_are_given() -> None:
    reader = read_fasta(b">one\nACGT\n>two\nACGTQ\n")
    assert next(reader).bases == "ACGT"
    with pytest.raises(MediaError, match=r"record 2.*letter 5 is 'Q'"):
        next(reader)


def test_a_protein_is_called_one() -> None:
    with pytest.raises(MediaError, match="protein"):
        check_bases("MKTAYIAKQR", "sample")
    with pytest.raises(MediaError) as raised:
        check_bases("ACGT!", "sample")
    assert "protein" not in str(raised.value)


def test_the_record_cap_is_exact_for_one_line_and_for_many() -> None:
    limits = MediaLimits(max_record_bases=1000)
    for width in (70, 1000):
        lines = [("A" * 1000)[i : i + width] for i in range(0, 1000, width)]
        good = (">one\n" + "\n".join(lines)).encode()
        assert len(records(good + b"\n", limits)[0].bases) == 1000
        with pytest.raises(MediaError, match="1,000 bases"):
            records(good + b"A\n", limits)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    for record, rule in (
        (FastaRecord("a", "a\nb", "ACGT"), "one line"),
        (FastaRecord("a", "a", ""), "no bases"),
        (FastaRecord("a", "a", "XX"), "letter 1"),
    ):
        with pytest.raises(MediaError, match=rule):
            write_fasta([record], tmp_path / "a.fa")
