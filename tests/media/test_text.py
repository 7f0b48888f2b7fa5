"""Text files: strict UTF-8, nothing changed, limits exact."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimodal.errors import MediaError
from unimodal.media import MediaLimits, check_text, read_text, write_text

UTF8 = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(UTF8.filter(lambda text: not text.startswith("\ufeff")))
def test_any_text_is_read_as_it_was_encoded(text: str) -> None:
    assert read_text(text.encode()) == text


@pytest.mark.parametrize(
    "text", ["a\r\nb\rc\n", "nul \0 inside", "  spaces  ", "\u2581 <s> é 漢字"]
)
def test_writing_and_reading_keep_every_byte(text: str, tmp_path: Path) -> None:
    write_text(text, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == text.encode()
    assert read_text(tmp_path / "a.txt") == text


def test_only_the_byte_order_mark_is_dropped() -> None:
    assert read_text(b"\xef\xbb\xbfabc") == "abc"


def test_lone_surrogates_are_neither_read_nor_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"U\+D800"):
        check_text("a\ud800", "sample 3")
    with pytest.raises(MediaError, match="surrogate"):
        write_text("a\ud800", tmp_path / "a.txt")
    assert not (tmp_path / "a.txt").exists()


def test_the_message_gives_the_offset_of_the_bad_byte() -> None:
    with pytest.raises(MediaError, match="byte 4 is 0xff"):
        read_text(b"good\xff")


def test_limits_are_exact() -> None:
    limits = MediaLimits(max_text_bytes=8, max_text_characters=4)
    assert read_text("éééé".encode(), limits) == "éééé"
    with pytest.raises(MediaError, match="4 characters"):
        read_text(b"abcde", limits)
    with pytest.raises(MediaError, match="8 bytes"):
        read_text(b"abcdefghi", limits)
