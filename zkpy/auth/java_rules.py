"""Small rules of the Java runtime that decide which ids and numbers a ZooKeeper server accepts.

Owns: `String.split` with trailing empty parts dropped, `Integer.parseInt`, the textual form of an
`InetAddress`. Does not know what the values are used for. Compat: an ACL id that Apache takes or refuses
must be taken or refused here, so these follow Java to the letter instead of what Python would do.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_INTEGER = re.compile(r"[+-]?[^\W_]+")
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1


def split(text: str, separator: str) -> list[str]:
    """`text.split(separator)`: trailing empty parts are dropped, except that an empty text is one part."""
    parts = text.split(separator)
    if len(parts) > 1:
        while parts and not parts[-1]:
            parts.pop()
    return parts


def parse_int(text: str, radix: int = 10) -> int | None:
    """`Integer.parseInt(text, radix)`, None where it throws: blanks, underscores, more than 32 bits."""
    if not _INTEGER.fullmatch(text):
        return None
    try:
        value = int(text, radix)
    except ValueError:  # a letter that is no digit of this radix
        return None
    return value if _INT_MIN <= value <= _INT_MAX else None


@lru_cache(maxsize=1024)  # clients come back, and parsing is a tenth of what a connection costs
def host_address(host: str) -> str:
    """The text of a peer's address as `InetAddress.getHostAddress` gives it, which is what ip ids hold.

    IPv6 is written as eight groups without zero compression, an IPv4-mapped address as plain IPv4, and a
    scope id stays behind its per cent sign. `host` is what the socket reports.
    """
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    packed = address.packed
    groups = ":".join(f"{packed[i] << 8 | packed[i + 1]:x}" for i in range(0, 16, 2))
    return f"{groups}%{address.scope_id}" if address.scope_id else groups
