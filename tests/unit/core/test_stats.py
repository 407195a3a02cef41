"""Counters of the core."""

from __future__ import annotations

from zkpy.core.stats import CoreStats, Percentiles, Summary
from zkpy_protocol.opcodes import EventType


def test_a_summary_knows_count_sum_minimum_and_maximum() -> None:
    summary = Summary()
    for value in (5, 3, 9, 4):
        summary.add(value)
    summary.add(1, 3)
    assert (summary.count, summary.sum, summary.min, summary.max) == (7, 24, 1, 9)
    summary.reset()
    assert (summary.count, summary.sum, summary.min, summary.max) == (0, 0, 0, 0)
    summary.add(-2)
    assert (summary.min, summary.max) == (-2, -2)


def test_percentiles_are_of_recent_values() -> None:
    percentiles = Percentiles()
    assert percentiles.percentile(0.5) == 0
    for value in range(100):
        percentiles.add(value)
    assert [percentiles.percentile(fraction) for fraction in (0.0, 0.5, 0.95, 0.999, 1.0)] == [
        0,
        50,
        95,
        99,
        99,
    ]
    for _ in range(1024):
        percentiles.add(7)
    assert percentiles.percentile(0.999) == 7, "the old ones are forgotten"
    assert percentiles.max == 99, "but not what a summary knows"
    percentiles.reset()
    assert (percentiles.percentile(0.5), percentiles.count) == (0, 0)


def test_namespaces_are_the_first_component_and_the_path_counts() -> None:
    stats = CoreStats()
    stats.note_read("/a/b", 10)
    stats.note_read("/a", 1)
    stats.note_read("/", 5)
    stats.note_write("/b/c/d", 7)
    assert list(stats.read_per_namespace) == ["a"]
    assert (stats.read_per_namespace["a"].count, stats.read_per_namespace["a"].sum) == (2, 14 + 3)
    assert stats.write_per_namespace["b"].sum == 13


def test_responses_are_measured() -> None:
    stats = CoreStats()
    assert (stats.last_response_bytes, stats.min_response_bytes, stats.max_response_bytes) == (-1, -1, -1)
    for size in (20, 16, 30, 25):
        stats.note_response(size)
    assert (stats.last_response_bytes, stats.min_response_bytes, stats.max_response_bytes) == (25, 16, 30)
    assert stats.response_bytes == 91


def test_srst_keeps_what_is_outstanding_and_failed_authentications() -> None:
    stats = CoreStats()
    stats.outstanding = 3
    stats.auth_failed = 2
    stats.received = 9
    stats.latency.add(5)
    stats.watchers_told[EventType.NODE_CREATED].add(4)
    stats.note_read("/a", 1)
    stats.note_response(20)
    stats.reset_counters()
    assert (stats.outstanding, stats.auth_failed) == (3, 2)
    assert (stats.received, stats.latency.count) == (0, 0)
    assert stats.read_per_namespace["a"].count == 0
    assert stats.watchers_told[EventType.NODE_CREATED].count == 0
    assert stats.min_response_bytes == -1


def test_a_new_role_begins_with_its_own_figures_and_loses_no_count() -> None:
    stats = CoreStats()
    stats.received = stats.sent = stats.commits = 7
    stats.auth_failed = 1
    stats.read_latency.add(40)
    stats.update_latency.add(3)
    stats.note_response(20)
    stats.begin_role()
    assert (stats.received, stats.sent, stats.auth_failed, stats.latency.count) == (0, 0, 0, 0)
    assert (stats.last_response_bytes, stats.min_response_bytes, stats.max_response_bytes) == (-1, -1, -1)
    assert (stats.commits, stats.response_bytes) == (7, 20)
    stats.read_latency.add(2)
    assert (stats.latency.min, stats.latency.max) == (2, 2)
    stats.begin_role()
    past = stats.past_read_latency
    assert (past.count, past.sum, past.min, past.max, past.percentile(0.99)) == (2, 42, 2, 40, 40)
    stats.reset_counters()
    assert (past.count, past.percentile(0.99), stats.past_update_latency.count) == (0, 0, 0)


def test_series_that_are_put_together_are_as_one() -> None:
    first, second, empty = Percentiles(), Percentiles(), Percentiles()
    for value in (5, 1):
        first.add(value)
    second.add(9, 2)
    first.absorb(empty)
    empty.absorb(first)
    first.absorb(second)
    assert (first.count, first.sum, first.min, first.max) == (4, 24, 1, 9)
    assert [first.percentile(part) for part in (0.0, 0.5, 0.99)] == [1, 5, 9]
    assert (empty.count, empty.min, empty.max) == (2, 1, 5)
