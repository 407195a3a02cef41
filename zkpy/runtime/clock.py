"""The only clock: everything else is told the time."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Milliseconds since 1970, for txn headers and Stats; may jump."""
    return time.time_ns() // 1_000_000


def mono_ms() -> int:
    """Milliseconds of a clock that never goes back, for timeouts and latencies."""
    return time.monotonic_ns() // 1_000_000


def mono_us() -> int:
    """Microseconds of the same clock, for what is over within a millisecond."""
    return time.monotonic_ns() // 1000
