"""The service that gives writes their txns: that of a leader, and of a standalone server, which leads a quorum of one.

    write ──► prep ──► proposals ──(own log and learners: `acked`)──► committed, in zxid order ──► final

Invariant: a txn is applied only after a quorum has it on disk, and in zxid order.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Protocol

from zkpy.core.local_sessions import wants_ephemeral
from zkpy.core.passwords import first_session_id
from zkpy.core.pipeline.prep import PrepStage, sweepable
from zkpy.core.pipeline.reads import HEADER_BYTES
from zkpy.core.pipeline.request import Request
from zkpy.core.quorum_verifier import Majority
from zkpy.core.service import Service, ServiceParts
from zkpy.core.session_tracker import SessionTracker
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.proposals import Proposals
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import DeleteContainerRequest, encode_delete_container_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.acl import AclProviders
    from zkpy.core.auth import Authenticator
    from zkpy.core.data_tree import DataTree
    from zkpy.core.link import ClientLink
    from zkpy.core.local_sessions import LocalSessions
    from zkpy.core.pipeline.reconfig import Ensemble
    from zkpy.core.service import ServiceOptions
    from zkpy.core.txn import Txn
    from zkpy.core.zab.proposals import Quorum

_NO_HEADER: Final = bytes(HEADER_BYTES)
_TIMEOUT: Final = struct.Struct(">i")
_COUNTER_MASK: Final = 0xFFFFFFFF
_SERVER_SHIFT = 56  # the id of the server that made a session is its top byte
_BYTE = 0xFF
# What only the connection that owns the session may ask for (checkSession in Apache's PrepRequestProcessor).
_OWNED_OPS: Final = frozenset(
    (
        OpCode.CREATE,
        OpCode.CREATE2,
        OpCode.CREATE_CONTAINER,
        OpCode.CREATE_TTL,
        OpCode.DELETE,
        OpCode.SET_DATA,
        OpCode.SET_ACL,
        OpCode.MULTI,
        OpCode.RECONFIG,
    )
)


def standalone(
    options: ServiceOptions,
    tree: DataTree,
    sessions: dict[int, int],
    providers: AclProviders,
    auth: Authenticator,
    wall_ms: int,
    mono_ms: int,
) -> LeadingService:
    """The service of a server without others; ephemerals of sessions it does not know are its driver's first request."""
    parts = ServiceParts(options, providers, auth)
    database = Database(tree, sessions, CommittedLog(0))
    verifier = Majority(frozenset((options.server_id,)))
    return LeadingService(parts, database, verifier, None, wall_ms, mono_ms)


class Broadcaster(Protocol):
    """Who tells the learners; called in zxid order."""

    def proposed(self, txn: Txn) -> None:
        """A new txn is on its way to the log."""

    def committed(self, txn: Txn) -> None:
        """A quorum has it on disk; it is applied right after this call."""

    def exhausted(self) -> None:
        """The counter of this epoch's zxids has run out: nothing is proposed any more."""


