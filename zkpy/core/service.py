"""One server: the stages of the pipeline composed into a state machine without I/O.

    frames ──► prep ──► proposals ──(log, quorum)──► final ──► replies and events
           └─► reads ─────────────────────────────────────┘

Inputs are calls with the time as arguments (`wall_ms` since 1970, `mono_ms` monotonic). Outputs wait to be
taken: `unlogged` must be made durable in order and confirmed with `persisted`; links in `dirty` have bytes
to send or want to be closed. A standalone server is a quorum of one on exactly this path.

Ordering: a link's requests are answered in the order they came (only auth and sasl overtake); a read is
served at once unless an earlier request of the link still waits.

Invariant: a txn is applied only after `persisted` covered its zxid, and in zxid order.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING

from zkpy.core.acl import AccessRules, AclProviders, in_hash_order
from zkpy.core.link import CLOSE_AFTER_FLUSH, DROPPED, QUEUED_BYTES_MAX, ClientLink
from zkpy.core.passwords import first_session_id, session_password
from zkpy.core.pipeline.final import FinalStage, connect_frame, open_session, refuse_session
from zkpy.core.pipeline.prep import WRITE_OPS, PrepStage, sweepable
from zkpy.core.pipeline.reads import HEADER_BYTES, ReadStage, reply_frame
from zkpy.core.pipeline.request import Request
from zkpy.core.quorum_verifier import Majority
from zkpy.core.session_tracker import SessionTracker
from zkpy.core.stats import CoreStats
from zkpy.core.watch_manager import WatchManager
from zkpy.core.zab.proposals import Proposals
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import DeleteContainerRequest, encode_delete_container_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.auth import Authenticator
    from zkpy.core.data_tree import DataTree
    from zkpy.core.pipeline.changes import OutstandingChanges
    from zkpy.core.throttling import ConnectionThrottle, RequestThrottle
    from zkpy.core.txn import Txn
    from zkpy_protocol.records import ConnectRequest

_HEADER = struct.Struct(">ii").unpack_from
_NO_HEADER = bytes(HEADER_BYTES)
_UNIMPLEMENTED_ZXID = -1
_AUTH_ZXID = 0

OP_NAMES = {
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
        "enforce_quota",
        "global_outstanding_limit",
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
        container_check_interval_ms: int = 60000,
        container_max_per_minute: int = 10000,
        container_max_never_used_interval_ms: int = 0,
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
        self.container_check_interval_ms = container_check_interval_ms
        self.container_max_per_minute = container_max_per_minute
        self.container_max_never_used_interval_ms = container_max_never_used_interval_ms


class Service:
    """One server.

    Attributes:
        unlogged: proposed txns the driver has not taken for the log yet.
        dirty: links with something to send or to close.
        refuse_writes: the log has no room; writes are answered with an error, reads go on.
        connection_throttle: decides on connects; None admits them all.
        request_throttle: what shells offer requests to instead of `receive`, unless it is None.
    """

    __slots__ = (
        "_auth",
        "_final",
        "_next_sweep_ms",
        "_options",
        "_prep",
        "_proposals",
        "_reads",
        "_sweep",
        "connection_throttle",
        "dirty",
        "links",
        "refuse_writes",
        "request_throttle",
        "sessions",
        "stats",
        "tree",
        "unlogged",
        "watches",
    )

    def __init__(
        self,
        options: ServiceOptions,
        tree: DataTree,
        committed_sessions: dict[int, int],
        providers: AclProviders,
        auth: Authenticator,
        wall_ms: int,
        mono_ms: int,
    ) -> None:
        """Start to serve a recovered tree; ephemerals of unknown sessions are the driver's first request."""
        self._options = options
        self._auth = auth
        self.tree = tree
        self.stats = CoreStats()
        access = AccessRules(providers, options.skip_acl)
        self.sessions = SessionTracker(
            options.tick_time_ms, first_session_id(options.server_id, wall_ms), committed_sessions, mono_ms
        )
        self.watches = WatchManager(access, self.stats)
        self._prep = PrepStage(
            tree,
            access,
            self.sessions,
            self.stats,
            enforce_quota=options.enforce_quota,
            reconfig_enabled=options.reconfig_enabled,
            close_lists_paths=options.close_session_txn_enabled,
        )
        self._reads = ReadStage(tree, self.watches, access, self.stats)
        self._final = FinalStage(tree, self.sessions, self.watches, self.stats)
        self._proposals = Proposals(Majority(frozenset((options.server_id,))), tree.last_zxid)
        self._next_sweep_ms = mono_ms + options.container_check_interval_ms
        self._sweep: list[str] = []
        self.links: dict[int, ClientLink] = {}
        self.unlogged: list[Txn] = []
        self.dirty: list[ClientLink] = []
        self.refuse_writes = False
        self.connection_throttle: ConnectionThrottle | None = None
        self.request_throttle: RequestThrottle | None = None

    @property
    def changes(self) -> OutstandingChanges:
        """What the txns in flight will change."""
        return self._prep.changes

    # -- links

    def connect(self, link: ClientLink, request: ConnectRequest, wall_ms: int, mono_ms: int) -> None:
        """The first frame of a link (client protocol §3.2)."""
        stats = self.stats
        stats.received += 1
        link.received += 1
        throttle = self.connection_throttle
        if throttle is not None and not throttle.admits(mono_ms, is_new=request.session_id == 0):
            stats.connections_rejected += 1
            link.drop()
            return
        stats.token_deficit.add(0 if throttle is None else throttle.deficit)
        stats.connection_requests += 1
        link.read_only_byte = request.read_only is not None
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
            self.sessions.track(link.session_id, link.timeout_ms, mono_ms)
            self.links[link.session_id] = link
            created = Request(link, link.session_id, 0, OpCode.CREATE_SESSION, b"", link.ids, mono_ms)
            self._submit(created, wall_ms)
            if created.txn is None:
                self.sessions.remove(link.session_id)
        else:
            self._reattach(link, request.session_id, request.passwd, mono_ms)

    def _reattach(self, link: ClientLink, session_id: int, password: bytes | None, mono_ms: int) -> None:
        self.stats.connection_revalidations += 1
        other = self.links.get(session_id)
        if other is not None:
            # Compat: before the password is looked at.
            other.drop()
        link.session_id = session_id
        self.links[session_id] = link
        valid = password == session_password(session_id)
        if valid and self.sessions.touch(session_id, link.timeout_ms, mono_ms):
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
        live = self.sessions.touch(link.session_id, link.timeout_ms, mono_ms)
        reads = self._reads
        handles = reads.handlers
        required = self._auth.required
        limit = self._options.global_outstanding_limit
        served = 0
        op = xid = 0
        taken = start
        for frame in islice(frames, start, None):
            if link.queued_bytes > QUEUED_BYTES_MAX or (link.pending and stats.outstanding > limit):
                break
            taken += 1
            if len(frame) < HEADER_BYTES:
                link.drop()
                break
            xid, op = _HEADER(frame)
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
            elif live and op in WRITE_OPS and not required and op != OpCode.CREATE_SESSION:
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
        xid, op = _HEADER(frame)
        if self._auth.required and not self._enforced(link, xid):
            return
        if not self.sessions.touch(link.session_id, link.timeout_ms, mono_ms):
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
        if self._auth.required and not self._enforced(link, xid):
            return False
        if not live:
            self.stats.stale_requests_dropped += 1
            return True
        if op == OpCode.CREATE_SESSION:
            # Compat: Apache runs a txn for it; all the client sees is its own ConnectResponse again.
            link.send(connect_frame(link))
            self._note_sent(link)
            return True
        if op not in WRITE_OPS:
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

    def _submit(self, request: Request, wall_ms: int) -> None:
        """Give a write its txn, or its refusal, and its place in the queues."""
        self.stats.prepared += 1
        op = request.op
        if self.refuse_writes and op != OpCode.CLOSE_SESSION:
            request.err = ErrorCode.SYSTEMERROR
        else:
            self._prep.prepare(request, wall_ms)
        link = request.link
        txn = request.txn
        if txn is not None:
            self._proposals.propose(request)
            self.unlogged.append(txn)
            self.stats.proposals += 1
        if link is None:
            return
        if txn is None and not link.pending:
            self._final.answer_refused(link, request)
            self._answered(link, request, request.arrival_ms)
        else:
            self._queue(request)

    # -- progress

    def take_unlogged(self, count_max: int) -> list[Txn]:
        """The next txns for the log, in zxid order."""
        taken = self.unlogged[:count_max]
        del self.unlogged[:count_max]
        return taken

    def persisted(self, zxid: int, mono_ms: int) -> None:
        """Everything up to `zxid` is durable here: commit what a quorum has, answer, serve what waited."""
        stats = self.stats
        final = self._final
        changes = self._prep.changes
        for request in self._proposals.ack(self._options.server_id, zxid):
            txn = request.txn
            assert txn is not None
            assert txn.zxid > self.tree.last_zxid, "txns are applied in zxid order"
            final.apply(request)
            changes.applied(request.undo, txn.zxid)
            stats.commits += 1
            if txn.type == OpCode.CLOSE_SESSION:
                self._session_closed(txn.client_id, request)
            link = request.link
            if link is not None and link.pending:
                head = link.pending.popleft()
                assert head is request, "requests of a link are answered in order"
                stats.outstanding -= 1
                self._answered(link, request, mono_ms)
                if link.pending:
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
        while pending and pending[0].txn is None:
            request = pending.popleft()
            self.stats.outstanding -= 1
            if link.state >= CLOSE_AFTER_FLUSH:
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

    def log_rolled_back(self, mono_ms: int) -> None:
        """The log had no room for what is outstanding and was cut back: refuse it all, nothing of it happens."""
        self.refuse_writes = True
        self.unlogged.clear()
        dropped = self._proposals.drop_all()
        self._prep.discard(self.tree.last_zxid)
        for request in dropped:
            request.txn = None
            request.err = ErrorCode.SYSTEMERROR
            if request.op == OpCode.CLOSE_SESSION:
                self.sessions.reopen(request.session_id, mono_ms)
            elif request.op == OpCode.CREATE_SESSION:
                self.sessions.remove(request.session_id)
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
        for session_id in self.sessions.expired(mono_ms):
            self.stats.sessions_expired += 1
            self._submit(Request(None, session_id, 0, OpCode.CLOSE_SESSION, b"", (), mono_ms), wall_ms)
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
            self._submit(Request(None, 0, 0, OpCode.DELETE_CONTAINER, frame, (), mono_ms), wall_ms)

    # -- flow control

    def must_wait(self, link: ClientLink) -> bool:
        """Whether no more should be read from the link for now (globalOutstandingLimit)."""
        return bool(link.pending) and self.stats.outstanding > self._options.global_outstanding_limit
