"""What only a learner sends to its leader, and what it reads from packets of its leader (quorum protocol §6, §9).

Pure functions between values and packets. Reading raises nothing but ProtocolError.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from zkpy.core.membership import Membership, MembershipError
from zkpy.core.txn import Txn
from zkpy_protocol.errors import ProtocolError
from zkpy_protocol.quorum_packets import PacketType, encode_packet
from zkpy_protocol.records import LearnerInfo, QuorumPacket, encode_learner_info, encode_quorum_packet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zkpy_protocol.records import Id

PROTOCOL_VERSION = 0x10000
_NO_ZXID = -1
_ACK = int(PacketType.ACK)
_epoch = struct.Struct(">i")
_touch = struct.Struct(">qi")
_request_head = struct.Struct(">qii")
_valid = struct.Struct(">q?")
_suggested = struct.Struct(">q")


def learner_info(server_id: int, accepted_epoch: int, config_version: int, *, is_observer: bool) -> bytes:
    """FOLLOWERINFO or OBSERVERINFO."""
    kind = PacketType.OBSERVER_INFO if is_observer else PacketType.FOLLOWER_INFO
    info = encode_learner_info(LearnerInfo(server_id, PROTOCOL_VERSION, config_version))
    return encode_packet(kind, accepted_epoch << 32, info)


def ack_epoch(last_zxid: int, current_epoch: int) -> bytes:
    """ACKEPOCH; a current epoch of -1 means that this is no new promise."""
    return encode_packet(PacketType.ACK_EPOCH, last_zxid, _epoch.pack(current_epoch))


def ack(zxid: int) -> bytes:
    """ACK of a proposal, or of NEWLEADER and UPTODATE."""
    return encode_packet(_ACK, zxid)


def ping_reply(zxid: int, touched: Iterable[tuple[int, int]]) -> bytes:
    """PING with the sessions that were heard of, and their timeouts in ms."""
    return encode_packet(PacketType.PING, zxid, b"".join(_touch.pack(*entry) for entry in touched))


def request(session_id: int, cxid: int, op: int, record: bytes, ids: Sequence[Id] | None) -> bytes:
    """REQUEST: a client's write or sync, with the identities of its connection."""
    data = _request_head.pack(session_id, cxid, op) + record
    if ids is None:
        return encode_packet(PacketType.REQUEST, _NO_ZXID, data)
    return encode_quorum_packet(QuorumPacket(PacketType.REQUEST, _NO_ZXID, data, list(ids)))


def revalidate(session_id: int, timeout_ms: int) -> bytes:
    """REVALIDATE: does this session go on?"""
    return encode_packet(PacketType.REVALIDATE, _NO_ZXID, _touch.pack(session_id, timeout_ms))


def read_revalidated(packet: QuorumPacket) -> tuple[int, bool]:
    """Session and whether it goes on, from the reply to REVALIDATE."""
    data = packet.data or b""
    if len(data) != _valid.size:
        raise ProtocolError(f"REVALIDATE with {len(data)} bytes of data")
    session_id, valid = _valid.unpack(data)
    return session_id, valid


def read_txn(packet: QuorumPacket, offset: int = 0) -> Txn:
    """The txn of a PROPOSAL or INFORM; of an INFORMANDACTIVATE it begins behind the suggested leader."""
    txn = Txn.from_payload((packet.data or b"")[offset:])
    if txn.zxid != packet.zxid:
        raise ProtocolError(f"packet of 0x{packet.zxid:x} holds txn 0x{txn.zxid:x}")
    return txn


def read_suggested_leader(packet: QuorumPacket) -> int:
    """Id of the server that should lead after a reconfiguration, from one of the two ...ANDACTIVATE packets."""
    data = packet.data or b""
    if len(data) < _suggested.size:
        raise ProtocolError(f"an activation with {len(data)} bytes of data")
    (server_id,) = _suggested.unpack_from(data)
    return int(server_id)


SUGGESTED_SIZE = _suggested.size


def read_membership(data: bytes | None) -> Membership:
    """A configuration: the data of a reconfig txn, or of NEWLEADER."""
    try:
        return Membership.from_text((data or b"").decode())
    except (UnicodeDecodeError, MembershipError) as error:
        raise ProtocolError(f"unreadable configuration: {error}") from None