class LeadingService(Service):
    """Clients of a leader or standalone server, and what its learners forward.

    Attributes:
        proposals: txns that are not committed yet.
        tracker: all sessions; the same object as `sessions`.
    """

    __slots__ = (
        "_broadcaster",
        "_next_sweep_ms",
        "_prep",
        "_quorum_stats",
        "_server_id",
        "_sweep",
        "_zxid_end",
        "proposals",
        "tracker",
    )

    def __init__(
        self,
        parts: ServiceParts,
        database: Database,
        quorum: Quorum,
        broadcaster: Broadcaster | None,
        wall_ms: int,
        mono_ms: int,
    ) -> None:
        """Start to serve. Every session in the table gets its full timeout from now on."""
        options = parts.options
        tree = database.tree
        self.tracker = SessionTracker(
            options.tick_time_ms, first_session_id(options.server_id, wall_ms), database.sessions, mono_ms
        )
        super().__init__(parts, database, self.tracker, mono_ms)
        self.mode = "standalone" if broadcaster is None else "leader"
        self._server_id = options.server_id
        self._broadcaster = broadcaster
        self._quorum_stats = parts.quorum_stats
        self._zxid_end = 1 << 62 if broadcaster is None else tree.last_zxid | _COUNTER_MASK
        if broadcaster is not None:
            self._check_acls_eagerly(parts)
        self._prep = PrepStage(
            tree,
            parts.access,
            self.tracker,
            self.stats,
            enforce_quota=options.enforce_quota,
            reconfig_enabled=options.reconfig_enabled,
            close_lists_paths=options.close_session_txn_enabled,
        )
        self.changes = self._prep.changes
        self.proposals = Proposals(quorum, tree.last_zxid)
        self._next_sweep_ms = mono_ms + options.container_check_interval_ms
        self._sweep: list[str] = []

    @property
    def last_proposed(self) -> int:
        """Zxid of the last txn that was made."""
        return self._prep.last_zxid

    def allow_reconfig(self, ensemble: Ensemble) -> None:
        """Let clients change `ensemble`, the one this server leads."""
        self._prep.ensemble = ensemble

    # -- sessions

    def _open(self, link: ClientLink, wall_ms: int, mono_ms: int) -> None:
        session_id = link.session_id
        self.tracker.track(session_id, link.timeout_ms, mono_ms)
        frame = _NO_HEADER + _TIMEOUT.pack(link.timeout_ms)
        created = Request(link, session_id, 0, OpCode.CREATE_SESSION, frame, link.ids, mono_ms)
        self._submit(created, wall_ms)
        if created.txn is None:
            self.tracker.remove(session_id)

    def _revalidate(self, link: ClientLink, mono_ms: int) -> None:
        self._finish_connect(link, self.revalidate(link.session_id, link.timeout_ms, None, mono_ms))

    def revalidate(self, session_id: int, timeout_ms: int, owner: object | None, mono_ms: int) -> bool:
        """Whether a session goes on, at `owner` from now on: the link to a learner, None for this server itself."""
        if not self.tracker.touch(session_id, timeout_ms, mono_ms):
            return False
        self.tracker.set_owner(session_id, owner)
        return True

    def touch(self, session_id: int, timeout_ms: int, mono_ms: int) -> None:
        """A learner has heard of a session."""
        self.tracker.touch(session_id, timeout_ms, mono_ms)

    # -- writes

    def submit_remote(self, request: Request, wall_ms: int) -> None:
        """A write that a learner forwarded; `request.owner` is its link. It always becomes a txn: the learner waits for one."""
        if request.op == OpCode.CREATE_SESSION and len(request.frame) == HEADER_BYTES + _TIMEOUT.size:
            (timeout_ms,) = _TIMEOUT.unpack_from(request.frame, HEADER_BYTES)
            self.tracker.track(request.session_id, timeout_ms, request.arrival_ms)
            self.tracker.set_owner(request.session_id, request.owner)
        self._propose(request, wall_ms)

    def _submit(self, request: Request, wall_ms: int) -> None:
        """What a client of this server asks for."""
        link = request.link
        assert link is not None
        if self.refuse_writes and request.op != OpCode.CLOSE_SESSION:
            request.err = ErrorCode.SYSTEMERROR
            self._refuse(link, request)
            return
        local = self.local
        if local is not None and self._handled_locally(request, request.arrival_ms):
            return
        if self._eager_acl is not None:
            refusal = self._eager_acl.refusal(request)
            if refusal is not None:
                self._refuse(link, refusal)
                return
        if local is not None and request.session_id in local and wants_ephemeral(request):
            self._upgrade(request, local, wall_ms)
        self._propose(request, wall_ms)

    def _propose(self, request: Request, wall_ms: int) -> None:
        """Give a write its txn, or its refusal, and its place in the queues. Without a link it always becomes a txn."""
        prep = self._prep
        self.stats.prepared += 1
        op = request.op
        broadcaster = self._broadcaster
        if broadcaster is not None:
            if prep.last_zxid + 1 >= self._zxid_end:
                broadcaster.exhausted()
                return
            if op in _OWNED_OPS and not request.refusal:
                request.refusal = self._check_session(request)
        prep.prepare(request, wall_ms)
        link = request.link
        if link is None and request.err:
            prep.refuse(request, wall_ms)
        txn = request.txn
        if txn is not None:
            request.waits = True
            self.proposals.propose(request)
            self.unlogged.append(txn)
            self.stats.proposals += 1
            if broadcaster is not None:
                broadcaster.proposed(txn)
        if link is None:
            return
        if txn is None:
            self._refuse(link, request)
        else:
            self._queue(request)

    def _check_session(self, request: Request) -> int:
        """0, or the error of whoever may not ask for something in the name of this session."""
        session_id = request.session_id
        if self.local is not None and session_id not in self.tracker.sessions:
            # A local session; those of other servers are unknown here (Apache: LeaderSessionTracker).
            is_ours = session_id >> _SERVER_SHIFT & _BYTE == self._server_id & _BYTE
            if session_id in self.local or not is_ours:
                return 0
        return self.tracker.check_owner(session_id, request.owner)

    def _upgrade(self, request: Request, local: LocalSessions, wall_ms: int) -> None:
        """A local session becomes global, before what it asks for."""
        session_id = request.session_id
        timeout_ms = local.upgrade(session_id)
        self.tracker.track(session_id, timeout_ms, request.arrival_ms)
        frame = _NO_HEADER + _TIMEOUT.pack(timeout_ms)
        self._propose(
            Request(None, session_id, 0, OpCode.CREATE_SESSION, frame, (), request.arrival_ms), wall_ms
        )

    def close_orphans(self, wall_ms: int, mono_ms: int) -> None:
        """Close sessions that own nodes and are in no table: a leader does it once, before anything else is proposed.

        Apache's leader deletes such nodes in its own tree alone. As txns they go from every tree.
        """
        ephemerals = self.tree.ephemerals
        for owner in sorted(ephemerals):
            if ephemerals[owner] and owner not in self.tracker.committed:
                self._propose(Request(None, owner, 0, OpCode.CLOSE_SESSION, b"", (), mono_ms), wall_ms)

    # -- progress

    def persisted(self, zxid: int, mono_ms: int) -> None:
        """Everything up to `zxid` is durable here."""
        self.acked(self._server_id, zxid, mono_ms)

    def acked(self, server_id: int, zxid: int, mono_ms: int) -> None:
        """`server_id` has everything up to `zxid` on disk: commit what a quorum has, answer, serve what waited."""
        changes = self.changes
        broadcaster = self._broadcaster
        committed = self.proposals.ack(server_id, zxid)
        for request in committed:
            txn = request.txn
            assert txn is not None
            if broadcaster is not None:
                self.database.committed_log.append(txn)
                broadcaster.committed(txn)
            self._commit(request, mono_ms)
            changes.applied(txn)
        if committed:
            self._note_commits(committed, mono_ms)

    def _note_commits(self, committed: Sequence[Request], mono_ms: int) -> None:
        """What a quorum acked together counts together; its txns have the time at which their requests came."""
        latency = mono_ms - committed[-1].arrival_ms
        self.stats.propagation_latency.add(latency, len(committed))
        if self._broadcaster is not None:
            self._quorum_stats.quorum_ack_latency.add(latency, len(committed))

    def log_rolled_back(self, mono_ms: int) -> None:
        """The log had no room for what is outstanding and was cut back: refuse it all, nothing of it happens.

        Only a standalone server can take back what it has proposed.
        """
        assert self._broadcaster is None
        self.refuse_writes = True
        self.unlogged.clear()
        dropped = self.proposals.drop_all()
        self._prep.discard(self.tree.last_zxid)
        for request in dropped:
            request.txn = None
            request.waits = False
            request.err = ErrorCode.SYSTEMERROR
            if request.op == OpCode.CLOSE_SESSION:
                self.tracker.reopen(request.session_id, mono_ms)
            elif request.op == OpCode.CREATE_SESSION:
                self.tracker.remove(request.session_id)
        for request in dropped:
            link = request.link
            if link is not None and link.pending and link.pending[0] is request:
                self._serve_waiting(link, mono_ms)
            if request.op == OpCode.CLOSE_SESSION:
                # The session goes on, but what came behind was dropped and would never be answered.
                link = link or self.links.get(request.session_id)
                if link is not None:
                    link.close_after_flush()

    def tick(self, wall_ms: int, mono_ms: int) -> None:
        """Expire sessions, sweep containers. Call about twice per tick time."""
        self._expire_local(mono_ms)
        for session_id in self.tracker.expired(mono_ms):
            self.stats.sessions_expired += 1
            self._propose(Request(None, session_id, 0, OpCode.CLOSE_SESSION, b"", (), mono_ms), wall_ms)
        self._sweep_containers(wall_ms, mono_ms)

    def _sweep_containers(self, wall_ms: int, mono_ms: int) -> None:
        options = self._options
        if mono_ms >= self._next_sweep_ms:
            self._next_sweep_ms = mono_ms + options.container_check_interval_ms
            self._sweep = sweepable(self.tree, wall_ms, options.container_max_never_used_interval_ms)
        # One call per half tick: this many keep the pace the operator has set.
        quota = max(1, options.container_max_per_minute * options.tick_time_ms // 120_000)
        batch, self._sweep = self._sweep[:quota], self._sweep[quota:]
        if self.refuse_writes:
            return
        for path in batch:
            frame = _NO_HEADER + encode_delete_container_request(DeleteContainerRequest(path))
            self._propose(Request(None, 0, 0, OpCode.DELETE_CONTAINER, frame, (), mono_ms), wall_ms)
