"""Packets of the peer port: the recorded ones, bounds, and what a sender of single bytes can cost."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from zkpy_protocol.errors import DecodeError, FrameTooLarge
from zkpy_protocol.quorum_packets import PacketReader, PacketType, encode_packet
from zkpy_protocol.records import Id, QuorumPacket, encode_quorum_packet

VECTORS = Path(__file__).resolve().parents[3] / "protocol" / "vectors"
DATA_MAX = 1000

CAPTURES = {
    capture["name"]: capture
    for file in ("quorum-wire.json", "quorum-wire-versions.json")
    for capture in json.loads((VECTORS / file).read_text(encoding="utf-8"))["captures"]
    if capture["port"] != "election"
}


def reader(*, stops_at_snap: bool = False) -> PacketReader:
    return PacketReader(DATA_MAX, stops_at_snap=stops_at_snap)


def error_of(packets: PacketReader) -> DecodeError | FrameTooLarge | None:
    return packets.error


def with_authinfo(*ids: Id) -> bytes:
    return encode_quorum_packet(QuorumPacket(PacketType.REQUEST, -1, b"data", list(ids)))


# -- the recorded packets


def streams(capture: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The messages of each direction, without those that are exchanged before the first packet."""
    found: dict[str, list[dict[str, Any]]] = {}
    for message in capture["messages"]:
        if message["decoded"]["name"] != "QuorumAuthPacket":
            found.setdefault(message["dir"], []).append(message)
    return found


def pieces_of(stream: bytes, size: int) -> deque[bytes]:
    return deque(stream[start : start + size] for start in range(0, len(stream), size))


@pytest.mark.parametrize("size", [1 << 20, 7])
@pytest.mark.parametrize("name", CAPTURES)
def test_a_recorded_stream_is_cut_into_the_recorded_packets(name: str, size: int) -> None:
    """The raw stream of a snapshot, where the capture has kept it, is handed back untouched."""
    for direction, messages in streams(CAPTURES[name]).items():
        reader = PacketReader(1 << 20, stops_at_snap=direction == "leader->learner")
        wires = [bytes.fromhex(message["hex"]) for message in messages]
        is_body = [message["decoded"]["name"].startswith("SNAP-BODY") for message in messages]
        found: list[bytes] = []
        pieces = pieces_of(b"".join(wires), size)
        while pieces:
            packets = reader.feed(pieces.popleft())
            for packet in packets:
                if is_body[len(found)]:
                    found.append(wires[len(found)])
                found.append(encode_quorum_packet(packet))
            if packets and packets[-1].type == PacketType.SNAP:
                body = wires[len(found)] if is_body[len(found)] else b""
                behind = reader.take_rest() + b"".join(pieces)
                assert behind.startswith(body)
                pieces = pieces_of(behind[len(body) :], size)
        assert reader.error is None
        assert reader.take_rest() == b""
        assert found == wires


def test_the_captures_are_all_there() -> None:
    assert len(CAPTURES) == 54
    assert (
        sum(len(messages) for capture in CAPTURES.values() for messages in streams(capture).values())
        == 461 + 14
    )


# -- encoding


@pytest.mark.parametrize("data", [None, b"", b"data"])
def test_fast_encoding_is_that_of_the_schema(data: bytes | None) -> None:
    expected = encode_quorum_packet(QuorumPacket(PacketType.PROPOSAL, 0x100000005, data, None))
    assert encode_packet(PacketType.PROPOSAL, 0x100000005, data) == expected


def test_a_commit_has_20_bytes() -> None:
    assert encode_packet(4, 0x100000005).hex() == "000000040000000100000005ffffffffffffffff"


# -- the snapshot's place


def test_a_learner_stops_behind_snap_until_the_rest_is_taken() -> None:
    packets = reader(stops_at_snap=True)
    diff, snap = encode_packet(PacketType.DIFF, 1), encode_packet(PacketType.SNAP, 2)
    assert [packet.type for packet in packets.feed(diff + snap + b"raw stream, no packet")] == [13, 15]
    assert packets.take_rest() == b"raw stream, no packet"
    assert packets.error is None
    assert [packet.zxid for packet in packets.feed(encode_packet(PacketType.COMMIT, 3))] == [3]


def test_a_leader_takes_snap_for_a_packet_like_any_other() -> None:
    stream = encode_packet(PacketType.SNAP, 1) + encode_packet(PacketType.ACK, 2)
    assert [packet.zxid for packet in reader().feed(stream)] == [1, 2]


