"""Which writes are refused by the ACLs at hand, and how their clients are answered.

The table is what leader, follower and observer of Apache 3.9.5 answered with ``enableEagerACLCheck=true``; what they passed on
got a zxid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import MONO_MS, WALL_MS, Client, LocalServer, PacketAuth, deliver
from tests.fakes.replies import OPEN, READ_ONLY, create, create_ttl, delete, encode, multi, set_data
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.acl import AccessRules
from zkpy.core.leading import LeadingService
from zkpy.core.learning import LearningService
from zkpy.core.pipeline.eager_acl import EagerAclCheck
from zkpy.core.pipeline.request import Request
from zkpy.core.quorum_verifier import Majority
from zkpy.core.service import Service, ServiceOptions, ServiceParts
from zkpy.core.txn import Txn
from zkpy.core.zab.database import CommittedLog, Database
from zkpy_protocol.opcodes import CreateFlags, ErrorCode, OpCode
from zkpy_protocol.records import (
    ACL,
    CreateSessionTxn,
    ExistsRequest,
    Id,
    RequestHeader,
    SetACLRequest,
    SetDataTxn,
    SyncRequest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.data_tree import DataTree

NOAUTH, INVALIDACL = ErrorCode.NOAUTH, ErrorCode.INVALIDACL
ADMIN_OF_ALL = [ACL(1 | 16, Id("world", "anyone"))]
NO_SUCH_SCHEME = [ACL(31, Id("nope", "anyone"))]
NO_DIGEST = [ACL(1, Id("digest", "nocolon"))]
NULL_ID = [ACL(31, Id("world", None))]
PROVIDERS = ProviderRegistry([IpProvider(), DigestProvider()])


def tree() -> DataTree:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/ro", acl=READ_ONLY)).ok()
    client.call(OpCode.CREATE, create("/admin", acl=ADMIN_OF_ALL)).ok()
    client.call(OpCode.CREATE, create("/open")).ok()
    return server.service.tree


def refused(op: int, record: Any, ids: tuple[Id, ...] = (), *, skip_acl: bool = False) -> int:
    frame = encode(RequestHeader(7, op)) + encode(record)
    request = Request(None, 1, 7, op, frame, ids, MONO_MS)
    refusal = EagerAclCheck(tree(), AccessRules(PROVIDERS, skip_acl)).refusal(request)
    if refusal is None:
        return 0
    assert (refusal.xid, refusal.op, refusal.session_id, refusal.waits) == (7, op, 1, False)
    return refusal.err


@pytest.mark.parametrize(
    ("op", "record", "err"),
    [
        (OpCode.CREATE, create("/ro/x"), NOAUTH),
        (OpCode.CREATE2, create("/ro/x"), NOAUTH),
        (OpCode.CREATE_CONTAINER, create("/ro/x", flags=CreateFlags.CONTAINER), 0),
        (OpCode.CREATE_TTL, create_ttl("/ro/x", 5), 0),
        (OpCode.CREATE, create("/open/x", acl=NO_SUCH_SCHEME), INVALIDACL),
        (OpCode.CREATE, create("/missing/x", acl=NO_SUCH_SCHEME), INVALIDACL),
        (OpCode.CREATE, create("/open/x", acl=[]), INVALIDACL),
        (OpCode.CREATE, create("/open/x", acl=None), INVALIDACL),
        (OpCode.CREATE, create("/open/x", acl=NULL_ID), 0),
        (OpCode.CREATE, create("/open/x"), 0),
        (OpCode.CREATE, create("x", acl=[]), 0),
        (OpCode.CREATE, create("/zookeeper", acl=[]), 0),
        (OpCode.CREATE, create(None), 0),
        (OpCode.CREATE, create("/missing/x"), 0),
        (OpCode.DELETE, delete("/ro/x"), NOAUTH),
        (OpCode.DELETE, delete("/ro"), 0),
        (OpCode.DELETE, delete("/"), 0),
        (OpCode.SET_DATA, set_data("/ro"), NOAUTH),
        (OpCode.SET_DATA, set_data("/open"), 0),
        (OpCode.SET_DATA, set_data("/missing"), 0),
        (OpCode.SET_DATA, set_data(None), 0),
        (OpCode.SET_ACL, SetACLRequest("/ro", OPEN, -1), NOAUTH),
        (OpCode.SET_ACL, SetACLRequest("/admin", OPEN, -1), 0),
        (OpCode.SET_ACL, SetACLRequest("/admin", NO_DIGEST, -1), INVALIDACL),
        (OpCode.SET_ACL, SetACLRequest("/missing", OPEN, -1), 0),
        (OpCode.MULTI, multi((OpCode.SET_DATA, set_data("/ro"))), 0),
        (OpCode.SYNC, SyncRequest("/ro"), 0),
        (OpCode.CLOSE_SESSION, b"", 0),
        (OpCode.CREATE, b"\0\0", 0),
    ],
)
def test_only_what_is_certain_is_refused(op: int, record: Any, err: int) -> None:
    assert refused(op, record) == err


def test_who_may_is_let_through() -> None:
    assert refused(OpCode.SET_DATA, set_data("/ro"), (Id("super", ""),)) == 0
    assert refused(OpCode.SET_DATA, set_data("/ro"), skip_acl=True) == 0
    assert refused(OpCode.CREATE, create("/open/x", acl=[]), skip_acl=True) == INVALIDACL


# -- in the roles


class Silence:
    """A leader's learners, or a learner's leader: nobody answers."""

    last_zxid = 0

    def __init__(self) -> None:
        self.forwarded: list[int] = []

    def request(self, session_id: int, cxid: int, op: int, record: bytes, ids: Sequence[Id] | None) -> None:
        self.forwarded.append(op)

    def revalidate(self, session_id: int, timeout_ms: int) -> None:
        raise AssertionError

    def proposed(self, txn: Txn) -> None:
        pass

    def committed(self, txn: Txn) -> None:
        pass

    def exhausted(self) -> None:
        raise AssertionError


class Gate:
    """What a client needs of its server."""

    wall_ms = WALL_MS
    mono_ms = MONO_MS

    def __init__(self, service: Service) -> None:
        self.service = service

    def pump(self) -> None:
        deliver(self.service.dirty)


def parts(*, enabled: bool) -> tuple[ServiceParts, Database]:
    digest = DigestProvider()
    options = ServiceOptions(tick_time_ms=2000, eager_acl_check_enabled=enabled)
    return ServiceParts(options, PROVIDERS, PacketAuth(digest)), Database(tree(), {}, CommittedLog(500))


def test_a_learner_answers_a_refusal_in_its_turn_and_forwards_nothing() -> None:
    leader = Silence()
    service = LearningService(*parts(enabled=True), leader, WALL_MS, MONO_MS)
    gate = Gate(service)
    client = Client(gate)
    client.connect(timeout_ms=10_000)
    zxid = service.tree.last_zxid
    opened = Txn.make(
        client.link.session_id, 0, zxid + 1, WALL_MS, OpCode.CREATE_SESSION, CreateSessionTxn(10_000), None
    )
    service.commit(opened, MONO_MS)
    gate.pump()

    reply = client.call(OpCode.SET_DATA, set_data("/ro"))
    assert (reply.err, reply.zxid) == (NOAUTH, 0)
    assert leader.forwarded == [OpCode.CREATE_SESSION]

    written = client.send(OpCode.SET_DATA, set_data("/open", b"1"))
    refused_xid = client.send(OpCode.SET_DATA, set_data("/ro"))
    client.send(OpCode.EXISTS, ExistsRequest("/open", False))
    assert client.replies() == []
    assert leader.forwarded == [OpCode.CREATE_SESSION, OpCode.SET_DATA]
    record = SetDataTxn("/open", b"1", 1)
    service.commit(
        Txn.make(client.session_id, written, zxid + 2, WALL_MS, OpCode.SET_DATA, record, None), MONO_MS
    )
    gate.pump()
    assert [(reply.xid, reply.err, reply.zxid) for reply in client.replies()] == [
        (written, 0, zxid + 2),
        (refused_xid, NOAUTH, 0),
        (refused_xid + 1, 0, zxid + 2),
    ]
    assert service.stats.outstanding == 0


@pytest.mark.parametrize(("enabled", "zxids"), [(True, 0), (False, 1)])
def test_a_leader_spends_no_zxid_on_a_refusal_of_its_own_client(enabled: bool, zxids: int) -> None:
    both, database = parts(enabled=enabled)
    service = LeadingService(both, database, Majority(frozenset((1, 2))), Silence(), WALL_MS, MONO_MS)
    gate = Gate(service)
    client = Client(gate)
    client.connect(timeout_ms=10_000)
    for server_id in (1, 2):
        service.acked(server_id, service.last_proposed, MONO_MS)
    gate.pump()
    before = service.last_proposed
    client.send(OpCode.SET_DATA, set_data("/ro"))
    assert service.last_proposed == before + zxids
    assert len(client.replies()) == 1 - zxids


def test_a_leader_passes_on_what_learners_forward_and_a_standalone_server_everything() -> None:
    both, database = parts(enabled=True)
    service = LeadingService(both, database, Majority(frozenset((1, 2))), Silence(), WALL_MS, MONO_MS)
    service.tracker.track(5, 10_000, MONO_MS)
    frame = encode(RequestHeader(7, OpCode.SET_DATA)) + encode(set_data("/ro"))
    request = Request(None, 5, 7, OpCode.SET_DATA, frame, (), MONO_MS)
    request.owner = object()
    service.submit_remote(request, WALL_MS)
    assert request.txn is not None

    both, database = parts(enabled=True)
    alone = LeadingService(both, database, Majority(frozenset((1,))), None, WALL_MS, MONO_MS)
    gate = Gate(alone)
    client = Client(gate)
    client.connect(timeout_ms=10_000)
    alone.persisted(alone.last_proposed, MONO_MS)
    gate.pump()
    before = alone.last_proposed
    client.send(OpCode.SET_DATA, set_data("/ro"))
    assert alone.last_proposed == before + 1
