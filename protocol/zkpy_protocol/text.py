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
