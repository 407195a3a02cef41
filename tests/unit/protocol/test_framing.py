"""Frames of a stream."""

from __future__ import annotations

import pytest

from zkpy_protocol.framing import FrameReader


def test_all_complete_frames_of_a_piece_are_given_at_once() -> None:
    reader = FrameReader(10)
    assert reader.feed(b"\0\0\0\x01a\0\0\0\0\0\0\0\x02bc\0\0") == [b"a", b"", b"bc"]
    assert reader.feed(b"\0\x01d") == [b"d"]
    assert reader.error is None


def test_the_largest_frame_is_taken_and_one_byte_more_is_not() -> None:
    assert FrameReader(3).feed(b"\0\0\0\x03abc") == [b"abc"]
    reader = FrameReader(3)
    assert reader.feed(b"\0\0\0\x04") == []
    assert "4 bytes announced, at most 3" in str(reader.error)


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\x7f\xff\xff\xff"])
def test_a_bad_length_is_told_as_soon_as_it_is_there(length: bytes) -> None:
    reader = FrameReader(100)
    assert reader.feed(b"\0\0\0\x01a" + length[:3]) == [b"a"]
    assert reader.error is None
    assert reader.feed(length[3:]) == []
    assert reader.error is not None


def test_frames_before_a_bad_length_are_delivered_and_nothing_behind_it() -> None:
    reader = FrameReader(100)
    assert reader.feed(b"\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x01b") == [b"a"]
    assert reader.error is not None
    assert reader.feed(b"\0\0\0\x01c") == []


class CountingTail(bytearray):
    """Tells how often what was collected has been taken out again, which copies all of it."""

    taken = 0

    def clear(self) -> None:
        self.taken += 1
        super().clear()


def test_a_frame_that_trickles_in_is_copied_twice_and_not_for_each_byte() -> None:
    """Once when its length is there, once when it is complete: a sender of single bytes costs linear time."""
    reader = FrameReader(10_000)
    tail = reader._tail = CountingTail()
    stream = (10_000).to_bytes(4, "big") + b"x" * 10_000
    for byte in stream[:-1]:
        assert not reader.feed(bytes((byte,)))
    assert reader.feed(b"x\0\0\0\x01y") == [b"x" * 10_000, b"y"]
    assert tail.taken == 2