# -- bounds


def test_the_largest_data_is_taken_and_one_byte_more_is_not() -> None:
    largest = encode_packet(2, 1, bytes(DATA_MAX))
    assert len(reader().feed(largest)) == 1
    packets = reader()
    assert packets.feed(encode_packet(2, 1, bytes(DATA_MAX + 1))) == []
    assert isinstance(packets.error, FrameTooLarge)
    assert str(packets.error) == "packet with 1001 bytes of data, at most 1000 allowed"


def test_the_largest_authinfo_is_taken_and_one_byte_more_is_not() -> None:
    largest = with_authinfo(Id("a", "b" * (DATA_MAX - 9)))
    for stream in (largest, encode_packet(2, 1, b"1") + largest):
        assert reader().feed(stream)[-1].authinfo == [Id("a", "b" * (DATA_MAX - 9))]
    for size in (1, 1 << 20):
        packets = reader()
        stream = with_authinfo(Id("a", "b" * (DATA_MAX - 8)))
        for start in range(0, len(stream), size):
            assert packets.feed(stream[start : start + size]) == []
        assert str(packets.error) == "packet with 1001 bytes of authinfo, at most 1000 allowed"


@pytest.mark.parametrize(
    ("stream", "said_at", "reason"),
    [
        (pack(">iqi", 2, 1, -2), 16, "-2 bytes of data"),
        (pack(">iqi", 2, 1, 2**31 - 1), 16, "2147483647 bytes of data"),
        (pack(">iqii", 2, 1, -1, 126), 20, "1008 bytes of authinfo"),
        (pack(">iqii", 2, 1, -1, 2**31 - 1), 20, "17179869176 bytes of authinfo"),
        (pack(">iqi4sii", 2, 1, 4, b"data", 2, -2), 28, "-2 bytes of authinfo"),
        (pack(">iqiiii", 2, 1, -1, 1, -1, -(2**31)), 28, "-2147483648 bytes of authinfo"),
        (pack(">iqiiii", 2, 1, -1, 1, -1, 2**31 - 1), 28, "2147483655 bytes of authinfo"),
    ],
)
def test_a_bad_length_is_told_as_soon_as_it_is_there(stream: bytes, said_at: int, reason: str) -> None:
    assert len(stream) == said_at
    before = encode_packet(3, 7)
    packets = reader()
    assert [packet.zxid for packet in packets.feed(before + stream[:-1])] == [7]
    assert error_of(packets) is None
    assert packets.feed(stream[-1:]) == []
    assert isinstance(packets.error, FrameTooLarge if "-" not in reason else DecodeError)
    assert str(packets.error) == f"packet with {reason}, at most 1000 allowed"
    whole = reader()
    assert [packet.zxid for packet in whole.feed(before + stream + bytes(4000))] == [7]
    assert str(whole.error) == str(packets.error)
    assert whole.feed(before) == []
    assert whole.take_rest() == b""


def test_ids_may_be_null_and_a_negative_count_is_none_at_all() -> None:
    """As Apache reads them."""
    stream = pack(">iqiiii", 1, -1, -1, 1, -1, -1) + pack(">iqii", 1, -1, -1, -7)
    assert reader().feed(stream) == [
        QuorumPacket(1, -1, None, [Id(None, None)]),
        QuorumPacket(1, -1, None, []),
    ]


class CountingTail(bytearray):
    """Tells how often what was collected has been taken out again, which copies all of it."""

    taken = 0

    def clear(self) -> None:
        self.taken += 1
        super().clear()


def test_a_packet_that_trickles_in_is_copied_once_and_looked_at_once() -> None:
    """A sender of single bytes costs linear time, also with many ids behind much data."""
    ids = [Id("", "") for _ in range(100)]
    stream = encode_quorum_packet(QuorumPacket(1, -1, bytes(DATA_MAX), ids))
    packets = reader()
    tail = packets._tail = CountingTail()
    waits_for = set()
    for byte in stream[:-1]:
        assert not packets.feed(bytes((byte,)))
        waits_for.add(packets._needed)
    assert packets.feed(stream[-1:]) == [QuorumPacket(1, -1, bytes(DATA_MAX), ids)]
    assert tail.taken == 1
    assert len(waits_for) == 2 + 200
