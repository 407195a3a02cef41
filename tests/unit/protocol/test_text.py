"""Replacement of bad bytes, against what Java's UTF-8 decoder was seen to give."""

from __future__ import annotations

import pytest

from zkpy_protocol.text import replace_bad


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\x80b", "a\ufffdb"),
        (b"\xc0\x80", "\ufffd\ufffd"),
        (b"\xe0\x80\x80", "\ufffd\ufffd\ufffd"),
        (b"\xe1\x80", "\ufffd"),
        (b"\xf0\x90\x80", "\ufffd"),
        (b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
        (b"\xff\xff", "\ufffd\ufffd"),
        (b"\xed\x9f\xbf\xff", "\ud7ff\ufffd"),
    ],
)
def test_bad_sequences_are_replaced_where_java_and_python_agree(raw: bytes, text: str) -> None:
    assert replace_bad(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xed\xa0\x80", "\ufffd"),
        (b"\xed\xbf\xbf", "\ufffd"),
        (b"\xed\xa0", "\ufffd"),
        (b"\xed\xa0A", "\ufffdA"),
        (b"\xed\xa0\xbd\xed\xb8\x80", "\ufffd\ufffd"),
        (b"\xed\xed\xa0\x80\xa0", "\ufffd\ufffd\ufffd"),
    ],
)
def test_an_encoded_surrogate_is_one_bad_character(raw: bytes, text: str) -> None:
    assert replace_bad(raw) == text
