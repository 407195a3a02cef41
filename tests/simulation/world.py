"""Virtual time: what happens next, and a record of what has happened.

One seeded generator decides everything that is left to chance, so a seed is a run. Events of one moment happen in the order
in which they were asked for.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Fact = tuple[int, int, str, str, object]
"""Step, microsecond, where, what, details."""


class ViolationError(AssertionError):
    """A promise was broken. The run ends here."""


class World:
    """The clock of a run, its chance and its trace.

    Attributes:
        now_us: virtual microseconds since the beginning.
        steps: how many events there were.
        rng: all chance there is.
        trace: what happened, for people and for comparing two runs.
        echo: gets each line of the trace as it comes, and everything too small to be kept.
        occurred: how often each kind of fault did something.
    """

    __slots__ = ("_count", "_queue", "echo", "now_us", "occurred", "rng", "seed", "steps", "trace")

    def __init__(self, seed: int, echo: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_us = 0
        self.steps = 0
        self.trace: list[Fact] = []
        self.echo = echo
        self.occurred: Counter[str] = Counter()
        self._count = 0
        self._queue: list[tuple[int, int, Callable[..., object], tuple[object, ...]]] = []

    def after(self, delay_us: int, action: Callable[..., object], *args: object) -> None:
        """Let `action` happen in `delay_us`."""
        self._count += 1
        heappush(self._queue, (self.now_us + delay_us, self._count, action, args))

    def step(self) -> None:
        """The next event."""
        self.now_us, _, action, args = heappop(self._queue)
        self.steps += 1
        action(*args)

    def between(self, low_us: int, high_us: int) -> int:
        """A drawn delay, more often short than long."""
        return low_us + int((high_us - low_us) * self.rng.random() ** 2)

    # -- the trace

    def note(self, where: str, what: str, details: object = None) -> None:
        """Something worth knowing has happened."""
        fact = (self.steps, self.now_us, where, what, details)
        self.trace.append(fact)
        if self.echo is not None:
            self.echo(shown(fact))

    def whisper(self, where: str, what: str, details: object = None) -> None:
        """Something that only who replays a run wants to know."""
        if self.echo is not None:
            self.echo(shown((self.steps, self.now_us, where, what, details)))

    def tail(self, count: int) -> list[str]:
        """The last lines of the trace."""
        return [shown(fact) for fact in self.trace[len(self.trace) - count :]]

    def trace_hash(self) -> str:
        """A number for the whole run: two runs that differ anywhere have different ones."""
        digest = hashlib.blake2b(digest_size=16)
        for fact in self.trace:
            digest.update(repr(fact).encode())
        digest.update(b"%d %d" % (self.steps, self.now_us))
        return digest.hexdigest()


def shown(fact: Fact) -> str:
    """One line of the trace."""
    step, now_us, where, what, details = fact
    if isinstance(details, dict):
        text = " ".join(f"{key}={_value(key, details[key])}" for key in details)
    else:
        text = "" if details is None else str(details)
    return f"{step:6} {now_us / 1e6:10.6f}s {where:10} {what} {text}".rstrip()


def _value(key: str, value: object) -> str:
    return f"{value:#x}" if "zxid" in key and isinstance(value, int) else str(value)
