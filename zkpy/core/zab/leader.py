"""The leader's side of ZAB, from the election that chose this server to the moment it steps down.

    DISCOVERY ─quorum of acceptedEpochs─► PROMISING (own acceptedEpoch) ─► COMPARING ─quorum of ACKEPOCHs─►
      ENTERING (own currentEpoch) ─► SYNCHRONIZATION ─quorum of NEWLEADER acks─► BROADCAST

Owns the quorums of these phases, the epoch, who gets live packets, and the decision to give up. Does not know what a request means
(`core.leading`), how one learner is brought up to date (`sync`, `learner_handler`), or how files are written: what has to be
on disk before something is said goes out as an effect, and is said when the effect is done.

Learners may come, go and come back at any time. A learner is given the history so far, and entered among those that get live
packets, in one step: nothing can be proposed or committed between the two.

Deliberately unlike Apache:

* NEWLEADER and proposals may be acked in any order (ZOOKEEPER-4685). An ack of a proposal counts once NEWLEADER is acked: only
  then is it certain that the learner's currentEpoch is on disk as well.
* A second connection of the same server ends the first, and with it all its acks: it may have cut its log in between.
* PINGs begin with NEWLEADER, not with the first client: a follower that has acked it waits for syncLimit ticks only.
* A voter that has accepted the later epoch of a leader that came to nothing refuses this one's. With Apache it is lost until
  another server fails; here the leader steps down, so that the next epoch is above both.
* A learner from before 3.4 is served, but not counted: it promises nothing.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from zkpy.core.leading import LeadingService
from zkpy.core.pipeline.prep import WRITE_OPS
from zkpy.core.pipeline.request import Request
from zkpy.core.zab.effects import ReadHistory, SaveAcceptedEpoch, SaveCurrentEpoch, SaveProposedConfig
from zkpy.core.zab.learner_handler import (
    NO_PROMISE,
    LearnerHandler,
    Stage,
    read_request,
    read_revalidate,
    read_touched,
)
from zkpy.core.zab.peer_state import counter_of, epoch_of, first_of
from zkpy.core.zab.reconfig import activate, saw, write_config_node
from zkpy.core.zab.sync import HistoryNeeded, plan_sync
from zkpy_protocol.errors import ProtocolError
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.quorum_packets import PacketType, encode_packet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zkpy.core.membership import EnsembleView, Membership
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.peer_state import PeerState
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy_protocol.records import QuorumPacket

_BEATS_PER_TICK = 2
_UNTRUSTED_ZXID = -1
_SYNC_ZXID = 0
_TIMEOUT_BYTES = 4
_PROPOSAL = int(PacketType.PROPOSAL)
_COMMIT = int(PacketType.COMMIT)
_INFORM = int(PacketType.INFORM)
_RECONFIG = int(OpCode.RECONFIG)
_frame_head = struct.Struct(">ii")
_suggested = struct.Struct(">q")


class Phase(IntEnum):
    """What the leader waits for."""

    DISCOVERY = 0
    PROMISING = 1
    COMPARING = 2
    ENTERING = 3
    SYNCHRONIZATION = 4
    BROADCAST = 5


_AWAITED = {
    Phase.DISCOVERY: "accepted epochs",
    Phase.COMPARING: "epoch acks",
    Phase.SYNCHRONIZATION: "NEWLEADER acks",
}


class Leader:
    """A server that leads, or is about to. Also the `Broadcaster` and the `Ensemble` of its service.

    Attributes:
        phase: how far it is.
        service: serves clients and learners' requests, from the NEWLEADER quorum on.
        over: why the role has ended; from then on nothing is promised, committed or answered.
        established_epoch: the epoch once a quorum has synchronized with this leader.
        designated_leader: who should lead next without an election, after a reconfig that moved the leadership.
        disloyal_voter: set from outside while one of those that elected this server is LOOKING again (§7.3).
    """

    __slots__ = (
        "_anonymous_id",
        "_beat",
        "_by_id",
        "_committed_quorum",
        "_durable",
        "_epoch",
        "_epoch_acks",
        "_followers",
        "_handlers",
        "_history",
        "_init_beats",
        "_left",
        "_lost_voters",
        "_mono_ms",
        "_observers",
        "_phase_beat",
        "_promised",
        "_served_since_ms",
        "_started_ms",
        "_state",
        "_stats",
        "_sync_beats",
        "_synced",
        "_syncs",
        "_unsaved_config",
        "_wall_ms",
        "designated_leader",
        "disloyal_voter",
        "established_epoch",
        "over",
        "phase",
        "service",
    )

    def __init__(self, state: PeerState, wall_ms: int, mono_ms: int) -> None:
        """Begin to lead with what is in the database: everything this server has logged counts as committed."""
        options = state.options
        self._state = state
        self._stats = state.stats
        self._stats.proposal_sizes.reset()
        self._wall_ms = wall_ms
        self._mono_ms = self._started_ms = mono_ms
        # Half ticks so far, and at the beginning of the phase.
        self._beat = self._phase_beat = 0
        self._init_beats = _BEATS_PER_TICK * options.init_limit
        self._sync_beats = _BEATS_PER_TICK * options.sync_limit
        # By link, in the order of their connecting; and the last one of each server.
        self._handlers: dict[QuorumLink, LearnerHandler] = {}
        self._by_id: dict[int, LearnerHandler] = {}
        self._anonymous_id = 0
        # Who gets live packets.
        self._followers: list[LearnerHandler] = []
        self._observers: list[LearnerHandler] = []
        self._committed_quorum = state.view.committed.verifier
        self._epoch = state.accepted_epoch + 1
        # What this server's history is compared by.
        self._history = (state.current_epoch, state.database.tree.last_zxid)
        # Servers that have told their accepted epoch, acked the new one, acked NEWLEADER.
        self._promised = {state.server_id}
        self._epoch_acks: set[int] = set()
        self._synced: set[int] = set()
        # Followers that have promised more than this epoch, and what.
        self._lost_voters: dict[int, int] = {}
        # Learners that wait for the commit of a zxid.
        self._syncs: dict[int, list[LearnerHandler]] = {}
        self._durable = state.database.tree.last_zxid
        # What was not committed when the role ended.
        self._left: list[Txn] = []
        # A proposed configuration that is not on disk: its txn counts as persisted here when it is.
        self._unsaved_config: Membership | None = None
        self._served_since_ms: int | None = None
        self.phase = Phase.DISCOVERY
        self.service: LeadingService | None = None
        self.over: str | None = None
        self.established_epoch: int | None = None
        self.designated_leader: int | None = None
        self.disloyal_voter = False
        self._decide_epoch()

    @property
    def epoch(self) -> int:
        """The epoch, final from PROMISING on."""
        return self._epoch

    @property
    def pending(self) -> list[Txn]:
        """Txns that were handed to the log and are not applied, ascending."""
        return self._left if self.service is None else self.service.proposals.outstanding_txns()

    @property
    def _is_over(self) -> bool:
        # `over` itself may change in any call. Compiled, what a test of it has shown is taken for granted until the end.
        return self.over is not None

    def _step_down(self, reason: str) -> None:
        if self.over is None:
            self.over = reason

    def close(self) -> None:
        """The role is over, or the server stops: every learner and client has to look for another leader."""
        self._step_down("the role was closed")
        for handler in self._handlers.values():
            handler.link.close(f"not leading any more: {self.over}")
        self._handlers.clear()
        self._by_id.clear()
        self._followers.clear()
        self._observers.clear()
        service = self.service
        if service is not None:
            service.close()
            self._left = service.proposals.outstanding_txns()
            # It refers to this role, and to a tree that may have to make room for another one.
            self.service = None

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._phase_beat = self._beat

    # -- links

    def connected(self, link: QuorumLink) -> None:
        """A learner has connected; it has to speak first."""
        synced_until = self._beat + self._init_beats + self._sync_beats
        self._handlers[link] = LearnerHandler(link, self._beat, synced_until)

    def disconnected(self, link: QuorumLink) -> None:
        """The connection is gone."""
        handler = self._handlers.pop(link, None)
        if handler is not None:
            self._trace("learner.disconnected", **self._named(handler), reason=link.closed)
            self._forget(handler)

    def _drop(self, handler: LearnerHandler, reason: str) -> None:
        """Close the connection of a learner."""
        handler.link.close(reason)
        self._trace("learner.dropped", **self._named(handler), reason=reason)
        del self._handlers[handler.link]
        self._forget(handler)

    def _forget(self, handler: LearnerHandler) -> None:
        if self._by_id.get(handler.server_id) is handler:
            del self._by_id[handler.server_id]
            if self.service is not None:
                self.service.proposals.forget(handler.server_id)
        live = self._observers if handler.is_observer else self._followers
        if handler in live:
            live.remove(handler)
        if handler.stage is Stage.SYNCING:
            self._note_sync(handler.mode)

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket], wall_ms: int, mono_ms: int) -> None:
        """Packets of a learner, in order. An empty list is a sign of life: it has taken a piece of its snapshot."""
        self._wall_ms, self._mono_ms = wall_ms, mono_ms
        handler = self._handlers.get(link)
        if handler is None or self._is_over:
            return
        handler.heard(self._beat, self._beat + self._sync_beats)
        acked = handler.acked
        for packet in packets:
            try:
                self._packet(handler, packet)
            except ProtocolError as error:
                self._drop(handler, str(error))
            if link.closed is not None or self._is_over:
                return
        if handler.acked > acked and handler.stage is not Stage.SYNCING:
            # What came together is counted once: an ack covers all before it.
            self._count_acks(handler)

    def _packet(self, handler: LearnerHandler, packet: QuorumPacket) -> None:
        stage = handler.stage
        if stage >= Stage.SYNCING:
            self._live_packet(handler, packet)
        elif stage is Stage.NEW:
            handler.introduce(packet, self._anonymous_id - 1)
            self._introduced(handler)
        elif stage is Stage.OFFERED:
            self._compare(handler, handler.read_ack_epoch(packet))
        else:
            raise ProtocolError(f"packet of type {packet.type} before the leader's answer")

    # -- discovery: the epoch (§7.2 steps 2 and 3)

    def _introduced(self, handler: LearnerHandler) -> None:
        state = self._state
        server_id = handler.server_id
        self._anonymous_id = min(self._anonymous_id, server_id)
        if server_id == state.server_id:
            raise ProtocolError("it claims the id of this server")
        if handler.config_version > state.view.committed.version:
            raise ProtocolError(f"its configuration 0x{handler.config_version:x} is ahead of the leader's")
        before = self._by_id.get(server_id)
        if before is not None:
            self._drop(before, "the server has connected anew")
        self._by_id[server_id] = handler
        handler.enter(Stage.KNOWN, self._beat)
        if self.phase is Phase.DISCOVERY:
            self._epoch = max(self._epoch, handler.accepted_epoch + 1)
            if handler.counts:
                self._promised.add(server_id)
            self._decide_epoch()
        elif self.phase >= Phase.COMPARING:
            self._offer_epoch(handler)
            if handler.counts and handler.accepted_epoch > self._epoch:
                self._lost_voters[server_id] = handler.accepted_epoch

    def _decide_epoch(self) -> None:
        if self._committed_quorum.is_quorum(self._promised):
            self._enter(Phase.PROMISING)
            self._state.effects.append(SaveAcceptedEpoch(self._epoch))

    def _promise_saved(self) -> None:
        """Own acceptedEpoch is on disk: tell the learners."""
        state = self._state
        committed = state.view.committed
        self._trace("leader.epoch_decided", epoch=self._epoch, servers=sorted(self._promised))
        if committed.version == 0 and state.view.last_seen.version == 0:
            # A configuration that was established is to win over those that never were (ZOOKEEPER-1783).
            saw(state, committed.with_version(first_of(self._epoch)))
        self._enter(Phase.COMPARING)
        self._epoch_acks.add(state.server_id)
        for handler in list(self._handlers.values()):
            if handler.stage is Stage.KNOWN:
                self._offer_epoch(handler)
        self._decide_history()

    def _offer_epoch(self, handler: LearnerHandler) -> None:
        if not handler.offer_epoch(self._epoch, self._beat):
            self._compare(handler, epoch_of(handler.peer_zxid))

    # -- discovery: the history (§7.2 step 4)

    def _compare(self, handler: LearnerHandler, current_epoch: int) -> None:
        """A learner has told its history. Once a quorum has, nobody is compared any more: the history is settled."""
        if self.phase is Phase.COMPARING and current_epoch != NO_PROMISE:
            if (current_epoch, handler.peer_zxid) > self._history:
                self._drop(handler, "its history is ahead of the leader's")
                return
            if handler.counts and handler.peer_zxid != _UNTRUSTED_ZXID:
                self._epoch_acks.add(handler.server_id)
        handler.enter(Stage.COMPARED, self._beat)
        if self.phase is Phase.COMPARING:
            self._decide_history()
        elif self.phase >= Phase.SYNCHRONIZATION:
            self._synchronize(handler, None)

    def _decide_history(self) -> None:
        if self._committed_quorum.is_quorum(self._epoch_acks):
            self._enter(Phase.ENTERING)
            self._state.effects.append(SaveCurrentEpoch(self._epoch))

    def _epoch_entered(self) -> None:
        """Own currentEpoch is on disk, which is this server's own ack of NEWLEADER."""
        self._enter(Phase.SYNCHRONIZATION)
        for handler in list(self._handlers.values()):
            if handler.stage is Stage.COMPARED:
                self._synchronize(handler, None)
        self._acked_new_leader(self._state.server_id)

    # -- synchronization (§8)

    def _synchronize(self, handler: LearnerHandler, history: Sequence[Txn] | None) -> None:
        """Bring a learner up to date, or ask for the part of the log that takes; then `history` is what was found."""
        state = self._state
        database = state.database
        last_zxid = database.tree.last_zxid
        plan = plan_sync(
            handler.peer_zxid,
            last_zxid,
            database.committed_log.txns(),
            history,
            may_read=state.options.snapshot_size_factor >= 0,
        )
        if isinstance(plan, HistoryNeeded):
            state.effects.append(ReadHistory(handler.link, plan.from_zxid, plan.reach_zxid))
            return
        if handler.is_observer and self._is_busy_with(plan.mode):
            self._drop(handler, "too many learners synchronize at this moment")
            return
        self._trace(
            "learner.synchronizing",
            **self._named(handler),
            mode=plan.mode.name,
            zxid=plan.zxid,
            peer_zxid=handler.peer_zxid,
            txns=len(plan.txns),
        )
        # What NEWLEADER names is committed by UPTODATE. Compat: Apache names a reconfiguration under way as well.
        view = state.view
        config = (view.committed if self.phase is Phase.BROADCAST else view.last_seen).text()
        handler.synchronize(plan, database, self.pending, self._epoch, config, self._beat)
        (self._observers if handler.is_observer else self._followers).append(handler)
        if plan.mode == PacketType.SNAP:
            self._stats.snaps += 1
        else:
            self._stats.diffs += 1
        self._note_sync(plan.mode)
        self._stats.learner_queue(handler.server_id).add(len(handler.link.out))

    def _note_sync(self, mode: PacketType) -> None:
        """A sync has begun or ended."""
        is_snap = mode == PacketType.SNAP
        series = self._stats.inflight_snaps if is_snap else self._stats.inflight_diffs
        series.add(self._count_syncs(is_snap=is_snap))

    def _count_syncs(self, *, is_snap: bool) -> int:
        return sum(
            1
            for handler in self._handlers.values()
            if handler.stage is Stage.SYNCING and (handler.mode == PacketType.SNAP) is is_snap
        )

    def _is_busy_with(self, mode: PacketType) -> bool:
        """Whether an observer has to come again later; followers never have to (§8.4)."""
        options = self._state.options
        is_snap = mode == PacketType.SNAP
        limit = options.max_concurrent_snap_syncs if is_snap else options.max_concurrent_diff_syncs
        return self._count_syncs(is_snap=is_snap) >= limit

    def _acked_new_leader(self, server_id: int) -> None:
        self._synced.add(server_id)
        if self.phase is Phase.SYNCHRONIZATION and self._state.view.is_quorum(self._synced):
            self._begin_broadcast()

    def _begin_broadcast(self) -> None:
        """A quorum has this leader's history: it is committed, and the epoch established (§11.1)."""
        state = self._state
        self._enter(Phase.BROADCAST)
        state.database.tree.last_zxid = first_of(self._epoch)
        stays = self._activate_proposed_config()
        service = LeadingService(state.parts, state.database, state.view, self, self._wall_ms, self._mono_ms)
        service.allow_reconfig(self)
        service.is_serving = state.options.leader_serves
        if not stays:
            service.proposals.commit_no_further(first_of(self._epoch))
        self.service = service
        self.established_epoch = self._epoch
        self._served_since_ms = self._mono_ms
        self._trace("leader.established", epoch=self._epoch, servers=sorted(self._synced))
        for handler in self._handlers.values():
            if handler.stage is Stage.SYNCED:
                handler.up_to_date(self._beat)
        service.close_orphans(self._wall_ms, self._mono_ms)

    # -- broadcast: what learners send (§9)

    def _live_packet(self, handler: LearnerHandler, packet: QuorumPacket) -> None:
        kind = packet.type
        service = self.service
        if kind == PacketType.ACK:
            self._acked(handler, packet.zxid)
        elif kind == PacketType.PING:
            if service is not None:
                for session_id, timeout_ms in read_touched(packet):
                    service.touch(session_id, timeout_ms, self._mono_ms)
        elif kind in (PacketType.REQUEST, PacketType.REVALIDATE):
            if handler.stage is not Stage.LIVE or service is None:
                raise ProtocolError("it serves clients before UPTODATE")
            if kind == PacketType.REQUEST:
                self._request(service, handler, packet)
            else:
                session_id, timeout_ms = read_revalidate(packet)
                self._stats.revalidations += 1
                valid = service.revalidate(session_id, timeout_ms, handler.link, self._mono_ms)
                handler.revalidated(packet.zxid, session_id, valid)
        else:
            self._trace("learner.packet_ignored", server_id=handler.server_id, type=kind)

    def _acked(self, handler: LearnerHandler, zxid: int) -> None:
        """ACK of NEWLEADER, of UPTODATE, or of a txn and all before it; in any order (ZOOKEEPER-4685)."""
        if zxid == first_of(self._epoch):
            if handler.stage is Stage.SYNCING:
                self._learner_synced(handler)
            return
        if counter_of(zxid) == 0:
            raise ProtocolError(f"it acks the start of epoch {epoch_of(zxid)}")
        if zxid > self._last_proposed():
            raise ProtocolError(f"it acks 0x{zxid:x}, which was not proposed")
        handler.acked = max(handler.acked, zxid)

    def _learner_synced(self, handler: LearnerHandler) -> None:
        handler.enter(Stage.SYNCED, self._beat)
        self._note_sync(handler.mode)
        self._trace("learner.synced", **self._named(handler))
        handler.acked = max(handler.acked, first_of(self._epoch))
        if handler.counts:
            self._acked_new_leader(handler.server_id)
        if self.service is not None and handler.stage is Stage.SYNCED:
            handler.up_to_date(self._beat)
        self._count_acks(handler)

    def _count_acks(self, handler: LearnerHandler) -> None:
        if handler.counts and self.service is not None:
            self.service.acked(handler.server_id, handler.acked, self._mono_ms)

    def _last_proposed(self) -> int:
        return first_of(self._epoch) if self.service is None else self.service.proposals.last_proposed

    def _request(self, service: LeadingService, handler: LearnerHandler, packet: QuorumPacket) -> None:
        session_id, cxid, op, record = read_request(packet)
        if op == OpCode.SYNC:
            self._sync(service, handler)
            return
        if op == OpCode.CREATE_SESSION and len(record) != _TIMEOUT_BYTES:
            raise ProtocolError(f"createSession with {len(record)} bytes")
        frame = _frame_head.pack(cxid, op) + record
        ids = tuple(packet.authinfo or ())
        request = Request(None, session_id, cxid, op, frame, ids, self._mono_ms)
        request.owner = handler.link
        if op not in WRITE_OPS:
            # A check outside a multi above all: as a txn it would end the replay of every log (ZOOKEEPER-2623).
            request.refusal = ErrorCode.UNIMPLEMENTED
        service.submit_remote(request, self._wall_ms)

    def _sync(self, service: LeadingService, handler: LearnerHandler) -> None:
        """Answer a sync behind the commit of everything proposed so far (§9.7)."""
        if len(service.proposals):
            self._syncs.setdefault(service.proposals.last_proposed, []).append(handler)
        else:
            handler.link.send(encode_packet(PacketType.SYNC, _SYNC_ZXID))

    # -- broadcast: what learners are told (`Broadcaster`)

    def proposed(self, txn: Txn) -> None:
        """Tell the followers, while the own log writes it."""
        self._stats.proposal_sizes.add(len(txn.payload))
        packet = encode_packet(_PROPOSAL, txn.zxid, txn.payload)
        for handler in self._followers:
            handler.link.send(packet)

    def committed(self, txn: Txn) -> None:
        """Tell everybody."""
        zxid = txn.zxid
        if txn.type == _RECONFIG:
            commit, inform = self._reconfig_committed(txn)
        else:
            self._stats.commits += 1
            commit = encode_packet(_COMMIT, zxid)
            inform = encode_packet(_INFORM, zxid, txn.payload) if self._observers else b""
        for handler in self._followers:
            handler.commit(commit)
        for handler in self._observers:
            handler.commit(inform)
        for handler in self._syncs.pop(zxid, ()):
            handler.link.send(encode_packet(PacketType.SYNC, _SYNC_ZXID))

    def exhausted(self) -> None:
        """No zxid is left in this epoch; the next leader has a new one (ZOOKEEPER-1277)."""
        self._step_down(f"the zxids of epoch {self._epoch} are used up")

    # -- the disk

    def persisted(self, zxid: int, mono_ms: int) -> None:
        """Own log is durable up to `zxid`."""
        self._mono_ms = mono_ms
        self._durable = zxid
        if self.service is None or self._is_over:
            return
        unsaved = self._unsaved_config
        self.service.persisted(zxid if unsaved is None else min(zxid, unsaved.version - 1), mono_ms)

    def done(self, effect: Effect, result: object, wall_ms: int, mono_ms: int) -> None:
        """An effect is carried out; epochs have been entered into the state."""
        self._wall_ms, self._mono_ms = wall_ms, mono_ms
        if self._is_over:
            return
        if isinstance(effect, SaveAcceptedEpoch):
            assert self.phase is Phase.PROMISING
            assert self._state.accepted_epoch == self._epoch
            self._promise_saved()
        elif isinstance(effect, SaveCurrentEpoch):
            assert self.phase is Phase.ENTERING
            assert self._state.current_epoch == self._epoch
            self._epoch_entered()
        elif isinstance(effect, ReadHistory):
            handler = self._handlers.get(effect.link)
            if handler is not None:
                assert result is None or isinstance(result, list)
                self._synchronize(handler, result or ())
        elif isinstance(effect, SaveProposedConfig):
            unsaved = self._unsaved_config
            if unsaved is not None and unsaved.text() == effect.text:
                self._unsaved_config = None
                self.persisted(self._durable, mono_ms)

    # -- time (§11.2)

    def tick(self, wall_ms: int, mono_ms: int) -> None:
        """Half a tick time has passed."""
        if self._is_over:
            return
        self._wall_ms, self._mono_ms = wall_ms, mono_ms
        self._beat += 1
        for handler in list(self._handlers.values()):
            if handler.is_silent(self._beat, self._init_beats, self._sync_beats):
                self._drop(handler, f"no answer while {handler.stage.name}")
            elif handler.is_stuck(self._last_proposed(), self._beat, self._sync_beats):
                self._drop(handler, "a proposal was not acked in time")
        if self.service is not None:
            self._check_quorum()
            if not self._is_over:
                self.service.tick(wall_ms, mono_ms)
        else:
            self._check_patience()
        if not self._is_over:
            self._ping()

    def _check_patience(self) -> None:
        """Give up when the quorum that is waited for does not come together."""
        awaited = _AWAITED.get(self.phase)
        if awaited is not None and self._beat - self._phase_beat > self._init_beats:
            self._step_down(f"too few {awaited} within initLimit")
        limit_ms = self._state.options.max_time_to_wait_for_epoch_ms
        waited_ms = self._mono_ms - self._started_ms
        if self.phase is Phase.DISCOVERY and self.disloyal_voter and 0 <= limit_ms < waited_ms:
            self._stats.disloyal_voter_exits += 1
            self._step_down("a voter that elected this server has changed its mind")

    def _check_quorum(self) -> None:
        if (self._beat - self._phase_beat) % _BEATS_PER_TICK:
            return
        present = self._heard_of(Stage.KNOWN)
        if not self._state.view.is_quorum(present):
            self._step_down(f"no quorum is left: only servers {sorted(present)} are there")
        for server_id, accepted_epoch in self._lost_voters.items():
            if server_id in self._state.view.voters():
                self._step_down(f"server {server_id} has accepted epoch {accepted_epoch} and cannot follow")
        if self.designated_leader is not None and self._beat - self._phase_beat > self._sync_beats:
            self._step_down(f"server {self.designated_leader} leads by the new configuration")

    def _heard_of(self, stage: Stage) -> set[int]:
        """This server, and the followers that are so far and were heard of lately."""
        heard = {
            handler.server_id
            for handler in self._handlers.values()
            if handler.stage >= stage and handler.counts and self._beat <= handler.synced_until
        }
        return heard | {self._state.server_id}

    def _ping(self) -> None:
        packet = encode_packet(PacketType.PING, self._last_proposed())
        for handler in (*self._followers, *self._observers):
            self._stats.learner_queue(handler.server_id).add(len(handler.link.out))
            handler.link.send(packet)

    # -- what operators may know

    @property
    def uptime_ms(self) -> int:
        """Since it serves; 0 before."""
        return 0 if self._served_since_ms is None else self._mono_ms - self._served_since_ms

    @property
    def learner_count(self) -> int:
        """Connections, whatever their stage."""
        return len(self._handlers)

    @property
    def follower_ids(self) -> list[int]:
        """Followers that get live packets, in the order in which they came."""
        return [handler.server_id for handler in self._followers]

    @property
    def observer_count(self) -> int:
        """Observers that get live packets."""
        return len(self._observers)

    @property
    def pending_sync_count(self) -> int:
        """Zxids whose commit learners' syncs wait for."""
        return len(self._syncs)

    # -- reconfiguration (`Ensemble`, §12)

    @property
    def view(self) -> EnsembleView:
        """The committed and the last seen membership."""
        return self._state.view

    @property
    def standalone_enabled(self) -> bool:
        """As configured."""
        return self._state.options.standalone_enabled

    @property
    def multi_address_enabled(self) -> bool:
        """As configured."""
        return self._state.options.multi_address_enabled

    def synced(self) -> set[int]:
        """This server, and the followers that have its history and were heard of lately, members or not."""
        return self._heard_of(Stage.SYNCED)

    def reconfigured(self, membership: Membership) -> None:
        """A reconfig is about to be proposed: it and what follows need quorums of the old and the new members."""
        service = self.service
        assert service is not None
        zxid = membership.version
        stays = self._remains_leader(membership)
        is_new = saw(self._state, membership)
        assert is_new, "its version is the zxid that the txn gets"
        self._unsaved_config = membership
        service.proposals.change_quorum(self._state.view, zxid)
        if not stays:
            service.proposals.commit_no_further(zxid)

    def _reconfig_committed(self, txn: Txn) -> tuple[bytes, bytes]:
        """Activate the membership of the txn; the packets that tell followers and observers to do so."""
        service = self.service
        assert service is not None
        membership = self._state.view.last_seen
        assert membership.version == txn.zxid, "one reconfig at a time"
        acked = {server_id: service.proposals.acked_by(server_id) for server_id in membership.participants}
        suggested = self._suggested_leader(
            membership, {server_id: upto for server_id, upto in acked.items() if upto >= txn.zxid}
        )
        self._activate(membership, suggested)
        service.proposals.change_quorum(self._state.view, service.proposals.last_proposed + 1)
        data = _suggested.pack(suggested)
        return (
            encode_packet(PacketType.COMMIT_AND_ACTIVATE, txn.zxid, data),
            encode_packet(PacketType.INFORM_AND_ACTIVATE, txn.zxid, data + txn.payload),
        )

    def _activate_proposed_config(self) -> bool:
        """The NEWLEADER quorum has committed the last seen membership. False: another server is to lead by it."""
        state = self._state
        if not state.options.reconfig_enabled:
            write_config_node(state.database.tree, state.view.committed, self._wall_ms)
            return True
        membership = state.view.last_seen
        acked = dict.fromkeys(self._synced & membership.voters, first_of(self._epoch))
        self._activate(membership, self._suggested_leader(membership, acked))
        write_config_node(state.database.tree, membership, self._wall_ms)
        return self.designated_leader is None

    def _activate(self, membership: Membership, suggested: int) -> None:
        activate(self._state, membership)
        self._trace("config.activated", config_version=membership.version, suggested_leader=suggested)
        if suggested != self._state.server_id:
            # Not this server but the followers leave, so that all of them get to know whom to follow.
            self.designated_leader = suggested
            self._phase_beat = self._beat

    def _remains_leader(self, membership: Membership) -> bool:
        """Whether this server can go on: it votes in the new configuration, at the same address or without need of others."""
        server_id = self._state.server_id
        new = membership.servers.get(server_id)
        old = self._state.view.committed.servers.get(server_id)
        if new is None or new.is_observer:
            return False
        if old is None or membership.verifier.is_quorum({server_id}):
            return True
        return [(at.host, at.quorum_port) for at in old.addresses] == [
            (at.host, at.quorum_port) for at in new.addresses
        ]

    def _suggested_leader(self, membership: Membership, acked: Mapping[int, int]) -> int:
        """This server if it can go on, else the new voter that has most of what is proposed. `acked` all have the change."""
        if self._remains_leader(membership):
            return self._state.server_id
        # This server alone is no quorum, so that somebody else has acked.
        others = sorted(id_ for id_ in acked if id_ != self._state.server_id)
        return max(others, key=lambda id_: acked[id_])

    def _named(self, handler: LearnerHandler) -> dict[str, object]:
        role = "observer" if handler.is_observer else "follower"
        return {"server_id": handler.server_id, "role": role, "address": handler.link.name}

    def _trace(self, event: str, **values: object) -> None:
        self._state.trace.append((event, values))
