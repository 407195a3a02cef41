"""A server in trouble: clients come, go and lie, time passes, the disk is slow or full. What must never be wrong isn't."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.local_server import Client, LocalServer
from tests.fakes.naive_tree import NaiveTree, check_consistent, stored_nodes
from tests.fakes.replies import Reply, create, delete, multi, set_data
from zkpy.core.data_tree import DataTree
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import AddWatchRequest, AuthPacket, ExistsRequest, GetDataRequest

pytestmark = pytest.mark.slow

UNKNOWN = 99
# Answered at once, whatever waits before them; of pings the xid is not echoed.
OVERTAKING = (OpCode.AUTH, UNKNOWN, OpCode.PING)

PATHS = st.sampled_from(["/a", "/b", "/a/a", "/a/b"])
REQUESTS = st.one_of(
    st.builds(
        lambda path, flags: (OpCode.CREATE, create(path, flags=flags)), PATHS, st.sampled_from([0, 1, 1, 3])
    ),
    st.builds(lambda path: (OpCode.DELETE, delete(path)), PATHS),
    st.builds(lambda path: (OpCode.SET_DATA, set_data(path, b"1")), PATHS),
    st.builds(lambda path: (OpCode.GET_DATA, GetDataRequest(path, True)), PATHS),
    st.builds(lambda path: (OpCode.EXISTS, ExistsRequest(path, True)), PATHS),
    st.builds(lambda path: (OpCode.ADD_WATCH, AddWatchRequest(path, 1)), PATHS),
    st.builds(
        lambda one, other: (
            OpCode.MULTI,
            multi((OpCode.CREATE, create(one, flags=1)), (OpCode.DELETE, delete(other))),
        ),
        PATHS,
        PATHS,
    ),
    st.sampled_from(
        [
            (OpCode.SET_DATA, b"\0"),
            (OpCode.PING, b""),
            (OpCode.CLOSE_SESSION, b""),
            (UNKNOWN, b""),
            (OpCode.AUTH, AuthPacket(0, "digest", b"bob:x")),
            (OpCode.AUTH, AuthPacket(0, "nope", b"")),
        ]
    ),
)


class Watched:
    """A client and what it may expect."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent: list[tuple[int, int]] = []
        self.answered: list[int] = []
        self.ending = False

    def look(self, zxid: int) -> None:
        """Replies come in the order of the requests, and never from the future."""
        for message in self.client.received():
            assert message.zxid <= zxid
            if isinstance(message, Reply) and message.xid != -2:
                self.answered.append(message.xid)
        queued = [xid for xid, op in self.sent if op not in OVERTAKING]
        in_turn = [xid for xid in self.answered if xid in queued]
        assert in_turn == queued[: len(in_turn)]


class PeerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = LocalServer(global_outstanding_limit=8)
        self.server.holding = True
        self.watched: list[Watched] = []

    def _alive(self) -> list[Watched]:
        return [one for one in self.watched if not one.client.closed]

    # -- clients

    @rule(timeout_ms=st.sampled_from([4000, 9000, 40_000]))
    def connect(self, timeout_ms: int) -> None:
        client = Client(self.server)
        client.connect(timeout_ms=timeout_ms)
        self.watched.append(Watched(client))

    @precondition(lambda self: self.watched)
    @rule(data=st.data(), lies=st.booleans())
    def come_back(self, data: st.DataObject, lies: bool) -> None:
        old = data.draw(st.sampled_from(self.watched)).client
        client = Client(self.server)
        client.connect(session_id=old.link.session_id, password=b"wrong" if lies else old.password)
        assert old.closed
        response = client.connect_response
        assert response is not None
        if lies or old.link.session_id not in self.server.service.tracker.committed:
            assert response.session_id == 0
        self.watched.append(Watched(client))

    @precondition(lambda self: self._alive())
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._alive())).client.hang_up()

    @precondition(lambda self: self._alive())
    @rule(data=st.data(), requests=st.lists(REQUESTS, min_size=1, max_size=4))
    def ask(self, data: st.DataObject, requests: list[tuple[int, Any]]) -> None:
        one = data.draw(st.sampled_from(self._alive()))
        for op, record in requests:
            if not one.client.closed:
                xid = one.client.send(op, record)
                if not one.ending:
                    one.sent.append((xid, op))
                one.ending = one.ending or op == OpCode.CLOSE_SESSION

    # -- the world

    @rule(ms=st.sampled_from([500, 1000, 3000, 20_000]))
    def wait(self, ms: int) -> None:
        self.server.advance(ms)

    @rule(count=st.integers(1, 6))
    def persist(self, count: int) -> None:
        self.server.persist(count)

    @rule()
    def settle(self) -> None:
        self.server.settle()

    @rule()
    def log_full(self) -> None:
        self.server.log_full()

    @rule(refuse=st.booleans())
    def room(self, refuse: bool) -> None:
        self.server.service.refuse_writes = refuse

    # -- what must hold

    @invariant()
    def nothing_is_lost_or_left(self) -> None:
        service = self.server.service
        committed = service.tracker.committed
        assert set(committed) <= set(service.tracker.sessions)
        assert {owner for owner, paths in self.server.tree.ephemerals.items() if paths} <= set(committed)
        assert service.stats.outstanding == sum(len(one.client.link.pending) for one in self._alive())
        for session_id, link in service.links.items():
            assert link.session_id == session_id
        for one in self.watched:
            one.look(self.server.tree.last_zxid)

    def teardown(self) -> None:
        server = self.server
        server.settle()
        for one in self._alive():
            one.look(server.tree.last_zxid)
            if one.client.session_id and server.service.tracker.is_live(one.client.session_id):
                assert one.answered == [xid for xid, op in one.sent if op != OpCode.PING] or any(
                    op == OpCode.AUTH for _, op in one.sent
                )
        server.service.refuse_writes = False
        server.holding = False
        server.advance(100_000)
        assert server.service.tracker.committed == {}
        assert server.service.tracker.sessions == {}
        assert server.tree.ephemeral_count == 0
        assert [one for one in self._alive() if one.client.session_id] == []
        tree, model = DataTree(server.owners), NaiveTree.empty()
        for number, logged in enumerate(server.log, 1):
            assert logged.zxid == number
            tree.apply(Txn.from_payload(logged.payload), None)
            model.apply(Txn.from_payload(logged.payload))
        assert (tree.digest_mismatches, server.tree.digest_mismatches) == (0, 0)
        assert stored_nodes(tree) == stored_nodes(server.tree) == model.nodes
        check_consistent(server.tree)
        errors = {ErrorCode.SYSTEMERROR}
        assert not errors & {txn.record.err for txn in server.log if txn.type == OpCode.ERROR}


TestPeer = PeerMachine.TestCase
TestPeer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
