"""Clients: real frames, a session that they take from server to server, and what each answer has to agree with.

A request whose connection is lost is ambiguous: it may have happened or not. Everything that is answered is checked at once
against the ledger: an answer is about the committed history up to the zxid in its header.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any

from tests.fakes.replies import OPEN
from tests.simulation.server import server_line
from tests.simulation.world import ViolationError
from zkpy.core.paths import CONFIG_NODE
from zkpy.core.zab.peer_state import epoch_of
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    AuthPacket,
    ConnectRequest,
    CreateRequest,
    DeleteRequest,
    GetDataRequest,
    MultiHeader,
    ReconfigRequest,
    SetDataRequest,
    SyncRequest,
    decode_connect_response,
    decode_create_response,
    decode_get_data_response,
    decode_stat,
    encode_auth_packet,
    encode_create_request,
    encode_delete_request,
    encode_get_data_request,
    encode_multi_header,
    encode_reconfig_request,
    encode_set_data_request,
    encode_sync_request,
)

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.network import End

_HEAD = Struct(">ii")
_REPLY = Struct(">iqi")
_PING_XID = -2
_PING = _HEAD.pack(_PING_XID, OpCode.PING)
_REGISTERS = [f"/r{number}" for number in range(4)]
_WINDOW = 3
_EPHEMERAL = 1
_SEQUENTIAL = 2
_WRITES = frozenset(
    (OpCode.CREATE, OpCode.DELETE, OpCode.SET_DATA, OpCode.MULTI, OpCode.CLOSE_SESSION, OpCode.RECONFIG)
)
_REFUSED_RECONFIGS = frozenset(
    (
        ErrorCode.RECONFIGINPROGRESS,
        ErrorCode.NEWCONFIGNOQUORUM,
        ErrorCode.BADARGUMENTS,
        ErrorCode.SESSIONEXPIRED,
        ErrorCode.SESSIONMOVED,
    )
)
_WEIGHTED = (
    ("set", 30),
    ("get", 15),
    ("fresh", 10),
    ("create", 10),
    ("sequential", 8),
    ("ephemeral", 8),
    ("delete", 8),
    ("multi", 8),
    ("close", 1),
)
_KINDS = [kind for kind, weight in _WEIGHTED for _ in range(weight)]
_SUPER = b"super:test"
_AUTH_XID = -4
_AUTH = _HEAD.pack(_AUTH_XID, OpCode.AUTH) + encode_auth_packet(AuthPacket(0, "digest", _SUPER))


class Op:
    """One request under way.

    Attributes:
        acked: the greatest zxid that anybody had been answered with a write when it began.
        is_fresh: a get behind a sync, which has to see everything up to `acked`.
        expected: version that a set or delete asks for.
    """

    __slots__ = ("acked", "data", "expected", "is_fresh", "op", "path", "xid")

    def __init__(self, op: int, path: str, acked: int, *, expected: int = -1, data: bytes = b"") -> None:
        self.op = op
        self.path = path
        self.xid = 0
        self.acked = acked
        self.expected = expected
        self.data = data
        self.is_fresh = False


class SimClient:
    """One client.

    Attributes:
        acked_writes: how many writes were answered.
        is_quiet: it begins nothing new.
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.number = number
        self.name = f"client.{number}"
        self.timeout_ms = cluster.world.rng.choice((8, 20)) * cluster.scenario.tick_ms
        self.acked_writes = 0
        self.is_quiet = False
        self.outstanding: deque[Op] = deque()
        self._end: End | None = None
        self._is_connected = False
        self._server_id = 0
        self._count = 0
        self._xid = 0
        self._heard_us = 0
        self._sent_us = 0
        self._zxid = 0
        self._session_id = 0
        self._password = bytes(16)
        self._ephemerals: dict[str, None] = {}
        self._versions: dict[str, int] = {}
        # Who may change the membership.
        self._is_super = cluster.scenario.reconfig and number == 1
        self.world.after(self.world.between(0, 300_000), self._dial)
        self.world.after(self.world.between(0, 300_000), self._think)

    # -- connection

    def _dial(self) -> None:
        cluster = self.cluster
        server_id = self.world.rng.choice(cluster.scenario.servers)
        process = cluster.servers[server_id].process
        if self._end is not None:
            return
        if process is None or self.is_quiet:
            self._dial_again()
            return
        end, other = cluster.network.connect(-self.number, server_id)
        end.shell = self
        self._end = end
        self._server_id = server_id
        self._heard_us = self.world.now_us
        process.accept_client(other)
        request = ConnectRequest(0, self._zxid, self.timeout_ms, self._session_id, self._password, False)
        cluster.network.send(end, [request])

    def _dial_again(self) -> None:
        self.world.after(self.world.between(20_000, 300_000), self._dial)

    def hang_up(self) -> None:
        """Leave the server; the session goes on elsewhere."""
        if self._end is not None:
            self.cluster.network.abort(self._end)

    def lost(self, reason: str) -> None:
        """The connection is gone: what was asked may have happened or not."""
        self._end = None
        self._is_connected = False
        self.outstanding.clear()
        self._dial_again()

    def received(self, data: Any) -> None:
        """Frames of the server."""
        self._heard_us = self.world.now_us
        for piece in data:
            start = 0
            while start < len(piece):
                end = start + 4 + int.from_bytes(piece[start : start + 4], signed=True)
                if self._is_connected:
                    self._reply(piece, start + 4, end)
                else:
                    self._connect_response(piece, start + 4)
                start = end

    def _connect_response(self, piece: bytes, start: int) -> None:
        response, _ = decode_connect_response(piece, start)
        checks = self.cluster.checks
        if response.session_id == 0:
            self.world.note(self.name, "session refused", {"session": f"{self._session_id:#x}"})
            self._forget_session()
            return
        if self._session_id and response.session_id != self._session_id:
            raise ViolationError(
                f"{self.name} asked for session {self._session_id:#x} and got {response.session_id:#x}"
            )
        if response.session_id in checks.ledger.closed:
            raise ViolationError(f"{self.name} got session {response.session_id:#x} back, which is closed")
        self._is_connected = True
        self._session_id = response.session_id
        self._password = response.passwd or b""
        if self._is_super:
            self._send([_AUTH])

    def _forget_session(self) -> None:
        self._session_id = 0
        self._password = bytes(16)
        self._xid = 0
        self._ephemerals.clear()
        if self._end is not None:
            self.cluster.network.abort(self._end)

    # -- requests

    def _think(self) -> None:
        think_us = self.cluster.scenario.think_us
        self.world.after(self.world.between(think_us // 4, 2 * think_us), self._think)
        if self._end is None:
            return
        now_us = self.world.now_us
        timeout_us = self.timeout_ms * 1000
        if now_us - self._heard_us > timeout_us * 2 // 3:
            self.hang_up()
        elif self._is_connected:
            if len(self.outstanding) < _WINDOW and not self.is_quiet:
                self._ask()
            elif now_us - self._sent_us > timeout_us // 3:
                self._send([_PING])

    def _ask(self) -> None:
        rng = self.world.rng
        if self._is_super and rng.random() < 0.15:
            self._reconfig()
            return
        kind = rng.choice(_KINDS)
        path = rng.choice(_REGISTERS)
        acked = self.cluster.acked_zxid
        self._count += 1
        value = b"%d-%d" % (self.number, self._count)
        if kind == "set":
            expected = self._versions.get(path, -1) if rng.random() < 0.8 else -1
            self._request(
                Op(OpCode.SET_DATA, path, acked, expected=expected, data=value),
                encode_set_data_request(SetDataRequest(path, value, expected)),
            )
        elif kind == "get":
            self._request(
                Op(OpCode.GET_DATA, path, acked), encode_get_data_request(GetDataRequest(path, False))
            )
        elif kind == "fresh":
            self._request(Op(OpCode.SYNC, path, acked), encode_sync_request(SyncRequest(path)))
            get = Op(OpCode.GET_DATA, path, acked)
            get.is_fresh = True
            self._request(get, encode_get_data_request(GetDataRequest(path, False)))
        elif kind == "delete":
            self._request(Op(OpCode.DELETE, path, acked), encode_delete_request(DeleteRequest(path, -1)))
        elif kind == "multi":
            self._multi(path, value, acked)
        elif kind == "close":
            self._request(Op(OpCode.CLOSE_SESSION, "", acked), b"")
        else:
            flags = {"create": 0, "sequential": _SEQUENTIAL, "ephemeral": _EPHEMERAL}[kind]
            if kind != "create":
                path = f"/{kind[0]}{self.number}-{self._count}-"
            self._request(
                Op(OpCode.CREATE, path, acked, expected=flags, data=value),
                encode_create_request(CreateRequest(path, value, OPEN, flags)),
            )

    def _multi(self, path: str, value: bytes, acked: int) -> None:
        expected = self._versions.get(path, -1)
        body = b"".join(
            (
                encode_multi_header(MultiHeader(OpCode.SET_DATA, False, -1)),
                encode_set_data_request(SetDataRequest(path, value, expected)),
                encode_multi_header(MultiHeader(OpCode.CREATE, False, -1)),
                encode_create_request(CreateRequest(f"/m{self.number}-{self._count}", value, OPEN, 0)),
                encode_multi_header(MultiHeader(-1, True, -1)),
            )
        )
        self._request(Op(OpCode.MULTI, path, acked, expected=expected, data=value), body)

    def _reconfig(self) -> None:
        """One server comes, goes, or changes its role."""
        rng = self.world.rng
        server_id = rng.choice(self.cluster.scenario.servers)
        joining = leaving = None
        if rng.random() < 0.4:
            leaving = str(server_id)
        else:
            joining = server_line(server_id, is_observer=rng.random() < 0.4)
        self.world.note(self.name, "reconfig", {"joining": joining, "leaving": leaving})
        request = ReconfigRequest(joining, leaving, None, -1)
        self._request(
            Op(OpCode.RECONFIG, CONFIG_NODE, self.cluster.acked_zxid), encode_reconfig_request(request)
        )

    def _request(self, op: Op, body: bytes) -> None:
        self._xid += 1
        op.xid = self._xid
        self.outstanding.append(op)
        self._send([_HEAD.pack(op.xid, op.op) + body])

    def _send(self, frames: list[bytes]) -> None:
        assert self._end is not None
        self._sent_us = self.world.now_us
        self.cluster.network.send(self._end, frames)

    # -- answers

    def _reply(self, piece: bytes, start: int, end: int) -> None:
        xid, zxid, err = _REPLY.unpack_from(piece, start)
        if xid == _AUTH_XID:
            return
        if zxid < self._zxid:
            raise ViolationError(f"{self.name} was at {self._zxid:#x} and is answered at {zxid:#x}")
        self._zxid = zxid
        if xid == _PING_XID:
            return
        op = self.outstanding.popleft()
        if op.xid != xid:
            raise ViolationError(f"{self.name} waits for {op.xid} and gets {xid}")
        self._check(op, zxid, err, piece[start + 16 : end])
        if op.op == OpCode.CLOSE_SESSION and not err:
            self._forget_session()
        for path in self._ephemerals:
            if self.cluster.checks.ledger.at(path, zxid).version < 0:
                raise ViolationError(
                    f"{self.name} has its session at {zxid:#x}, but not its ephemeral {path}"
                )

    def _check(self, op: Op, zxid: int, err: int, body: bytes) -> None:
        if op.op in _WRITES:
            self._check_write(op, zxid, err, body)
        elif op.op == OpCode.GET_DATA:
            self._check_read(op, zxid, err, body)
        elif err:
            raise ViolationError(f"{self.name}: sync fails with {err}")

    def _check_write(self, op: Op, zxid: int, err: int, body: bytes) -> None:
        ledger = self.cluster.checks.ledger
        txn = ledger.txns.get(zxid)
        if txn is None or txn.client_id != self._session_id or txn.cxid != op.xid:
            raise ViolationError(
                f"{self.name}: request {op.xid} is answered at {zxid:#x}, which is another one's txn"
            )
        if zxid <= op.acked:
            raise ViolationError(f"{self.name}: {zxid:#x} was asked for when {op.acked:#x} was answered")
        self.cluster.acked_zxid = max(self.cluster.acked_zxid, zxid)
        self.acked_writes += 1
        before = ledger.at(op.path, zxid - 1)
        if err:
            self._check_refusal(op, err, before.version)
        elif op.op == OpCode.SET_DATA:
            stat, _ = decode_stat(body)
            if (
                stat.mzxid != zxid
                or stat.version != before.version + 1
                or op.expected not in (-1, before.version)
            ):
                raise ViolationError(
                    f"{self.name}: set of {op.path} gives version {stat.version} at {zxid:#x}"
                )
            self._versions[op.path] = stat.version
        elif op.op == OpCode.CREATE:
            response, _ = decode_create_response(body)
            path = response.path or ""
            if ledger.at(path, zxid).data != op.data:
                raise ViolationError(f"{self.name}: {path} is not what was created at {zxid:#x}")
            if op.expected == _EPHEMERAL:
                self._ephemerals[path] = None
            self._versions[path] = 0
        elif op.op == OpCode.MULTI:
            self._check_multi(op, zxid, body)

    def _check_multi(self, op: Op, zxid: int, body: bytes) -> None:
        after = self.cluster.checks.ledger.at(op.path, zxid)
        failed = int.from_bytes(body[:4], signed=True) == -1
        if failed == (after.data == op.data and after.mzxid == zxid):
            raise ViolationError(f"{self.name}: multi at {zxid:#x} has another answer than effect")

    def _check_refusal(self, op: Op, err: int, version: int) -> None:
        if err == ErrorCode.BADVERSION and op.op == OpCode.SET_DATA:
            expected = op.op == OpCode.SET_DATA and version not in (-1, op.expected)
            if version >= 0:
                self._versions[op.path] = version
        elif err == ErrorCode.NONODE:
            expected = op.op in (OpCode.SET_DATA, OpCode.DELETE) and version < 0
            self._versions.pop(op.path, None)
        elif op.op == OpCode.RECONFIG:
            expected = err in _REFUSED_RECONFIGS
        elif err == ErrorCode.NODEEXISTS:
            expected = op.op == OpCode.CREATE and version >= 0
        else:
            expected = err in (ErrorCode.SESSIONEXPIRED, ErrorCode.SESSIONMOVED) or op.op == OpCode.MULTI
        if not expected:
            raise ViolationError(
                f"{self.name}: request {op.xid} on {op.path} at version {version} fails with {err}"
            )

    def _check_read(self, op: Op, zxid: int, err: int, body: bytes) -> None:
        there = self.cluster.checks.ledger.at(op.path, zxid)
        if err:
            seen: tuple[int, bytes | None, int] = (-1, None, 0)
            if err != ErrorCode.NONODE:
                raise ViolationError(f"{self.name}: get fails with {err}")
        else:
            response, _ = decode_get_data_response(body)
            seen = (response.stat.version, response.data, response.stat.mzxid)
            self._versions[op.path] = response.stat.version
        if seen != (there.version, there.data, there.mzxid):
            raise ViolationError(f"{self.name} sees {seen} of {op.path} at {zxid:#x}")
        if op.is_fresh and zxid < op.acked and epoch_of(zxid) >= epoch_of(op.acked):
            raise ViolationError(
                f"{self.name} has synced when {op.acked:#x} was answered, and reads at {zxid:#x}"
            )
