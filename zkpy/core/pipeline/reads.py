"""Requests that change no znode: answered from the applied tree, at once.

A handler appends its reply to the link, or raises; `ReadStage.serve` makes an error reply of the exception.
Reads never validate paths: any string is looked up, the empty one is the root (client protocol §6.1).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from librt.strings import BytesWriter, write_i32_be, write_i64_be

from zkpy.core.errors import KeeperError
from zkpy.core.pipeline.multi import READ_OPS, error_result, result, result_list
from zkpy.core.watch_manager import NULL_PATH, STANDARD
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.multi import iter_multi_request
from zkpy_protocol.opcodes import AddWatchMode, ErrorCode, OpCode, Perms, WatcherType, Xid
from zkpy_protocol.records import (
    ACL,
    ClientInfo,
    ErrorResponse,
    GetAllChildrenNumberResponse,
    GetChildrenResponse,
    GetEphemeralsResponse,
    Id,
    WhoAmIResponse,
    decode_add_watch_request,
    decode_check_watches_request,
    decode_exists_request,
    decode_get_acl_request,
    decode_get_all_children_number_request,
    decode_get_children_request,
    decode_get_data_request,
    decode_get_ephemerals_request,
    decode_remove_watches_request,
    decode_set_watches,
    decode_set_watches2,
    decode_sync_request,
    encode_acl,
    encode_error_response,
    encode_get_all_children_number_response,
    encode_get_children_response,
    encode_get_ephemerals_response,
    encode_who_am_i_response,
)
from zkpy_protocol.text import encode_as_java

if TYPE_CHECKING:
    from collections.abc import Callable

    from zkpy.core.acl import AccessRules
    from zkpy.core.data_tree import DataTree, Node
    from zkpy.core.link import ClientLink
    from zkpy.core.stats import CoreStats
    from zkpy.core.watch_manager import WatchManager

    Ids = tuple[Id, ...]

HEADER_BYTES: Final = 8
REPLY_HEADER_BYTES: Final = 16

_JAVA_BLANK = "".join(map(chr, range(0x21)))  # what String.trim takes away
_INT: Final = struct.Struct(">i").pack
_DATA_REPLY_FIXED: Final = REPLY_HEADER_BYTES + 4 + 68
_STAT_BYTES: Final = 68


def reply_frame(xid: int, zxid: int, err: int, body: bytes) -> bytes:
    """One reply with its length prefix."""
    writer = BytesWriter()
    write_i32_be(writer, REPLY_HEADER_BYTES + len(body))
    write_i32_be(writer, xid)
    write_i64_be(writer, zxid)
    write_i32_be(writer, err)
    writer.write(body)
    return writer.getvalue()


def _data_reply_head(size: int, xid: int, zxid: int, length: int) -> bytes:
    """What goes before data and Stat."""
    writer = BytesWriter()
    write_i32_be(writer, size)
    write_i32_be(writer, xid)
    write_i64_be(writer, zxid)
    write_i32_be(writer, 0)
    write_i32_be(writer, length)
    return writer.getvalue()


class ReadStage:
    """Serves reads, pings and everything about watches, by `HANDLERS`."""

    __slots__ = ("_access", "_stats", "_tree", "_watches")

    def __init__(self, tree: DataTree, watches: WatchManager, access: AccessRules, stats: CoreStats) -> None:
        self._tree = tree
        self._watches = watches
        self._access = access
        self._stats = stats

    def serve(self, link: ClientLink, xid: int, op: int, frame: bytes, ids: Ids) -> None:
        """Append the reply, and before it the events it catches up with."""
        try:
            body = HANDLERS[op](self, link, xid, frame, ids)
        except KeeperError as error:
            self._reply(link, xid, error.code, b"")
        except DecodeError:
            self._reply(link, xid, ErrorCode.MARSHALLINGERROR, b"")
        else:
            if body is not None:
                self._reply(link, xid, ErrorCode.OK, body)

    def _reply(self, link: ClientLink, xid: int, err: int, body: bytes) -> None:
        link.send(reply_frame(xid, self._tree.last_zxid, err, body))
        self._stats.note_response(REPLY_HEADER_BYTES + len(body))

    # -- handlers: the record of the reply, or None when the reply is already sent

    def _get_data(self, link: ClientLink, xid: int, frame: bytes, ids: Ids) -> None:
        request, _ = decode_get_data_request(frame, HEADER_BYTES)
        path = request.path
        node = self._readable(path, ids)
        if request.watch:
            self._watches.data.add(_text(path), link, STANDARD)
        tree = self._tree
        data = node.data
        stat = node.stat or tree.stat(node)
        # The hottest reply of all: header, data and cached Stat go out without being copied together.
        if data is None:
            size = _DATA_REPLY_FIXED
            link.send(_data_reply_head(size, xid, tree.last_zxid, -1))
        else:
            size = _DATA_REPLY_FIXED + len(data)
            link.send(_data_reply_head(size, xid, tree.last_zxid, len(data)))
            link.out.append(data)
        link.out.append(stat)
        link.queued_bytes += size
        self._stats.note_response(size)
        self._stats.note_read(_text(path), size - REPLY_HEADER_BYTES - 4)

    def _exists(self, link: ClientLink, _xid: int, frame: bytes, ids: Ids) -> bytes:
        request, _ = decode_exists_request(frame, HEADER_BYTES)
        path = _text(request.path)
        if "\0" in path:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        node = self._tree.nodes.get(path)
        if node is not None:
            self._require(node, Perms.READ, ids)
        if request.watch:
            self._watches.data.add(path, link, STANDARD)
        if node is None:
            raise KeeperError(ErrorCode.NONODE)
        self._stats.note_read(path, _STAT_BYTES)
        return self._tree.stat(node)

    def _ping(self, link: ClientLink, _xid: int, _frame: bytes, _ids: Ids) -> None:
        self._reply(link, Xid.PING, ErrorCode.OK, b"")

    def _get_children(self, link: ClientLink, _xid: int, frame: bytes, ids: Ids) -> bytes:
        return self._children(link, frame, ids)[0]

    def _get_children2(self, link: ClientLink, _xid: int, frame: bytes, ids: Ids) -> bytes:
        body, node = self._children(link, frame, ids)
        return body + self._tree.stat(node)

    def _children(self, link: ClientLink, frame: bytes, ids: Ids) -> tuple[bytes, Node]:
        request, _ = decode_get_children_request(frame, HEADER_BYTES)
        path = _text(request.path)
        node = self._readable(path, ids)
        names = self._tree.child_names(path, node)
        if request.watch:
            self._watches.child.add(path, link, STANDARD)
        body = encode_get_children_response(GetChildrenResponse([*names]))
        self._stats.note_read(path, _STAT_BYTES + sum(map(len, names)))
        return body, node

    def _get_acl(self, _link: ClientLink, _xid: int, frame: bytes, ids: Ids) -> bytes:
        request, _ = decode_get_acl_request(frame, HEADER_BYTES)
        node = self._existing(request.path)
        self._require(node, Perms.READ | Perms.ADMIN, ids)
        entries = node.acl.entries
        if not self._access.allows(node.acl, Perms.ADMIN, ids):
            entries = tuple([_without_secret(entry) for entry in entries])
        encoded = b"".join([encode_acl(entry) for entry in entries])
        return _INT(len(entries)) + encoded + self._tree.stat(node)

    def _sync(self, _link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        request, _ = decode_sync_request(frame, HEADER_BYTES)
        if request.path is None:
            return _INT(-1)
        raw = encode_as_java(request.path)
        return _INT(len(raw)) + raw

    def _get_all_children_number(self, _link: ClientLink, _xid: int, frame: bytes, ids: Ids) -> bytes:
        request, _ = decode_get_all_children_number_request(frame, HEADER_BYTES)
        self._readable(request.path, ids)
        count = self._tree.descendants_count(_text(request.path))
        return encode_get_all_children_number_response(GetAllChildrenNumberResponse(count))

    def _get_ephemerals(self, link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        request, _ = decode_get_ephemerals_request(frame, HEADER_BYTES)
        owned = self._tree.ephemerals_of(link.session_id)
        prefix = request.prefix_path
        if prefix is not None and prefix.strip(_JAVA_BLANK) not in {"", "/"}:
            owned = [path for path in owned if path.startswith(prefix)]
        return encode_get_ephemerals_response(GetEphemeralsResponse([*owned]))

    def _multi_read(self, link: ClientLink, xid: int, frame: bytes, ids: Ids) -> bytes | None:
        results: list[bytes] = []
        for type_, op in _read_ops(frame):
            if type_ not in READ_OPS or op.path is None:
                # Compat: an unexpected error, but the results so far go out with it.
                self._reply(link, xid, ErrorCode.MARSHALLINGERROR, result_list(results))
                return None
            try:
                node = self._readable(op.path, ids)
            except KeeperError as error:
                results.append(error_result(error.code))
                continue
            if type_ == OpCode.GET_DATA:
                data = node.data
                body = (_INT(-1) if data is None else _INT(len(data)) + data) + self._tree.stat(node)
                self._stats.note_read(_text(op.path), len(body) - 4)
            else:
                names = self._tree.child_names(op.path, node)
                body = encode_get_children_response(GetChildrenResponse([*names]))
                self._stats.note_read(_text(op.path), _STAT_BYTES + sum(map(len, names)))
            results.append(result(type_, body))
        return result_list(results)

    def _add_watch(self, link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        request, _ = decode_add_watch_request(frame, HEADER_BYTES)
        if request.mode not in (AddWatchMode.PERSISTENT, AddWatchMode.PERSISTENT_RECURSIVE):
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        recursive = request.mode == AddWatchMode.PERSISTENT_RECURSIVE
        self._watches.add_persistent(_watched(request.path), link, recursive)
        return encode_error_response(ErrorResponse(ErrorCode.OK))

    def _check_watches(self, link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        request, _ = decode_check_watches_request(frame, HEADER_BYTES)
        self._require_watcher_type(request.type)
        if not self._watches.has(_watched(request.path), link, request.type):
            raise KeeperError(ErrorCode.NOWATCHER)
        return b""

    def _remove_watches(self, link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        request, _ = decode_remove_watches_request(frame, HEADER_BYTES)
        self._require_watcher_type(request.type)
        if not self._watches.remove(_watched(request.path), link, request.type):
            raise KeeperError(ErrorCode.NOWATCHER)
        return b""

    def _set_watches(self, link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        self._watches.rearm(self._tree, link, decode_set_watches(frame, HEADER_BYTES)[0])
        return b""

    def _set_watches2(self, link: ClientLink, _xid: int, frame: bytes, _ids: Ids) -> bytes:
        self._watches.rearm(self._tree, link, decode_set_watches2(frame, HEADER_BYTES)[0])
        return b""

    def _who_am_i(self, _link: ClientLink, _xid: int, _frame: bytes, ids: Ids) -> bytes:
        infos = [ClientInfo(id_.scheme, self._access.user_name(id_)) for id_ in ids]
        return encode_who_am_i_response(WhoAmIResponse(infos))

    # -- shared rules

    def _existing(self, path: str | None) -> Node:
        node = self._tree.nodes.get(_text(path))
        if node is None:
            raise KeeperError(ErrorCode.NONODE)
        return node

    def _readable(self, path: str | None, ids: Ids) -> Node:
        node = self._existing(path)
        if not node.acl.anyone & Perms.READ:
            self._require(node, Perms.READ, ids)
        return node

    def _require(self, node: Node, perm: int, ids: Ids) -> None:
        if not self._access.allows(node.acl, perm, ids):
            raise KeeperError(ErrorCode.NOAUTH)

    @staticmethod
    def _require_watcher_type(kind: int) -> None:
        if not WatcherType.CHILDREN <= kind <= WatcherType.PERSISTENT_RECURSIVE:
            raise KeeperError(ErrorCode.MARSHALLINGERROR)


# ruff: noqa: SLF001  the methods of the stage, named beside it
# Functions and not bound methods: a stage that refers to itself would keep the tree of a role that is over.
HANDLERS: Final[dict[int, Callable[[ReadStage, ClientLink, int, bytes, Ids], bytes | None]]] = {
    OpCode.GET_DATA: ReadStage._get_data,
    OpCode.EXISTS: ReadStage._exists,
    OpCode.PING: ReadStage._ping,
    OpCode.GET_CHILDREN: ReadStage._get_children,
    OpCode.GET_CHILDREN2: ReadStage._get_children2,
    OpCode.GET_ACL: ReadStage._get_acl,
    OpCode.SYNC: ReadStage._sync,
    OpCode.GET_ALL_CHILDREN_NUMBER: ReadStage._get_all_children_number,
    OpCode.GET_EPHEMERALS: ReadStage._get_ephemerals,
    OpCode.MULTI_READ: ReadStage._multi_read,
    OpCode.ADD_WATCH: ReadStage._add_watch,
    OpCode.CHECK_WATCHES: ReadStage._check_watches,
    OpCode.REMOVE_WATCHES: ReadStage._remove_watches,
    OpCode.SET_WATCHES: ReadStage._set_watches,
    OpCode.SET_WATCHES2: ReadStage._set_watches2,
    OpCode.WHO_AM_I: ReadStage._who_am_i,
}
"""What serves each opcode."""


def _text(path: str | None) -> str:
    """A null path is an unexpected error in Apache, which answers it so."""
    if path is None:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    return path


def _watched(path: str | None) -> str:
    return NULL_PATH if path is None else path


def _read_ops(frame: bytes) -> list[tuple[int, Any]]:
    """All operations of a multiRead.

    Raises:
        DecodeError: one cannot be read, or reads and writes are mixed.
    """
    ops = list(iter_multi_request(frame, HEADER_BYTES))
    if len({type_ in READ_OPS for type_, _ in ops}) > 1:
        raise DecodeError("reads and writes in one multi")
    return ops


def _without_secret(entry: ACL) -> ACL:
    """What a caller without ADMIN sees of a digest entry."""
    if entry.id.scheme != "digest" or entry.id.id is None:
        return entry
    name, colon, _ = entry.id.id.partition(":")
    return ACL(entry.perms, Id("digest", f"{name}:x" if colon else name))
