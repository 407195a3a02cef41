"""A leader and its learners as services alone: no election, no packets, no disk.

    ensemble = Ensemble()                       # server 1 leads, 2 and 3 learn
    client = ensemble.learner(2).client()
    client.call(OpCode.CREATE, create("/a"))    # forwarded, proposed, committed everywhere, answered

What is between two servers is in queues and arrives in order. A learner that is `deaf` gets nothing for the time being, one that is
`mute` says nothing; a leader that is `holding` commits nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.fakes.local_server import MONO_MS, SUPER, WALL_MS, Client, Gate, PacketAuth, deliver
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.data_tree import DataTree
from zkpy.core.leading import LeadingService
from zkpy.core.learning import LearningService
from zkpy.core.owners import OwnerRules
from zkpy.core.pipeline.request import Request
from zkpy.core.quorum_verifier import Majority
from zkpy.core.service import ServiceOptions, ServiceParts
from zkpy.core.zab.database import CommittedLog, Database
from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.txn import Txn
    from zkpy_protocol.records import Id

LEADER_ID = 1


def make_parts(server_id: int, **options: Any) -> ServiceParts:
    """What a service is made of, for clients that authenticate by digest."""
    digest = DigestProvider(super_digest=SUPER)
    settings = {
        "tick_time_ms": 2000,
        "min_session_timeout_ms": 4000,
        "max_session_timeout_ms": 40_000,
        "server_id": server_id,
    } | options
    return ServiceParts(
        ServiceOptions(**settings), ProviderRegistry([IpProvider(), digest]), PacketAuth(digest)
    )


def make_database(
    zxid: int = 0, *, tree: DataTree | None = None, sessions: dict[int, int] | None = None
) -> Database:
    """An empty database, as of txn `zxid`."""
    tree = DataTree(OwnerRules(extended=True, emulate_353=False)) if tree is None else tree
    tree.last_zxid = max(tree.last_zxid, zxid)
    return Database(tree, {} if sessions is None else sessions, CommittedLog(500))


class MemberServer(Gate):
    """A service and its clients."""

    def __init__(self, ensemble: Ensemble, server_id: int, parts: ServiceParts) -> None:
        super().__init__(ensemble)
        self.ensemble = ensemble
        self.server_id = server_id
        self.parts = parts

    def pump(self) -> None:
        self.ensemble.pump()

    def deliver(self) -> None:
        deliver(self.service.dirty)

    def client(self, *, host: str = "127.0.0.1", timeout_ms: int = 10_000, **more: Any) -> Client:
        """A client with a new session."""
        client = Client(self, host)
        client.connect(timeout_ms=timeout_ms, **more)
        assert client.session_id != 0, "it got no session"
        return client

    def reconnect(self, old: Client, **more: Any) -> Client:
        """A new connection that asks for the session of `old`."""
        client = Client(self)
        client.connect(session_id=old.session_id, password=old.password, **more)
        return client


class LeaderServer(MemberServer):
    """The one that makes txns.

    Attributes:
        holding: proposals stay in flight.
        log: every txn that was committed.
        is_exhausted: the service has said that its zxids are used up.
    """

    def __init__(self, ensemble: Ensemble, parts: ServiceParts, database: Database) -> None:
        super().__init__(ensemble, LEADER_ID, parts)
        self.holding = False
        self.log: list[Txn] = []
        self.is_exhausted = False
        self._syncs: dict[int, list[LearnerServer]] = {}
        self._service = LeadingService(
            parts, database, Majority(frozenset((LEADER_ID,))), self, ensemble.wall_ms, ensemble.mono_ms
        )

    @property
    def service(self) -> LeadingService:
        return self._service

    def persist(self, count: int = 1 << 30) -> bool:
        """The first txns in flight are on disk, and by that committed. False: there are none."""
        txns = self.service.take_unlogged(count)
        if txns:
            self.service.persisted(txns[-1].zxid, self.mono_ms)
        return bool(txns)

    def summary(self) -> list[tuple[int, int, int]]:
        """Session, cxid and type of every committed txn."""
        return [(txn.client_id, txn.cxid, txn.type) for txn in self.log]

    # -- what a learner sends

    def request(
        self, learner: LearnerServer, session_id: int, cxid: int, op: int, record: bytes, ids: Any
    ) -> None:
        if op == OpCode.SYNC:
            proposals = self.service.proposals
            if len(proposals):
                self._syncs.setdefault(proposals.last_proposed, []).append(learner)
            else:
                learner.inbox.append(("synced",))
            return
        frame = cxid.to_bytes(4, "big", signed=True) + op.to_bytes(4, "big", signed=True) + record
        request = Request(None, session_id, cxid, op, frame, tuple(ids or ()), self.mono_ms)
        request.owner = learner
        self.service.submit_remote(request, self.wall_ms)
        assert request.txn is not None or self.is_exhausted, "the learner waits for a txn"

    def revalidate(self, learner: LearnerServer, session_id: int, timeout_ms: int) -> None:
        valid = self.service.revalidate(session_id, timeout_ms, learner, self.mono_ms)
        learner.inbox.append(("revalidated", session_id, valid))

    # -- Broadcaster

    def proposed(self, txn: Txn) -> None:
        for learner in self.ensemble.learners.values():
            learner.inbox.append(("proposed", txn.zxid))

    def committed(self, txn: Txn) -> None:
        self.log.append(txn)
        for learner in self.ensemble.learners.values():
            learner.inbox.append(("commit", txn))
        for learner in self._syncs.pop(txn.zxid, ()):
            learner.inbox.append(("synced",))

    def exhausted(self) -> None:
        self.is_exhausted = True


class LearnerServer(MemberServer):
    """One that forwards.

    Attributes:
        forwarded: everything that was ever sent to the leader.
        inbox: what the leader has sent and did not arrive.
    """

    def __init__(self, ensemble: Ensemble, server_id: int, parts: ServiceParts, database: Database) -> None:
        super().__init__(ensemble, server_id, parts)
        self.deaf = False
        self.mute = False
        self.last_zxid = database.tree.last_zxid
        self.inbox: deque[tuple[Any, ...]] = deque()
        self.outbox: deque[tuple[Any, ...]] = deque()
        self.forwarded: list[tuple[Any, ...]] = []
        self._service = LearningService(parts, database, self, ensemble.wall_ms, ensemble.mono_ms)

    @property
    def service(self) -> LearningService:
        return self._service

    # -- Forwarder

    def request(self, session_id: int, cxid: int, op: int, record: bytes, ids: Sequence[Id] | None) -> None:
        self._forward("request", session_id, cxid, op, record, None if ids is None else tuple(ids))

    def revalidate(self, session_id: int, timeout_ms: int) -> None:
        self._forward("revalidate", session_id, timeout_ms)

    def _forward(self, *what: Any) -> None:
        self.outbox.append(what)
        self.forwarded.append(what)

    # -- the wire

    def send(self) -> bool:
        """The oldest packet reaches the leader. False: there is none."""
        if not self.outbox or self.mute:
            return False
        what, *arguments = self.outbox.popleft()
        getattr(self.ensemble.leader, what)(self, *arguments)
        return True

    def receive(self) -> bool:
        """The leader's oldest packet arrives. False: there is none."""
        if not self.inbox or self.deaf:
            return False
        what, *arguments = self.inbox.popleft()
        if what == "proposed":
            self.last_zxid = arguments[0]
        elif what == "commit":
            self.service.commit(arguments[0], self.mono_ms)
        elif what == "synced":
            self.service.synced(self.mono_ms)
        else:
            self.service.revalidated(*arguments)
        return True


