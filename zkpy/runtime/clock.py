"""The only clock: everything else is told the time."""

from __future__ import annotations

from time import monotonic_ns, time_ns


def wall_ms() -> int:
    """Milliseconds since 1970, for txn headers and Stats; may jump."""
    return time_ns() // 1_000_000


def mono_ms() -> int:
    """Milliseconds of a clock that never goes back, for timeouts and latencies."""
    return monotonic_ns() // 1_000_000


def mono_us() -> int:
    """Microseconds of the same clock, for what is over within a millisecond."""
    return monotonic_ns() // 1000
