"""Last stage: a committed txn meets the tree, the watchers hear of it, its client is answered.

Order is the promise (client protocol §5): the events of a txn are queued to every connection before the
reply, and nothing is queued between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.link import CLOSE_AFTER_FLUSH, OPEN
from zkpy.core.passwords import PASSWORD_BYTES, session_password
from zkpy.core.pipeline.eager_acl import EarlyRefusal
from zkpy.core.pipeline.multi import error_result, result, result_list
from zkpy.core.pipeline.reads import REPLY_HEADER_BYTES, reply_frame
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ConnectResponse,
    CreateResponse,
    encode_connect_response,
    encode_create_response,
)

if TYPE_CHECKING:
    from zkpy.core.data_tree import Change, DataTree, OpResult
    from zkpy.core.link import ClientLink
    from zkpy.core.pipeline.request import Request
    from zkpy.core.session_tracker import SessionTable
    from zkpy.core.stats import CoreStats
    from zkpy.core.txn import Txn
    from zkpy.core.watch_manager import WatchManager

_COUNTED_WRITES = frozenset(
    (
        OpCode.CREATE,
        OpCode.CREATE2,
        OpCode.CREATE_CONTAINER,
        OpCode.CREATE_TTL,
        OpCode.DELETE,
        OpCode.DELETE_CONTAINER,
        OpCode.SET_DATA,
    )
)
_CREATES_WITH_STAT = (OpCode.CREATE2, OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL)


class FinalStage:
    """Applies committed txns and answers their requests."""

    __slots__ = ("_sessions", "_stats", "_tree", "_watches")

    def __init__(
        self, tree: DataTree, sessions: SessionTable, watches: WatchManager, stats: CoreStats
    ) -> None:
        self._tree = tree
        self._sessions = sessions
        self._watches = watches
        self._stats = stats

    def apply(self, request: Request) -> None:
        """Apply the txn of `request`, tell the watchers, and queue the reply if its client is still there."""
        txn = request.txn
        assert txn is not None
        watches = self._watches
        changes: list[Change] | None = [] if watches else None
        err, results, single = self._tree.apply(txn, changes)
        if changes:
            watches.fire(changes, txn.zxid)
        link = request.link
        if link is not None and link.state >= CLOSE_AFTER_FLUSH:
            link = None
        if single is None:
            for member in results or ():
                self._note_write(member)
            if err == ErrorCode.SESSIONMOVED and link is not None:
                self._answer_error(link, request, err)
            elif link is not None:
                self._reply(link, request.xid, _multi_body(results or []))
        elif single.type in _COUNTED_WRITES:
            self._note_write(single)
            if link is not None:
                self._reply(link, request.xid, _single_body(single))
        else:
            self._finish(txn, request, single, link)

    def _finish(self, txn: Txn, request: Request, done: OpResult, link: ClientLink | None) -> None:
        """Errors, sessions and what changes no data."""
        if done.type == OpCode.CREATE_SESSION:
            self._sessions.commit(txn.client_id, txn.record.time_out)
            if link is not None:
                open_session(link)
            return
        if done.type == OpCode.CLOSE_SESSION:
            self._sessions.remove(txn.client_id)
            for path in (txn.record and txn.record.paths2_delete) or ():
                self._stats.note_write(path, 0)
        if link is None:
            return
        if done.type == OpCode.ERROR:
            self._answer_error(link, request, done.err)
            return
        if done.type == OpCode.RECONFIG:
            self._reply(link, request.xid, _data_body(txn.record.data, done.stat or b""))
            return
        self._reply(link, request.xid, _single_body(done))
        if done.type == OpCode.CLOSE_SESSION:
            link.close_after_flush()

    def answer_refused(self, link: ClientLink, request: Request) -> None:
        """Queue the error of a write that never became a txn."""
        self._answer_error(link, request, request.err)

    def _answer_error(self, link: ClientLink, request: Request, err: int) -> None:
        if request.op == OpCode.CREATE_SESSION or err == ErrorCode.SESSIONMOVED:
            # A client whose session has moved would see its operations out of order.
            link.drop()
            return
        zxid = 0 if isinstance(request, EarlyRefusal) else self._tree.last_zxid
        link.send(reply_frame(request.xid, zxid, err, b""))
        self._stats.note_response(REPLY_HEADER_BYTES)

    def _reply(self, link: ClientLink, xid: int, body: bytes) -> None:
        frame = reply_frame(xid, self._tree.last_zxid, ErrorCode.OK, body)
        link.send(frame)
        self._stats.note_response(len(frame) - 4)

    def _note_write(self, done: OpResult) -> None:
        if done.type in _COUNTED_WRITES and not done.err:
            path = done.path
            assert path is not None
            self._stats.note_write(path, done.size)


def _single_body(done: OpResult) -> bytes:
    if done.type == OpCode.SET_DATA:
        return done.stat or b""
    if done.type == OpCode.CREATE:
        return encode_create_response(CreateResponse(done.path))
    if done.type in _CREATES_WITH_STAT:
        assert done.stat is not None
        return encode_create_response(CreateResponse(done.path)) + done.stat
    return done.stat or b""


def _data_body(data: bytes, stat: bytes) -> bytes:
    """A GetDataResponse."""
    return len(data).to_bytes(4, "big") + data + stat


def _multi_body(results: list[OpResult]) -> bytes:
    return result_list([_member(done) for done in results])


def _member(done: OpResult) -> bytes:
    if done.type == OpCode.ERROR:
        return error_result(done.err)
    # Compat: containers and TTL nodes answer as create2.
    type_ = OpCode.CREATE2 if done.type in _CREATES_WITH_STAT else done.type
    return result(type_, _single_body(done))


def open_session(link: ClientLink) -> None:
    """Answer the ConnectRequest: the session is there, the client may go on."""
    link.state = OPEN
    link.resume_reading = True
    link.send(connect_frame(link))


def connect_frame(link: ClientLink) -> bytes:
    """The ConnectResponse of a live session."""
    return _connect_frame(
        link, ConnectResponse(0, link.timeout_ms, link.session_id, session_password(link.session_id), None)
    )


def refuse_session(link: ClientLink) -> None:
    """Answer a ConnectRequest for a session that is expired, unknown or protected by another password."""
    link.send(_connect_frame(link, ConnectResponse(0, 0, 0, bytes(PASSWORD_BYTES), None)))
    link.close_after_flush()


def _connect_frame(link: ClientLink, response: ConnectResponse) -> bytes:
    if link.read_only_byte:
        response.read_only = link.is_read_only
    body = encode_connect_response(response)
    return len(body).to_bytes(4, "big") + body
