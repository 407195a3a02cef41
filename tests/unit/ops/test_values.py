"""Each converter accepts what Apache accepts and says what it expected of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zkpy.ops import values

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (values.strict_boolean, "TRUE", True),
        (values.strict_boolean, "false", False),
        (values.boolean, "True", True),
        (values.boolean, "yes", False),
        (values.is_yes, "yes", True),
        (values.is_yes, "YES", False),
        (values.is_not_no, "no", False),
        (values.is_not_no, "false", True),
        (values.integer, "+7", 7),
        (values.integer, "-2147483648", -(2**31)),
        (values.integer, "010", 10),
        (values.long, "9223372036854775807", 2**63 - 1),
        (values.java_integer, "0x9fffff", 0x9FFFFF),
        (values.java_integer, "-#FF", -255),
        (values.java_integer, "4194304", 4194304),
        (values.java_long, "4294967296", 2**32),
        (values.fraction, "0.02", 0.02),
        (values.fraction, "1", 1.0),
        (values.fraction, ".5", 0.5),
        (values.fraction, "2e-3", 0.002),
        (values.port, "2181", 2181),
        (values.port, "0", 0),
        (values.names, " a, b ,,c", ("a", "b", "c")),
        (values.names, "", ()),
        (values.text, "", ""),
        (values.optional_text, "", None),
        (values.optional_text, "x", "x"),
        (values.choice("", "gz"), "GZ", "gz"),
        (values.choice("", "gz"), "", ""),
        (values.four_letter_words, "ruok, mntr", frozenset({"ruok", "mntr", "srvr"})),
        (values.four_letter_words, "ruok,*", "*"),
        (values.four_letter_words, "", frozenset({"srvr"})),
    ],
)
def test_a_good_value_is_converted(parse: Callable[[str], object], text: str, expected: object) -> None:
    value = parse(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (values.strict_boolean, "yes", "true or false"),
        (values.strict_boolean, "", "true or false"),
        (values.integer, "", "a whole number"),
        (values.integer, "12k", "a whole number"),
        (values.integer, "0x10", "a whole number"),
        (values.integer, "1_000", "a whole number"),
        (values.integer, "\u0661", "a whole number"),
        (values.integer, "2147483648", "between -2147483648 and 2147483647"),
        (values.long, "9223372036854775808", "between"),
        (values.java_integer, "ff", "a whole number"),
        (values.java_integer, "0x", "a whole number"),
        (values.java_integer, "0xffffffff", "between"),
        (values.fraction, "nan", "a number such as"),
        (values.fraction, "", "a number such as"),
        (values.port, "65536", "a port between 0 and 65535"),
        (values.port, "-1", "a port between 0 and 65535"),
        (values.choice("", "gz"), "zip", "nothing or gz"),
    ],
)
def test_a_bad_value_is_refused_with_what_was_expected(
    parse: Callable[[str], object], text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^expected .*{reason}"):
        parse(text)
