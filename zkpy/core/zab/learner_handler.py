"""One learner at its leader: what it has said about itself, how far it is, and what is queued to it.

    NEW ─FOLLOWERINFO─► KNOWN ─LEADERINFO─► OFFERED ─ACKEPOCH─► COMPARED ─mode … NEWLEADER─► SYNCING ─ACK─► SYNCED ─UPTODATE─► LIVE

The leader decides when it goes on; this object reads its packets and puts packets into its link, in the order of quorum
protocol §8.4. Knows no other learner, no quorum and no disk. Time is counted in beats, of which the leader has two per tick:
while the leader's own process stands still, no learner is late.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from zkpy.core.zab.peer_state import epoch_of, first_of
from zkpy.core.zab.quorum_link import SnapshotBody
from zkpy_protocol.errors import ProtocolError
from zkpy_protocol.quorum_packets import PacketType, encode_packet
from zkpy_protocol.records import decode_learner_info

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.txn import Txn
    from zkpy.core.zab.database import Database
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy.core.zab.sync import SyncPlan
    from zkpy_protocol.records import QuorumPacket

PROTOCOL_VERSION = 0x10000
"""Of everything since 3.4.0. What is older knows no LEADERINFO and makes no promise about epochs."""

NO_PROMISE = -1
"""Current epoch in the ACKEPOCH of a learner that had accepted this epoch before."""

_ANCIENT_PROTOCOL = 1
_EPOCH_MAX = (1 << 31) - 1
_PROPOSAL = int(PacketType.PROPOSAL)
_COMMIT = int(PacketType.COMMIT)
_int = struct.Struct(">i")
_touch = struct.Struct(">qi")
_request_head = struct.Struct(">qii")
_valid = struct.Struct(">q?")


class Stage(IntEnum):
    """How far a learner is."""

    NEW = 0
    KNOWN = 1
    OFFERED = 2
    COMPARED = 3
    SYNCING = 4
    SYNCED = 5
    LIVE = 6


_ANSWERS_IN_INIT_LIMIT = frozenset((Stage.NEW, Stage.OFFERED, Stage.SYNCING))


class LearnerHandler:
    """A connection from a learner.

    Attributes:
        server_id: what it says it is; negative for one that says nothing.
        is_observer: it asked for INFORMs, and its acks mean nothing.
        accepted_epoch: highest epoch it had promised when it connected.
        config_version: version of the configuration it takes for committed.
        peer_zxid: its last logged zxid, once it was asked.
        mode: how it was synchronized.
        acked: up to where it has every txn on disk.
        synced_until: last beat at which it still counts as in sync.
    """

    __slots__ = (
        "_heard",
        "_held",
        "_protocol_version",
        "_watched",
        "_watched_since",
        "accepted_epoch",
        "acked",
        "config_version",
        "is_observer",
        "link",
        "mode",
        "peer_zxid",
        "server_id",
        "stage",
        "synced_until",
    )

    def __init__(self, link: QuorumLink, beat: int, synced_until: int) -> None:
        self.link = link
        self.stage = Stage.NEW
        self.server_id = 0
        self.is_observer = False
        self.accepted_epoch = 0
        self.config_version = 0
        self.peer_zxid = 0
        self.mode = PacketType.DIFF
        self.acked = 0
        self.synced_until = synced_until
        self._protocol_version = _ANCIENT_PROTOCOL
        self._heard = beat
        # What commits, between NEWLEADER and UPTODATE: followers before 3.9.3 fail on it (ZOOKEEPER-4394).
        self._held: list[bytes] = []
        # A proposal it has to ack, and when that was first noticed.
        self._watched = 0
        self._watched_since = beat

    @property
    def counts(self) -> bool:
        """Whether its promises and acks count, if it is a voter."""
        return not self.is_observer and self._protocol_version >= PROTOCOL_VERSION

    # -- discovery (§7.2)

    def introduce(self, packet: QuorumPacket, anonymous_id: int) -> None:
        """Read FOLLOWERINFO or OBSERVERINFO; `anonymous_id` is for a learner that does not say who it is.

        Raises:
            ProtocolError: it is something else, or makes no sense.
        """
        if packet.type not in (PacketType.FOLLOWER_INFO, PacketType.OBSERVER_INFO):
            raise ProtocolError(f"packet of type {packet.type} instead of FOLLOWERINFO")
        self.is_observer = packet.type == PacketType.OBSERVER_INFO
        self.accepted_epoch = epoch_of(packet.zxid)
        if self.accepted_epoch >= _EPOCH_MAX:
            raise ProtocolError("no epoch is left above the accepted one")
        self.peer_zxid = packet.zxid
        self.server_id = anonymous_id
        if packet.data is not None:
            info, _ = decode_learner_info(packet.data)
            self.server_id = info.serverid
            self._protocol_version = info.protocol_version or _ANCIENT_PROTOCOL
            self.config_version = info.config_version or 0

    def offer_epoch(self, epoch: int, beat: int) -> bool:
        """Tell it the epoch. False: it is too old to be asked; `peer_zxid` is all there will be."""
        if self._protocol_version < PROTOCOL_VERSION:
            return False
        self.link.send(encode_packet(PacketType.LEADER_INFO, first_of(epoch), _int.pack(PROTOCOL_VERSION)))
        self.enter(Stage.OFFERED, beat)
        return True

    def read_ack_epoch(self, packet: QuorumPacket) -> int:
        """Read ACKEPOCH into `peer_zxid`; the learner's current epoch, or NO_PROMISE.

        Raises:
            ProtocolError: it is something else.
        """
        if packet.type != PacketType.ACK_EPOCH or len(packet.data or b"") < _int.size:
            raise ProtocolError(f"packet of type {packet.type} instead of ACKEPOCH")
        self.peer_zxid = packet.zxid
        (current_epoch,) = _int.unpack_from(packet.data or b"")
        return int(current_epoch)

    # -- synchronization (§8.3, §8.4)

    def synchronize(
        self,
        plan: SyncPlan,
        database: Database,
        outstanding: Sequence[Txn],
        epoch: int,
        config_text: str,
        beat: int,
    ) -> None:
        """Queue the whole history up to now: what follows are live packets."""
        link = self.link
        self.mode = plan.mode
        self.acked = database.tree.last_zxid
        is_ancient = self._protocol_version < PROTOCOL_VERSION
        begin = encode_packet(
            PacketType.NEW_LEADER, first_of(epoch), None if is_ancient else config_text.encode()
        )
        if is_ancient and plan.mode != PacketType.SNAP:
            link.send(begin)
        link.send(encode_packet(plan.mode, plan.zxid))
        if plan.mode == PacketType.SNAP:
            link.send(SnapshotBody(database.tree, database.sessions))
            if is_ancient:
                link.send(begin)
        for txn in plan.txns:
            link.send(encode_packet(_PROPOSAL, txn.zxid, txn.payload))
            link.send(encode_packet(_COMMIT, txn.zxid))
        if not self.is_observer:
            for txn in outstanding:
                link.send(encode_packet(_PROPOSAL, txn.zxid, txn.payload))
        if not is_ancient:
            link.send(begin)
        self.enter(Stage.SYNCING, beat)

    def up_to_date(self, beat: int) -> None:
        """Queue UPTODATE, and everything that was committed since its sync."""
        self.link.send(encode_packet(PacketType.UP_TO_DATE, -1))
        for packet in self._held:
            self.link.send(packet)
        self._held.clear()
        self.enter(Stage.LIVE, beat)

    # -- broadcast

    def commit(self, packet: bytes) -> None:
        """Queue a packet that commits a txn, once the learner can take it (§17 rule 14)."""
        if self.stage is Stage.LIVE:
            self.link.send(packet)
        else:
            self._held.append(packet)

    def revalidated(self, zxid: int, session_id: int, valid: bool) -> None:
        """Answer REVALIDATE."""
        self.link.send(encode_packet(PacketType.REVALIDATE, zxid, _valid.pack(session_id, valid)))

    # -- time

    def enter(self, stage: Stage, beat: int) -> None:
        """It is so far, and has its time for the next answer."""
        self.stage = stage
        self._heard = beat

    def heard(self, beat: int, synced_until: int) -> None:
        """It has sent something."""
        self._heard = beat
        self.synced_until = max(self.synced_until, synced_until)

    def is_silent(self, beat: int, init_beats: int, sync_beats: int) -> bool:
        """Whether it should have answered by now; it need not while it waits for the leader."""
        if self.stage in _ANSWERS_IN_INIT_LIMIT:
            return beat - self._heard > init_beats
        return self.stage is Stage.LIVE and beat - self._heard > sync_beats

    def is_stuck(self, last_proposed: int, beat: int, sync_beats: int) -> bool:
        """Whether a proposal waits for its ack too long. Looks at one proposal at a time, once per beat (§11.2)."""
        if self.stage is not Stage.LIVE or self.is_observer:
            return False
        if self.acked >= self._watched:
            self._watched = last_proposed
            self._watched_since = beat
        return beat - self._watched_since >= sync_beats


def read_touched(packet: QuorumPacket) -> list[tuple[int, int]]:
    """Sessions and their timeouts in ms, from the reply to PING.

    Raises:
        ProtocolError: it ends within one.
    """
    data = packet.data or b""
    if len(data) % _touch.size:
        raise ProtocolError(f"PING with {len(data)} bytes of data")
    return list(_touch.iter_unpack(data))


def read_revalidate(packet: QuorumPacket) -> tuple[int, int]:
    """Session and timeout in ms.

    Raises:
        ProtocolError: it is cut short.
    """
    if len(packet.data or b"") < _touch.size:
        raise ProtocolError("REVALIDATE without a session")
    session_id, timeout_ms = _touch.unpack_from(packet.data or b"")
    return session_id, timeout_ms


def read_request(packet: QuorumPacket) -> tuple[int, int, int, bytes]:
    """Session, cxid, opcode and record of a forwarded request.

    Raises:
        ProtocolError: it is cut short.
    """
    data = packet.data or b""
    if len(data) < _request_head.size:
        raise ProtocolError(f"REQUEST with {len(data)} bytes of data")
    session_id, cxid, op = _request_head.unpack_from(data)
    return session_id, cxid, op, data[_request_head.size :]
