"""However the peer port's stream is cut into pieces, the same packets come out; and noise is told, never raised."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import INTS, LONGS, instances, split_up
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.quorum_packets import PacketReader, PacketType, encode_packet
from zkpy_protocol.records import QuorumPacket, decode_quorum_packet, encode_quorum_packet
from zkpy_protocol.schema import ALL_RECORDS

DATA_MAX = 100

some = settings(max_examples=150, deadline=None)
small_ints = st.integers(-3, 130).map(lambda number: number.to_bytes(4, "big", signed=True))
packets = instances(ALL_RECORDS["QuorumPacket"])
plain = st.builds(encode_packet, st.integers(1, 19), LONGS, st.none() | st.binary(max_size=DATA_MAX))
# Bytes that look like packets for a while.
noise = st.lists(small_ints | st.binary(max_size=9) | plain, max_size=12).map(b"".join)


def read(pieces: list[bytes], data_max: int = DATA_MAX) -> tuple[list[QuorumPacket], str | None, bytes]:
    """All packets, the error, and what is left."""
    reader = PacketReader(data_max, stops_at_snap=False)
    found = [packet for piece in pieces for packet in reader.feed(piece)]
    return found, None if reader.error is None else str(reader.error), reader.take_rest()


@some
@given(st.lists(packets, max_size=6), st.binary(max_size=15), st.data())
def test_every_split_of_a_stream_gives_the_same_packets(
    sent: list[QuorumPacket], behind: bytes, data: st.DataObject
) -> None:
    """The generated codec is the reference."""
    stream = b"".join(map(encode_quorum_packet, sent)) + behind
    assert read(data.draw(split_up(stream)), data_max=len(stream)) == (sent, None, behind)


@some
@given(INTS, LONGS, st.none() | st.binary(max_size=DATA_MAX))
def test_fast_encoding_is_that_of_the_schema(type_: int, zxid: int, data: bytes | None) -> None:
    assert encode_packet(type_, zxid, data) == encode_quorum_packet(QuorumPacket(type_, zxid, data, None))


@some
@given(noise, st.data())
def test_noise_gives_the_same_packets_and_the_same_error_in_any_pieces(
    stream: bytes, data: st.DataObject
) -> None:
    found, error, rest = read([stream])
    assert read(data.draw(split_up(stream))) == (found, error, rest)
    position = 0
    for packet in found:
        expected, position = decode_quorum_packet(stream, position)
        assert packet == expected
    if error is None:
        assert stream[position:] == rest
        try:
            decode_quorum_packet(stream, position)
        except DecodeError:
            return
        raise AssertionError("a complete packet was kept back")


@some
@given(st.lists(packets, max_size=3), st.binary(max_size=60), st.data())
def test_a_learner_gets_what_is_behind_snap_untouched(
    before: list[QuorumPacket], raw: bytes, data: st.DataObject
) -> None:
    before = [packet for packet in before if packet.type != PacketType.SNAP]
    stream = b"".join(map(encode_quorum_packet, before)) + encode_packet(PacketType.SNAP, 5) + raw
    reader = PacketReader(DATA_MAX, stops_at_snap=True)
    found: list[QuorumPacket] = []
    behind = b""
    for piece in data.draw(split_up(stream)):
        if found and found[-1].type == PacketType.SNAP:
            behind += piece
        else:
            found += reader.feed(piece)
            if found and found[-1].type == PacketType.SNAP:
                behind = reader.take_rest()
    assert found == [*before, QuorumPacket(PacketType.SNAP, 5, None, None)]
    assert behind == raw
