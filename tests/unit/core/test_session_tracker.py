"""Expiry of sessions. Ticks of 2000 ms; times are on a clock that starts at 1 000 000."""

from __future__ import annotations

import pytest

from zkpy.core.session_tracker import SessionTable, SessionTracker

TICK = 2000
START = 1_000_000


def _tracker(committed: dict[int, int] | None = None) -> SessionTracker:
    return SessionTracker(TICK, 77, {} if committed is None else committed, START)


def _expire_at(tracker: SessionTracker, start: int, limit: int = 60_000) -> dict[int, int]:
    """When each session expires, if the server looks every half tick from `start` on."""
    found: dict[int, int] = {}
    for now in range(start, start + limit, TICK // 2):
        found |= dict.fromkeys(tracker.expired(now), now)
    return found


def test_ids_count_up_from_the_first() -> None:
    tracker = _tracker()
    assert [tracker.new_id() for _ in range(3)] == [77, 78, 79]


def test_an_id_that_is_in_use_is_left_out() -> None:
    """Ids count from the wall clock, which may have been set back since the session was made."""
    tracker = _tracker({77: 4000, 78: 4000, 80: 4000})
    assert [tracker.new_id() for _ in range(3)] == [79, 81, 82]


@pytest.mark.parametrize("offset", [0, 1, 999, 1000, 1999])
def test_a_session_expires_between_its_timeout_and_one_tick_later(offset: int) -> None:
    tracker = _tracker()
    begin = START + offset
    tracker.expired(begin)
    tracker.track(1, 5000, begin)
    at = _expire_at(tracker, START)[1]
    assert begin + 5000 < at <= begin + 5000 + TICK + TICK // 2


def test_sessions_of_one_bucket_expire_together_in_the_order_they_came_into_it() -> None:
    tracker = _tracker()
    tracker.track(5, 4100, START)
    tracker.track(3, 4000, START)
    tracker.track(4, 9000, START)
    assert tracker.expired(START + 3000) == []
    assert tracker.expired(START + 5999) == []
    assert tracker.expired(START + 6000) == [5, 3]
    assert tracker.expired(START + 10_000) == [4]


def test_earlier_buckets_expire_first() -> None:
    tracker = _tracker()
    tracker.track(1, 6000, START)
    tracker.track(2, 4000, START)
    tracker.expired(START + 4000)
    assert tracker.expired(START + 8000) == [2, 1]


def test_a_touch_prolongs_a_session_and_keeps_it_in_its_bucket_if_that_is_enough() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    assert tracker.touch(1, 4000, START + 1)
    assert tracker.buckets() == [(START + 6000, [1])]
    assert tracker.touch(1, 4000, START + 3000)
    assert tracker.buckets() == [(START + 8000, [1])]
    assert _expire_at(tracker, START + 3000) == {1: START + 8000}


def test_a_touch_takes_the_timeout_of_the_connection() -> None:
    tracker = _tracker({1: 4000})
    assert tracker.touch(1, 20_000, START)
    assert tracker.buckets() == [(START + 22_000, [1])]
    assert tracker.committed == {1: 4000}, "what is persisted stays"


def test_a_touch_of_an_unknown_or_closing_session_fails() -> None:
    tracker = _tracker()
    assert not tracker.touch(1, 4000, START)
    tracker.track(1, 4000, START)
    tracker.set_closing(1)
    assert not tracker.touch(1, 4000, START)
    assert not tracker.is_live(1)


def test_a_session_expires_once() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    assert tracker.expired(START + 4000) == []
    assert tracker.expired(START + 8000) == [1]
    assert not tracker.is_live(1)
    assert tracker.expired(START + 12_000) == []


def test_a_session_that_is_being_closed_does_not_expire() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    tracker.set_closing(1)
    assert _expire_at(tracker, START) == {}


def test_a_session_that_is_reopened_expires_as_if_nothing_had_been() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    tracker.set_closing(1)
    tracker.reopen(1, START)
    assert tracker.is_live(1)
    assert list(_expire_at(tracker, START)) == [1]


def test_a_session_whose_expiry_did_not_happen_is_offered_again() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    tracker.expired(START + 4000)
    assert tracker.expired(START + 8000) == [1]
    tracker.reopen(1, START + 8000)
    assert list(_expire_at(tracker, START + 8000)) == [1]


def test_a_removed_session_is_forgotten() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    tracker.commit(1, 4000)
    assert tracker.committed == {1: 4000}
    tracker.remove(1)
    assert tracker.committed == {}
    assert not tracker.is_live(1)
    assert _expire_at(tracker, START) == {}
    tracker.remove(1)
    tracker.set_closing(1)
    tracker.reopen(1, START)


def test_restored_sessions_get_their_full_timeout() -> None:
    tracker = _tracker({7: 4000, 3: 10_000})
    assert tracker.buckets() == [(START + 6000, [7]), (START + 12_000, [3])]


def test_a_gap_in_which_the_server_did_not_run_is_forgiven() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    tracker.expired(START + 1000)
    assert tracker.expired(START + 601_000) == [], "the clients could not be heard for ten minutes"
    assert tracker.buckets() == [(START + 6000 + 598_000, [1])]
    assert tracker.touch(1, 4000, START + 601_001)
    due = tracker.buckets()[0][0]
    assert START + 605_001 < due <= START + 605_001 + TICK
    assert tracker.expired(due - 1000) == []
    assert tracker.expired(due) == [1]


def test_a_gap_of_more_than_two_ticks_is_forgiven_but_for_one() -> None:
    tracker = _tracker()
    tracker.track(1, 4000, START)
    tracker.expired(START + 1000)
    assert tracker.expired(START + 1000 + 2 * TICK + 1) == []
    assert tracker.buckets() == [(START + 6000 + TICK + 1, [1])]


def test_ticks_that_are_a_little_late_are_not_forgiven() -> None:
    tracker = _tracker()
    tracker.track(1, 8000, START)
    for now in range(START + 4000, START + 10_001, 4000):
        assert tracker.expired(now) == []
    assert tracker.expired(START + 12_000) == [1]


def test_whoever_serves_nobody_knows_sessions_and_keeps_none_alive() -> None:
    table = SessionTable({5: 4000}, 77)
    table.commit(6, 5000)
    table.remove(5)
    assert table.committed == {6: 5000}
    assert not table.touch(6, 5000, START)
