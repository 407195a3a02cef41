"""Packets of the peer port: types, fast encoding, and finding them in a stream that arrives in pieces.

    packet = int type · long zxid · buffer data · vector<Id> authinfo        (no length prefix, quorum protocol §6)

Behind a SNAP packet comes a raw stream that is no packet: a learner's `PacketReader` stops there and hands back what it
has not read.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from librt.strings import BytesWriter, read_i32_be, read_i64_be, write_i32_be, write_i64_be

from zkpy_protocol.errors import DecodeError, FrameTooLarge
from zkpy_protocol.records import QuorumPacket, decode_quorum_packet


class PacketType(IntEnum):
    """Types of quorum packets."""

    REQUEST = 1
    PROPOSAL = 2
    ACK = 3
    COMMIT = 4
    PING = 5
    REVALIDATE = 6
    SYNC = 7
    INFORM = 8
    COMMIT_AND_ACTIVATE = 9
    NEW_LEADER = 10
    FOLLOWER_INFO = 11
    UP_TO_DATE = 12
    DIFF = 13
    TRUNC = 14
    SNAP = 15
    OBSERVER_INFO = 16
    LEADER_INFO = 17
    ACK_EPOCH = 18
    INFORM_AND_ACTIVATE = 19


_unpack_head = Struct(">iqi").unpack_from
_unpack_int = Struct(">i").unpack_from
_HEAD_SIZE = 16
_PLAIN_SIZE = 20  # of a packet with neither data nor authinfo
_ID_SIZE_MIN = 8
_NULL = b"\xff\xff\xff\xff"
_SNAP = int(PacketType.SNAP)
_COUNT_UNREAD = -1


def encode_packet(type_: int, zxid: int, data: bytes | None = None) -> bytes:
    """A packet without authinfo."""
    writer = BytesWriter()
    write_i32_be(writer, type_)
    write_i64_be(writer, zxid)
    if data is None:
        write_i32_be(writer, -1)
    else:
        write_i32_be(writer, len(data))
        writer.write(data)
    write_i32_be(writer, -1)
    return writer.getvalue()


class PacketReader:
    """Cuts packets out of a stream. Never raises: packets before the stream went bad are good, the reason waits in `error`.

    Invariant: at most one packet of the agreed maximum and one piece of input are held, however slowly they trickle in;
    time is linear in the bytes fed.
    """

    __slots__ = (
        "_authinfo",
        "_data_max",
        "_needed",
        "_position",
        "_stops_at_snap",
        "_strings",
        "_tail",
        "error",
    )

    def __init__(self, data_max: int, *, stops_at_snap: bool) -> None:
        """Read the packets of one connection.

        Args:
            data_max: limits the data of a packet, and its authinfo as well (jute.maxbuffer and its extra size).
            stops_at_snap: whether a raw stream follows a SNAP packet: it does on its way to a learner, where alone it
                has a meaning.
        """
        self._data_max = data_max
        self._stops_at_snap = stops_at_snap
        self.error: DecodeError | FrameTooLarge | None = None
        # The packet that is still incomplete: a bytearray, because growing it does not copy what is there. How far it has been
        # looked at is kept, so that it is done once.
        self._tail = bytearray()
        self._needed = 0  # so many bytes must be in the tail before it is worth looking at
        self._position = 0  # of what is looked at next: head, count of ids, length of one of their strings
        self._authinfo = 0  # where the ids begin
        self._strings = _COUNT_UNREAD  # of the ids, still to come

    def feed(self, data: bytes) -> list[QuorumPacket]:
        """All packets that are complete now; once `error` is set everything else is dropped.

        Up to and including the first SNAP where that stops the reader: `take_rest` must be called then.
        """
        if self.error is not None:
            return []
        if self._tail:
            self._tail += data
            if not self._advance():
                return []
            data = bytes(self._tail)
            self._tail.clear()
        packets: list[QuorumPacket] = []
        size = len(data)
        start = 0
        while size - start >= _PLAIN_SIZE:
            type_: int = read_i32_be(data, start)
            zxid: int = read_i64_be(data, start + 4)
            length: int = read_i32_be(data, start + 12)
            if length == -1 and data[start + 16 : start + 20] == _NULL:
                packets.append(QuorumPacket(type_, zxid, None, None))
                start += _PLAIN_SIZE
            else:
                end = start + _HEAD_SIZE + length
                if 0 <= length <= self._data_max and data[end : end + 4] == _NULL:
                    packets.append(QuorumPacket(type_, zxid, data[start + _HEAD_SIZE : end], None))
                    start = end + 4
                elif end + 4 > size:
                    break
                else:
                    try:
                        packet, end = decode_quorum_packet(data, start)
                    except DecodeError:
                        break
                    if length > self._data_max or end - start - max(length, 0) > self._data_max + _PLAIN_SIZE:
                        break
                    packets.append(packet)
                    start = end
            if type_ == _SNAP and self._stops_at_snap:
                self._tail += data[start:]
                return packets
        if start < size:
            self._tail += data[start:]
            self._position = self._authinfo = 0
            self._strings = _COUNT_UNREAD
            self._needed = _HEAD_SIZE
            self._advance()
        return packets

    def take_rest(self) -> bytes:
        """What was fed and not returned, which is forgotten here: the beginning of a raw stream."""
        rest = bytes(self._tail)
        self._tail.clear()
        return rest

    def _advance(self) -> bool:
        """Look at the packet in the tail as far as it goes; whether all of it is there."""
        tail = self._tail
        while self._needed <= len(tail):
            if self._strings == 0:
                return True
            if self._position == 0:
                _, _, length = _unpack_head(tail, 0)
                if not -1 <= length <= self._data_max:
                    return self._fail("data", length)
                self._position = _HEAD_SIZE + max(length, 0)
            elif self._strings == _COUNT_UNREAD:
                (count,) = _unpack_int(tail, self._position)
                if count * _ID_SIZE_MIN > self._data_max:
                    return self._fail("authinfo", count * _ID_SIZE_MIN)
                self._strings = 2 * max(count, 0)
                self._position += 4
                self._authinfo = self._position
            else:
                (length,) = _unpack_int(tail, self._position)
                self._position += 4 + max(length, 0)
                if length < -1:
                    return self._fail("authinfo", length)
                if self._position - self._authinfo > self._data_max:
                    return self._fail("authinfo", self._position - self._authinfo)
                self._strings -= 1
            self._needed = self._position + 4 if self._strings else self._position
        return False

    def _fail(self, part: str, size: int) -> bool:
        text = f"packet with {size} bytes of {part}, at most {self._data_max} allowed"
        self.error = FrameTooLarge(text) if size > 0 else DecodeError(text)
        self._tail.clear()
        return False
