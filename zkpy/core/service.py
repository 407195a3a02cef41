"""What every server does for its clients, whatever its role: connections, reads, order of replies.

    frames ──► writes: `_submit`, which each role does its own way ──► committed txn ──► final ──► replies and events
           └─► reads ────────────────────────────────────────────────────────────────────┘

Inputs are calls with the time as arguments (`wall_ms` since 1970, `mono_ms` monotonic). Outputs wait to be
taken: txns in `unlogged` must be made durable in order; links in `dirty` have bytes to send or want to be closed.

Ordering: a link's requests are answered in the order they came (only auth and sasl overtake); a read is
served at once unless an earlier request of the link still waits.

Subclasses: `LeadingService` gives writes their txns (a standalone server leads itself), `LearningService` forwards them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from librt.strings import read_i32_be

from zkpy.core.acl import AccessRules, AclProviders, in_hash_order
from zkpy.core.data_tree import DataTree
from zkpy.core.link import CLOSE_AFTER_FLUSH, DROPPED, QUEUED_BYTES_MAX, ClientLink
from zkpy.core.local_sessions import LocalSessions, wants_ephemeral
from zkpy.core.passwords import session_password
from zkpy.core.pipeline.changes import OutstandingChanges
from zkpy.core.pipeline.eager_acl import EagerAclCheck
from zkpy.core.pipeline.final import FinalStage, connect_frame, open_session, refuse_session
from zkpy.core.pipeline.prep import WRITE_OPS
from zkpy.core.pipeline.reads import HANDLERS, HEADER_BYTES, ReadStage, reply_frame
from zkpy.core.pipeline.request import Request
from zkpy.core.session_tracker import SessionTable
from zkpy.core.stats import CoreStats
from zkpy.core.watch_manager import WatchManager
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.quorum_stats import QuorumStats
from zkpy_protocol.opcodes import ErrorCode, OpCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.auth import Authenticator
    from zkpy.core.owners import OwnerRules
    from zkpy.core.throttling import ConnectionThrottle, RequestThrottle
    from zkpy.core.txn import Txn
    from zkpy_protocol.records import ConnectRequest

_UNIMPLEMENTED_ZXID: Final = -1
_AUTH_ZXID: Final = 0

OP_NAMES: Final = {
    OpCode.CREATE_SESSION: "SESS",
    OpCode.PING: "PING",
    OpCode.CREATE: "CREA",
    OpCode.CREATE2: "CREA",
    OpCode.CREATE_TTL: "CREA",
    OpCode.CREATE_CONTAINER: "CREA",
    OpCode.DELETE: "DELE",
    OpCode.DELETE_CONTAINER: "DELE",
    OpCode.EXISTS: "EXIS",
    OpCode.GET_DATA: "GETD",
    OpCode.SET_DATA: "SETD",
    OpCode.GET_CHILDREN: "GETC",
    OpCode.GET_CHILDREN2: "GETC",
    OpCode.GET_ACL: "GETA",
    OpCode.SET_ACL: "SETA",
    OpCode.SYNC: "SYNC",
    OpCode.MULTI: "MULT",
    OpCode.MULTI_READ: "MLTR",
    OpCode.CHECK: "CHEC",
    OpCode.SET_WATCHES: "SETW",
    OpCode.SET_WATCHES2: "STW2",
    OpCode.ADD_WATCH: "ADDW",
    OpCode.CHECK_WATCHES: "CHKW",
    OpCode.REMOVE_WATCHES: "REMW",
    OpCode.RECONFIG: "RECO",
    OpCode.CLOSE_SESSION: "CLOS",
    OpCode.GET_ALL_CHILDREN_NUMBER: "GETACN",
    OpCode.GET_EPHEMERALS: "GETE",
    OpCode.WHO_AM_I: "HOMI",
}


class ServiceOptions:
    """What an operator may set about the core; the names are those of zoo.cfg."""

    __slots__ = (
        "close_session_txn_enabled",
        "container_check_interval_ms",
        "container_max_never_used_interval_ms",
        "container_max_per_minute",
        "eager_acl_check_enabled",
        "enforce_quota",
        "global_outstanding_limit",
        "local_sessions_enabled",
        "local_sessions_upgrading_enabled",
        "max_session_timeout_ms",
        "min_session_timeout_ms",
        "reconfig_enabled",
        "server_id",
        "skip_acl",
        "tick_time_ms",
    )

    def __init__(
        self,
        *,
        tick_time_ms: int = 3000,
        min_session_timeout_ms: int = 6000,
        max_session_timeout_ms: int = 60000,
        server_id: int = 1,
        skip_acl: bool = False,
        enforce_quota: bool = False,
        reconfig_enabled: bool = False,
        close_session_txn_enabled: bool = True,
        global_outstanding_limit: int = 1000,
        local_sessions_enabled: bool = False,
        local_sessions_upgrading_enabled: bool = False,
        container_check_interval_ms: int = 60000,
        container_max_per_minute: int = 10000,
        container_max_never_used_interval_ms: int = 0,
        eager_acl_check_enabled: bool = False,
    ) -> None:
        self.tick_time_ms = tick_time_ms
        self.min_session_timeout_ms = min_session_timeout_ms
        self.max_session_timeout_ms = max_session_timeout_ms
        self.server_id = server_id
        self.skip_acl = skip_acl
        self.enforce_quota = enforce_quota
        self.reconfig_enabled = reconfig_enabled
        self.close_session_txn_enabled = close_session_txn_enabled
        self.global_outstanding_limit = global_outstanding_limit
        self.local_sessions_enabled = local_sessions_enabled
        self.local_sessions_upgrading_enabled = local_sessions_upgrading_enabled
        self.container_check_interval_ms = container_check_interval_ms
        self.container_max_per_minute = container_max_per_minute
        self.container_max_never_used_interval_ms = container_max_never_used_interval_ms
        self.eager_acl_check_enabled = eager_acl_check_enabled


class ServiceParts:
    """What the services of one server are made of, one role after the other.

    Attributes:
        dirty: links with something to send or to close.
        unlogged: txns the driver has not taken for the log yet, in zxid order.
    """

    __slots__ = ("access", "auth", "dirty", "options", "quorum_stats", "stats", "unlogged")

    def __init__(self, options: ServiceOptions, providers: AclProviders, auth: Authenticator) -> None:
        self.options = options
        self.access = AccessRules(providers, options.skip_acl)
        self.auth = auth
        self.stats = CoreStats()
        self.quorum_stats = QuorumStats()
        self.dirty: list[ClientLink] = []
        self.unlogged: list[Txn] = []


class Service:
    """The clients of one server, from the moment it takes them until its role ends.

    `_served_here` are the opcodes of reads, `_sent_on` those that wait for the leader.

    Attributes:
        is_serving: False for a server that takes no clients: it has no role, or leads while ``leaderServes=no``.
        is_read_only: it serves reads only, from data that may be old.
        mode: what operators call its role: standalone, leader, follower, observer, read-only.
        local: sessions that are only known here; None unless they are enabled.
        refuse_writes: the log has no room; writes are answered with an error, reads go on.
        connection_throttle: decides on connects; None admits them all.
        request_throttle: what shells offer requests to instead of `receive`, unless it is None.
        changes: what the txns in flight will change; empty where txns are not made.
    """

    __slots__ = (
        "_auth",
        "_auth_required",
        "_eager_acl",
        "_final",
        "_options",
        "_reads",
        "_sent_on",
        "_served_here",
        "changes",
        "connection_throttle",
        "database",
        "dirty",
        "is_read_only",
        "is_serving",
        "links",
        "local",
        "mode",
        "refuse_writes",
        "request_throttle",
        "sessions",
        "stats",
        "tree",
        "unlogged",
        "watches",
    )

    def __init__(self, parts: ServiceParts, database: Database, sessions: SessionTable, mono_ms: int) -> None:
        options = self._options = parts.options
        self._auth = parts.auth
        self._auth_required = parts.auth.required
        self.database = database
        self.tree = database.tree
        self.stats = parts.stats
        self.dirty = parts.dirty
        self.unlogged = parts.unlogged
        self.sessions = sessions
        self.watches = WatchManager(parts.access, parts.stats)
        self.changes = OutstandingChanges(database.tree)
        self._reads = ReadStage(database.tree, self.watches, parts.access, parts.stats)
        self._final = FinalStage(database.tree, sessions, self.watches, parts.stats)
        # Whoever takes writes into an ensemble sets it.
        self._eager_acl: EagerAclCheck | None = None
        self._served_here = frozenset(HANDLERS)
        self._sent_on = WRITE_OPS
        self.links: dict[int, ClientLink] = {}
        self.local: LocalSessions | None = None
        if options.local_sessions_enabled:
            self.local = LocalSessions(
                options.tick_time_ms, mono_ms, may_upgrade=options.local_sessions_upgrading_enabled
            )
        self.is_serving = True
        self.is_read_only = False
        self.mode = ""
        self.refuse_writes = False
        self.connection_throttle: ConnectionThrottle | None = None
        self.request_throttle: RequestThrottle | None = None

    # -- what each role does its own way

    def _open(self, link: ClientLink, wall_ms: int, mono_ms: int) -> None:
        """Begin a session for a new client."""
        raise NotImplementedError

    def _revalidate(self, link: ClientLink, mono_ms: int) -> None:
        """A client wants its session back, and knows its password."""
        raise NotImplementedError

    def _submit(self, request: Request, wall_ms: int) -> None:
        """Set a write on its way, or answer it with the error it deserves at once."""
        raise NotImplementedError

    def tick(self, wall_ms: int, mono_ms: int) -> None:
        """Time passes. Call about twice per tick time."""
        raise NotImplementedError

    # -- links

    def connect(self, link: ClientLink, request: ConnectRequest, wall_ms: int, mono_ms: int) -> None:
        """The first frame of a link (client protocol §3.2)."""
        stats = self.stats
        stats.received += 1
        link.received += 1
        if not self.is_serving:
            link.drop()
            return
        throttle = self.connection_throttle
        if throttle is not None and not throttle.admits(mono_ms, is_new=request.session_id == 0):
            stats.connections_rejected += 1
            link.drop()
            return
        stats.token_deficit.add(0 if throttle is None else throttle.deficit)
        stats.connection_requests += 1
        link.read_only_byte = request.read_only is not None
        link.is_read_only = self.is_read_only
        if request.last_zxid_seen > self.tree.last_zxid:
            link.drop()
            return
        options = self._options
        link.timeout_ms = max(
            options.min_session_timeout_ms, min(options.max_session_timeout_ms, request.time_out)
        )
        link.established_ms = wall_ms
        if request.session_id == 0:
            link.session_id = self.sessions.new_id()
            self.links[link.session_id] = link
            if self.local is None:
                self._open(link, wall_ms, mono_ms)
            else:
                self.local.open(link.session_id, link.timeout_ms, mono_ms)
                self._finish_connect(link, valid=True)
                stats.read_latency.add(0)
                link.note_reply(OP_NAMES[OpCode.CREATE_SESSION], 0, self.tree.last_zxid, mono_ms, 0)
            return
        stats.connection_revalidations += 1
        other = self.links.get(request.session_id)
        if other is not None:
            # Compat: before the password is looked at.
            other.drop()
        link.session_id = request.session_id
        self.links[link.session_id] = link
        if request.passwd != session_password(link.session_id):
            self._finish_connect(link, valid=False)
        elif self.local is not None and self.local.touch(link.session_id, link.timeout_ms, mono_ms):
            self._finish_connect(link, valid=True)
        else:
            self._revalidate(link, mono_ms)

    def _finish_connect(self, link: ClientLink, valid: bool) -> None:
        """Tell a client whether it has the session it wants."""
        if valid:
            open_session(link)
        else:
            refuse_session(link)
        self._note_sent(link)

    def disconnected(self, link: ClientLink) -> None:
        """The socket of a link is gone; its session lives on."""
        if link.state < CLOSE_AFTER_FLUSH:
            self.stats.connection_drops += 1
        link.state = DROPPED
        link.out.clear()
        self.stats.stale_replies += sum(request.op != OpCode.CLOSE_SESSION for request in link.pending)
        self._forget_pending(link)
        self.watches.remove_link(link)
        if self.links.get(link.session_id) is link:
            del self.links[link.session_id]

    def _forget_pending(self, link: ClientLink) -> None:
        """Writes in flight still happen; nobody waits for anything else."""
        self.stats.outstanding -= len(link.pending)
        link.pending.clear()

    def _touch(self, link: ClientLink, mono_ms: int) -> bool:
        """A sign of life of a link's session. False when the session is gone or closing."""
        local = self.local
        if local is not None and local.touch(link.session_id, link.timeout_ms, mono_ms):
            return True
        return self.sessions.touch(link.session_id, link.timeout_ms, mono_ms)

    # -- requests

    def receive(
        self, link: ClientLink, frames: Sequence[bytes], start: int, wall_ms: int, mono_ms: int
    ) -> int:
        """Requests of a link with a session, in the order they arrived.

        Stops early when the link must wait: too much is outstanding, or its replies pile up.

        Returns:
            index behind the last frame that was taken; the shell offers the rest again later.
        """
        stats = self.stats
        live = self._touch(link, mono_ms)
        reads = self._reads
        handles = self._served_here
        writes = self._sent_on
        required = self._auth_required
        limit = self._options.global_outstanding_limit
        served = 0
        op = xid = 0
        taken = start
        for frame in islice(frames, start, None) if start else frames:
            if link.queued_bytes > QUEUED_BYTES_MAX or (link.pending and stats.outstanding > limit):
                break
            taken += 1
            if len(frame) < HEADER_BYTES:
                link.drop()
                break
            xid = read_i32_be(frame, 0)
            op = read_i32_be(frame, 4)
            if op in handles:
                if not live:
                    stats.stale_requests_dropped += 1
                elif required and not self._enforced(link, xid):
                    break
                elif link.pending:
                    self._queue(Request(link, link.session_id, xid, op, frame, link.ids, mono_ms))
                else:
                    reads.serve(link, xid, op, frame, link.ids)
                    served += 1
            elif live and op in writes and not required and op != OpCode.CREATE_SESSION:
                self._submit(Request(link, link.session_id, xid, op, frame, link.ids, mono_ms), wall_ms)
                live = op != OpCode.CLOSE_SESSION
            elif not self._receive_other(link, xid, op, frame, wall_ms, mono_ms, live):
                break
            elif op == OpCode.CLOSE_SESSION:
                live = False
        if served:
            stats.sent += served
            link.sent += served
            stats.read_latency.add(0, served)
            link.replies += served - 1
            link.note_reply(OP_NAMES.get(op, "NA"), xid, self.tree.last_zxid, mono_ms, 0)
        stats.received += taken - start
        link.received += taken - start
        return taken

    def answer_throttled(self, link: ClientLink, frame: bytes, mono_ms: int) -> None:
        """A request that waited too long before it was taken: answered in its turn, not executed."""
        stats = self.stats
        stats.received += 1
        link.received += 1
        xid: int = read_i32_be(frame, 0)
        op: int = read_i32_be(frame, 4)
        if self._auth_required and not self._enforced(link, xid):
            return
        if not self._touch(link, mono_ms):
            stats.stale_requests_dropped += 1
            return
        stats.throttled_ops += 1
        request = Request(link, link.session_id, xid, op, frame, link.ids, mono_ms)
        request.err = ErrorCode.THROTTLEDOP
        if link.pending:
            self._queue(request)
        else:
            self._final.answer_refused(link, request)
            self._answered(link, request, mono_ms)

    def _receive_other(
        self, link: ClientLink, xid: int, op: int, frame: bytes, wall_ms: int, mono_ms: int, live: bool
    ) -> bool:
        """Everything that is not a read. False when the link takes no more requests."""
        if op in (OpCode.AUTH, OpCode.SASL):
            return self._authenticate(link, xid, op, frame)
        if self._auth_required and not self._enforced(link, xid):
            return False
        if not live:
            self.stats.stale_requests_dropped += 1
            return True
        if op == OpCode.CREATE_SESSION:
            # Compat: Apache runs a txn for it; all the client sees is its own ConnectResponse again.
            link.send(connect_frame(link))
            self._note_sent(link)
            return True
        if op not in self._sent_on:
            link.send(reply_frame(xid, _UNIMPLEMENTED_ZXID, ErrorCode.UNIMPLEMENTED, b""))
            self._note_sent(link)
            link.close_after_flush()
            return False
        self._submit(Request(link, link.session_id, xid, op, frame, link.ids, mono_ms), wall_ms)
        return True

    def _authenticate(self, link: ClientLink, xid: int, op: int, frame: bytes) -> bool:
        outcome = self._auth.packet(link, frame) if op == OpCode.AUTH else self._auth.sasl(link, frame)
        if outcome.ids:
            link.ids = in_hash_order((*link.ids, *outcome.ids))
        if outcome.failed:
            self.stats.auth_failed += 1
        if outcome.answered:
            link.send(reply_frame(xid, _AUTH_ZXID, outcome.err, outcome.body))
            self._note_sent(link)
        if outcome.close:
            link.close_after_flush()
            return False
        return True

    def _enforced(self, link: ClientLink, xid: int) -> bool:
        """Whether the connection is authenticated as the configuration demands; if not, it is closed."""
        if self._auth.satisfied_by(link.ids):
            return True
        link.send(reply_frame(xid, _AUTH_ZXID, ErrorCode.SESSIONCLOSEDREQUIRESASLAUTH, b""))
        self._note_sent(link)
        link.close_after_flush()
        return False

    def _note_sent(self, link: ClientLink) -> None:
        self.stats.sent += 1
        link.sent += 1

    def _queue(self, request: Request) -> None:
        link = request.link
        assert link is not None
        link.pending.append(request)
        self.stats.outstanding += 1

    # -- progress

    def _handled_locally(self, request: Request, mono_ms: int) -> bool:
        """What a local session asks for and needs no txn: its close, and what it may not have (quorum protocol §10)."""
        local, link = self.local, request.link
        if local is None or link is None or request.session_id not in local:
            return False
        if request.op == OpCode.CLOSE_SESSION:
            local.close(request.session_id)  # so that what comes behind is dropped
            if link.pending:
                self._queue(request)
            else:
                self._close_local(link, request, mono_ms)
            return True
        if local.may_upgrade or not wants_ephemeral(request):
            return False
        request.err = ErrorCode.EPHEMERALONLOCALSESSION
        self._refuse(link, request)
        return True

    def _close_local(self, link: ClientLink, request: Request, mono_ms: int) -> None:
        link.send(reply_frame(request.xid, self.tree.last_zxid, ErrorCode.OK, b""))
        self._answered(link, request, mono_ms)
        link.close_after_flush()

    def _check_acls_eagerly(self, parts: ServiceParts) -> None:
        if parts.options.eager_acl_check_enabled:
            self._eager_acl = EagerAclCheck(self.tree, parts.access)

    def _refuse(self, link: ClientLink, request: Request) -> None:
        """Answer a write that gets no txn, in its turn."""
        if link.pending:
            self._queue(request)
        else:
            self._final.answer_refused(link, request)
            self._answered(link, request, request.arrival_ms)

    def _expire_local(self, mono_ms: int) -> None:
        if self.local is None:
            return
        for session_id in self.local.expired(mono_ms):
            self.stats.sessions_expired += 1
            link = self.links.get(session_id)
            if link is not None:
                link.drop()

    def close(self) -> None:
        """The role ends: every client has to look for another server."""
        self.is_serving = False
        for link in self.links.values():
            link.drop()

    def take_unlogged(self, count_max: int) -> list[Txn]:
        """The next txns for the log, in zxid order."""
        taken = self.unlogged[:count_max]
        del self.unlogged[:count_max]
        return taken

    def _commit(self, request: Request, mono_ms: int) -> None:
        """Apply the txn of `request`, tell watchers and client, serve what waited behind it."""
        txn = request.txn
        assert txn is not None
        assert txn.zxid > self.tree.last_zxid, "txns are applied in zxid order"
        stats = self.stats
        self._final.apply(request)
        stats.commits += 1
        if txn.type == OpCode.CLOSE_SESSION:
            self._session_closed(txn.client_id, request)
        elif self.local is not None and txn.type == OpCode.CREATE_SESSION:
            self.local.close(txn.client_id)
        link = request.link
        if link is not None and link.pending:
            pending = link.pending
            head = pending.popleft()
            assert head is request, "requests of a link are answered in order"
            stats.outstanding -= 1
            self._answered(link, request, mono_ms)
            if pending and not pending[0].waits:
                self._serve_waiting(link, mono_ms)

    def _session_closed(self, session_id: int, request: Request) -> None:
        link = self.links.get(session_id)
        if link is not None and link is not request.link:
            # Expired: the client learns of it when it connects again.
            link.drop()

    def _answered(self, link: ClientLink, request: Request, mono_ms: int) -> None:
        latency = mono_ms - request.arrival_ms
        stats = self.stats
        stats.sent += 1
        link.sent += 1
        stats.update_latency.add(latency)
        xid = request.xid if request.op != OpCode.CREATE_SESSION else 0
        link.note_reply(OP_NAMES.get(request.op, "NA"), xid, self.tree.last_zxid, mono_ms, latency)

    def _serve_waiting(self, link: ClientLink, mono_ms: int) -> None:
        """Serve the reads and refusals at the head of the queue, up to the next write in flight."""
        pending = link.pending
        while pending and not pending[0].waits:
            request = pending.popleft()
            self.stats.outstanding -= 1
            if link.state >= CLOSE_AFTER_FLUSH:
                continue
            if request.op == OpCode.CLOSE_SESSION and not request.err:
                self._close_local(link, request, mono_ms)
                continue
            if request.err:
                self._final.answer_refused(link, request)
                self._answered(link, request, mono_ms)
                continue
            self._reads.serve(link, request.xid, request.op, request.frame, request.ids)
            latency = mono_ms - request.arrival_ms
            self.stats.sent += 1
            link.sent += 1
            self.stats.read_latency.add(latency)
            link.note_reply(
                OP_NAMES.get(request.op, "NA"), request.xid, self.tree.last_zxid, mono_ms, latency
            )

    # -- flow control

    def must_wait(self, link: ClientLink) -> bool:
        """Whether no more should be read from the link for now (globalOutstandingLimit)."""
        return bool(link.pending) and self.stats.outstanding > self._options.global_outstanding_limit


class NoService(Service):
    """Stands in while a server has no role: whoever connects is turned away.

    Its own database is empty, so that the server's can be let go of while another one is received.
    """

    __slots__ = ()

    def __init__(self, parts: ServiceParts, owners: OwnerRules) -> None:
        database = Database(DataTree(owners, digest_enabled=False), {}, CommittedLog(0))
        super().__init__(parts, database, SessionTable({}, 0), 0)
        self.is_serving = False

    def tick(self, wall_ms: int, mono_ms: int) -> None:
        """Nothing happens."""
