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
    assert (stats.received, stats.latency.count, stats.read_per_namespace) == (0, 0, {})
    assert stats.watchers_told[EventType.NODE_CREATED].count == 0
    assert stats.min_response_bytes == -1
