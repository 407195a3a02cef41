"""Multi and multiRead: what may stand in one, what becomes of each operation, what a failure leaves (client protocol §14)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.local_server import LocalServer
from tests.fakes.replies import OPEN, READ_ONLY, create, create_ttl, delete, multi, set_data
from zkpy_protocol.multi import MULTI_END
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ACL,
    CheckVersionRequest,
    CheckVersionTxn,
    CreateRequest,
    CreateTTLRequest,
    ErrorTxn,
    ExistsRequest,
    GetChildrenRequest,
    GetDataRequest,
    Id,
    MultiTxn,
    SetACLRequest,
)
from zkpy_protocol.txns import decode_record

MARSHALLING = ErrorCode.MARSHALLINGERROR
CREATE, CREATE2, CONTAINER, TTL = 1, 15, 19, 21


def check(path: str, version: int = -1) -> CheckVersionRequest:
    return CheckVersionRequest(path, version)


def test_results_are_in_the_order_of_the_operations() -> None:
    server = LocalServer(extended=True)
    client = server.client()
    reply = client.call(
        OpCode.MULTI,
        multi(
            (OpCode.CREATE, create("/a", b"1")),
            (OpCode.CREATE2, create("/a/b", b"22")),
            (OpCode.CREATE_CONTAINER, create("/c", flags=4)),
            (OpCode.CREATE_TTL, create_ttl("/t", 1000)),
            (OpCode.SET_DATA, set_data("/a", b"333", 0)),
            (OpCode.CHECK, check("/a", 1)),
            (OpCode.DELETE, delete("/a/b")),
        ),
    )
    assert reply.err == 0
    assert [(r.type, r.err, r.path) for r in reply.results] == [
        (1, 0, "/a"),
        (15, 0, "/a/b"),
        (15, 0, "/c"),
        (15, 0, "/t"),
        (5, 0, None),
        (13, 0, None),
        (2, 0, None),
    ]


def test_each_stat_shows_the_state_right_after_its_operation() -> None:
    client = LocalServer().client()
    results = client.call(
        OpCode.MULTI,
        multi(
            (OpCode.CREATE2, create("/a", b"1")),
            (OpCode.SET_DATA, set_data("/a", b"22")),
            (OpCode.CREATE, create("/a/b")),
            (OpCode.SET_DATA, set_data("/a", b"333")),
        ),
    ).results
    stats = [result.stat for result in results if result.stat is not None]
    assert [(stat.version, stat.data_length, stat.num_children) for stat in stats] == [
        (0, 1, 0),
        (1, 2, 0),
        (2, 3, 1),
    ]


def test_all_operations_share_one_zxid_and_one_time() -> None:
    server = LocalServer()
    client = server.client()
    reply = client.call(OpCode.MULTI, multi((CREATE2, create("/a")), (CREATE2, create("/a/b")))).ok()
    stats = [result.stat for result in reply.results if result.stat is not None]
    assert {stat.czxid for stat in stats} == {reply.zxid}
    assert {stat.ctime for stat in stats} == {server.wall_ms}
    assert client.call(OpCode.EXISTS, ExistsRequest("/a", False)).stat.pzxid == reply.zxid


@pytest.mark.parametrize("version", [-1, 1])
def test_a_check_is_logged_with_the_version_behind_the_current_one(version: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    client.call(OpCode.SET_DATA, set_data("/a")).ok()
    client.call(OpCode.MULTI, multi((OpCode.CHECK, check("/a", version)))).ok()
    (member,) = server.log[-1].record.txns
    assert decode_record(member.type, member.data)[0] == CheckVersionTxn("/a", 2)


def test_an_empty_multi_is_fine_and_uses_a_zxid() -> None:
    server = LocalServer()
    client = server.client()
    reply = client.call(OpCode.MULTI, multi())
    assert (reply.err, reply.body, reply.zxid) == (0, MULTI_END, 2)
    assert server.log[-1].record == MultiTxn([])


# -- failure


def test_one_error_fails_all_and_the_reply_header_says_ok() -> None:
    server = LocalServer()
    client = server.client()
    before = server.tree.digest
    reply = client.call(
        OpCode.MULTI,
        multi(
            (CREATE, create("/a")),
            (CREATE, create("/b")),
            (OpCode.DELETE, delete("/missing")),
            (CREATE, create("/c")),
            (OpCode.CHECK, check("noslash")),
        ),
    )
    assert reply.err == 0
    codes = [0, 0, ErrorCode.NONODE, ErrorCode.RUNTIMEINCONSISTENCY, ErrorCode.RUNTIMEINCONSISTENCY]
    assert [(r.type, r.err, r.body) for r in reply.results] == [(-1, code, code) for code in codes]
    assert server.tree.digest == before
    assert server.tree.last_zxid == reply.zxid == 2


def test_a_failed_multi_is_logged_with_the_failing_and_later_members_as_errors() -> None:
    server = LocalServer()
    client = server.client()
    client.call(
        OpCode.MULTI, multi((CREATE, create("/a")), (OpCode.DELETE, delete("/x")), (CREATE, create("/b")))
    )
    txn = server.log[-1]
    assert txn.type == OpCode.MULTI
    assert [member.type for member in txn.record.txns] == [1, -1, -1]


def test_a_failed_multi_takes_back_what_it_did_to_versions_in_flight() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    server.holding = True
    client.send(OpCode.SET_DATA, set_data("/a", b"1"))
    client.send(OpCode.MULTI, multi((OpCode.SET_DATA, set_data("/a", b"2", 1)), (CREATE, create("/a"))))
    client.send(OpCode.SET_DATA, set_data("/a", b"3", 1))
    client.send(OpCode.MULTI, multi((OpCode.DELETE, delete("/a", 2)), (OpCode.DELETE, delete("/a", 2))))
    client.send(OpCode.SET_DATA, set_data("/a", b"4", 2))
    server.settle()
    one, two, three, four, five = client.replies()
    assert [one.stat.version, three.stat.version, five.stat.version] == [1, 2, 3]
    assert [r.err for r in two.results] == [0, ErrorCode.NODEEXISTS]
    assert [r.err for r in four.results] == [0, ErrorCode.NONODE]
    assert server.tree.digest_mismatches == 0
    assert len(server.service.changes) == 0


def test_acls_are_checked_against_the_state_in_flight() -> None:
    client = LocalServer().client()
    nobody = [ACL(31, Id("digest", "x:y"))]
    results = client.call(
        OpCode.MULTI, multi((CREATE, create("/a", acl=nobody)), (OpCode.SET_DATA, set_data("/a")))
    ).results
    assert [r.err for r in results] == [0, ErrorCode.NOAUTH]


def test_an_operation_sees_those_before_it() -> None:
    server = LocalServer()
    client = server.client()
    results = client.call(
        OpCode.MULTI,
        multi(
            (CREATE, create("/a")),
            (OpCode.SET_DATA, set_data("/a", b"1", 0)),
            (OpCode.DELETE, delete("/a", 1)),
            (CREATE, create("/a", flags=2)),
            (CREATE, create("/a", flags=2)),
        ),
    ).results
    assert [r.err for r in results] == [0] * 5
    assert [r.path for r in results[3:]] == ["/a0000000001", "/a0000000002"]


# -- what may not stand in a multi


@pytest.mark.parametrize(
    "record",
    [
        b"",
        multi((CREATE, create("/a")))[:-3],
        multi((CREATE, create("/a"))).replace(b"/a", b"/a", 1)[:20],
        multi((OpCode.SET_ACL, SetACLRequest("/a", OPEN, -1))),
        multi((OpCode.EXISTS, ExistsRequest("/a", False))),
        multi((CREATE, create("/a")), (OpCode.GET_DATA, GetDataRequest("/", False))),
        multi((OpCode.GET_DATA, GetDataRequest("/", False))),
        multi((CREATE, create("/a", flags=7))),
        multi((CREATE2, create("/a", flags=-1))),
        multi((CREATE, create("/a", flags=5))),
        multi((CONTAINER, create("/a", flags=6))),
        multi((CREATE, create("/a")), (OpCode.DELETE, delete(None))),
        multi((CREATE, create(None))),
    ],
)
def test_what_may_not_stand_in_a_multi_fails_the_whole_request_and_uses_a_zxid(record: bytes) -> None:
    server = LocalServer(extended=True)
    client = server.client()
    reply = client.call(OpCode.MULTI, record)
    assert (reply.err, reply.body, reply.zxid) == (MARSHALLING, b"", 2)
    assert server.log[-1].record == ErrorTxn(MARSHALLING)
    assert server.tree.get("/a") is None
    assert not client.closed


def test_a_null_acl_with_a_ttl_flag_fails_the_request_without_a_zxid() -> None:
    server = LocalServer(extended=True)
    client = server.client()
    reply = client.call(OpCode.MULTI, multi((CREATE, create("/a", flags=5, acl=None))))
    assert (reply.err, reply.zxid) == (MARSHALLING, 1)


def test_a_null_path_of_a_set_data_fails_the_request_too() -> None:
    client = LocalServer().client()
    assert client.call(OpCode.MULTI, multi((OpCode.SET_DATA, set_data(None)))).err == MARSHALLING


def test_an_acl_with_a_null_scheme_in_a_multi_fails_the_whole_request() -> None:
    server = LocalServer()
    client = server.client()
    acl = [ACL(1, Id(None, None)), ACL(1, Id(None, None))]
    reply = client.call(OpCode.MULTI, multi((CREATE, create("/b")), (CREATE, create("/a", acl=acl))))
    assert (reply.err, reply.zxid) == (MARSHALLING, 2)
    assert server.tree.get("/b") is None


# -- what kind of create a multi makes: header type and flags (table of §14)


@pytest.mark.parametrize(
    ("header", "flags", "txn", "result"),
    [
        *[(CREATE, flags, CREATE, 1) for flags in (0, 1, 2, 3)],
        *[(CREATE2, flags, CREATE2, 15) for flags in (0, 1, 2, 3)],
        *[(CONTAINER, flags, CONTAINER, 15) for flags in (0, 1, 2, 3)],
        *[(TTL, flags, CREATE, 1) for flags in (0, 1, 2, 3)],
        *[(header, 4, CONTAINER, 15) for header in (CREATE, CREATE2, CONTAINER, TTL)],
        (TTL, 5, TTL, 15),
        (TTL, 6, TTL, 15),
    ],
)
def test_header_and_flags_decide_what_a_multi_creates(header: int, flags: int, txn: int, result: int) -> None:
    server = LocalServer(extended=True)
    client = server.client()
    record: Any = CreateRequest("/a", b"", OPEN, flags)
    if header == TTL:
        record = CreateTTLRequest("/a", b"", OPEN, flags, 1000)
    reply = client.call(OpCode.MULTI, multi((header, record)))
    name = "/a0000000000" if flags in (2, 3, 6) else "/a"
    assert [(r.type, r.err, r.path) for r in reply.results] == [(result, 0, name)]
    assert [member.type for member in server.log[-1].record.txns] == [txn]


@pytest.mark.parametrize(("flags", "ttl"), [(7, 1000), (-1, 1000), (5, 0), (6, -1), (7, -1)])
def test_bad_flags_of_a_ttl_create_fail_that_operation(flags: int, ttl: int) -> None:
    client = LocalServer(extended=True).client()
    record = CreateTTLRequest("/a", b"", OPEN, flags, ttl)
    reply = client.call(OpCode.MULTI, multi((TTL, record), (CREATE, create("/b"))))
    assert [r.err for r in reply.results] == [ErrorCode.BADARGUMENTS, ErrorCode.RUNTIMEINCONSISTENCY]


def test_a_ttl_create_without_extended_types_fails_that_operation() -> None:
    client = LocalServer().client()
    reply = client.call(OpCode.MULTI, multi((TTL, create_ttl("/a", 1000))))
    assert [r.err for r in reply.results] == [ErrorCode.UNIMPLEMENTED]


# -- multiRead


def get(path: str | None) -> tuple[int, GetDataRequest]:
    return OpCode.GET_DATA, GetDataRequest(path, True)


def children(path: str | None) -> tuple[int, GetChildrenRequest]:
    return OpCode.GET_CHILDREN, GetChildrenRequest(path, True)


def test_every_operation_of_a_multi_read_has_its_own_result() -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/a", b"1")).ok()
    client.call(OpCode.CREATE, create("/a/b", None)).ok()
    client.call(OpCode.CREATE, create("/secret", acl=[ACL(30, Id("world", "anyone"))])).ok()
    reply = client.call(
        OpCode.MULTI_READ,
        multi(get("/a"), get("/missing"), children("/a"), children("/secret"), get("/a/b"), children("")),
    )
    assert reply.err == 0
    assert [(r.type, r.err, r.body) for r in reply.results[:5]] == [
        (4, 0, b"1"),
        (-1, ErrorCode.NONODE, ErrorCode.NONODE),
        (8, 0, ["b"]),
        (-1, ErrorCode.NOAUTH, ErrorCode.NOAUTH),
        (4, 0, None),
    ]
    assert sorted(reply.results[5].body) == ["a", "secret", "zookeeper"]


def test_a_multi_read_leaves_no_watches() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    client.call(OpCode.MULTI_READ, multi(get("/a"), children("/a"))).ok()
    assert len(server.service.watches) == 0


@pytest.mark.parametrize(
    "record",
    [
        multi(get("/"), (CREATE, create("/a"))),
        multi(get("/"))[:-1],
        multi((OpCode.EXISTS, ExistsRequest("/", False))),
    ],
)
def test_a_multi_read_that_mixes_or_cannot_be_decoded_is_refused_with_a_header_only(record: bytes) -> None:
    reply = LocalServer().client().call(OpCode.MULTI_READ, record)
    assert (reply.err, reply.body) == (MARSHALLING, b"")


def test_a_multi_read_with_a_null_path_fails_with_the_results_so_far_behind_the_header() -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/a", b"1", acl=READ_ONLY)).ok()
    reply = client.call(OpCode.MULTI_READ, multi(get("/a"), get(None), get("/a")))
    assert reply.err == MARSHALLING
    assert [(r.type, r.body) for r in reply.results] == [(4, b"1")]


def test_a_multi_read_of_writes_only_fails_with_an_empty_result_list() -> None:
    reply = LocalServer().client().call(OpCode.MULTI_READ, multi((CREATE, create("/a"))))
    assert (reply.err, reply.body) == (MARSHALLING, MULTI_END)
