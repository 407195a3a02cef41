"""Clients: real frames, several requests under way, and a session that they take from server to server."""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any

from tests.fakes.replies import OPEN
from tests.simulation.answers import EPHEMERAL, Answers, Op
from tests.simulation.server import server_line
from tests.simulation.world import ViolationError
from zkpy.core.paths import CONFIG_NODE
from zkpy_protocol.opcodes import OpCode
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
    decode_watcher_event,
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
_EVENT_XID = -1
_PING_XID = -2
_PING = _HEAD.pack(_PING_XID, OpCode.PING)
_AUTH_XID = -4
_AUTH = _HEAD.pack(_AUTH_XID, OpCode.AUTH) + encode_auth_packet(AuthPacket(0, "digest", b"super:test"))
_REGISTERS = [f"/r{number}" for number in range(4)]
_WINDOW = 3
_SEQUENTIAL = 2
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
_FLAGS = {"create": 0, "sequential": _SEQUENTIAL, "ephemeral": EPHEMERAL}
_END_OF_MULTI = encode_multi_header(MultiHeader(-1, True, -1))


class SimClient:
    """One client.

    Attributes:
        answers: what it was answered.
        outstanding: requests under way, in the order of asking.
        is_quiet: it asks for nothing new.
        is_retired: it does not come back once its connection is lost.
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.number = number
        self.name = f"client.{number}"
        self.timeout_ms = cluster.world.rng.choice((8, 20)) * cluster.scenario.tick_ms
        self.answers = Answers(self.name, cluster.checks.ledger)
        self.outstanding: deque[Op] = deque()
        self.is_quiet = False
        self.is_retired = False
        # Who may change the membership.
        self._is_super = cluster.scenario.reconfig and number == 1
        self._end: End | None = None
        self._is_connected = False
        self._is_away = False
        self._server_id = 0
        self._password = bytes(16)
        self._count = 0
        self._xid = 0
        self._dialled_us = self._heard_us = self._sent_us = 0
        self.world.after(self.world.between(0, 300_000), self._dial)
        self.world.after(self.world.between(0, 300_000), self._think)

    # -- connection

    def _dial(self) -> None:
        cluster = self.cluster
        if self._end is not None or self._is_away or self.is_retired:
            return
        server_id = self.world.rng.choice(cluster.scenario.servers)
        process = cluster.servers[server_id].process
        if process is None:
            self._dial_again()
            return
        end, other = cluster.network.connect(-self.number, server_id)
        end.shell = self
        self._end = end
        self._server_id = server_id
        self._dialled_us = self._heard_us = self.world.now_us
        process.accept_client(other)
        answers = self.answers
        request = ConnectRequest(0, answers.zxid, self.timeout_ms, answers.session_id, self._password, False)
        cluster.network.send(end, [request])

    def _dial_again(self) -> None:
        self.world.after(self.world.between(20_000, 300_000), self._dial)

    def hang_up(self) -> None:
        """Leave the server; the session goes on elsewhere."""
        if self._end is not None:
            self.cluster.network.abort(self._end)

    def go_away(self, away_us: int) -> None:
        """Leave, and come back after a while."""
        self._is_away = True
        self.hang_up()
        self.world.after(away_us, self._come_back)

    def _come_back(self) -> None:
        self._is_away = False
        self._dial_again()

    def retire(self) -> None:
        """Leave for good."""
        self.is_quiet = self.is_retired = True
        self.hang_up()

    def lost(self, reason: str) -> None:
        """The connection is gone: what was asked may have happened or not."""
        self._end = None
        self._is_connected = False
        self.outstanding.clear()
        self.answers.connection_lost()
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
        answers = self.answers
        if response.session_id == 0:
            self.world.note(self.name, "session refused", {"session": f"{answers.session_id:#x}"})
            self._forget_session()
            self.hang_up()
            return
        if answers.session_id and response.session_id != answers.session_id:
            raise ViolationError(
                f"{self.name} asked for session {answers.session_id:#x} and got {response.session_id:#x}"
            )
        self._is_connected = True
        answers.session_id = response.session_id
        self._password = response.passwd or b""
        process = self.cluster.servers[self._server_id].process
        epoch = 0 if process is None else process.peer.state.current_epoch
        self.cluster.checks.attached(response.session_id, self._dialled_us, response.time_out, epoch)
        if self._is_super:
            self._send([_AUTH])

    def _forget_session(self) -> None:
        self.answers.session_ended()
        self._password = bytes(16)
        self._xid = 0

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
        self._count += 1
        value = b"%d-%d" % (self.number, self._count)
        if kind == "set":
            expected = self.answers.versions.get(path, -1) if rng.random() < 0.8 else -1
            op = self._op(OpCode.SET_DATA, path, expected=expected, data=value)
            self._request(op, encode_set_data_request(SetDataRequest(path, value, expected)))
        elif kind in ("get", "fresh"):
            self._get(path, is_fresh=kind == "fresh")
        elif kind == "delete":
            op = self._op(OpCode.DELETE, path)
            self._request(op, encode_delete_request(DeleteRequest(path, -1)))
        elif kind == "multi":
            self._multi(path, value)
        elif kind == "close":
            self._request(self._op(OpCode.CLOSE_SESSION, ""), b"")
        else:
            self._create(kind, path, value)

    def _op(self, op: int, path: str, *, expected: int = -1, data: bytes = b"") -> Op:
        return Op(op, path, self.cluster.acked_zxid, expected=expected, data=data)

    def _create(self, kind: str, path: str, value: bytes) -> None:
        flags = _FLAGS[kind]
        if flags:
            path = f"/{kind[0]}{self.number}-{self._count}-"
        op = self._op(OpCode.CREATE, path, expected=flags, data=value)
        self._request(op, encode_create_request(CreateRequest(path, value, OPEN, flags)))

    def _get(self, path: str, *, is_fresh: bool) -> None:
        op = self._op(OpCode.GET_DATA, path)
        op.is_fresh = is_fresh
        op.is_watching = self.world.rng.random() < 0.4
        if is_fresh:
            self._request(self._op(OpCode.SYNC, path), encode_sync_request(SyncRequest(path)))
        self._request(op, encode_get_data_request(GetDataRequest(path, op.is_watching)))

    def _multi(self, path: str, value: bytes) -> None:
        expected = self.answers.versions.get(path, -1)
        body = b"".join(
            (
                encode_multi_header(MultiHeader(OpCode.SET_DATA, False, -1)),
                encode_set_data_request(SetDataRequest(path, value, expected)),
                encode_multi_header(MultiHeader(OpCode.CREATE, False, -1)),
                encode_create_request(CreateRequest(f"/m{self.number}-{self._count}", value, OPEN, 0)),
                _END_OF_MULTI,
            )
        )
        self._request(self._op(OpCode.MULTI, path, expected=expected, data=value), body)

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
        self._request(self._op(OpCode.RECONFIG, CONFIG_NODE), encode_reconfig_request(request))

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
        answers = self.answers
        if xid == _EVENT_XID:
            event, _ = decode_watcher_event(piece, start + _REPLY.size)
            answers.event(event.path or "")
            return
        if xid == _AUTH_XID:
            return
        answers.header(zxid)
        if xid == _PING_XID:
            return
        op = self.outstanding.popleft()
        if op.xid != xid:
            raise ViolationError(f"{self.name} waits for {op.xid} and gets {xid}")
        if answers.answered(op, zxid, err, piece[start + _REPLY.size : end]):
            self.cluster.acked_zxid = max(self.cluster.acked_zxid, zxid)
        if answers.session_id == 0:
            self._forget_session()
            self.hang_up()
