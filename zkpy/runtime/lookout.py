"""What the loop does for input that is not there yet, as long as that pays: look round before it sleeps, gather before it syncs.

A client that waits for each answer sends its next request a few microseconds after it. To be put to sleep and woken up for
that takes longer than all the work on a request, and no less of the processor than to look round meanwhile: in a virtual
machine the loop answers the reads of such a client twice as fast so. Where nothing comes in time, or others want the processor, it is tried
ever more rarely.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKOUT_US = 100
"""For how long the loop looks round; a client on the same machine answers in some 30 us."""

_PASS_MAX = 63
_TURN_MAX_US = 50  # a turn of nothing takes three; one that takes so long has lost the processor to somebody


class Hope:
    """Whether to try once more what may be in vain: after each failure twice as many occasions are let pass."""

    __slots__ = ("_after_failure", "_passing")

    def __init__(self) -> None:
        self._after_failure = self._passing = 0

    def is_due(self) -> bool:
        """An occasion: whether to take it. Its outcome is to be told."""
        if self._passing:
            self._passing -= 1
            return False
        return True

    def paid(self) -> None:
        """It was not in vain."""
        self._after_failure = 0

    def failed(self) -> None:
        """It was."""
        self._passing = self._after_failure = min(2 * self._after_failure + 1, _PASS_MAX)


class Gathering:
    """Turns in which a batch grows, up to a millisecond, which a turn with many readers takes alone.

    It matters most for connects, of which a turn accepts one. A client that is alone is seldom made to wait for others.
    """

    __slots__ = ("_began_ms", "_count", "_first_count", "_hope")

    def __init__(self) -> None:
        self._hope = Hope()
        self._count = self._first_count = self._began_ms = 0

    def goes_on(self, count: int, count_max: int, now_ms: int) -> bool:
        """At the end of a turn: whether one more is waited for. `count` is what the batch has now, one at least."""
        if not self._count:
            if not self._hope.is_due():
                return False
            self._first_count = count
            self._began_ms = now_ms
        elif count > self._first_count:
            self._hope.paid()
        else:
            self._hope.failed()
        if self._count < count < count_max and now_ms == self._began_ms:
            self._count = count
            return True
        self._count = 0
        return False

    def end(self) -> None:
        """What there is goes elsewhere, whatever it has become."""
        self._count = 0


class Lookout:
    """Keeps one loop awake for up to `max_us`; 0 never: where time stands still while a loop turns.

    From an answer on, and anew with each request, and once more with its answer. What is sent unasked, such as events, prolongs nothing.

    Attributes:
        is_looking: whether it does at the moment.
    """

    __slots__ = (
        "_call_soon",
        "_end_us",
        "_has_answered",
        "_has_come",
        "_hope",
        "_max_us",
        "_now_us",
        "_owes",
        "_then_us",
        "is_looking",
    )

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], now_us: Callable[[], int], max_us: int
    ) -> None:
        """`call_soon`: the loop's, which calls back in its next turn."""
        self._call_soon = call_soon
        self._now_us = now_us
        self._max_us = max_us
        self._hope = Hope()
        self.is_looking = self._has_come = self._has_answered = self._owes = False
        self._end_us = self._then_us = 0

    def came(self) -> None:
        """Something of a client."""
        self._has_come = True

    def answered(self) -> None:
        """Something was sent to clients, who may go on at once."""
        if self.is_looking:
            self._has_answered = True
        elif self._max_us and self._hope.is_due():
            self.is_looking = True
            self._has_come = self._has_answered = self._owes = False
            self._then_us = self._now_us()
            self._end_us = self._then_us + self._max_us
            self._call_soon(self._look)

    def _look(self) -> None:
        now_us = self._now_us()
        if self._has_come:
            self._hope.paid()
            self._end_us = now_us + self._max_us
            self._has_come, self._owes = False, True
        elif self._has_answered and self._owes:
            self._end_us = now_us + self._max_us
            self._owes = False
        elif now_us >= self._end_us or now_us - self._then_us > _TURN_MAX_US:
            self.is_looking = False
            self._hope.failed()
            return
        else:
            os.sched_yield()  # whoever waits for this processor has it now, which the next turn notices
        self._has_answered = False
        self._then_us = now_us
        self._call_soon(self._look)
