"""Sessions that only their own server knows, and how they become global (quorum protocol §10, client protocol §17)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.member_services import Ensemble
from tests.fakes.replies import create, create_ttl, delete, encode, multi, set_data
from zkpy.core.local_sessions import LocalSessions, wants_ephemeral
from zkpy.core.pipeline.request import Request
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ACL,
    ConnectResponse,
    ExistsRequest,
    GetDataRequest,
    Id,
    SetACLRequest,
    SyncRequest,
)

if TYPE_CHECKING:
    from tests.fakes.local_server import Client

TICK = 2000
EXPIRED = ConnectResponse(0, 0, 0, bytes(16), False)
SERVERS = [1, 2]
"""The leader, and a learner."""


def get(path: str) -> GetDataRequest:
    return GetDataRequest(path, False)


def local(*, upgrading: bool = True, server_id: int = 2, **options: Any) -> tuple[Ensemble, Client]:
    """A client with a local session at one of the servers."""
    ensemble = Ensemble(local_sessions_enabled=True, local_sessions_upgrading_enabled=upgrading, **options)
    client = at(ensemble, server_id).client()
    assert ensemble.leader.log == []
    return ensemble, client


def at(ensemble: Ensemble, server_id: int) -> Any:
    return ensemble.leader if server_id == 1 else ensemble.learner(server_id)


# -- the table


def test_a_session_expires_between_its_timeout_and_a_tick_later_and_is_gone() -> None:
    sessions = LocalSessions(TICK, 0, may_upgrade=True)
    sessions.open(1, 4000, 0)
    sessions.open(2, 9000, 0)
    assert [sessions.expired(now) for now in range(0, 8000, 1000)] == [[], [], [], [], [], [], [1], []]
    assert (1 in sessions, 2 in sessions, len(sessions)) == (False, True, 1)
    assert not sessions.touch(1, 4000, 8000)


def test_a_touch_prolongs() -> None:
    sessions = LocalSessions(TICK, 0, may_upgrade=True)
    sessions.open(1, 4000, 0)
    sessions.expired(3000)
    assert sessions.touch(1, 4000, 3000)
    assert sessions.expired(7000) == []
    assert sessions.buckets() == [(8000, [1])]
    assert sessions.expired(8000) == [1]


def test_a_session_on_its_way_to_be_global_lives_and_does_not_expire_here() -> None:
    sessions = LocalSessions(TICK, 0, may_upgrade=True)
    sessions.open(1, 4000, 0)
    assert sessions.upgrade(1) == 4000
    assert 1 not in sessions
    assert sessions.touch(1, 4000, 1000)
    assert [sessions.expired(now) for now in (3000, 6000, 9000)] == [[], [], []]
    sessions.close(1)
    assert not sessions.touch(1, 4000, 9000)


def test_closing_what_is_not_there_does_nothing() -> None:
    LocalSessions(TICK, 0, may_upgrade=False).close(5)


@pytest.mark.parametrize(
    ("op", "record", "wants"),
    [
        (OpCode.CREATE, create("/a"), False),
        (OpCode.CREATE, create("/a", flags=1), True),
        (OpCode.CREATE, create("/a", flags=2), False),
        (OpCode.CREATE, create("/a", flags=3), True),
        (OpCode.CREATE2, create("/a", flags=1), True),
        (OpCode.CREATE2, create("/a", flags=3), True),
        (OpCode.CREATE_CONTAINER, create("/a", flags=4), False),
        (OpCode.CREATE_TTL, create_ttl("/a", 1000), False),
        (OpCode.DELETE, delete("/a"), False),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/a"))), False),
        (OpCode.MULTI, multi((OpCode.DELETE, delete("/b")), (OpCode.CREATE, create("/a", flags=1))), True),
        (OpCode.MULTI, multi((OpCode.CREATE2, create("/a", flags=3))), True),
        (OpCode.MULTI, multi(), False),
        (OpCode.MULTI, b"\0", False),
        (OpCode.CREATE, b"", False),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/a", flags=1, acl=None))), False),
        (OpCode.CLOSE_SESSION, b"", False),
    ],
)
def test_only_ephemeral_nodes_need_a_global_session(op: int, record: Any, wants: bool) -> None:
    frame = struct.pack(">ii", 1, op) + encode(record)
    assert wants_ephemeral(Request(None, 1, 1, op, frame, (), 0)) is wants


# -- at a leader and at a learner


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_local_session_costs_no_txn_from_beginning_to_end(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    assert client.call(OpCode.EXISTS, ExistsRequest("/", False)).err == 0
    client.send(OpCode.CLOSE_SESSION)
    (reply,) = client.replies()
    assert (reply.err, reply.body, client.closed) == (0, b"", True)
    assert ensemble.leader.log == []
    again = at(ensemble, server_id).reconnect(client)
    assert (again.connect_response, again.closed) == (EXPIRED, True)


@pytest.mark.parametrize("server_id", SERVERS)
def test_operators_see_the_request_that_opened_a_local_session(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    link, service = client.link, at(ensemble, server_id).service
    assert (link.last_op, link.last_cxid, link.last_zxid) == ("SESS", 0, service.tree.last_zxid)
    assert service.stats.read_latency.count == 1


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_local_session_comes_back_at_its_own_server_alone(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    again = at(ensemble, server_id).reconnect(client, timeout_ms=5000)
    assert again.session_id == client.session_id
    assert client.closed
    elsewhere = at(ensemble, 3).reconnect(client)
    assert (elsewhere.connect_response, elsewhere.closed) == (EXPIRED, True)
    assert not again.closed, "nobody there knows of it"


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_local_session_may_write(server_id: int) -> None:
    """Leaders do not know the local sessions of others, and take their word (LeaderSessionTracker)."""
    ensemble, client = local(server_id=server_id)
    assert client.call(OpCode.CREATE, create("/a", b"1")).path == "/a"
    assert client.call(OpCode.SET_DATA, set_data("/a", b"2")).stat.version == 1
    assert [
        result.err for result in client.call(OpCode.MULTI, multi((OpCode.DELETE, delete("/a")))).results
    ] == [0]
    assert client.call(OpCode.SYNC, SyncRequest("/")).path == "/"
    assert ensemble.leader.service.tracker.sessions == {}
    assert {txn.client_id for txn in ensemble.leader.log} == {client.session_id}


def test_an_unknown_session_with_the_leader_s_own_id_was_local_and_is_expired() -> None:
    ensemble, client = local(server_id=1)
    learner = ensemble.learner(2)
    learner.outbox.append(
        ("request", client.session_id + 7, 1, OpCode.CREATE, encode(create("/a")), client.link.ids)
    )
    ensemble.pump()
    assert ensemble.leader.log[-1].record.err == ErrorCode.SESSIONEXPIRED


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_local_session_expires_at_its_own_server_without_a_byte(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    ensemble.advance(9000)
    client.call(OpCode.PING, xid=-2)
    ensemble.advance(9000)
    assert not client.closed
    ensemble.advance(5000)
    assert (client.received(), client.closed) == ([], True)
    assert at(ensemble, server_id).service.stats.sessions_expired == 1
    assert ensemble.leader.log == []


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_local_session_whose_client_is_gone_expires_too(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    client.hang_up()
    service = at(ensemble, server_id).service
    assert client.session_id in service.local
    ensemble.advance(14_000)
    assert client.session_id not in service.local


@pytest.mark.parametrize("server_id", SERVERS)
@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.CREATE, create("/e", flags=1)),
        (OpCode.CREATE2, create("/e", flags=1)),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/e", flags=1)))),
    ],
)
def test_the_first_ephemeral_node_makes_a_session_global_first(server_id: int, op: int, record: Any) -> None:
    ensemble, client = local(server_id=server_id)
    client.call(OpCode.CREATE, create("/p"))
    assert client.call(op, record, xid=5).err == 0
    session = client.session_id
    assert ensemble.leader.summary()[1:] == [(session, 0, OpCode.CREATE_SESSION), (session, 5, op)]
    assert ensemble.leader.log[1].record.time_out == 10_000
    for server in ensemble.servers:
        assert server.service.sessions.committed == {session: 10_000}
        assert server.service.tree.nodes["/e"].owner == session
    assert session not in at(ensemble, server_id).service.local
    assert client.call(OpCode.CREATE, create("/e2", flags=1)).path == "/e2"
    assert len(ensemble.leader.log) == 4, "once"


def test_a_learner_asks_for_both_in_the_form_of_zookeeper() -> None:
    ensemble, client = local()
    record = create("/e", flags=1)
    client.send(OpCode.CREATE, record, xid=5)
    session = client.session_id
    assert ensemble.learner(2).forwarded == [
        ("request", session, 0, OpCode.CREATE_SESSION, struct.pack(">i", 10_000), None),
        ("request", session, 5, OpCode.CREATE, encode(record), client.link.ids),
    ]
    assert (session, 10_000) in ensemble.learner(2).service.take_touched()


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_session_that_became_global_lives_and_ends_like_others(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    client.call(OpCode.CREATE, create("/e", flags=1))
    for _ in range(3):
        ensemble.advance(9000)
        client.call(OpCode.PING, xid=-2)
    moved = at(ensemble, 3).reconnect(client)
    assert moved.session_id == client.session_id
    moved.send(OpCode.CLOSE_SESSION)
    assert ensemble.leader.summary()[-1] == (client.session_id, 1, OpCode.CLOSE_SESSION)
    assert "/e" not in ensemble.leader.service.tree.nodes
    assert ensemble.leader.service.tracker.sessions == {}


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_session_that_became_global_expires_by_the_leader_s_word(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    client.call(OpCode.CREATE, create("/e", flags=1))
    client.hang_up()
    ensemble.advance(14_000)
    assert ensemble.leader.summary()[-1] == (client.session_id, 0, OpCode.CLOSE_SESSION)
    assert "/e" not in ensemble.learner(3).service.tree.nodes


@pytest.mark.parametrize("server_id", SERVERS)
def test_reads_wait_behind_the_node_that_made_the_session_global(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    ensemble.leader.holding = True
    client.send(OpCode.CREATE, create("/e", b"1", flags=1))
    client.send(OpCode.GET_DATA, get("/e"))
    ensemble.leader.persist(1)
    ensemble.pump()
    assert client.received() == [], "the createSession alone answers nothing"
    ensemble.settle()
    assert [reply.xid for reply in client.replies()] == [1, 2]


@pytest.mark.parametrize("server_id", SERVERS)
@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.CREATE, create("/e", flags=1)),
        (OpCode.CREATE2, create("/e", flags=3)),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/p")), (OpCode.CREATE, create("/e", flags=1)))),
    ],
)
def test_without_upgrading_ephemeral_nodes_are_refused(server_id: int, op: int, record: Any) -> None:
    ensemble, client = local(upgrading=False, server_id=server_id)
    reply = client.call(op, record)
    assert (reply.err, reply.body) == (ErrorCode.EPHEMERALONLOCALSESSION, b"")
    assert client.call(OpCode.CREATE, create("/a")).path == "/a"
    assert [txn.type for txn in ensemble.leader.log] == [OpCode.CREATE]


@pytest.mark.parametrize("server_id", SERVERS)
def test_refusal_and_close_come_in_their_turn(server_id: int) -> None:
    ensemble, client = local(upgrading=False, server_id=server_id)
    ensemble.leader.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.CREATE, create("/e", flags=1))
    client.send(OpCode.GET_DATA, get("/a"))
    client.send(OpCode.CLOSE_SESSION)
    client.send(OpCode.GET_DATA, get("/a"))
    assert client.received() == []
    ensemble.settle()
    assert [(reply.xid, reply.err) for reply in client.replies()] == [(1, 0), (2, -120), (3, 0), (4, 0)]
    assert client.closed
    assert len(ensemble.leader.log) == 1
    assert at(ensemble, server_id).service.stats.outstanding == 0


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_session_that_is_closed_behind_its_upgrade_is_closed_by_a_txn(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    ensemble.leader.holding = True
    client.send(OpCode.CREATE, create("/e", flags=1))
    client.send(OpCode.CLOSE_SESSION)
    ensemble.settle()
    assert [reply.err for reply in client.replies()] == [0, 0]
    assert [txn.type for txn in ensemble.leader.log] == [
        OpCode.CREATE_SESSION,
        OpCode.CREATE,
        OpCode.CLOSE_SESSION,
    ]
    assert "/e" not in ensemble.leader.service.tree.nodes


@pytest.mark.parametrize("server_id", SERVERS)
def test_without_space_in_the_log_a_session_stays_local(server_id: int) -> None:
    ensemble, client = local(server_id=server_id)
    at(ensemble, server_id).service.refuse_writes = True
    assert client.call(OpCode.CREATE, create("/e", flags=1)).err == ErrorCode.SYSTEMERROR
    assert client.session_id in at(ensemble, server_id).service.local
    assert ensemble.leader.log == []
    client.send(OpCode.CLOSE_SESSION)
    assert [reply.err for reply in client.replies()] == [0]


@pytest.mark.parametrize("server_id", SERVERS)
def test_requests_behind_the_close_of_a_local_session_do_not_make_it_global(server_id: int) -> None:
    """The close waits for the write in front of it; what comes behind arrives before it is done."""
    ensemble, client = local(server_id=server_id)
    ensemble.leader.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.CLOSE_SESSION)
    client.send(OpCode.CREATE, create("/e", flags=1))
    ensemble.settle()
    assert [reply.xid for reply in client.replies()] == [1, 2]
    assert client.closed
    assert [txn.type for txn in ensemble.leader.log] == [OpCode.CREATE]
    assert ensemble.leader.service.tracker.sessions == {}


def test_a_session_may_move_while_it_becomes_global() -> None:
    """The leader knows it already; until its createSession is committed its requests must not be dropped elsewhere."""
    ensemble, client = local()
    ensemble.leader.holding = True
    client.send(OpCode.CREATE, create("/e", flags=1))
    moved = ensemble.learner(3).reconnect(client)
    assert moved.session_id == client.session_id
    xids = [moved.send(OpCode.EXISTS, ExistsRequest("/e", False)), moved.send(OpCode.CREATE, create("/a"))]
    ensemble.settle()
    assert [reply.xid for reply in moved.replies()] == xids
    assert (client.session_id, 10_000) in ensemble.learner(3).service.take_touched()


@pytest.mark.parametrize("server_id", SERVERS)
def test_a_node_that_may_not_be_made_does_not_make_the_session_global(server_id: int) -> None:
    ensemble, client = local(server_id=server_id, eager_acl_check_enabled=True)
    client.call(OpCode.CREATE, create("/p"))
    client.call(OpCode.SET_ACL, SetACLRequest("/p", [ACL(1, Id("world", "anyone"))], -1))
    assert client.call(OpCode.CREATE, create("/p/e", flags=1)).err == ErrorCode.NOAUTH
    assert client.session_id in at(ensemble, server_id).service.local
    assert [txn.type for txn in ensemble.leader.log] == [OpCode.CREATE, OpCode.SET_ACL]


def test_a_global_session_may_be_used_where_new_ones_are_local() -> None:
    """Members may differ in this setting while it is rolled out."""
    ensemble, client = local()
    client.call(OpCode.CREATE, create("/e", flags=1))
    moved = ensemble.learner(3).reconnect(client)
    assert moved.call(OpCode.CREATE, create("/f", flags=1)).path == "/f"
    assert moved.call(OpCode.GET_DATA, get("/f")).err == 0
