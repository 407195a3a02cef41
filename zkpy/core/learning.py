"""The service of a follower or observer: reads from its own tree, writes by way of the leader.

    write ──► `Forwarder` ──► leader … committed txn ──► `commit` ──► final: tree, watches, and the reply if it was ours

A forwarded request keeps its place in the queue of its link until the txn with its session and cxid comes back.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

from zkpy.core.local_sessions import wants_ephemeral
from zkpy.core.passwords import first_session_id
from zkpy.core.pipeline.reads import HEADER_BYTES
from zkpy.core.pipeline.request import Request
from zkpy.core.service import Service
from zkpy.core.session_tracker import LearnerSessions
from zkpy_protocol.opcodes import ErrorCode, OpCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.link import ClientLink
    from zkpy.core.service import ServiceParts
    from zkpy.core.txn import Txn
    from zkpy.core.zab.database import Database
    from zkpy_protocol.records import Id

_NO_HEADER = bytes(HEADER_BYTES)
_TIMEOUT = struct.Struct(">i")


class Forwarder(Protocol):
    """The way to the leader."""

    def request(self, session_id: int, cxid: int, op: int, record: bytes, ids: Sequence[Id] | None) -> None:
        """Ask for a write or a sync; `record` as the client sent it."""

    def revalidate(self, session_id: int, timeout_ms: int) -> None:
        """Ask whether a session goes on; the answer comes to `LearningService.revalidated`."""

    @property
    def last_zxid(self) -> int:
        """The last txn that was heard of, committed or not."""


class LearningService(Service):
    """Clients of a learner."""

    __slots__ = ("_abandoned", "_forwarder", "_learned", "_quorum_stats", "_revalidating", "_syncs")

    def __init__(
        self, parts: ServiceParts, database: Database, forwarder: Forwarder, wall_ms: int, mono_ms: int
    ) -> None:
        options = parts.options
        first_id = first_session_id(options.server_id, wall_ms)
        self._learned = LearnerSessions(
            database.sessions, first_id, only_committed=options.local_sessions_enabled
        )
        super().__init__(parts, database, self._learned, mono_ms)
        self.mode = "follower"
        self._check_acls_eagerly(parts)
        self._forwarder = forwarder
        self._quorum_stats = parts.quorum_stats
        self._revalidating: dict[int, ClientLink] = {}
        # Own requests, and whoever else waits for a sync; the leader answers in this order.
        self._syncs: deque[Request | object] = deque()
        # Forwarded for connections that are gone, by session, in order. A client that comes back may count its xids from 1
        # again (kazoo does): what becomes of its old requests must not be taken for the answers to new ones. Those that it has
        # sent to other servers are told by their zxids, see `revalidated`; an observer does not know these in time.
        self._abandoned: dict[int, deque[Request]] = {}
        self._served_here -= {OpCode.SYNC}
        self._sent_on |= {OpCode.SYNC}

    # -- sessions

    def _open(self, link: ClientLink, wall_ms: int, mono_ms: int) -> None:
        frame = _NO_HEADER + _TIMEOUT.pack(link.timeout_ms)
        created = Request(link, link.session_id, 0, OpCode.CREATE_SESSION, frame, link.ids, mono_ms)
        self._submit(created, wall_ms)

    def _revalidate(self, link: ClientLink, mono_ms: int) -> None:  # noqa: ARG002  the leader's clock counts
        self._revalidating[link.session_id] = link
        self._forwarder.revalidate(link.session_id, link.timeout_ms)

    def revalidated(self, session_id: int, valid: bool) -> None:
        """The leader knows whether a session goes on."""
        link = self._revalidating.pop(session_id, None)
        if link is not None and self.links.get(session_id) is link:
            if valid:
                self._learned.confirm(session_id)
                # What the client has asked for elsewhere is proposed by now, or will be refused.
                link.since_zxid = self._forwarder.last_zxid
            self._finish_connect(link, valid)

    def touched(self, session_id: int, timeout_ms: int) -> None:
        """An observer that this server serves has heard of a session."""
        self._learned.touch(session_id, timeout_ms, 0)

    def take_touched(self) -> list[tuple[int, int]]:
        """Sessions heard of since the last call, and those committed since then once each, with their timeouts."""
        return self._learned.take_touched()

    def tick(self, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        """Expire local sessions; everything else is the leader's."""
        self._expire_local(mono_ms)

    # -- writes

    def _submit(self, request: Request, wall_ms: int) -> None:  # noqa: ARG002  the leader's clock stamps txns
        """Forward a write or a sync."""
        link = request.link
        assert link is not None
        op = request.op
        if self.refuse_writes and op not in (OpCode.CLOSE_SESSION, OpCode.SYNC):
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
            timeout_ms = local.upgrade(request.session_id)
            self._forwarder.request(
                request.session_id, 0, OpCode.CREATE_SESSION, _TIMEOUT.pack(timeout_ms), None
            )
        request.waits = True
        self._queue(request)
        if op == OpCode.SYNC:
            self._syncs.append(request)
        elif op == OpCode.CLOSE_SESSION:
            self._learned.set_closing(request.session_id)
        ids = None if op == OpCode.CREATE_SESSION else request.ids
        self._forwarder.request(request.session_id, request.xid, op, request.frame[HEADER_BYTES:], ids)

    def _forget_pending(self, link: ClientLink) -> None:
        if self.links.get(link.session_id) is link:
            forwarded = [request for request in link.pending if request.waits and request.op != OpCode.SYNC]
            if forwarded:
                self._abandoned.setdefault(link.session_id, deque()).extend(forwarded)
        super()._forget_pending(link)

    def await_sync(self, asker: object) -> None:
        """A sync goes to the leader for somebody else; `synced` names the asker when its turn has come."""
        self._syncs.append(asker)

    # -- progress

    def commit(self, txn: Txn, mono_ms: int) -> None:
        """Apply a committed txn, and answer it if one of this server's clients asked for it."""
        self.database.committed_log.append(txn)
        request = None
        if not self._abandoned or not self._was_abandoned(txn):
            link = self.links.get(txn.client_id)
            if link is not None and link.pending and txn.zxid > link.since_zxid:
                head = link.pending[0]
                if _answers(txn, head):
                    request = head
                    self._abandoned.pop(txn.client_id, None)
        if request is None:
            request = Request(None, txn.client_id, txn.cxid, txn.type, b"", (), mono_ms)
        request.txn = txn
        self._commit(request, mono_ms)

    def _was_abandoned(self, txn: Txn) -> bool:
        """Whether nobody waits any more for what this txn answers. Txns come in the order of their requests."""
        requests = self._abandoned.get(txn.client_id)
        if requests is None or not _answers(txn, requests[0]):
            return False
        requests.popleft()
        if not requests:
            del self._abandoned[txn.client_id]
        return True

    def synced(self, mono_ms: int) -> object | None:
        """The leader has answered the oldest sync: everything committed before it is applied here.

        Returns:
            who waited for it, if it was no client of this server.
        """
        if not self._syncs:
            return None
        request = self._syncs.popleft()
        if not isinstance(request, Request):
            return request
        self._quorum_stats.syncs += 1
        link = request.link
        assert link is not None
        request.waits = False
        if link.pending and link.pending[0] is request:
            self._serve_waiting(link, mono_ms)
        return None


def _answers(txn: Txn, request: Request) -> bool:
    """Whether a txn is what became of a request of the same session, the oldest one without an answer.

    What servers do by themselves for a session has cxid 0, which a client may use as well.
    """
    op = request.op
    if not request.waits or request.xid != txn.cxid or op == OpCode.SYNC:
        return False
    if txn.type in (OpCode.CREATE_SESSION, OpCode.CLOSE_SESSION):
        return txn.type == op
    return txn.type == OpCode.ERROR or op not in (OpCode.CREATE_SESSION, OpCode.CLOSE_SESSION)
