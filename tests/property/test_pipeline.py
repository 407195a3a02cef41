"""Requests in flight together give what they give one by one, byte for byte, however they are batched into the log.

Also: whatever was asked, replaying what was logged gives the same tree, and every digest in the log is right.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.local_server import Client, LocalServer
from tests.fakes.naive_tree import NaiveTree, check_consistent, stored_nodes
from tests.fakes.replies import OPEN, Event, Reply, encode, multi
from zkpy.core.data_tree import DataTree
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    ACL,
    AddWatchRequest,
    CheckVersionRequest,
    CreateRequest,
    CreateTTLRequest,
    DeleteContainerRequest,
    DeleteRequest,
    ExistsRequest,
    GetACLRequest,
    GetChildren2Request,
    GetDataRequest,
    GetEphemeralsRequest,
    Id,
    RemoveWatchesRequest,
    RequestHeader,
    SetACLRequest,
    SetDataRequest,
    SyncRequest,
)

pytestmark = pytest.mark.slow
ACLS = [
    OPEN,
    [ACL(Perms.ALL & ~Perms.DELETE, Id("world", "anyone"))],
    [ACL(Perms.READ | Perms.ADMIN, Id("world", "anyone"))],
    [ACL(31, Id("auth", ""))],
    [ACL(31, Id("digest", "bob:x"))],
]

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
ANY_PATHS = st.one_of(PATHS, PATHS, PATHS, st.sampled_from(["/", "", "/a/", "no", "/zookeeper/q", None]))
DATA = st.none() | st.binary(max_size=4)
VERSIONS = st.sampled_from([-1, -1, -1, 0, 1, 2])
ACL_LISTS = st.sampled_from([*ACLS, OPEN, OPEN, OPEN, [], None])

Call = tuple[int, bytes]


@st.composite
def creates(draw: st.DrawFn) -> tuple[int, Any]:
    op = draw(
        st.sampled_from(
            [OpCode.CREATE, OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL]
        )
    )
    path, data, acl = draw(ANY_PATHS), draw(DATA), draw(ACL_LISTS)
    if op == OpCode.CREATE_TTL:
        return op, CreateTTLRequest(
            path, data, acl, draw(st.sampled_from([5, 5, 6, 0])), draw(st.integers(0, 9))
        )
    return op, CreateRequest(path, data, acl, draw(st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 9])))


CHANGES = st.one_of(
    creates(),
    creates(),
    st.builds(lambda path, version: (OpCode.DELETE, DeleteRequest(path, version)), ANY_PATHS, VERSIONS),
    st.builds(lambda *more: (OpCode.SET_DATA, SetDataRequest(*more)), ANY_PATHS, DATA, VERSIONS),
)
CHECKS = st.builds(lambda path, version: (OpCode.CHECK, CheckVersionRequest(path, version)), PATHS, VERSIONS)
WRITES = st.one_of(
    CHANGES,
    CHANGES,
    CHANGES,
    st.builds(lambda *more: (OpCode.SET_ACL, SetACLRequest(*more)), ANY_PATHS, ACL_LISTS, VERSIONS),
    st.builds(lambda path: (OpCode.DELETE_CONTAINER, DeleteContainerRequest(path)), ANY_PATHS),
    st.builds(lambda ops: (OpCode.MULTI, multi(*ops)), st.lists(st.one_of(CHANGES, CHECKS), max_size=4)),
)
READS = st.one_of(
    st.builds(lambda path, watch: (OpCode.GET_DATA, GetDataRequest(path, watch)), ANY_PATHS, st.booleans()),
    st.builds(lambda path, watch: (OpCode.EXISTS, ExistsRequest(path, watch)), ANY_PATHS, st.booleans()),
    st.builds(
        lambda path, watch: (OpCode.GET_CHILDREN2, GetChildren2Request(path, watch)), ANY_PATHS, st.booleans()
    ),
    st.builds(lambda path: (OpCode.GET_ACL, GetACLRequest(path)), ANY_PATHS),
    st.builds(lambda path: (OpCode.SYNC, SyncRequest(path)), ANY_PATHS),
    st.builds(lambda path: (OpCode.GET_EPHEMERALS, GetEphemeralsRequest(path)), ANY_PATHS),
    st.builds(
        lambda path, mode: (OpCode.ADD_WATCH, AddWatchRequest(path, mode)), ANY_PATHS, st.integers(0, 2)
    ),
    st.builds(
        lambda path, kind: (OpCode.REMOVE_WATCHES, RemoveWatchesRequest(path, kind)), PATHS, st.integers(1, 5)
    ),
    st.just((OpCode.PING, b"")),
)
TORN = st.builds(lambda call, keep: (call[0], encode(call[1])[:keep]), WRITES, st.integers(0, 9))
BATCHES = st.lists(st.integers(0, 5), max_size=30)


def send(client: Client, call: tuple[int, Any], xid: int) -> None:
    if not client.closed:
        client.send_frames(encode(RequestHeader(xid, call[0])) + encode(call[1]))


def one_by_one(calls: list[tuple[int, tuple[int, Any]]], clients: int) -> tuple[LocalServer, list[list[Any]]]:
    server = LocalServer(extended=True)
    connected = [server.client() for _ in range(clients)]
    for xid, (number, call) in enumerate(calls, 1):
        send(connected[number], call, xid)
    return server, [[shown(message) for message in client.received()] for client in connected]


def shown(message: Reply | Event) -> str:
    """A message for comparing. What was refused without a zxid shows that of whatever was applied by then."""
    if isinstance(message, Reply) and message.err == ErrorCode.MARSHALLINGERROR and not message.body:
        return f"refused {message.xid}"
    return repr(message)


def in_flight(
    calls: list[tuple[int, tuple[int, Any]]], clients: int, batches: list[int]
) -> tuple[LocalServer, list[list[Any]]]:
    """The same, with so many txns made durable behind each request, and the rest in the end."""
    server = LocalServer(extended=True)
    connected = [server.client() for _ in range(clients)]
    server.holding = True
    for xid, (number, call) in enumerate(calls, 1):
        send(connected[number], call, xid)
        if xid <= len(batches):
            server.persist(batches[xid - 1])
    server.settle()
    return server, [[shown(message) for message in client.received()] for client in connected]


def check_log(server: LocalServer) -> None:
    """What was logged gives the same tree, and says what its digest is after each txn."""
    tree, model = DataTree(server.owners), NaiveTree.empty()
    for logged in server.log:
        txn = Txn.from_payload(logged.payload)
        assert txn.zxid == tree.last_zxid + 1
        tree.apply(txn, None)
        model.apply(txn)
        if txn.digest is not None:
            assert txn.digest == tree.digest == model.digest
    assert tree.digest_mismatches == 0
    assert server.tree.digest_mismatches == 0
    assert stored_nodes(tree) == stored_nodes(server.tree) == model.nodes
    assert tree.digest == server.tree.digest
    assert model.sessions == server.service.sessions.committed
    check_consistent(server.tree)
    check_consistent(tree)
    assert len(server.service.changes) == 0
    assert server.service.changes.digest == server.tree.digest
    assert server.service.stats.outstanding == 0


def check_equal(calls: list[tuple[int, tuple[int, Any]]], clients: int, batches: list[int]) -> None:
    expected, told = one_by_one(calls, clients)
    found, heard = in_flight(calls, clients, batches)
    assert heard == told
    assert stored_nodes(found.tree) == stored_nodes(expected.tree)
    assert [txn.payload for txn in found.log] == [txn.payload for txn in expected.log]
    check_log(found)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.one_of(WRITES, WRITES, READS, TORN), max_size=30), BATCHES)
def test_one_client_cannot_tell_how_its_requests_were_batched(
    calls: list[tuple[int, Any]], batches: list[int]
) -> None:
    check_equal([(0, call) for call in calls], 1, batches)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), WRITES), max_size=30), BATCHES)
def test_writes_of_several_clients_give_the_same_however_they_are_batched(
    calls: list[tuple[int, tuple[int, Any]]], batches: list[int]
) -> None:
    check_equal(calls, 3, batches)


CLOSE = (OpCode.CLOSE_SESSION, b"")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.one_of(CHANGES, CHANGES, CHANGES, st.just(CLOSE))), max_size=25),
    BATCHES,
)
def test_sessions_that_close_among_the_writes_of_others_leave_the_same_tree(
    calls: list[tuple[int, tuple[int, Any]]], batches: list[int]
) -> None:
    # A session is closing as soon as its closeSession is prepared: what it sends behind it is dropped in either run.
    closed: set[int] = set()
    kept = []
    for number, call in calls:
        if number not in closed:
            kept.append((number, call))
        if call is CLOSE:
            closed.add(number)
    check_equal(kept, 3, batches)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(WRITES, WRITES, st.just(CLOSE)), max_size=12),
    st.lists(st.one_of(WRITES, READS), min_size=1, max_size=12),
    st.integers(0, 4),
)
def test_what_the_log_had_no_room_for_leaves_no_trace(
    before: list[tuple[int, Any]], lost: list[tuple[int, Any]], kept: int
) -> None:
    server = LocalServer(extended=True)
    client, other = server.client(), server.client()
    for xid, call in enumerate(before, 1):
        if call is not CLOSE:
            send(client, call, xid)
    server.holding = True
    for xid, call in enumerate(lost, 100):
        send(client, call, xid)
    if CLOSE in before:
        send(other, CLOSE, 1)
    server.persist(kept)
    durable = [txn.payload for txn in server.log]
    nodes, zxid = stored_nodes(server.tree), server.tree.last_zxid
    server.log_full()
    assert (stored_nodes(server.tree), server.tree.last_zxid) == (nodes, zxid)
    assert server.service.stats.outstanding == 0
    server.service.refuse_writes = False
    server.holding = False
    for xid, call in enumerate([*lost, *before], 200):
        if call is not CLOSE:
            send(client, call, xid)
    assert [txn.payload for txn in server.log[: len(durable)]] == durable
    check_log(server)
