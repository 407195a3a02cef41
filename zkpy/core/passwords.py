"""Session ids and the password that belongs to each.

The password is derived from the id, so a session can be re-attached after a restart, and at any other
server of an ensemble. The recipe is part of the protocol between servers (client protocol §3.3).
"""

from __future__ import annotations

from zkpy.core.owners import CONTAINER_OWNER
from zkpy.core.types import wrap64

PASSWORD_BYTES = 16
_SALT = 0xB3415C00
_MULTIPLIER = 0x5DEECE66D
_MASK48 = (1 << 48) - 1
_MASK64 = (1 << 64) - 1


def session_password(session_id: int) -> bytes:
    """16 bytes of java.util.Random seeded with the salted id."""
    state = ((session_id & _MASK64) ^ _SALT ^ _MULTIPLIER) & _MASK48
    password = b""
    for _ in range(PASSWORD_BYTES // 4):
        state = (state * _MULTIPLIER + 0xB) & _MASK48
        password += (state >> 16).to_bytes(4, "little")
    return password


def first_session_id(server_id: int, clock_ms: int) -> int:
    """Where a server starts to count: its id in the top byte, then 40 bits of its clock in ms."""
    first = wrap64(((clock_ms << 24 & _MASK64) >> 8) | server_id << 56)
    return first + 1 if first == CONTAINER_OWNER else first
