"""A server without a quorum that serves reads (client protocol §17), as ZooKeeper 3.9.5 was seen to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.local_server import Client
from tests.fakes.member_services import Ensemble, MemberServer, make_database, make_parts
from tests.fakes.replies import create, create_ttl, delete, multi, set_data
from zkpy.core.passwords import session_password
from zkpy.core.read_only import ReadOnlyService
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ACL,
    CheckVersionRequest,
    ConnectResponse,
    DeleteContainerRequest,
    ExistsRequest,
    GetChildrenRequest,
    GetDataRequest,
    GetEphemeralsRequest,
    Id,
    SetACLRequest,
    SyncRequest,
)

ZXID = (1 << 32) + 5
GLOBAL = 0x200000000000001
EXPIRED = ConnectResponse(0, 0, 0, bytes(16), True)


class LonelyServer(MemberServer):
    """It has everything up to `ZXID`, one global session, and nobody else."""

    def __init__(self, **options: Any) -> None:
        parts = make_parts(2, **({"local_sessions_enabled": True} | options))
        super().__init__(Ensemble(), 2, parts)
        database = make_database(ZXID, sessions={GLOBAL: 10_000})
        self._service = ReadOnlyService(parts, database, self.wall_ms, self.mono_ms)

    @property
    def service(self) -> ReadOnlyService:
        return self._service

    def pump(self) -> None:
        self.deliver()

    def advance(self, ms: int) -> None:
        for _ in range(ms // 1000):
            self.clock.mono_ms += 1000
            self.service.tick(self.wall_ms, self.mono_ms)
            self.pump()

    def reader(self, **more: Any) -> Client:
        return self.client(read_only=True, **more)


def asked(server: LonelyServer, session_id: int, *, password: bytes | None = None, **more: Any) -> Client:
    """A client that wants a session back."""
    client = Client(server)
    known = session_password(session_id) if password is None else password
    client.connect(session_id=session_id, password=known, **({"read_only": True} | more))
    return client


# -- connecting


def test_a_client_that_is_content_with_old_data_gets_a_local_session() -> None:
    server = LonelyServer()
    response = server.reader(timeout_ms=9000).connect_response
    assert response is not None
    assert (response.read_only, response.time_out) == (True, 9000)
    assert response.session_id >> 56 == 2
    assert server.service.sessions.committed == {GLOBAL: 10_000}


@pytest.mark.parametrize("read_only", [False, None])
def test_others_are_closed_without_a_byte(read_only: bool | None) -> None:
    client = Client(LonelyServer())
    client.connect(read_only=read_only)
    assert (client.closed, client.connect_response) == (True, None)


def test_without_local_sessions_nobody_is_served() -> None:
    server = LonelyServer(local_sessions_enabled=False)
    for session_id in (0, GLOBAL, GLOBAL + 1):
        client = asked(server, session_id)
        assert (client.closed, client.connect_response) == (True, None)
    assert server.service.links == {}


def test_a_client_that_has_seen_more_is_sent_elsewhere() -> None:
    client = Client(LonelyServer())
    client.connect(read_only=True, last_zxid_seen=ZXID + 1)
    assert (client.closed, client.connect_response) == (True, None)


def test_a_global_session_is_not_this_server_s_to_give_back() -> None:
    """Nor to call expired: somewhere it may live on."""
    client = asked(LonelyServer(), GLOBAL)
    assert (client.closed, client.connect_response) == (True, None)


def test_a_local_session_that_is_not_here_is_expired() -> None:
    assert asked(LonelyServer(), GLOBAL + 1).connect_response == EXPIRED


def test_a_local_session_comes_back_here() -> None:
    server = LonelyServer()
    client = server.reader()
    again = asked(server, client.session_id)
    assert again.session_id == client.session_id
    assert client.closed
    assert asked(server, client.session_id, password=bytes(16)).connect_response == EXPIRED
    assert again.closed


# -- requests


@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.CREATE, create("/a")),
        (OpCode.CREATE, create("/a", flags=1)),
        (OpCode.CREATE2, create("/a")),
        (OpCode.CREATE_CONTAINER, create("/a", flags=4)),
        (OpCode.CREATE_TTL, create_ttl("/a", 1000)),
        (OpCode.DELETE, delete("/zookeeper")),
        (OpCode.DELETE_CONTAINER, DeleteContainerRequest("/a")),
        (OpCode.SET_DATA, set_data("/")),
        (OpCode.SET_ACL, SetACLRequest("/", [ACL(31, Id("world", "anyone"))], -1)),
        (OpCode.MULTI, multi((OpCode.CHECK, CheckVersionRequest("/", 0)))),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/a", flags=1)))),
        (OpCode.RECONFIG, b""),
        (OpCode.SYNC, SyncRequest("/")),
        (OpCode.SET_DATA, b"what cannot be read"),
    ],
)
@pytest.mark.parametrize("upgrading", [False, True])
def test_writes_and_syncs_are_refused(op: int, record: Any, upgrading: bool) -> None:
    server = LonelyServer(local_sessions_upgrading_enabled=upgrading)
    client = server.reader()
    reply = client.call(op, record)
    assert (reply.err, reply.zxid, reply.body) == (ErrorCode.NOTREADONLY, ZXID, b"")
    assert client.call(OpCode.EXISTS, ExistsRequest("/", False)).err == 0, "the session goes on, as it was"
    assert server.service.tree.last_zxid == ZXID
    assert server.service.unlogged == []
    assert server.service.local is not None
    assert client.session_id in server.service.local


def test_a_check_alone_is_unknown_here_as_everywhere() -> None:
    client = LonelyServer().reader()
    reply = client.call(OpCode.CHECK, CheckVersionRequest("/", 0))
    assert (reply.err, reply.zxid, client.closed) == (ErrorCode.UNIMPLEMENTED, -1, True)


def test_reads_watches_and_pings_are_served() -> None:
    client = LonelyServer().reader()
    assert client.call(OpCode.GET_DATA, GetDataRequest("/", True)).data == b""
    assert client.call(OpCode.GET_CHILDREN, GetChildrenRequest("/", True)).children == ["zookeeper"]
    assert client.call(OpCode.EXISTS, ExistsRequest("/a", True)).err == ErrorCode.NONODE
    assert client.call(OpCode.MULTI_READ, multi((OpCode.GET_DATA, GetDataRequest("/", False)))).err == 0
    assert client.call(OpCode.GET_EPHEMERALS, GetEphemeralsRequest("/")).children == []
    ping = client.call(OpCode.PING, xid=-2)
    assert (ping.err, ping.zxid) == (0, ZXID)


# -- the end of a session


def test_a_client_may_close_its_local_session() -> None:
    server = LonelyServer()
    client = server.reader()
    client.send(OpCode.CLOSE_SESSION)
    assert [(reply.err, reply.zxid) for reply in client.replies()] == [(0, ZXID)]
    assert client.closed
    assert asked(server, client.session_id).connect_response == EXPIRED


def test_a_local_session_expires_without_a_byte() -> None:
    server = LonelyServer()
    client = server.reader(timeout_ms=4000)
    server.advance(3000)
    client.call(OpCode.PING, xid=-2)
    server.advance(3000)
    assert not client.closed
    server.advance(6000)
    assert (client.received(), client.closed) == ([], True)
    assert asked(server, client.session_id).connect_response == EXPIRED


def test_when_a_leader_is_found_everybody_has_to_look_for_a_server_again() -> None:
    server = LonelyServer()
    client = server.reader()
    server.service.close()
    server.deliver()
    assert (client.received(), client.closed) == ([], True)
    assert Client(server).connect(read_only=True) is None
