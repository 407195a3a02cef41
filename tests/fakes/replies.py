"""What a client sees of the wire: requests as bytes, replies and events out of bytes, and short names for common requests."""

from __future__ import annotations

import re
from typing import Any

from zkpy_protocol import records
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ACL,
    CreateRequest,
    CreateTTLRequest,
    DeleteRequest,
    Id,
    MultiHeader,
    SetDataRequest,
    Stat,
    WatcherEvent,
    decode_create_response,
    decode_error_response,
    decode_get_acl_response,
    decode_get_children_response,
    decode_get_data_response,
    decode_multi_header,
    decode_reply_header,
    decode_stat,
    decode_watcher_event,
    encode_multi_header,
)

OPEN = [ACL(31, Id("world", "anyone"))]
READ_ONLY = [ACL(1, Id("world", "anyone"))]
STAT_BYTES = 68

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def encode(record: Any) -> bytes:
    """The bytes of a record; bytes stand for themselves."""
    if isinstance(record, bytes):
        return record
    name = _WORD.sub("_", type(record).__name__).lower()
    encoded = getattr(records, f"encode_{name}")(record)
    assert isinstance(encoded, bytes)
    return encoded


def create(
    path: str | None, data: bytes | None = b"", flags: int = 0, acl: list[ACL] | None = OPEN
) -> CreateRequest:
    return CreateRequest(path, data, acl, flags)


def create_ttl(path: str, ttl: int, flags: int = 5, data: bytes | None = b"") -> CreateTTLRequest:
    return CreateTTLRequest(path, data, OPEN, flags, ttl)


def delete(path: str | None, version: int = -1) -> DeleteRequest:
    return DeleteRequest(path, version)


def set_data(path: str | None, data: bytes | None = b"", version: int = -1) -> SetDataRequest:
    return SetDataRequest(path, data, version)


def multi(*ops: tuple[int, Any]) -> bytes:
    """The record of a multi or multiRead."""
    body = b"".join(encode_multi_header(MultiHeader(type_, False, -1)) + encode(op) for type_, op in ops)
    return body + encode_multi_header(MultiHeader(-1, True, -1))


class Event:
    """A notification."""

    def __init__(self, zxid: int, event: WatcherEvent) -> None:
        self.zxid = zxid
        self.type = event.type
        self.state = event.state
        self.path = event.path

    def __repr__(self) -> str:
        return f"Event(type={self.type}, path={self.path!r}, zxid={self.zxid})"


class Result:
    """One entry of the result list of a multi: type, code, and what is behind it."""

    def __init__(self, type_: int, err: int, path: str | None, stat: Stat | None, body: Any) -> None:
        self.type = type_
        self.err = err
        self.path = path
        self.stat = stat
        self.body = body

    def __repr__(self) -> str:
        return f"Result({self.type}, {self.err}, {self.path!r}, {self.body!r})"


class Reply:
    """The answer to a request. The properties decode what the operation is known to answer."""

    def __init__(self, xid: int, zxid: int, err: int, body: bytes) -> None:
        self.xid = xid
        self.zxid = zxid
        self.err = err
        self.body = body

    def __repr__(self) -> str:
        return f"Reply(xid={self.xid}, zxid={self.zxid}, err={self.err}, body={self.body.hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and (self.xid, self.zxid, self.err, self.body) == (
            other.xid,
            other.zxid,
            other.err,
            other.body,
        )

    def __hash__(self) -> int:
        return hash((self.xid, self.zxid, self.err, self.body))

    def ok(self) -> Reply:
        """This reply, which is no error."""
        assert self.err == ErrorCode.OK, self
        return self

    @property
    def stat(self) -> Stat:
        """The Stat at the end."""
        stat, end = decode_stat(self.ok().body, len(self.body) - STAT_BYTES)
        assert end == len(self.body)
        return stat

    @property
    def path(self) -> str | None:
        """Path of a create, create2 or sync."""
        response, _ = decode_create_response(self.ok().body)
        return response.path

    @property
    def data(self) -> bytes | None:
        """Data of a getData."""
        response, end = decode_get_data_response(self.ok().body)
        assert end == len(self.body)
        return response.data

    @property
    def children(self) -> list[str | None]:
        """Children of a getChildren or getChildren2, sorted; paths of a getEphemerals."""
        response, _ = decode_get_children_response(self.ok().body)
        return sorted(response.children or [], key=str)

    @property
    def acl(self) -> list[ACL]:
        """Entries of a getACL."""
        response, end = decode_get_acl_response(self.ok().body)
        assert end == len(self.body)
        return response.acl or []

    @property
    def number(self) -> int:
        """The only int of the body."""
        assert len(self.ok().body) == 4
        return int.from_bytes(self.body, signed=True)

    @property
    def results(self) -> list[Result]:
        """Entries of a multi or multiRead."""
        found, end = decode_results(self.body)
        assert end == len(self.body)
        return found


def decode_results(body: bytes) -> tuple[list[Result], int]:
    found: list[Result] = []
    header, pos = decode_multi_header(body)
    while not header.done:
        path: str | None = None
        stat: Stat | None = None
        content: Any = None
        if header.type in (OpCode.CREATE, OpCode.CREATE2):
            response, pos = decode_create_response(body, pos)
            path = response.path
            if header.type == OpCode.CREATE2:
                stat, pos = decode_stat(body, pos)
        elif header.type == OpCode.SET_DATA:
            stat, pos = decode_stat(body, pos)
        elif header.type == OpCode.GET_DATA:
            data, pos = decode_get_data_response(body, pos)
            stat, content = data.stat, data.data
        elif header.type == OpCode.GET_CHILDREN:
            children, pos = decode_get_children_response(body, pos)
            content = children.children
        elif header.type == OpCode.ERROR:
            error, pos = decode_error_response(body, pos)
            content = error.err
        else:
            assert header.type in (OpCode.DELETE, OpCode.CHECK), header
        found.append(Result(header.type, header.err, path, stat, content))
        header, pos = decode_multi_header(body, pos)
    assert (header.type, header.err) == (-1, -1)
    return found, pos


def decode_frames(data: bytes) -> list[Reply | Event]:
    """Everything in a stream of replies and events; an incomplete frame is a mistake of the server."""
    found: list[Reply | Event] = []
    start = 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 4], signed=True)
        body = data[start + 4 : start + 4 + length]
        assert len(body) == length, "a frame is cut off"
        start += 4 + length
        header, pos = decode_reply_header(body)
        if header.xid == -1:
            assert header.err == 0
            event, end = decode_watcher_event(body, pos)
            assert end == len(body)
            found.append(Event(header.zxid, event))
        else:
            found.append(Reply(header.xid, header.zxid, header.err, body[pos:]))
    return found
