"""The service of an ensemble's leader: who may ask for what, in whose name, and what becomes of it (quorum protocol §9.6, §9.8, §10)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import Client
from tests.fakes.member_services import Ensemble, make_database
from tests.fakes.replies import create, create_ttl, delete, encode, multi, set_data
from zkpy.core.data_tree import DataTree
from zkpy.core.owners import OwnerRules
from zkpy.core.pipeline.request import Request
from zkpy.core.session_tracker import NOBODY
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ACL,
    CheckVersionRequest,
    ConnectResponse,
    CreateTxn,
    DeleteContainerRequest,
    ExistsRequest,
    GetDataRequest,
    Id,
    SetACLRequest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.leading import LeadingService

EXPIRED = ConnectResponse(0, 0, 0, bytes(16), False)
ANYBODY = (Id("ip", "127.0.0.1"),)
ELSEWHERE = 0x300000000000001
WRITES: list[tuple[int, Any]] = [
    (OpCode.CREATE, create("/b")),
    (OpCode.CREATE2, create("/b")),
    (OpCode.CREATE_CONTAINER, create("/b", flags=4)),
    (OpCode.CREATE_TTL, create_ttl("/b", 1000)),
    (OpCode.DELETE, delete("/a")),
    (OpCode.SET_DATA, set_data("/a")),
    (OpCode.SET_ACL, SetACLRequest("/a", [ACL(31, Id("world", "anyone"))], -1)),
    (OpCode.RECONFIG, b""),
]
"""Everything but multi that needs a session of its own."""


def remote(
    ensemble: Ensemble,
    owner: object,
    session_id: int,
    op: int,
    record: Any = b"",
    *,
    cxid: int = 9,
    ids: Sequence[Id] = ANYBODY,
) -> Txn:
    """What a learner forwards, and the txn it becomes."""
    frame = struct.pack(">ii", cxid, op) + encode(record)
    request = Request(None, session_id, cxid, op, frame, tuple(ids), ensemble.mono_ms)
    request.owner = owner
    ensemble.leader.service.submit_remote(request, ensemble.wall_ms)
    assert request.txn is not None
    assert request.err == 0 or request.txn.type == OpCode.ERROR
    return request.txn


def error_of(txn: Txn) -> int:
    """The code of an error txn, 0 of any other."""
    return int(txn.record.err) if txn.type == OpCode.ERROR else 0


def service_of(ensemble: Ensemble) -> LeadingService:
    return ensemble.leader.service


def owner_of(ensemble: Ensemble, session_id: int) -> object:
    return service_of(ensemble).tracker.sessions[session_id].owner


# -- whose session it is (§10)


def test_a_session_belongs_to_the_learner_that_made_it() -> None:
    ensemble = Ensemble()
    client = ensemble.learner(2).client()
    assert owner_of(ensemble, client.session_id) is ensemble.learner(2)
    assert [txn.client_id for txn in ensemble.leader.log] == [client.session_id]


def test_a_session_of_the_leader_belongs_to_it_with_the_first_write() -> None:
    ensemble = Ensemble()
    client = ensemble.leader.client()
    assert owner_of(ensemble, client.session_id) is NOBODY
    client.call(OpCode.CREATE, create("/a"))
    assert owner_of(ensemble, client.session_id) is None


def test_nobody_owns_the_sessions_that_a_new_leader_knows_from_before() -> None:
    """Whoever asks first is the one its client is connected to."""
    database = make_database(1 << 32, sessions={ELSEWHERE: 10_000})
    ensemble = Ensemble(database=database)
    assert owner_of(ensemble, ELSEWHERE) is NOBODY
    assert error_of(remote(ensemble, ensemble.learner(3), ELSEWHERE, OpCode.CREATE, create("/a"))) == 0
    assert (
        error_of(remote(ensemble, ensemble.learner(2), ELSEWHERE, OpCode.CREATE, create("/b")))
        == ErrorCode.SESSIONMOVED
    )


def test_revalidation_moves_a_session() -> None:
    ensemble = Ensemble()
    session = ensemble.learner(2).client().session_id
    service = service_of(ensemble)
    assert service.revalidate(session, 5000, ensemble.learner(3), ensemble.mono_ms)
    assert owner_of(ensemble, session) is ensemble.learner(3)
    assert service.revalidate(session, 5000, None, ensemble.mono_ms)
    assert owner_of(ensemble, session) is None
    assert not service.revalidate(session + 1, 5000, None, ensemble.mono_ms)


def test_a_closing_session_does_not_move() -> None:
    ensemble = Ensemble()
    session = ensemble.learner(2).client().session_id
    ensemble.leader.holding = True
    remote(ensemble, ensemble.learner(2), session, OpCode.CLOSE_SESSION)
    assert not service_of(ensemble).revalidate(session, 5000, ensemble.learner(3), ensemble.mono_ms)
    assert owner_of(ensemble, session) is ensemble.learner(2)


@pytest.mark.parametrize(("op", "record"), WRITES)
def test_a_write_by_another_server_than_the_owner_is_an_error_txn(op: int, record: Any) -> None:
    ensemble = Ensemble()
    session = ensemble.learner(2).client().session_id
    assert error_of(remote(ensemble, ensemble.learner(3), session, op, record)) == ErrorCode.SESSIONMOVED
    assert owner_of(ensemble, session) is ensemble.learner(2)


@pytest.mark.parametrize(("op", "record"), WRITES)
def test_a_write_of_a_session_that_is_unknown_or_closing_is_an_error_txn(op: int, record: Any) -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(3)
    assert error_of(remote(ensemble, learner, ELSEWHERE, op, record)) == ErrorCode.SESSIONEXPIRED
    session = learner.client().session_id
    ensemble.leader.holding = True
    remote(ensemble, learner, session, OpCode.CLOSE_SESSION)
    assert error_of(remote(ensemble, learner, session, op, record)) == ErrorCode.SESSIONEXPIRED


@pytest.mark.parametrize("learner_id", [2, 3])
def test_closing_a_session_needs_no_owner(learner_id: int) -> None:
    """Compat: whoever expires sessions owns none of them."""
    ensemble = Ensemble()
    session = ensemble.learner(2).client().session_id
    txn = remote(ensemble, ensemble.learner(learner_id), session, OpCode.CLOSE_SESSION)
    assert (txn.type, txn.client_id) == (OpCode.CLOSE_SESSION, session)


def test_a_multi_of_a_session_that_has_moved_fails_as_a_whole() -> None:
    """As a txn it is a multi of errors; the connection is closed without a byte all the same."""
    ensemble = Ensemble()
    client = ensemble.leader.client()
    client.call(OpCode.CREATE, create("/a"))
    assert ensemble.learner(2).reconnect(client).session_id == client.session_id
    client.send(
        OpCode.MULTI,
        multi((OpCode.SET_DATA, set_data("/a", b"1")), (OpCode.CHECK, CheckVersionRequest("/a", 0))),
    )
    assert (client.received(), client.closed) == ([], True)
    txn = ensemble.leader.log[-1]
    assert txn.type == OpCode.MULTI
    assert [member.type for member in txn.record.txns] == [OpCode.ERROR, OpCode.ERROR]
    assert ensemble.leader.service.tree.nodes["/a"].data == b""


def test_a_write_at_the_leader_of_a_session_that_has_moved_closes_the_connection_without_a_byte() -> None:
    ensemble = Ensemble()
    client = ensemble.leader.client()
    client.call(OpCode.CREATE, create("/a", b"1"))
    ensemble.learner(2).reconnect(client)
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a", False)).data == b"1"
    client.send(OpCode.DELETE, delete("/a"))
    assert (client.received(), client.closed) == ([], True)
    assert "/a" in ensemble.leader.service.tree.nodes


def test_the_leader_may_close_a_session_that_somebody_else_serves() -> None:
    ensemble = Ensemble()
    client = ensemble.leader.client()
    there = ensemble.learner(2).reconnect(client)
    client.send(OpCode.CLOSE_SESSION)
    assert [reply.err for reply in client.replies()] == [0]
    assert (there.closed, there.received()) == (True, [])


# -- every forwarded write becomes a txn


@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.CREATE, b"\0"),
        (OpCode.CREATE2, b""),
        (OpCode.CREATE_CONTAINER, b"\xff" * 8),
        (OpCode.CREATE_TTL, encode(create("/b"))),
        (OpCode.DELETE, b"\0\0\0\5/"),
        (OpCode.DELETE_CONTAINER, b"\0\0"),
        (OpCode.SET_DATA, b""),
        (OpCode.SET_ACL, b"\x7f\xff\xff\xff"),
        (OpCode.RECONFIG, b"1"),
        (OpCode.MULTI, b"\xff"),
        (OpCode.MULTI, b""),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/b", acl=None)))),
        (OpCode.MULTI, multi((OpCode.CREATE, create(None)))),
        (OpCode.MULTI, multi((OpCode.GET_DATA, GetDataRequest("/", False)))),
    ],
)
def test_what_cannot_be_read_is_an_error_txn(op: int, record: bytes) -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(2)
    session = learner.client().session_id
    last = service_of(ensemble).last_proposed
    txn = remote(ensemble, learner, session, op, record)
    assert (txn.zxid, error_of(txn)) == (last + 1, ErrorCode.MARSHALLINGERROR)
    assert (txn.client_id, txn.cxid, txn.digest) == (session, 9, None)
    assert service_of(ensemble).last_proposed == last + 1, "no zxid is left out, none is used twice"
    assert remote(ensemble, learner, session, OpCode.CREATE, create("/after")).type == OpCode.CREATE


def test_an_error_txn_for_what_cannot_be_read_leaves_the_outstanding_changes_alone() -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(2)
    session = learner.client().session_id
    ensemble.leader.holding = True
    remote(ensemble, learner, session, OpCode.CREATE, create("/a"))
    remote(ensemble, learner, session, OpCode.CREATE, b"\0")
    after = remote(ensemble, learner, session, OpCode.CREATE, create("/a/b"))
    assert after.type == OpCode.CREATE
    ensemble.settle()
    assert after.digest == service_of(ensemble).tree.digest
    assert service_of(ensemble).tree.digest_mismatches == 0
    assert len(service_of(ensemble).changes) == 0


def test_an_empty_multi_is_a_txn_too() -> None:
    ensemble = Ensemble()
    session = ensemble.learner(2).client().session_id
    assert remote(ensemble, ensemble.learner(2), session, OpCode.MULTI, multi()).type == OpCode.MULTI


def test_without_space_here_what_others_ask_for_is_still_proposed() -> None:
    """They wait for a txn, and their disks have room; when there is none at all, this server ends and another one leads."""
    ensemble = Ensemble()
    own, learner = ensemble.leader.client(), ensemble.learner(2)
    there = learner.client()
    service_of(ensemble).refuse_writes = True
    assert own.call(OpCode.CREATE, create("/a")).err == ErrorCode.SYSTEMERROR
    assert there.call(OpCode.CREATE, create("/a")).path == "/a"
    assert learner.client().session_id
    new = Client(ensemble.leader)
    new.connect()
    assert (new.closed, new.connect_response) == (True, None)
    own.send(OpCode.CLOSE_SESSION)
    assert [reply.err for reply in own.replies()] == [0]


def test_a_session_that_could_not_be_made_is_not_tracked() -> None:
    ensemble = Ensemble()
    service_of(ensemble).refuse_writes = True
    Client(ensemble.leader).connect()
    assert service_of(ensemble).tracker.sessions == {}


def test_a_container_that_a_client_of_a_learner_deletes_needs_permission() -> None:
    """Client protocol §20: Apache lets every client delete every empty node."""
    tree_acl = [ACL(1, Id("world", "anyone"))]
    ensemble = Ensemble()
    admin = ensemble.learner(2).client()
    admin.call(OpCode.CREATE, create("/p"))
    admin.call(OpCode.CREATE, create("/p/c"))
    admin.call(OpCode.SET_ACL, SetACLRequest("/p", tree_acl, -1))
    for server in (ensemble.leader, ensemble.learner(3)):
        client = server.client()
        reply = client.call(OpCode.DELETE_CONTAINER, DeleteContainerRequest("/p/c"))
        assert reply.err == ErrorCode.NOAUTH
    assert "/p/c" in service_of(ensemble).tree.nodes


def test_the_last_zxid_of_an_epoch_is_not_proposed() -> None:
    """ZOOKEEPER-1277: the next one would be in another epoch."""
    ensemble = Ensemble(zxid=(1 << 32) + 0xFFFFFFFB)
    client = ensemble.leader.client()
    for path in ("/a", "/b"):
        assert client.call(OpCode.CREATE, create(path)).path == path
    assert ensemble.leader.log[-1].zxid == (1 << 32) + 0xFFFFFFFE
    client.send(OpCode.CREATE, create("/c"))
    assert ensemble.leader.is_exhausted
    assert client.received() == []
    assert service_of(ensemble).last_proposed == (1 << 32) + 0xFFFFFFFE


def test_a_learner_s_request_without_a_zxid_left_gets_no_txn_but_ends_the_leader() -> None:
    ensemble = Ensemble(zxid=(1 << 32) + 0xFFFFFFFD)
    client = ensemble.learner(2).client()
    client.send(OpCode.CREATE, create("/a"))
    assert ensemble.leader.is_exhausted


# -- expiry


def test_touches_of_learners_keep_sessions_alive() -> None:
    ensemble = Ensemble()
    session = ensemble.learner(2).client(timeout_ms=4000).session_id
    for _ in range(5):
        ensemble.advance(3000)
        service_of(ensemble).touch(session, 4000, ensemble.mono_ms)
    assert session in service_of(ensemble).tracker.sessions
    ensemble.advance(8000)
    assert session not in service_of(ensemble).tracker.sessions
    assert ensemble.leader.summary()[-1] == (session, 0, OpCode.CLOSE_SESSION)
    service_of(ensemble).touch(session, 4000, ensemble.mono_ms)
    assert session not in service_of(ensemble).tracker.sessions


def test_a_new_leader_gives_every_session_its_time_once_more() -> None:
    database = make_database(1 << 32, sessions={ELSEWHERE: 6000})
    ensemble = Ensemble(database=database)
    ensemble.advance(6000)
    assert ELSEWHERE in database.sessions
    ensemble.advance(4000)
    assert database.sessions == {}


# -- nodes of sessions that nobody knows


def orphaned(*, extended: bool = True) -> Ensemble:
    """A leader whose tree has nodes of a session that is in no table."""
    rules = OwnerRules(extended, emulate_353=False)
    tree = DataTree(rules)
    anybody = [ACL(31, Id("world", "anyone"))]
    for counter, (path, owner) in enumerate([("/e1", 77), ("/p", 0), ("/p/e2", 77), ("/k", 78)], start=1):
        record = CreateTxn(path, b"", anybody, owner != 0, counter)
        tree.apply(Txn.make(owner, 0, counter, 1, OpCode.CREATE, record, None), None)
    return Ensemble(database=make_database(1 << 32, tree=tree, sessions={78: 10_000}))


def test_a_new_leader_closes_the_sessions_of_orphaned_nodes() -> None:
    """By a txn, so that they go everywhere; Apache's leader deletes them in its own tree alone."""
    ensemble = orphaned()
    service = service_of(ensemble)
    service.close_orphans(ensemble.wall_ms, ensemble.mono_ms)
    assert "/e1" in service.tree.nodes, "not before it is committed"
    ensemble.pump()
    assert ensemble.leader.summary() == [(77, 0, OpCode.CLOSE_SESSION)]
    assert ensemble.leader.log[0].record.paths2_delete == ["/e1", "/p/e2"]
    assert [path for path in ("/e1", "/p", "/p/e2", "/k") if path in service.tree.nodes] == ["/p", "/k"]
    assert service.tree.digest_mismatches == 0
    service.close_orphans(ensemble.wall_ms, ensemble.mono_ms)
    assert service.unlogged == []


