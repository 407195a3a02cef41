r"""Java's properties format, of zoo.cfg and of configuration strings, read with the line every key stands on.

Owns the syntax: Latin-1 in a file, any text in a string, ``#`` and ``!`` comments, ``=``, ``:`` or white space between key and value, a backslash
before the line end continues the line, ``\uXXXX`` and the short escapes. Knows nothing of what a key means. Keys and
values are returned as written; trimming is the business of whoever gives them a meaning.

Invariant: of a key that stands in the text more than once, the last one counts (Compat: a Java hash table).
"""

from __future__ import annotations

from typing import NamedTuple

_BLANK = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_HEX = frozenset("0123456789abcdefABCDEF")


class Property(NamedTuple):
    """A value and the number of the line its key begins on, counted from 1."""

    value: str
    line: int


class PropertiesError(ValueError):
    """The text is no properties file; says on which line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def parse_properties(content: bytes | str) -> dict[str, Property]:
    r"""Read a whole file, or a string that was written as one.

    Raises:
        PropertiesError: a ``\u`` is not followed by four hexadecimal digits.
    """
    found: dict[str, Property] = {}
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    for number, line in _logical_lines(text):
        key, value = _split(line)
        found[_unescape(key, number)] = Property(_unescape(value, number), number)
    return found


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Join continued lines and leave out comments and blank lines."""
    lines: list[tuple[int, str]] = []
    first = 0  # number of the natural line that the open logical line begins on, 0 = none is open
    joined = ""
    natural_lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, natural in enumerate(natural_lines, start=1):
        line = natural.lstrip(_BLANK)
        if not first:
            if not line or line[0] in "#!":
                continue
            first = number
        joined += line
        if _ends_in_continuation(line):
            joined = joined[:-1]
            if not joined:  # nothing to continue: what follows is a line of its own, perhaps a comment
                first = 0
            continue
        lines.append((first, joined))
        first, joined = 0, ""
    if first:  # the file ends in a backslash: Java drops it
        lines.append((first, joined))
    return lines


def _ends_in_continuation(line: str) -> bool:
    """An odd number of backslashes: each pair before the last one is an escaped backslash."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _split(line: str) -> tuple[str, str]:
    """Cut at the first unescaped separator; white space around one ``=`` or ``:`` belongs to the separator."""
    position = 0
    while position < len(line) and line[position] not in "=:" + _BLANK:
        position += 2 if line[position] == "\\" else 1
    rest = line[position:].lstrip(_BLANK)
    if rest[:1] in {"=", ":"}:
        rest = rest[1:].lstrip(_BLANK)
    return line[:position], rest


def _unescape(text: str, line: int) -> str:
    if "\\" not in text:
        return text
    parts: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char != "\\":
            parts.append(char)
            continue
        escaped = text[position : position + 1]
        position += 1
        if escaped != "u":
            parts.append(_ESCAPES.get(escaped, escaped))
            continue
        digits = text[position : position + 4]
        if len(digits) != 4 or not _HEX.issuperset(digits):
            raise PropertiesError(line, f"\\u must be followed by four hexadecimal digits, not by {digits!r}")
        parts.append(chr(int(digits, 16)))
        position += 4
    return "".join(parts)
