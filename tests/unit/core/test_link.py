"""A link: what waits to be sent, and how it is closed."""

from __future__ import annotations

from zkpy.core.link import CLOSE_AFTER_FLUSH, CONNECTING, DROPPED, ClientLink


def new_link() -> tuple[ClientLink, list[ClientLink]]:
    dirty: list[ClientLink] = []
    return ClientLink(dirty, "10.0.0.1", 4711, ()), dirty


def test_a_link_with_something_to_send_is_dirty_once() -> None:
    link, dirty = new_link()
    link.send(b"one")
    link.send(b"two")
    assert dirty == [link]
    assert link.queued_bytes == 6
    assert link.take() == b"onetwo"
    assert (link.take(), link.queued_bytes) == (b"", 0)
    dirty.clear()
    link.send(b"three")
    assert dirty == [link]


def test_closing_after_what_is_queued_makes_dirty_and_loses_nothing() -> None:
    for queued in ([], [b"reply"]):
        link, dirty = new_link()
        for frame in queued:
            link.send(frame)
        link.close_after_flush()
        link.close_after_flush()
        assert dirty == [link]
        assert link.state == CLOSE_AFTER_FLUSH
        assert link.take() == b"".join(queued)


def test_a_dropped_link_sends_nothing_more() -> None:
    for queued in ([], [b"reply"]):
        link, dirty = new_link()
        for frame in queued:
            link.send(frame)
        link.drop()
        link.drop()
        assert dirty == [link]
        assert (link.state, link.take(), link.queued_bytes) == (DROPPED, b"", 0)


def test_a_dropped_link_is_not_revived_by_closing_it() -> None:
    link, _ = new_link()
    link.drop()
    link.close_after_flush()
    assert link.state == DROPPED


def test_latencies_of_a_link() -> None:
    link, _ = new_link()
    assert (link.state, link.last_op, link.last_cxid, link.last_zxid, link.min_latency) == (
        CONNECTING,
        "NA",
        -1,
        -1,
        -1,
    )
    link.note_reply("CREA", 7, 70, 1000, 5)
    link.note_reply("PING", -2, 71, 2000, 1)
    link.note_reply("GETD", 8, 72, 3000, 9)
    assert (link.last_op, link.last_cxid, link.last_zxid, link.last_response_ms) == ("GETD", 8, 72, 3000)
    assert (link.replies, link.latency_total, link.min_latency, link.max_latency, link.last_latency) == (
        3,
        15,
        1,
        9,
        9,
    )
    link.reset_stats()
    assert (link.replies, link.latency_total, link.min_latency, link.max_latency) == (0, 0, -1, 0)
    assert (link.last_latency, link.last_response_ms, link.last_op) == (0, 0, "NA")


def test_a_reply_to_a_reserved_xid_leaves_the_last_cxid() -> None:
    link, _ = new_link()
    link.note_reply("CREA", 7, 70, 1000, 5)
    link.note_reply("PING", -2, 71, 2000, 1)
    assert link.last_cxid == 7
    link.note_reply("CREA", 0, 72, 2000, 1)
    assert link.last_cxid == 0
