"""A blocking client of raw frames, for runners that must know exactly what was sent and what was answered.

Owns: one connection, its numbering of requests, and the reading of trees. It reconnects nothing by itself.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence

from zkpy_protocol import records
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import ACL, ConnectRequest, Id, MultiHeader, RequestHeader, Stat

OPEN = [ACL(31, Id("world", "anyone"))]
EPHEMERAL, SEQUENCE = 1, 2
SESSION_TIMEOUT_MS = 40_000


class Broken(Exception):
    """A promise is broken."""


class ConnectionGone(Exception):
    """The server has closed the connection, or died."""


class Refused(Exception):
    """A request was answered with an error."""

    def __init__(self, err: int) -> None:
        super().__init__(f"error {err}")
        self.err = err


class Wire:
    """One connection. Requests are numbered by itself.

    Attributes:
        session_id, password, timeout_ms: as the server has answered.
    """

    def __init__(
        self, port: int, timeout: float = 20, host: str = "127.0.0.1", session_timeout_ms: int = SESSION_TIMEOUT_MS
    ) -> None:
        """`timeout`: seconds that connecting or any reply may take; ConnectionGone after them."""
        self.session_id = 0
        self.password = bytes(16)
        self.timeout_ms = session_timeout_ms
        self.xid = 0
        try:
            self.sock = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise ConnectionGone(str(error)) from error
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = bytearray()

    def connect(self, session_id: int = 0, password: bytes = bytes(16), last_zxid: int = 0) -> bool:
        """Open a session, or take one up again. False: the server does not know it any more.

        A server that is behind `last_zxid` closes the connection.
        """
        request = ConnectRequest(0, last_zxid, self.timeout_ms, session_id, password, False)
        self.send_frames([records.encode_connect_request(request)])
        response, _ = records.decode_connect_response(self.frame())
        self.session_id = response.session_id
        self.password = response.passwd or b""
        self.timeout_ms = response.time_out
        return response.session_id != 0

    def send_frames(self, bodies: Sequence[bytes]) -> None:
        try:
            self.sock.sendall(b"".join(struct.pack(">i", len(body)) + body for body in bodies))
        except OSError as error:
            raise ConnectionGone(str(error)) from error

    def request(self, op: int, record: bytes = b"") -> bytes:
        """The frame of a request that is sent later."""
        self.xid += 1
        return records.encode_request_header(RequestHeader(self.xid, op)) + record

    def frame(self) -> bytes:
        while len(self._in) < 4 or len(self._in) < 4 + int.from_bytes(self._in[:4], "big"):
            try:
                data = self.sock.recv(1 << 16)
            except OSError as error:
                raise ConnectionGone(str(error) or type(error).__name__) from error
            if not data:
                raise ConnectionGone("closed by the server")
            self._in += data
        end = 4 + int.from_bytes(self._in[:4], "big")
        frame = bytes(self._in[4:end])
        del self._in[:end]
        return frame

    def reply(self) -> tuple[int, int, int, bytes]:
        """xid, zxid, err, record. A session that has moved to another connection makes this one useless."""
        frame = self.frame()
        header, pos = records.decode_reply_header(frame)
        if header.err == ErrorCode.SESSIONMOVED:
            raise ConnectionGone("the session has moved")
        return header.xid, header.zxid, header.err, frame[pos:]

    def call(self, op: int, record: bytes = b"") -> bytes:
        """Send one request and wait for its answer."""
        self.send_frames([self.request(op, record)])
        xid, _, err, body = self.reply()
        if xid != self.xid:
            raise Broken(f"reply {xid} to request {self.xid}")
        if err:
            raise Refused(err)
        return body

    def get_all(self, paths: Sequence[str]) -> list[tuple[bytes, Stat]]:
        """Data and Stat of znodes that are there."""
        frames = [
            self.request(OpCode.GET_DATA, records.encode_get_data_request(records.GetDataRequest(p, False)))
            for p in paths
        ]
        found = []
        for start in range(0, len(frames), 500):
            batch = frames[start : start + 500]
            self.send_frames(batch)
            for path in paths[start : start + len(batch)]:
                _, _, err, body = self.reply()
                if err:
                    raise Broken(f"{path} is a child and answers error {err}")
                response, _ = records.decode_get_data_response(body)
                found.append((response.data or b"", response.stat))
        return found

    def children(self, path: str) -> list[str]:
        body = self.call(
            OpCode.GET_CHILDREN,
            records.encode_get_children_request(records.GetChildrenRequest(path, False)),
        )
        response, _ = records.decode_get_children_response(body)
        return sorted(response.children or [], key=str)  # type: ignore[arg-type]

    def tree(self, root: str = "/") -> dict[str, tuple[bytes, Stat]]:
        """Everything below `root`, with it."""
        found: dict[str, tuple[bytes, Stat]] = {}
        paths = [root]
        while paths:
            answers = self.get_all(paths)
            found.update(zip(paths, answers, strict=True))
            below = []
            for path, (_, stat) in zip(paths, answers, strict=True):
                if stat.num_children:
                    below += [f"{path.rstrip('/')}/{name}" for name in self.children(path)]
            paths = below
        return found

    def tree_with_acls(self, root: str = "/") -> dict[str, tuple[bytes, Stat, list[ACL]]]:
        """As `tree`, with the ACLs."""
        found: dict[str, tuple[bytes, Stat, list[ACL]]] = {}
        for path, (data, stat) in self.tree(root).items():
            body = self.call(OpCode.GET_ACL, records.encode_get_acl_request(records.GetACLRequest(path)))
            response, _ = records.decode_get_acl_response(body)
            found[path] = (data, stat, response.acl)
        return found

    def close_session(self) -> None:
        """End session and connection; a connection that is gone already ends nothing."""
        with contextlib.suppress(ConnectionGone):
            self.call(OpCode.CLOSE_SESSION)
        self.close()

    def close(self) -> None:
        self.sock.close()


def create(path: str, data: bytes, flags: int = 0) -> bytes:
    return records.encode_create_request(records.CreateRequest(path, data, OPEN, flags))


def set_data(path: str, data: bytes, version: int = -1) -> bytes:
    return records.encode_set_data_request(records.SetDataRequest(path, data, version))


def delete(path: str, version: int = -1) -> bytes:
    return records.encode_delete_request(records.DeleteRequest(path, version))


def multi(parts: Sequence[tuple[int, bytes]]) -> bytes:
    body = b"".join(records.encode_multi_header(MultiHeader(op, False, -1)) + rec for op, rec in parts)
    return body + records.encode_multi_header(MultiHeader(-1, True, -1))
