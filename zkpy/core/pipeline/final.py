"""Last stage: a committed txn meets the tree, the watchers hear of it, its client is answered.

Order is the promise (client protocol §5): the events of a txn are queued to every connection before the
reply, and nothing is queued between them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from librt.strings import BytesWriter, write_i32_be

from zkpy.core.link import CLOSE_AFTER_FLUSH, OPEN
from zkpy.core.passwords import PASSWORD_BYTES, session_password
from zkpy.core.pipeline.eager_acl import EarlyRefusal
from zkpy.core.pipeline.multi import error_result, result, result_list
from zkpy.core.pipeline.reads import REPLY_HEADER_BYTES, reply_frame
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ConnectResponse,
    encode_connect_response,
)

if TYPE_CHECKING:
    from zkpy.core.data_tree import Change, DataTree, OpResult
    from zkpy.core.link import ClientLink
    from zkpy.core.pipeline.request import Request
    from zkpy.core.session_tracker import SessionTable
    from zkpy.core.stats import CoreStats
    from zkpy.core.txn import Txn
    from zkpy.core.watch_manager import WatchManager

_INT: Final = struct.Struct(">i").pack
_CREATES: Final = (OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL)
_CREATES_WITH_STAT: Final = (OpCode.CREATE2, OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL)


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
        single, results = self._tree.apply(txn, changes)
        if changes:
            watches.fire(changes, txn.zxid)
        link = request.link
        if link is not None and link.state >= CLOSE_AFTER_FLUSH:
            link = None
        stats = self._stats
        if single is None:
            for _, _, path, _, size in results:
                if size >= 0:
                    stats.note_write(path, size)
            if link is not None:
                self._reply_multi(link, request, results)
            return
        type_, _, path, stat, size = single
        if size < 0:
            self._finish(txn, request, single, link)
            return
        stats.note_write(path, size)
        if link is not None:
            self._reply(link, request.xid, _body(type_, path, stat))

    def _reply_multi(self, link: ClientLink, request: Request, results: list[OpResult]) -> None:
        if results and results[-1][0] == OpCode.ERROR:
            first = next(err for _, err, *_ in results if err)
            if first == ErrorCode.SESSIONMOVED:
                self._answer_error(link, request, first)
                return
        self._reply(link, request.xid, result_list([_member(done) for done in results]))

    def _finish(self, txn: Txn, request: Request, done: OpResult, link: ClientLink | None) -> None:
        """Errors, sessions and what writes no data."""
        type_, err, path, stat, _ = done
        if type_ == OpCode.CREATE_SESSION:
            self._sessions.commit(txn.client_id, txn.record.time_out)
            if link is not None:
                open_session(link)
            return
        if type_ == OpCode.CLOSE_SESSION:
            self._sessions.remove(txn.client_id)
            for deleted in (txn.record and txn.record.paths2_delete) or ():
                self._stats.note_write(deleted, 0)
        if link is None:
            return
        if type_ == OpCode.ERROR:
            self._answer_error(link, request, err)
            return
        if type_ == OpCode.RECONFIG:
            self._reply(link, request.xid, _data_body(txn.record.data, stat))
            return
        self._reply(link, request.xid, _body(type_, path, stat))
        if type_ == OpCode.CLOSE_SESSION:
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
        link.send(reply_frame(xid, self._tree.last_zxid, ErrorCode.OK, body))
        self._stats.note_response(REPLY_HEADER_BYTES + len(body))


def _body(type_: int, path: str, stat: bytes) -> bytes:
    """The record of a reply, or of a successful entry of a result list."""
    if type_ in _CREATES:
        raw = path.encode()
        writer = BytesWriter()
        write_i32_be(writer, len(raw))
        writer.write(raw)
        writer.write(stat)
        return writer.getvalue()
    return stat


def _data_body(data: bytes, stat: bytes) -> bytes:
    """A GetDataResponse."""
    return _INT(len(data)) + data + stat


def _member(done: OpResult) -> bytes:
    type_, err, path, stat, _ = done
    if type_ == OpCode.ERROR:
        return error_result(err)
    # Compat: containers and TTL nodes answer as create2.
    return result(OpCode.CREATE2 if type_ in _CREATES_WITH_STAT else type_, _body(type_, path, stat))


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
