"""What a follower does for observers, so that the leader need not: it brings them up to date, tells them what is committed, and
passes on what they ask (quorum protocol §13).

    NEW ─OBSERVERINFO─► OFFERED ─ACKEPOCH─► COMPARED ─mode … NEWLEADER─► SYNCING ─ACK─► LIVE

Nobody has to be waited for: the epoch is the follower's, and what it has applied is committed. An observer gets that, and is
entered among those that get live packets, in one step, so that nothing can be missing between the two; Apache has to
keep the last commits for that. One that has more of this epoch has it from a faster follower: it is committed, so the
observer is not told to cut it off, as Apache tells it, but to ask another one.

`ObserverMasters` is the other side of it: whom an observer asks next.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from zkpy.core.zab.effects import ReadHistory
from zkpy.core.zab.learner_handler import LearnerHandler, Stage, read_request, read_revalidate, read_touched
from zkpy.core.zab.peer_state import counter_of, epoch_of, first_of
from zkpy.core.zab.sync import HistoryNeeded, plan_sync
from zkpy_protocol.errors import ProtocolError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType, encode_packet

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from zkpy.core.learning import Forwarder, LearningService
    from zkpy.core.membership import Membership
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.peer_state import PeerState
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy_protocol.records import QuorumPacket

_BEATS_PER_TICK = 2
_SYNC_ZXID = 0
_INFORM = int(PacketType.INFORM)
_suggested = struct.Struct(">q")


class ObserverMaster:
    """The observers of one follower, from its UPTODATE to the end of its role."""

    __slots__ = (
        "_anonymous_id",
        "_ask",
        "_beat",
        "_epoch",
        "_forwarder",
        "_handlers",
        "_init_beats",
        "_live",
        "_revalidating",
        "_service",
        "_state",
        "_sync_beats",
    )

    def __init__(
        self,
        state: PeerState,
        epoch: int,
        service: LearningService,
        forwarder: Forwarder,
        ask: Callable[[Effect], None],
    ) -> None:
        """`forwarder` is the way to the leader of `epoch`; `ask` takes effects, whose results come to `history`."""
        self._state = state
        self._epoch = epoch
        self._service = service
        self._forwarder = forwarder
        self._ask = ask
        # Half ticks so far.
        self._beat = 0
        self._init_beats = _BEATS_PER_TICK * state.options.init_limit
        self._sync_beats = _BEATS_PER_TICK * state.options.sync_limit
        self._anonymous_id = 0
        self._handlers: dict[QuorumLink, LearnerHandler] = {}
        # Who gets live packets.
        self._live: list[LearnerHandler] = []
        # Session, timeout and asker of what the leader has not answered yet, in the order of asking.
        self._revalidating: deque[tuple[int, int, LearnerHandler]] = deque()

    @property
    def observer_count(self) -> int:
        """Observers that get live packets."""
        return len(self._live)

    # -- links

    def connected(self, link: QuorumLink) -> None:
        """Somebody has connected, who has to speak first."""
        self._handlers[link] = LearnerHandler(link, self._beat, self._beat)

    def disconnected(self, link: QuorumLink) -> None:
        """The connection is gone."""
        handler = self._handlers.pop(link, None)
        if handler in self._live:
            self._live.remove(handler)

    def _drop(self, handler: LearnerHandler, reason: str) -> None:
        handler.link.close(reason)
        values: dict[str, object] = {"server_id": handler.server_id, "reason": reason}
        self._state.trace.append(("learner.dropped", values))
        self.disconnected(handler.link)

    def close(self, reason: str) -> None:
        """Every observer has to look for another server."""
        for link in list(self._handlers):
            link.close(reason)
        self._handlers.clear()
        self._live.clear()

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket]) -> None:
        """Packets of an observer, in order. An empty list is a sign of life: it has taken a piece of its snapshot."""
        handler = self._handlers.get(link)
        if handler is None:
            return
        handler.heard(self._beat, self._beat)
        for packet in packets:
            try:
                self._packet(handler, packet)
            except ProtocolError as error:
                self._drop(handler, str(error))
            if link.closed is not None:
                break

    def _packet(self, handler: LearnerHandler, packet: QuorumPacket) -> None:
        stage = handler.stage
        if stage is Stage.LIVE:
            self._live_packet(handler, packet)
        elif stage is Stage.NEW:
            handler.introduce(packet, self._anonymous_id - 1)
            self._introduced(handler)
        elif stage is Stage.OFFERED:
            handler.read_ack_epoch(packet)
            if epoch_of(handler.peer_zxid) == self._epoch and handler.peer_zxid > self._last_zxid():
                raise ProtocolError(f"its history up to 0x{handler.peer_zxid:x} is ahead of this server's")
            handler.enter(Stage.COMPARED, self._beat)
            self._synchronize(handler, None)
        elif (
            stage is Stage.SYNCING and packet.type == PacketType.ACK and packet.zxid == first_of(self._epoch)
        ):
            handler.up_to_date(self._beat)
        else:
            raise ProtocolError(f"packet of type {packet.type} while {stage.name}")

    def _introduced(self, handler: LearnerHandler) -> None:
        if not handler.is_observer:
            raise ProtocolError("followers have to go to the leader")
        self._anonymous_id = min(self._anonymous_id, handler.server_id)
        if handler.config_version > self._state.view.committed.version:
            raise ProtocolError(f"its configuration 0x{handler.config_version:x} is ahead of this server's")
        if not handler.offer_epoch(self._epoch, self._beat):
            raise ProtocolError("its protocol is that of 3.3")

    # -- synchronization (§8)

    def _synchronize(self, handler: LearnerHandler, history: Sequence[Txn] | None) -> None:
        """Bring an observer up to date, or ask for the part of the log that takes; then `history` is what was found."""
        state = self._state
        database = state.database
        plan = plan_sync(
            handler.peer_zxid,
            self._last_zxid(),
            database.committed_log.txns(),
            history,
            may_read=history is None and state.options.snapshot_size_factor >= 0,
        )
        if isinstance(plan, HistoryNeeded):
            self._ask(ReadHistory(handler.link, plan.from_zxid, plan.reach_zxid))
            return
        if self._is_busy_with(plan.mode):
            self._drop(handler, "too many observers synchronize at this moment")
            return
        values: dict[str, object] = {
            "server_id": handler.server_id,
            "mode": plan.mode.name,
            "zxid": plan.zxid,
            "peer_zxid": handler.peer_zxid,
            "txns": len(plan.txns),
        }
        state.trace.append(("learner.synchronizing", values))
        handler.synchronize(plan, database, (), self._epoch, state.view.committed.text(), self._beat)
        self._live.append(handler)

    def history(self, link: QuorumLink, txns: Sequence[Txn] | None) -> None:
        """What a ReadHistory has found."""
        handler = self._handlers.get(link)
        if handler is not None:
            self._synchronize(handler, txns or ())

    def _last_zxid(self) -> int:
        return self._state.database.tree.last_zxid

    def _is_busy_with(self, mode: PacketType) -> bool:
        options = self._state.options
        is_snap = mode == PacketType.SNAP
        limit = options.max_concurrent_snap_syncs if is_snap else options.max_concurrent_diff_syncs
        syncing = [one for one in self._live if one.stage is Stage.SYNCING]
        return sum((one.mode == PacketType.SNAP) is is_snap for one in syncing) >= limit

    # -- what observers send

    def _live_packet(self, handler: LearnerHandler, packet: QuorumPacket) -> None:
        kind = packet.type
        if kind == PacketType.ACK:
            if counter_of(packet.zxid):
                raise ProtocolError(f"an observer acks 0x{packet.zxid:x}")
        elif kind == PacketType.PING:
            for session_id, timeout_ms in read_touched(packet):
                self._service.touched(session_id, timeout_ms)
        elif kind == PacketType.REQUEST:
            session_id, cxid, op, record = read_request(packet)
            if op == OpCode.SYNC:
                self._service.await_sync(handler)
            self._forwarder.request(session_id, cxid, op, record, packet.authinfo)
        elif kind == PacketType.REVALIDATE:
            session_id, timeout_ms = read_revalidate(packet)
            self._revalidating.append((session_id, timeout_ms, handler))
            self._forwarder.revalidate(session_id, timeout_ms)

    # -- what the leader sends

    def committed(self, txn: Txn) -> None:
        """A txn is committed and applied."""
        if self._live:
            self._inform(encode_packet(_INFORM, txn.zxid, txn.payload))

    def activated(self, txn: Txn, suggested_leader: int) -> None:
        """A reconfiguration is committed and applied."""
        data = _suggested.pack(suggested_leader) + txn.payload
        self._inform(encode_packet(PacketType.INFORM_AND_ACTIVATE, txn.zxid, data))

    def _inform(self, packet: bytes) -> None:
        for handler in self._live:
            handler.commit(packet)

    def synced(self, asker: object) -> None:
        """The leader has answered a sync of the observer that was given to the service."""
        assert isinstance(asker, LearnerHandler)
        asker.link.send(encode_packet(PacketType.SYNC, _SYNC_ZXID))

    def revalidated(self, zxid: int, session_id: int, valid: bool) -> bool:
        """The leader has answered REVALIDATE. False when no observer has asked for it."""
        waiting = self._revalidating
        if not waiting or waiting[0][0] != session_id:
            return False
        _, timeout_ms, handler = waiting.popleft()
        handler.revalidated(zxid, session_id, valid)
        if valid:
            self._service.touched(session_id, timeout_ms)
        return True

    # -- time

    def tick(self) -> None:
        """Half a tick time has passed."""
        self._beat += 1
        for handler in list(self._handlers.values()):
            if handler.is_silent(self._beat, self._init_beats, self._sync_beats):
                self._drop(handler, f"no answer while {handler.stage.name}")
        packet = encode_packet(PacketType.PING, self._last_zxid())
        for handler in self._live:
            handler.link.send(packet)


class ObserverMasters:
    """All voters in a random order, again and again: whom an observer asks next. The leader is one of them, and refuses."""

    __slots__ = ("_left", "_membership", "_order", "_random")

    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._membership: Membership | None = None
        self._order: list[int] = []
        self._left: list[int] = []

    def is_exhausted_for(self, membership: Membership) -> bool:
        """Whether all of them were asked, so that it is time for a pause; a new configuration is a new beginning."""
        return self._membership is membership and not self._left

    def next(self, membership: Membership) -> int:
        """Id of a voter of the committed configuration."""
        if self._membership is not membership:
            self._membership = membership
            self._order = list(membership.participants)
            self._random.shuffle(self._order)
            self._left = []
        if not self._left:
            self._left = self._order[::-1]
        return self._left.pop()
