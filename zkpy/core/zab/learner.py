"""The learner's side of ZAB: a follower or observer, from the election that chose its leader to the end of that leader.

    CONNECTING ─connected─► DISCOVERY ─LEADERINFO─► PROMISING (acceptedEpoch) ─ACKEPOCH─► MODE
      MODE ─DIFF──────────────────────────────────────────┐
      MODE ─SNAP─► RECEIVING (the stream behind it) ──────┼─► HISTORY ─NEWLEADER─► PERSISTING ─ACK─► SYNCED
      MODE ─TRUNC─► REBUILDING (memory as of its zxid) ───┘                                            │
                                                            BROADCAST ◄──ACK, start to serve──UPTODATE─┘

Owns the phases, the connection and its deadlines; `learner_sync` owns what happens to memory and disk. Packets that come
while a phase waits for the disk are taken up afterwards, in order.

Invariants:
    * An ACK of a proposal is made when `persisted` has covered it, the ACK of NEWLEADER when the steps of `LearnerSync.persist`
      are done, an ACKEPOCH when acceptedEpoch is saved.
    * `over` is set when nothing of this role is on its way to the disk, and PERSISTING always runs to its end: log, memory and
      epochs belong together when the next election begins.

Where this is stricter than Apache: a gap between proposals ends the role (see `pending`), and a server that cannot follow a
TRUNC ends with exit code 13 also when Apache would go on with a state that is not the leader's. Reporting less than was logged,
to get a SNAP instead, is no way out: the leader may be counting on this server's history. The operator removes its data.

Whoever drives it has applied SaveAcceptedEpoch and SaveCurrentEpoch to the `PeerState` when it calls `done`.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

from zkpy.core.learning import LearningService
from zkpy.core.zab import learner_packets
from zkpy.core.zab.database import Database
from zkpy.core.zab.effects import LoadDatabase, ReadHistory, SaveAcceptedEpoch, SaveCurrentEpoch
from zkpy.core.zab.learner_sync import LearnerSync, UnreachableZxidError
from zkpy.core.zab.observer_master import ObserverMaster
from zkpy.core.zab.peer_state import counter_of, epoch_of, first_of
from zkpy.core.zab.reconfig import activate, is_observer_in, moves_leader, saw, write_config_node
from zkpy_protocol.errors import ProtocolError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zkpy.core.data_tree import DataTree
    from zkpy.core.membership import Membership
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.peer_state import PeerState
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy_protocol.records import Id, QuorumPacket

    Handler = Callable[[QuorumPacket, int, int], None]

UNMATCHED_COMMIT = 12
"""Exit code: a COMMIT that is not the next one. The leader's history and this server's have parted."""
UNUSABLE_SYNC = 13
"""Exit code: a TRUNC to a txn that is not on disk."""

DIAL_TRIES_MAX = 5
_RECONFIG = int(OpCode.RECONFIG)
_NO_PROMISE = -1
_UNTRUSTED_ZXID = -1


class Phase(IntEnum):
    """What a learner waits for."""

    CONNECTING = 0
    DISCOVERY = 1
    PROMISING = 2
    MODE = 3
    RECEIVING = 4
    REBUILDING = 5
    HISTORY = 6
    PERSISTING = 7
    SYNCED = 8
    BROADCAST = 9


_WAITS_FOR_DISK = frozenset((Phase.PROMISING, Phase.REBUILDING, Phase.PERSISTING))
_HOLDS_PACKETS = _WAITS_FOR_DISK | {Phase.RECEIVING}


class Learner:
    """A follower or observer of one leader.

    Attributes:
        link: the connection to the leader, once there is one.
        service: serves clients, from UPTODATE until the role ends.
        over: why the role has ended.
        fatal: exit code and reason when this server must stop at once; `over` stays None then.
        established_epoch: the leader's epoch once its UPTODATE is acked.
        master_id: the server at which an observer gets it all; the leader itself, if it is not told otherwise.
        observer_master: what this server does for observers, while it follows and is to.
        designated_leader: whom to follow next, without an election; None means election.
        database_lost: once it is over: the database has to be read from disk before the next election.
    """

    __slots__ = (
        "_asked",
        "_dials_left",
        "_epoch",
        "_handlers",
        "_heard_ms",
        "_inbox",
        "_is_observer",
        "_offered",
        "_patience_ms",
        "_phase",
        "_reason",
        "_state",
        "_stats",
        "_sync",
        "_sync_began_ms",
        "_ticked_ms",
        "_unacked",
        "database_lost",
        "designated_leader",
        "established_epoch",
        "fatal",
        "leader_id",
        "link",
        "master_id",
        "observer_master",
        "over",
        "service",
    )

    def __init__(
        self,
        state: PeerState,
        leader_id: int,
        is_observer: bool,
        wall_ms: int,  # noqa: ARG002  roles are made alike
        mono_ms: int,
        master_id: int | None = None,
    ) -> None:
        options = state.options
        self._state = state
        self._stats = state.stats
        self._is_observer = is_observer
        self._phase = Phase.CONNECTING
        self._handlers = self._observer_handlers() if is_observer else self._follower_handlers()
        self._sync = LearnerSync(state, not is_observer or options.sync_enabled, self._ask)
        self._reason: str | None = None
        # Effects under way.
        self._asked = 0
        # What came while the disk was waited for. The shell does not read meanwhile, so it is what one read can hold.
        self._inbox: deque[QuorumPacket] = deque()
        # When the leader was last heard of, and how long it may be silent from then on.
        self._heard_ms = self._ticked_ms = mono_ms
        limit = options.connect_to_learner_master_limit or options.init_limit
        self._patience_ms = limit * options.tick_time_ms
        self._dials_left = DIAL_TRIES_MAX
        self._epoch = 0
        self._sync_began_ms = 0
        # The leader's configuration, as NEWLEADER had it.
        self._offered: Membership | None = None
        # Handed to the log, and to be acked when they are durable.
        self._unacked: deque[int] = deque()
        self.leader_id = leader_id
        self.master_id = leader_id if master_id is None else master_id
        self.observer_master: ObserverMaster | None = None
        self.link: QuorumLink | None = None
        self.service: LearningService | None = None
        self.over: str | None = None
        self.fatal: tuple[int, str] | None = None
        self.established_epoch: int | None = None
        self.designated_leader: int | None = None
        self.database_lost = False

    def _follower_handlers(self) -> dict[Phase, dict[int, Handler]]:
        """What each packet means in each phase.

        Before HISTORY any other packet is an error; from then on Apache skips what it does not expect, and so do we.
        """
        return {
            **self._handlers_before_history(),
            Phase.HISTORY: {**self._handlers_of_proposals(), **self._handlers_of_turn()},
            Phase.SYNCED: {**self._handlers_of_proposals(), PacketType.UP_TO_DATE: self._on_up_to_date},
            Phase.BROADCAST: {
                PacketType.PROPOSAL: self._on_proposal,
                PacketType.COMMIT: self._on_commit,
                PacketType.COMMIT_AND_ACTIVATE: self._on_commit_and_activate,
                **self._handlers_of_service(),
            },
        }

    def _observer_handlers(self) -> dict[Phase, dict[int, Handler]]:
        """The same for an observer: the leader's past comes as to a follower, what is new as INFORM."""
        informs: dict[int, Handler] = {
            PacketType.INFORM: self._on_history_inform,
            PacketType.INFORM_AND_ACTIVATE: self._on_history_inform_and_activate,
        }
        return {
            **self._handlers_before_history(),
            Phase.HISTORY: {**self._handlers_of_proposals(), **informs, **self._handlers_of_turn()},
            Phase.SYNCED: {**informs, PacketType.UP_TO_DATE: self._on_up_to_date},
            Phase.BROADCAST: {
                PacketType.INFORM: self._on_inform,
                PacketType.INFORM_AND_ACTIVATE: self._on_inform_and_activate,
                **self._handlers_of_service(),
            },
        }

    def _handlers_before_history(self) -> dict[Phase, dict[int, Handler]]:
        return {
            Phase.DISCOVERY: {PacketType.LEADER_INFO: self._on_leader_info},
            Phase.MODE: {
                PacketType.DIFF: self._on_diff,
                PacketType.SNAP: self._on_snap,
                PacketType.TRUNC: self._on_trunc,
            },
        }

    def _handlers_of_proposals(self) -> dict[int, Handler]:
        return {
            PacketType.PROPOSAL: self._on_history_proposal,
            PacketType.COMMIT: self._on_history_commit,
            PacketType.COMMIT_AND_ACTIVATE: self._on_history_commit_and_activate,
        }

    def _handlers_of_turn(self) -> dict[int, Handler]:
        return {
            PacketType.NEW_LEADER: self._on_new_leader,
            PacketType.UP_TO_DATE: self._on_early_up_to_date,
        }

    def _handlers_of_service(self) -> dict[int, Handler]:
        return {
            PacketType.PING: self._on_ping,
            PacketType.REVALIDATE: self._on_revalidate,
            PacketType.SYNC: self._on_sync,
        }

    # -- what the driver asks

    @property
    def wants_connection(self) -> bool:
        """Whether the shell should go on dialling the leader."""
        return self._phase == Phase.CONNECTING and self._reason is None

    @property
    def next_deadline_ms(self) -> int:
        """When the leader's silence becomes too long."""
        return self._heard_ms + self._patience_ms

    @property
    def pending(self) -> list[Txn]:
        """Txns that were handed to the log and are not applied, ascending."""
        return self._sync.in_log

    # -- time

    def tick(self, wall_ms: int, mono_ms: int) -> None:
        """Half a tick time has passed, or `next_deadline_ms` has come."""
        if self._reason is not None:
            return
        if self._phase in _WAITS_FOR_DISK or mono_ms - self._ticked_ms > self._state.options.tick_time_ms:
            # Whoever waits for the disk, or did not run for a while, has not listened.
            self._heard_ms = mono_ms
        self._ticked_ms = mono_ms
        if self.observer_master is not None:
            self.observer_master.tick()
        if mono_ms >= self.next_deadline_ms:
            self._end(f"the leader was silent for {mono_ms - self._heard_ms} ms")
        elif self.service is not None:
            self.service.tick(wall_ms, mono_ms)

    def _listen(self, limit_ticks: int, mono_ms: int) -> None:
        self._heard_ms = mono_ms
        self._patience_ms = limit_ticks * self._state.options.tick_time_ms

    # -- the link

    def dial_failed(self, reason: str) -> None:
        """An attempt to reach the leader has failed; after as many as with Apache it is time for another leader."""
        self._dials_left -= 1
        if self._dials_left == 0 and self.wants_connection:
            self._end(f"the leader cannot be reached: {reason}")

    def connected(self, link: QuorumLink) -> None:
        """The connection to the leader stands."""
        if not self.wants_connection:
            link.close("no connection to a leader was wanted")
            return
        state = self._state
        self.link = link
        self._phase = Phase.DISCOVERY
        self._listen(state.options.init_limit, self._ticked_ms)
        version = state.view.committed.version
        link.send(
            learner_packets.learner_info(
                state.server_id, state.accepted_epoch, version, is_observer=self._is_observer
            )
        )

    def receive(self, packets: Sequence[QuorumPacket], wall_ms: int, mono_ms: int) -> None:
        """Packets of the leader, in order. None at all are a sign of life: a piece of the stream behind a SNAP."""
        if self._reason is None:
            self._heard_ms = mono_ms
            self._inbox.extend(packets)
            stats = self._stats
            proposals, commits = stats.proposals_received, stats.commits_received
            self._process(wall_ms, mono_ms)
            if stats.proposals_received > proposals:
                self._note_proposals(stats.proposals_received - proposals, wall_ms)
            if stats.commits_received > commits:
                self._note_commits(stats.commits_received - commits, wall_ms)

    def _note_proposals(self, count: int, wall_ms: int) -> None:
        """What came together counts together: as long on its way as the newest of them."""
        queue = self._sync.pending.queue
        newest = queue[-1] if queue else self._state.database.committed_log.newest
        if newest is not None:
            self._stats.proposal_latency.add(max(0, wall_ms - newest.time), count)

    def _note_commits(self, count: int, wall_ms: int) -> None:
        committed = self._state.database.committed_log.newest
        if committed is not None:
            latency = max(0, wall_ms - committed.time)
            self._stats.commit_latency.add(latency, count)
            self._state.parts.stats.propagation_latency.add(latency, count)

    def snapshot(self, tree: DataTree, sessions: dict[int, int], wall_ms: int, mono_ms: int) -> None:
        """The stream behind a SNAP packet is complete."""
        if self._reason is None:
            assert self._phase == Phase.RECEIVING
            self._sync.received(tree, sessions, wall_ms)
            self._phase = Phase.HISTORY
            self._process(wall_ms, mono_ms)

    def disconnected(self, reason: str) -> None:
        """The connection is gone."""
        self._end(reason)

    def close(self) -> None:
        """The server does not need the role any more."""
        self._end("the role was closed")

    def _process(self, wall_ms: int, mono_ms: int) -> None:
        inbox = self._inbox
        try:
            while inbox and self._phase not in _HOLDS_PACKETS:
                packet = inbox.popleft()
                handle = self._handlers[self._phase].get(packet.type)
                if handle is not None:
                    handle(packet, wall_ms, mono_ms)
                else:
                    self._on_unexpected(packet)
            assert self.link is not None
            self.link.pause(self._phase in _WAITS_FOR_DISK)
        except ProtocolError as error:
            self._end(str(error))

    def _on_unexpected(self, packet: QuorumPacket) -> None:
        phase = self._phase
        if phase < Phase.HISTORY:
            raise ProtocolError(f"packet of type {packet.type} in the phase {phase.name}")
        if phase == Phase.BROADCAST:
            self._note("learner.packet_ignored", {"type": packet.type, "zxid": packet.zxid})

    # -- the end

    def _end(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._inbox.clear()
        if self.link is not None:
            self.link.close(reason)
        if self.observer_master is not None:
            self.observer_master.close("this server follows no more")
            self.observer_master = None
        if self.service is not None:
            self.service.close()
            self.service = None
        self._settle()

    def _settle(self) -> None:
        if not self._asked and self._phase != Phase.PERSISTING and self.fatal is None:
            self.database_lost = self.database_lost or self._sync.database_lost
            self.over = self._reason

    def _die(self, code: int, reason: str) -> None:
        self.fatal = (code, reason)
        self._end(reason)

    def _note(self, event: str, values: dict[str, object]) -> None:
        self._state.trace.append((event, values))

    # -- discovery (§7.1)

    def _on_leader_info(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        accepted = self._state.accepted_epoch
        epoch = epoch_of(packet.zxid)
        if epoch < accepted:
            raise ProtocolError(f"the leader's epoch {epoch} is older than the accepted epoch {accepted}")
        self._epoch = epoch
        if epoch > accepted:
            self._phase = Phase.PROMISING
            self._ask(SaveAcceptedEpoch(epoch))
        else:
            self._ack_epoch(_NO_PROMISE)

    def _ack_epoch(self, current_epoch: int) -> None:
        database = self._state.database
        has_history = database.is_trusted and not self._needs_state
        last_zxid = database.tree.last_zxid if has_history else _UNTRUSTED_ZXID
        self._phase = Phase.MODE
        self._sync_began_ms = self._heard_ms
        self._send(learner_packets.ack_epoch(last_zxid, current_epoch))

    @property
    def _needs_state(self) -> bool:
        """Whether only a SNAP helps. This leader has the promise of its epoch, so nobody counts the zxid that asks for one."""
        return self._state.state_epoch == self._epoch

    # -- synchronization: how

    def _on_diff(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._note_mode(packet)
        if self._needs_state:
            raise ProtocolError("DIFF to a server that needs the whole state")
        self._sync.diff(self._epoch, wall_ms)
        self._phase = Phase.HISTORY

    def _on_snap(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._note_mode(packet)
        self._sync.snap(packet.zxid, self._epoch)
        self._phase = Phase.RECEIVING

    def _on_trunc(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._note_mode(packet)
        self._sync.trunc(packet.zxid, self._epoch)
        self._phase = Phase.REBUILDING

    def _note_mode(self, packet: QuorumPacket) -> None:
        last_zxid = self._state.database.tree.last_zxid
        mode = PacketType(packet.type).name
        self._note("learner.sync", {"mode": mode, "zxid": packet.zxid, "last_zxid": last_zxid})

    # -- synchronization: the history, of which nothing is applied yet

    def _on_history_proposal(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        txn = learner_packets.read_txn(packet)
        if self._sync.pending.propose(txn) and txn.type == _RECONFIG:
            self._saw(learner_packets.read_membership(txn.record.data))

    def _on_history_commit(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._sync.commit(packet.zxid)

    def _on_history_commit_and_activate(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        txn = self._sync.commit(packet.zxid)
        if txn is not None:
            self._activate_txn(txn, learner_packets.read_suggested_leader(packet))

    def _on_history_inform(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._sync.pending.propose(learner_packets.read_txn(packet))
        self._sync.commit(packet.zxid)

    def _on_history_inform_and_activate(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._sync.pending.propose(learner_packets.read_txn(packet, learner_packets.SUGGESTED_SIZE))
        txn = self._sync.commit(packet.zxid)
        if txn is not None:
            self._activate_txn(txn, learner_packets.read_suggested_leader(packet))

    def _on_early_up_to_date(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        raise ProtocolError("UPTODATE before NEWLEADER")

    def _on_new_leader(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        if packet.zxid != first_of(self._epoch):
            raise ProtocolError(f"NEWLEADER of 0x{packet.zxid:x} from the leader of epoch {self._epoch}")
        if packet.data and self._state.options.reconfig_enabled:
            membership = learner_packets.read_membership(packet.data)
            if not self._is_under_way(membership):
                self._offered = membership
            if self._offered is None or not self._is_under_way(self._state.view.last_seen):
                self._saw(membership)
        if self._is_observer:
            self._sync.pending.forget()
        self._phase = Phase.PERSISTING
        self._sync.persist()

    def _synced(self, wall_ms: int, mono_ms: int) -> None:
        """Everything is durable: the leader may count this server."""
        state = self._state
        state.state_epoch = None
        self._phase = Phase.SYNCED
        self._listen(state.options.sync_limit, mono_ms)
        self._send(learner_packets.ack(first_of(self._epoch)))
        self._note("learner.synced", {"epoch": self._epoch, "zxid": state.database.tree.last_zxid})
        self._process(wall_ms, mono_ms)

    # -- UPTODATE

    def _on_up_to_date(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        if self._offered is not None:
            self._activate_offered(self._offered, wall_ms)
            if self._reason is not None:
                return
        state = self._state
        sync = self._sync
        self._send(learner_packets.ack(first_of(self._epoch)))
        self._phase = Phase.BROADCAST
        sync_ms = self._stats.observer_sync if self._is_observer else self._stats.follower_sync
        sync_ms.add(mono_ms - self._sync_began_ms)
        self.established_epoch = self._epoch
        service = self.service = LearningService(state.parts, state.database, self, wall_ms, mono_ms)
        if self._is_observer:
            service.mode = "observer"
        committed = sync.committed
        sync.committed = []
        for txn in (*committed, *sync.pending.queue):
            self._log_and_ack(txn)
        for txn in committed:
            service.commit(txn, mono_ms)
        if not self._is_observer and state.options.observer_master_port > 0:
            self.observer_master = ObserverMaster(state, self._epoch, service, self, self._ask)

    def _log_and_ack(self, txn: Txn) -> None:
        """Log a proposal; it is acked when it is durable. A TRUNC may have left it in the log, where it is."""
        is_new = self._sync.log(txn)
        if self._is_observer:
            return
        if is_new:
            self._unacked.append(txn.zxid)
        else:
            self._send(learner_packets.ack(txn.zxid))

    # -- broadcast (§9)

    def _on_proposal(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._stats.proposals_received += 1
        txn = learner_packets.read_txn(packet)
        if self._sync.pending.propose(txn):
            if txn.type == _RECONFIG:
                self._saw(learner_packets.read_membership(txn.record.data))
            self._log_and_ack(txn)

    def _on_commit(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._stats.commits_received += 1
        txn = self._commit(packet.zxid, mono_ms)
        if txn is not None and self.observer_master is not None:
            self.observer_master.committed(txn)

    def _on_commit_and_activate(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        suggested_leader = learner_packets.read_suggested_leader(packet)
        txn = self._commit(packet.zxid, mono_ms)
        if txn is not None:
            if self.observer_master is not None:
                self.observer_master.activated(txn, suggested_leader)
            self._activate_txn(txn, suggested_leader)

    def _commit(self, zxid: int, mono_ms: int) -> Txn | None:
        """A quorum has the proposal; it may be that this server has not, yet."""
        pending = self._sync.pending
        txn = pending.commit(zxid)
        if txn is not None:
            assert self.service is not None
            self.service.commit(txn, mono_ms)
        elif pending.queue:
            expected = pending.queue[0].zxid
            self._die(UNMATCHED_COMMIT, f"COMMIT of 0x{zxid:x}, but the next one is 0x{expected:x}")
        else:
            self._note("learner.commit_ignored", {"zxid": zxid})
        return txn

    def _on_inform(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        self._stats.commits_received += 1
        self._inform(learner_packets.read_txn(packet), mono_ms)

    def _on_inform_and_activate(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        txn = learner_packets.read_txn(packet, learner_packets.SUGGESTED_SIZE)
        if self._inform(txn, mono_ms):
            self._activate_txn(txn, learner_packets.read_suggested_leader(packet))

    def _inform(self, txn: Txn, mono_ms: int) -> bool:
        """Proposal and commit in one. False when the txn is old."""
        sync = self._sync
        if not sync.pending.propose(txn):
            return False
        sync.pending.commit(txn.zxid)
        sync.log(txn)
        assert self.service is not None
        self.service.commit(txn, mono_ms)
        return True

    def _on_ping(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        assert self.service is not None
        self._send(learner_packets.ping_reply(packet.zxid, self.service.take_touched()))

    def _on_revalidate(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        assert self.service is not None
        session_id, is_valid = learner_packets.read_revalidated(packet)
        master = self.observer_master
        if master is None or not master.revalidated(packet.zxid, session_id, is_valid):
            self.service.revalidated(session_id, is_valid)

    def _on_sync(self, packet: QuorumPacket, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        assert self.service is not None
        asker = self.service.synced(mono_ms)
        if asker is not None:
            assert self.observer_master is not None
            self.observer_master.synced(asker)

    # -- the service's way to the leader

    def request(self, session_id: int, cxid: int, op: int, record: bytes, ids: Sequence[Id] | None) -> None:
        """Forward a write or a sync of a client."""
        self._send(learner_packets.request(session_id, cxid, op, record, ids))

    def revalidate(self, session_id: int, timeout_ms: int) -> None:
        """Ask whether a session goes on."""
        self._send(learner_packets.revalidate(session_id, timeout_ms))

    @property
    def last_zxid(self) -> int:
        """The last txn that was heard of, committed or not."""
        return self._sync.pending.last_zxid

    def _send(self, packet: bytes) -> None:
        assert self.link is not None
        self.link.send(packet)

    # -- reconfiguration (§12)

    def _saw(self, membership: Membership) -> None:
        if saw(self._state, membership):
            self._asked += 1

    def _is_under_way(self, membership: Membership) -> bool:
        """Whether the leader has proposed it and not committed it yet.

        Compat: an Apache leader whose epoch is established names it in NEWLEADER all the same. Whoever took it for committed at
        UPTODATE would be ahead of every other leader if this one dies now.
        """
        version = membership.version
        pending = self._sync.pending
        committed = pending.queue[0].zxid - 1 if pending.queue else pending.last_zxid
        return epoch_of(version) == self._epoch and counter_of(version) > 0 and version > committed

    def _activate_txn(self, txn: Txn, suggested_leader: int) -> None:
        """A reconfiguration is committed. One that changes the leader or the own role ends this one."""
        membership = learner_packets.read_membership(txn.record.data)
        before = self._state.view.committed
        if not self._activate(membership):
            return
        changes_role = self._changes_role(membership)
        if suggested_leader != self.leader_id or changes_role:
            self.designated_leader = suggested_leader
            self._end(f"reconfiguration from version {before.version:x} to {membership.version:x}")

    def _activate_offered(self, membership: Membership, wall_ms: int) -> None:
        """What the leader began with is committed, but it names no next leader."""
        before = self._state.view.committed
        is_change = self._activate(membership)
        write_config_node(self._state.database.tree, self._state.view.committed, wall_ms)
        if is_change and (self._changes_role(membership) or moves_leader(before, membership, self.leader_id)):
            self._end("the leader's configuration changes the leader, or the role of this server")

    def _activate(self, membership: Membership) -> bool:
        """False when nothing but the version changes."""
        before = self._state.view.committed
        if not activate(self._state, membership):
            return False
        self._asked += 1
        return not membership.is_same_as(before)

    def _changes_role(self, membership: Membership) -> bool:
        if is_observer_in(membership, self._state.server_id) == self._is_observer:
            return False
        if not self._sync.keeps_log:
            # Whoever votes must have on disk what it has in memory.
            self.database_lost = True
        return True

    # -- the disk

    def _ask(self, effect: Effect) -> None:
        self._asked += 1
        self._state.effects.append(effect)

    def done(self, effect: Effect, result: object, wall_ms: int, mono_ms: int) -> None:
        """An effect of this role is carried out."""
        assert self._asked > 0
        self._asked -= 1
        state = self._state
        if self._phase == Phase.PERSISTING:
            self._sync.done(effect, result)
            if isinstance(effect, SaveCurrentEpoch):
                assert state.current_epoch == self._epoch
                self._synced(wall_ms, mono_ms)
        elif self._reason is None:
            if isinstance(effect, SaveAcceptedEpoch):
                assert state.accepted_epoch == self._epoch
                self._ack_epoch(state.current_epoch)
            elif isinstance(effect, LoadDatabase):
                self._rebuilt(result, wall_ms)
            elif isinstance(effect, ReadHistory):
                assert self.observer_master is not None
                assert result is None or isinstance(result, list)
                self.observer_master.history(effect.link, result)
            self._process(wall_ms, mono_ms)
        self._settle()

    def _rebuilt(self, database: object, wall_ms: int) -> None:
        assert database is None or isinstance(database, Database)
        try:
            self._sync.rebuilt(database, wall_ms)
        except UnreachableZxidError as error:
            if self._needs_state:
                self._die(UNUSABLE_SYNC, f"{error}; remove the data")
            else:
                # Compat: Apache stops, as often as it is started, until somebody removes its data.
                self._state.state_epoch = self._epoch
                self._end(str(error))
        else:
            self._phase = Phase.HISTORY

    def persisted(self, zxid: int, mono_ms: int) -> None:  # noqa: ARG002  nothing is answered to clients here
        """The log is durable up to `zxid`."""
        self._sync.persisted(zxid)
        unacked = self._unacked
        if unacked and unacked[0] <= zxid:
            acks = []
            while unacked and unacked[0] <= zxid:
                acks.append(learner_packets.ack(unacked.popleft()))
            self._send(b"".join(acks))
