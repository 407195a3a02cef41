"""How the text of a configuration value becomes a typed value.

Every function takes the trimmed text and returns the value, or raises ``ValueError`` with what was expected instead,
worded so that "<key>: expected ..." is a sentence. Nothing here knows a key, a file or a default.
"""

from __future__ import annotations

import re
from typing import Literal

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1

_DECIMAL = re.compile(r"[+-]?[0-9]+")
_JAVA_NUMBER = re.compile(r"([+-]?)(0[xX]|#|)([0-9a-fA-F]+)")
_FRACTION = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def text(value: str) -> str:
    return value


def optional_text(value: str) -> str | None:
    """An empty value means that the key is not set."""
    return value or None


def strict_boolean(value: str) -> bool:
    """The rule of the keys that Apache itself parses in zoo.cfg."""
    lowered = value.lower()
    if lowered not in {"true", "false"}:
        raise ValueError("expected true or false")
    return lowered == "true"


def boolean(value: str) -> bool:
    """The rule of Java's system properties: whatever is not ``true`` is false."""
    return value.lower() == "true"


def is_yes(value: str) -> bool:
    """The rule of skipACL. Compat: any other word, in any other case, means no; the loader warns about it."""
    return value == "yes"


def is_not_no(value: str) -> bool:
    """The rule of forceSync and leaderServes. Compat: any word but ``no`` means yes; the loader warns about it."""
    return value != "no"


def integer(value: str) -> int:
    """A decimal 32-bit number."""
    return _decimal(value, INT_MIN, INT_MAX)


def long(value: str) -> int:
    """A decimal 64-bit number."""
    return _decimal(value, LONG_MIN, LONG_MAX)


def java_integer(value: str) -> int:
    """A 32-bit number of a system property: ``0x`` and ``#`` announce hexadecimal digits, as in jute.maxbuffer=0x9fffff."""
    return _java_number(value, INT_MIN, INT_MAX)


def java_long(value: str) -> int:
    return _java_number(value, LONG_MIN, LONG_MAX)


def fraction(value: str) -> float:
    if not _FRACTION.fullmatch(value):
        raise ValueError("expected a number such as 0.02")
    return float(value)


def port(value: str) -> int:
    """A TCP port to listen on; 0 asks for any free one."""
    number = _decimal(value, INT_MIN, INT_MAX)
    if not 0 <= number <= 65535:
        raise ValueError("expected a port between 0 and 65535")
    return number


def names(value: str) -> tuple[str, ...]:
    """A comma list; empty places in it count for nothing."""
    return tuple(name for part in value.split(",") if (name := part.strip()))


def choice(*words: str) -> _Choice:
    return _Choice(words)


class _Choice:
    """One word of a fixed set, in any case."""

    __slots__ = ("_words",)

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words

    def __call__(self, value: str) -> str:
        lowered = value.lower()
        if lowered not in self._words:
            raise ValueError(f"expected {' or '.join(word or 'nothing' for word in self._words)}")
        return lowered


def four_letter_words(value: str) -> frozenset[str] | Literal["*"]:
    """The whitelist: a comma list, in which a star stands for all words."""
    words = frozenset(names(value))
    return "*" if "*" in words else words | {"srvr"}


def _decimal(value: str, low: int, high: int) -> int:
    if not _DECIMAL.fullmatch(value):
        raise ValueError("expected a whole number")
    return _in_range(int(value), low, high)


def _java_number(value: str, low: int, high: int) -> int:
    match = _JAVA_NUMBER.fullmatch(value)
    if not match:
        raise ValueError("expected a whole number")
    sign, prefix, digits = match.groups()
    if not prefix and not digits.isdecimal():
        raise ValueError("expected a whole number")
    return _in_range(int(sign + digits, 16 if prefix else 10), low, high)


def _in_range(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise ValueError(f"expected a whole number between {low} and {high}")
    return number