def test_what_is_below_a_ttl_node_that_looks_like_an_orphan_goes_with_it() -> None:
    """Without extendedTypesEnabled a TTL node reads as an ephemeral; what hangs nowhere would be in no snapshot."""
    first = Ensemble(2)
    client = first.leader.client()
    client.call(OpCode.CREATE_TTL, create_ttl("/t", 60_000))
    for path in ("/t/a", "/t/a/b", "/t/c"):
        client.call(OpCode.CREATE, create(path))
    tree = DataTree(OwnerRules(extended=False, emulate_353=False))
    for txn in first.leader.log[1:]:
        tree.apply(Txn.from_payload(txn.payload), None)
    ensemble = Ensemble(database=make_database(1 << 32, tree=tree))
    service_of(ensemble).close_orphans(ensemble.wall_ms, ensemble.mono_ms)
    ensemble.pump()
    assert ensemble.leader.log[0].record.paths2_delete == ["/t/a/b", "/t/a", "/t/c", "/t"]
    assert [path for path in tree.nodes if path.startswith("/t")] == []
    assert tree.digest_mismatches == 0


# -- reads of the leader's own clients


def test_a_client_of_the_leader_sees_what_learners_wrote() -> None:
    ensemble = Ensemble()
    client = ensemble.leader.client()
    client.call(OpCode.EXISTS, ExistsRequest("/a", True))
    ensemble.learner(3).client().call(OpCode.CREATE, create("/a", b"1"))
    assert client.events() == [(1, "/a")]
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a", False)).data == b"1"


