"""Rules of the Java runtime, each value taken from a run of Java 17."""

from __future__ import annotations

import pytest

from zkpy.auth import java_rules


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        (":", []),
        ("::", []),
        ("a", ["a"]),
        ("a:", ["a"]),
        (":b", ["", "b"]),
        ("a:b", ["a", "b"]),
        ("a:b::", ["a", "b"]),
        ("a::b", ["a", "", "b"]),
    ],
)
def test_split_drops_trailing_empty_parts(text: str, parts: list[str]) -> None:
    assert java_rules.split(text, ":") == parts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("+7", 7),
        ("-0", 0),
        ("007", 7),
        ("2147483647", 2147483647),
        ("-2147483648", -2147483648),
        ("٣", 3),  # any Unicode decimal digit counts
        ("", None),
        ("+", None),
        (" 1", None),
        ("1_0", None),
        ("1a", None),
        ("2147483648", None),
        ("0x10", None),
    ],
)
def test_parse_int_takes_what_java_takes(text: str, value: int | None) -> None:
    assert java_rules.parse_int(text) == value


def test_parse_int_knows_other_radices() -> None:
    assert java_rules.parse_int("fF", 16) == 255
    assert java_rules.parse_int("g", 16) is None


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8::a0:1", "2001:db8:0:0:0:0:a0:1"),
        ("fe80::1%eth0", "fe80:0:0:0:0:0:0:1%eth0"),
    ],
)
def test_host_address_writes_ip_ids_as_java_does(host: str, text: str) -> None:
    assert java_rules.host_address(host) == text
