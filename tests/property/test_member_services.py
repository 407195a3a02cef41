"""Clients of a leader and two learners, under drawn delays, moves, expiries and pipelines: what they are promised holds at every step.

Each session writes to a node of its own, so that it knows what it must read. Judged are: replies in the order of requests, each
once; what a session has written is read behind it, at any server; after a sync everything is read that was committed before; a
closed connection gets nothing more; in the end all trees are the same, and nothing is left of what was under way.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import Client
from tests.fakes.member_services import Ensemble, LearnerServer
from tests.fakes.replies import Reply, create, delete, multi, set_data
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import CheckVersionRequest, GetDataRequest, SyncRequest

if TYPE_CHECKING:
    from tests.fakes.member_services import MemberServer

STEPS = 400
WRITERS = 6


class Writer:
    """A client that remembers what it may expect.

    Attributes:
        number: value of its last write that was asked for; values go up by one.
        sure: the last one that was answered.
        asked_here: the last one that was asked for on this connection.
        waiting: what every request in flight is for, in order: ("set", value), ("get", at least) or ("sync", None).
        restarts: its xids begin at 1 on every connection.
    """

    def __init__(self, run: Run, name: str, *, restarts: bool) -> None:
        self.run = run
        self.name = name
        self.restarts = restarts
        self.number = 0
        self.sure = 0
        self.asked_here = 0
        self.session: Client | None = None
        self.client: Client | None = None
        self.waiting: list[tuple[int, str, Any]] = []
        self.xid = 0
        self.has_node = False
        self.sessions = 0
        # Of sessions that are over: path and last value that was answered.
        self.past: list[tuple[str, int]] = []

    @property
    def path(self) -> str:
        """Of another node in each session: what an old one has asked for may happen behind what a new one does."""
        return f"/{self.name}-{self.sessions}"

    def connect(self) -> None:
        """To any server, with the session it has."""
        rng = self.run.rng
        server = rng.choice(self.run.ensemble.servers)
        self.client = Client(server)
        self.waiting.clear()
        self.asked_here = 0
        if self.restarts:
            self.xid = 0
        self.has_node = False
        if self.session is None:
            self.past.append((self.path, self.sure))
            self.sessions += 1
            self.number = self.sure = 0
            self.client.connect(timeout_ms=rng.choice((4000, 40_000)))
        else:
            old = self.session
            self.client.connect(session_id=old.session_id, password=old.password, timeout_ms=40_000)

    def step(self) -> None:
        client = self.client
        if client is None or client.closed:
            self.look()
            if client is not None and client.connect_response is not None and not client.session_id:
                self.session = None  # expired
            self.connect()
            return
        if client.connect_response is None:
            return
        self.session = client
        rng = self.run.rng
        for _ in range(rng.choice((1, 1, 1, 4))):
            if not client.closed:
                self.ask(rng.random())
        if rng.random() < 0.08 and not client.closed:
            client.hang_up()

    def ask(self, chance: float) -> None:
        if not self.has_node:
            self.has_node = True
            self.send("create", None, OpCode.CREATE, create(self.path, b"0"))
        elif chance < 0.4:
            self.asked_here = self.number = self.number + 1
            self.send("set", self.number, OpCode.SET_DATA, set_data(self.path, b"%d" % self.number))
        elif chance < 0.5:
            self.asked_here = self.number = self.number + 1
            ops = multi(
                (OpCode.CHECK, CheckVersionRequest(self.path, -1)),
                (OpCode.SET_DATA, set_data(self.path, b"%d" % self.number)),
            )
            self.send("multi", self.number, OpCode.MULTI, ops)
        elif chance < 0.8:
            self.send("get", self.asked_here, OpCode.GET_DATA, GetDataRequest(self.path, False))
        elif chance < 0.9:
            self.send("sync", self.run.committed(), OpCode.SYNC, SyncRequest("/"))
        elif chance < 0.94:
            self.send("error", None, OpCode.DELETE, delete("/none"))
        elif chance < 0.96:
            self.send("garbage", None, OpCode.SET_ACL, b"\0")
        elif chance < 0.97:
            self.send("close", None, OpCode.CLOSE_SESSION)
            self.session = None
        else:
            self.send("ephemeral", None, OpCode.CREATE, create(f"{self.path}-e", flags=3))

    def send(self, what: str, value: Any, op: int, record: Any = None) -> None:
        assert self.client is not None
        if self.client.closed:
            return
        self.xid += 1
        self.waiting.append((self.xid, what, value))
        self.client.send(op, record, xid=self.xid)

    def look(self) -> None:
        """What has arrived is what was promised."""
        client = self.client
        if client is None:
            return
        for message in client.received():
            assert isinstance(message, Reply)
            xid, what, value = self.waiting.pop(0)
            assert message.xid == xid, "replies come in the order of the requests"
            if what in ("set", "multi"):
                assert message.err == 0
                self.sure = max(self.sure, value)
            elif what == "get":
                assert message.err == 0
                assert int(message.data or b"-1") >= value, "a session reads what it has written"
            elif what == "sync":
                assert message.zxid >= value, "everything that was committed before is here"
            elif what in ("error", "garbage"):
                expected = ErrorCode.NONODE if what == "error" else ErrorCode.MARSHALLINGERROR
                assert message.err == expected
            elif what == "create":
                assert message.err in (0, ErrorCode.NODEEXISTS)
            elif what == "ephemeral" and self.run.kind == "local":
                assert message.err == ErrorCode.EPHEMERALONLOCALSESSION
            else:
                assert message.err == 0


class Run:
    """One drawn history."""

    def __init__(self, seed: int, kind: str) -> None:
        self.kind = kind
        self.rng = random.Random(seed)
        self.ensemble = Ensemble(
            local_sessions_enabled=kind != "global", local_sessions_upgrading_enabled=kind == "upgrading"
        )
        self.writers = [Writer(self, f"w{n}", restarts=n % 2 == 0) for n in range(WRITERS)]

    def committed(self) -> int:
        return self.ensemble.leader.service.proposals.last_committed

    def step(self) -> None:
        rng, ensemble = self.rng, self.ensemble
        chance = rng.random()
        learner = rng.choice(list(ensemble.learners.values()))
        if chance < 0.06:
            ensemble.leader.holding = not ensemble.leader.holding
        elif chance < 0.1:
            learner.deaf = not learner.deaf
        elif chance < 0.13:
            learner.mute = not learner.mute
        elif chance < 0.2:
            ensemble.leader.persist(rng.randint(1, 3))
        elif chance < 0.25:
            learner.receive()
        elif chance < 0.28:
            learner.send()
        elif chance < 0.33:
            ensemble.advance(rng.choice((1000, 3000)))
        else:
            rng.choice(self.writers).step()
        ensemble.pump()
        self.look()

    def look(self) -> None:
        for writer in self.writers:
            writer.look()

    def end(self) -> None:
        ensemble = self.ensemble
        ensemble.settle()
        self.look()
        trees = [server.service.tree for server in ensemble.servers]
        assert len({tree.digest for tree in trees}) == 1
        assert {tree.digest_mismatches for tree in trees} == {0}
        alive = trees[0].ephemerals.keys() & ensemble.leader.service.sessions.committed.keys()
        for writer in self.writers:
            answered = [*writer.past, (writer.path, writer.sure)]
            session_id = 0 if writer.client is None else writer.client.link.session_id
            if self.kind == "local" or (self.kind == "upgrading" and session_id in alive):
                answered = answered[-1:]
            elif self.kind == "upgrading":
                # Leaders take what comes late from a session that is over for that of a local one (as Apache's do).
                answered = []
            for path, sure in answered:
                node = trees[0].get(path)
                assert sure <= (0 if node is None else int(node.data or b"0")), (
                    "nothing that was answered is lost"
                )
            if writer.client is not None and not writer.client.closed:
                assert writer.waiting == [], "every request is answered"
        tables = [server.service.sessions.committed for server in ensemble.servers]
        assert tables[0] == tables[1] == tables[2]
        owners = {owner for owner, owned in trees[0].ephemerals.items() if owned}
        assert owners <= set(tables[0]), "ephemerals go with their sessions"
        for server in ensemble.servers:
            self.check_nothing_left(server)

    def check_nothing_left(self, server: MemberServer) -> None:
        service = server.service
        assert service.stats.outstanding == 0
        for session_id, link in service.links.items():
            assert (link.session_id, len(link.pending)) == (session_id, 0)
        if isinstance(server, LearnerServer):
            assert server.service._abandoned == {}
            assert not server.service._syncs
        else:
            assert len(service.changes) == 0


@pytest.mark.parametrize("kind", ["global", "local", "upgrading"])
@pytest.mark.parametrize("seed", range(25))
def test_what_clients_are_promised_holds(seed: int, kind: str) -> None:
    run = Run(seed, kind)
    for _ in range(STEPS):
        run.step()
    run.end()
