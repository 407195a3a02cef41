"""Integers of the ZooKeeper world: how zxids are packed and how Java's fixed-width arithmetic wraps.

Zxids, session ids and versions are plain ``int`` everywhere; values on the wire are signed, so every
computed value that can leave its width passes through `wrap32` or `wrap64`.
"""

from __future__ import annotations

from typing import Final

_HALF32: Final = 1 << 31
_MASK32: Final = (1 << 32) - 1
_HALF64: Final = 1 << 63
_MASK64: Final = (1 << 64) - 1


def wrap32(value: int) -> int:
    """The signed 32-bit value with the same low bits (Java ``int`` arithmetic)."""
    return ((value + _HALF32) & _MASK32) - _HALF32


def wrap64(value: int) -> int:
    """The signed 64-bit value with the same low bits (Java ``long`` arithmetic)."""
    return ((value + _HALF64) & _MASK64) - _HALF64


def epoch_of(zxid: int) -> int:
    """High 32 bits of a zxid: the epoch of the leader that proposed it."""
    return zxid >> 32


def counter_of(zxid: int) -> int:
    """Low 32 bits of a zxid: the number of the proposal within its epoch."""
    return zxid & _MASK32