class Ensemble:
    """See the module docstring. Options are those of the services."""

    def __init__(
        self, *learner_ids: int, zxid: int = 1 << 32, database: Database | None = None, **options: Any
    ) -> None:
        self.wall_ms = WALL_MS
        self.mono_ms = MONO_MS
        self.learners: dict[int, LearnerServer] = {}
        own = make_database(zxid) if database is None else database
        self.leader = LeaderServer(self, make_parts(LEADER_ID, **options), own)
        for server_id in learner_ids or (2, 3):
            self.learners[server_id] = LearnerServer(
                self, server_id, make_parts(server_id, **options), make_database(zxid)
            )

    def learner(self, server_id: int) -> LearnerServer:
        return self.learners[server_id]

    @property
    def servers(self) -> list[MemberServer]:
        return [self.leader, *self.learners.values()]

    def pump(self) -> None:
        """Everything happens that nobody holds back."""
        busy = True
        while busy:
            for server in self.servers:
                server.deliver()
            busy = any(learner.send() for learner in self.learners.values())
            busy = (not self.leader.holding and self.leader.persist()) or busy
            busy = any(learner.receive() for learner in self.learners.values()) or busy
        for server in self.servers:
            server.deliver()

    def settle(self) -> None:
        """Nothing is held back any more."""
        self.leader.holding = False
        for learner in self.learners.values():
            learner.deaf = learner.mute = False
        self.pump()

    def advance(self, ms: int) -> None:
        """Time passes in half ticks; learners report the sessions they have heard of."""
        while ms > 0:
            step = min(ms, 1000)
            ms -= step
            self.wall_ms += step
            self.mono_ms += step
            for learner in self.learners.values():
                if not (learner.mute or learner.deaf):
                    for session_id, timeout_ms in learner.service.take_touched():
                        self.leader.service.touch(session_id, timeout_ms, self.mono_ms)
            for server in self.servers:
                server.service.tick(self.wall_ms, self.mono_ms)
            self.pump()
