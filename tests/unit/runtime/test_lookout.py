"""When the loop looks round before it sleeps, and when a batch waits for more."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from zkpy.runtime.lookout import Gathering, Hope, Lookout

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_US = 100


class Loop:
    """Turns when it is told to; every turn takes 10 us."""

    def __init__(self) -> None:
        self.now_us = 5_000
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_us += 10
            callbacks, self.soon = self.soon, []
            for callback in callbacks:
                callback()

    @property
    def sleeps(self) -> bool:
        return not self.soon


def lookout(loop: Loop, max_us: int = MAX_US) -> Lookout:
    return Lookout(loop.call_soon, lambda: loop.now_us, max_us)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_the_loop_does_not_sleep_for_so_long_after_an_answer(loop: Loop) -> None:
    lookout(loop).answered()
    loop.turn(9)
    assert not loop.sleeps
    loop.turn()
    assert loop.sleeps


def test_it_does_not_look_round_after_what_is_not_answered_yet(loop: Loop) -> None:
    lookout(loop).came()
    assert loop.sleeps


def test_what_comes_meanwhile_keeps_it_awake(loop: Loop) -> None:
    watch = lookout(loop)
    watch.answered()
    for _ in range(50):
        loop.turn(9)
        watch.came()
        watch.answered()
        assert len(loop.soon) == 1
    loop.turn(10)
    assert not loop.sleeps
    loop.turn()
    assert loop.sleeps


def test_a_slow_answer_counts_from_when_it_is_given(loop: Loop) -> None:
    """The loop has waited for the disk meanwhile."""
    watch = lookout(loop)
    watch.answered()
    loop.turn()
    watch.came()
    loop.turn()
    loop.now_us += 1000
    watch.answered()
    loop.turn(10)
    assert not loop.sleeps
    loop.turn()
    assert loop.sleeps


def test_events_alone_do_not_keep_it_awake(loop: Loop) -> None:
    """What nobody has asked for says nothing of whether somebody will ask."""
    watch = lookout(loop)
    watch.answered()
    for _ in range(9):
        loop.turn()
        watch.answered()
    loop.turn()
    assert loop.sleeps


def test_it_gives_way_to_whoever_else_wants_the_processor(loop: Loop) -> None:
    watch = lookout(loop)
    watch.answered()
    loop.turn()
    loop.now_us += 50
    loop.turn()
    assert loop.sleeps
    watch.answered()
    assert loop.sleeps, "that has failed, so one occasion passes"


def test_a_loop_where_time_stands_still_never_looks_round(loop: Loop) -> None:
    watch = lookout(loop, 0)
    for _ in range(200):
        watch.came()
        watch.answered()
        assert loop.sleeps


def awake_after(watch: Lookout, loop: Loop, answers: int) -> list[int]:
    """Which of the answers, each long after the one before, kept the loop awake."""
    found = []
    for number in range(answers):
        watch.came()
        watch.answered()
        if not loop.sleeps:
            found.append(number)
        loop.turn(100)
        assert loop.sleeps
    return found


def test_where_nothing_comes_in_time_it_is_tried_ever_more_rarely(loop: Loop) -> None:
    tried = awake_after(lookout(loop), loop, 1000)
    gaps = [later - sooner for sooner, later in itertools.pairwise(tried)]
    assert gaps[:9] == [2, 4, 8, 16, 32, 64, 64, 64, 64]


def test_one_success_is_enough_to_try_every_time_again(loop: Loop) -> None:
    watch = lookout(loop)
    awake_after(watch, loop, 190)
    watch.answered()
    assert not loop.sleeps
    loop.turn()
    watch.came()
    loop.turn(100)
    assert awake_after(watch, loop, 6) == [1, 5]


def test_hope_lets_twice_as_many_occasions_pass_after_each_failure() -> None:
    hope = Hope()
    assert hope.is_due()
    for passed in (1, 3, 7, 15, 31, 63, 63):
        hope.failed()
        assert [hope.is_due() for _ in range(passed + 1)] == [False] * passed + [True]
    hope.paid()
    hope.failed()
    assert [hope.is_due(), hope.is_due()] == [False, True]


def test_a_batch_waits_as_long_as_each_turn_brings_more() -> None:
    gathering = Gathering()
    assert [gathering.goes_on(count, 100, 7) for count in (1, 2, 5, 5)] == [True, True, True, False]
    assert gathering.goes_on(1, 100, 7), "that paid"


def test_a_batch_waits_no_longer_than_a_millisecond() -> None:
    gathering = Gathering()
    assert [gathering.goes_on(1, 100, 7), gathering.goes_on(2, 100, 7), gathering.goes_on(3, 100, 8)] == [
        True,
        True,
        False,
    ]


def test_a_full_batch_waits_for_nothing() -> None:
    gathering = Gathering()
    assert [gathering.goes_on(99, 100, 7), gathering.goes_on(100, 100, 7)] == [True, False]
    assert gathering.goes_on(1, 100, 9), "that paid"
    assert not gathering.goes_on(100, 100, 9)
    assert not gathering.goes_on(100, 100, 9)


def test_what_gathered_is_nothing_to_the_next_batch_when_the_log_thread_took_it() -> None:
    gathering = Gathering()
    assert gathering.goes_on(5, 100, 7)
    gathering.end()
    assert [gathering.goes_on(3, 100, 9), gathering.goes_on(4, 100, 9)] == [True, True]


def test_a_client_that_is_alone_is_seldom_made_to_wait() -> None:
    gathering = Gathering()
    waited = 0
    for _ in range(1000):
        while gathering.goes_on(1, 100, 7):
            waited += 1
    assert 15 <= waited <= 25
    while not gathering.goes_on(1, 100, 7):
        pass
    assert gathering.goes_on(2, 100, 7)
    assert not gathering.goes_on(2, 100, 7)
    assert gathering.goes_on(1, 100, 7), "where others come it waits for them at once"
