"""Text with bytes that are no UTF-8, read exactly as Java reads it.

Both Java and Python put U+FFFD in place of the longest start of a sequence that could have become a character, and agree on
what that is, except for encoded surrogates (what Java itself writes for characters above U+FFFF): Python sees two or three
bad bytes, Java one bad character. Paths and ids are compared by their text, so the difference would be seen by clients.
"""

from __future__ import annotations

import re

_ENCODED_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]?")
_REPLACEMENT = "\ufffd".encode()


def replace_bad(raw: bytes) -> str:
    """Decode `raw`, which strict decoding has refused."""
    return _ENCODED_SURROGATE.sub(_REPLACEMENT, raw).decode("utf-8", "replace")


def encode_as_java(text: str) -> bytes:
    """The bytes Java's jute writer makes of a string: UTF-8, but each surrogate of a pair by itself (CESU-8).

    For what is echoed to the client that sent it. What is stored stays UTF-8: Java cannot read its own form back.
    """
    if text.isascii() or max(text) <= "\uffff":
        return text.encode()
    return b"".join(_encode_character(character) for character in text)


def _encode_character(character: str) -> bytes:
    if character <= "\uffff":
        return character.encode()
    offset = ord(character) - 0x10000
    pair = chr(0xD800 + (offset >> 10)) + chr(0xDC00 + (offset & 0x3FF))
    return pair.encode("utf-8", "surrogatepass")
