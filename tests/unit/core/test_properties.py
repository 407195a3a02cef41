"""Java's properties syntax, as zoo.cfg uses it."""

from __future__ import annotations

import pytest

from zkpy.core.properties import PropertiesError, Property, parse_properties


def values(content: bytes) -> dict[str, str]:
    return {key: value for key, (value, _) in parse_properties(content).items()}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (b"a=b", "a", "b"),
        (b"a:b", "a", "b"),
        (b"a b", "a", "b"),
        (b"a\tb", "a", "b"),
        (b"a\fb", "a", "b"),
        (b"  a  =  b  ", "a", "b  "),
        (b"a : = b", "a", "= b"),
        (b"a == b", "a", "= b"),
        (b"a", "a", ""),
        (b"a=", "a", ""),
        (b"=b", "", "b"),
        (b"a\\=b=c", "a=b", "c"),
        (b"a\\ b\\:c d", "a b:c", "d"),
        (b"a=b#c!d", "a", "b#c!d"),
        (b"a=\\tx\\ny\\rz\\f", "a", "\tx\ny\rz\f"),
        (b"a=C:\\dir\\q", "a", "C:dirq"),
        (b"a=\\u0041\\u00e9\\u20AC", "a", "A\u00e9\u20ac"),
        (b"a=\xe9", "a", "\u00e9"),
        (b"\\u0061=b", "a", "b"),
    ],
)
def test_a_line_is_split_and_unescaped_as_java_does(line: bytes, key: str, value: str) -> None:
    assert values(line) == {key: value}


def test_comments_and_blank_lines_are_left_out() -> None:
    assert values(b"# a=1\n  ! b=2\n\n \t\f\nc=3\n") == {"c": "3"}


def test_the_last_of_equal_keys_wins_with_its_line() -> None:
    assert parse_properties(b"a=1\nb=2\na=3\n") == {"a": Property("3", 3), "b": Property("2", 2)}


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_kind_of_line_end_counts_as_one(end: bytes) -> None:
    assert parse_properties(end.join([b"a=1", b"", b"b=2"])) == {"a": Property("1", 1), "b": Property("2", 3)}


def test_a_backslash_joins_the_next_line_without_its_indentation() -> None:
    parsed = parse_properties(b"a=one,\\\n   two,\\\n\tthree\nb=2\n")
    assert parsed == {"a": Property("one,two,three", 1), "b": Property("2", 4)}


def test_an_even_number_of_backslashes_does_not_join() -> None:
    assert values(b"a=x\\\\\nb=y") == {"a": "x\\", "b": "y"}


def test_a_comment_is_never_continued_but_a_continuation_may_look_like_one() -> None:
    assert values(b"# note \\\na=1\\\n#2\n") == {"a": "1#2"}


def test_a_backslash_alone_continues_nothing() -> None:
    assert values(b"\\\n# note\n\\\n\na=b\n  \\\n") == {"a": "b"}


def test_a_backslash_at_the_very_end_is_dropped() -> None:
    assert values(b"a=b\\") == {"a": "b"}


def test_a_backslash_before_a_blank_line_ends_the_value() -> None:
    assert values(b"a=b\\\n\nc=d") == {"a": "b", "c": "d"}


@pytest.mark.parametrize("escape", [b"\\u", b"\\u12", b"\\u12g4", b"\\u 041", b"\\u+041"])
def test_a_malformed_unicode_escape_names_its_line(escape: bytes) -> None:
    with pytest.raises(PropertiesError, match=r"line 2: .* four hexadecimal digits") as caught:
        parse_properties(b"# first\na=" + escape)
    assert caught.value.line == 2