# -- ephemerals need a global session (checkGlobalSession)


@pytest.mark.parametrize("flags", [1, 3])
def test_a_local_session_of_another_server_makes_no_ephemeral_node(flags: int) -> None:
    """Its server should have made it global first. Nobody would ever delete the node."""
    ensemble = Ensemble(local_sessions_enabled=True, local_sessions_upgrading_enabled=True)
    learner = ensemble.learner(3)
    txn = remote(ensemble, learner, ELSEWHERE, OpCode.CREATE, create("/e", flags=flags))
    assert error_of(txn) == ErrorCode.SESSIONEXPIRED
    ops = multi((OpCode.CREATE, create("/a")), (OpCode.CREATE, create("/e", flags=flags)))
    txn = remote(ensemble, learner, ELSEWHERE, OpCode.MULTI, ops)
    codes = [int.from_bytes(member.data[-4:], "big", signed=True) for member in txn.record.txns]
    assert codes[-1] == ErrorCode.SESSIONEXPIRED
    assert [member.type for member in txn.record.txns][-1] == OpCode.ERROR
    ensemble.settle()
    assert not {"/a", "/e"} & set(service_of(ensemble).tree.nodes)


def test_what_comes_late_from_a_session_that_is_over_makes_no_ephemeral_node() -> None:
    """With local sessions a leader does not know it from a local one, and lets it write."""
    ensemble = Ensemble(local_sessions_enabled=True, local_sessions_upgrading_enabled=True)
    learner = ensemble.learner(2)
    client = learner.client()
    client.call(OpCode.CREATE, create("/e", flags=1))
    session = client.session_id
    remote(ensemble, learner, session, OpCode.CLOSE_SESSION)
    ensemble.pump()
    assert error_of(remote(ensemble, learner, session, OpCode.CREATE, create("/late", flags=1))) == (
        ErrorCode.SESSIONEXPIRED
    )


def test_an_own_client_s_write_that_cannot_be_read_is_answered_in_its_turn_and_uses_no_zxid() -> None:
    ensemble = Ensemble()
    assert (service_of(ensemble).mode, ensemble.learner(2).service.mode) == ("leader", "follower")
    client = ensemble.leader.client()
    ensemble.leader.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.SET_DATA, b"\0")
    client.send(OpCode.CREATE, create("/b"))
    ensemble.settle()
    assert [reply.err for reply in client.replies()] == [0, ErrorCode.MARSHALLINGERROR, 0]
    assert [txn.zxid & 0xFFFF for txn in ensemble.leader.log] == [1, 2, 3]
