"""Writes as a client sees them: what becomes of each operation, and which of several errors it gets (client protocol §6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import LocalServer
from tests.fakes.naive_tree import check_consistent
from tests.fakes.replies import OPEN, READ_ONLY, Reply, create, create_ttl, delete, multi, set_data
from zkpy.core.data_tree import DataTree
from zkpy.core.owners import CONTAINER_OWNER, TTL_MAX_MS, OwnerRules, ttl_owner
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    ACL,
    CheckVersionRequest,
    CreateContainerTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteContainerRequest,
    DeleteTxn,
    ErrorTxn,
    ExistsRequest,
    GetACLRequest,
    GetDataRequest,
    Id,
    ReconfigRequest,
    SetACLRequest,
    SetACLTxn,
    SetDataTxn,
)

if TYPE_CHECKING:
    from tests.fakes.local_server import Client

OTHER = Id("digest", "other:secret")
CREATES = [OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER]


def only(perms: int) -> list[ACL]:
    """An ACL that grants these permissions to everybody and all to somebody else."""
    return [ACL(perms, Id("world", "anyone")), ACL(31, OTHER)]


def err(client: Client, op: int, record: Any) -> int:
    return client.call(op, record).err


def stored(server: LocalServer) -> Any:
    """The record of the txn logged last."""
    return server.log[-1].record


def tree_of(server: LocalServer) -> list[str]:
    """Paths of all nodes that are not reserved."""
    return sorted(
        path for path in server.tree.nodes if path and path != "/" and not path.startswith("/zookeeper")
    )


# -- create: who gets what


def test_an_acl_for_whoever_asks_is_each_callers_own() -> None:
    """The same bytes again and again, of which a list that is the same for all is kept."""
    server = LocalServer()
    entries = [ACL(31, Id("auth", ""))]
    users = [Id("digest", f"{name}:hash") for name in ("ann", "bob")]
    clients = [server.client(ids=[user]) for user in users]
    for turn in range(2):
        for number, client in enumerate(clients):
            assert err(client, OpCode.CREATE, create(f"/{number}{turn}", acl=entries)) == 0
    for number, user in enumerate(users):
        for turn in range(2):
            assert list(server.tree.nodes[f"/{number}{turn}"].acl.entries) == [ACL(31, user)]
    assert err(clients[0], OpCode.GET_DATA, GetDataRequest("/10", False)) == ErrorCode.NOAUTH


# -- create: order of the checks


@pytest.mark.parametrize("op", CREATES)
@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"\0\0\0\x09/a", ErrorCode.MARSHALLINGERROR),
        (create("a\0", flags=7), ErrorCode.BADARGUMENTS),
        (create("/a", flags=-1), ErrorCode.BADARGUMENTS),
        (create("nowhere", flags=5), ErrorCode.UNIMPLEMENTED),
        (create("nowhere", flags=6), ErrorCode.UNIMPLEMENTED),
        (create(None), ErrorCode.MARSHALLINGERROR),
        (create("noslash", acl=[]), ErrorCode.BADARGUMENTS),
        (create("", acl=[]), ErrorCode.BADARGUMENTS),
        (create("/missing/a\0b", acl=[]), ErrorCode.BADARGUMENTS),
        (create("/missing/a", acl=[]), ErrorCode.INVALIDACL),
        (create("/missing/a", acl=None), ErrorCode.INVALIDACL),
        (create("/missing/a"), ErrorCode.NONODE),
        (create("/a//b"), ErrorCode.NONODE),
        (create("/a/./b"), ErrorCode.NONODE),
        (create("/closed/."), ErrorCode.NOAUTH),
        (create("/closed/x"), ErrorCode.NOAUTH),
        (create("/open/"), ErrorCode.BADARGUMENTS),
        (create("/open/."), ErrorCode.BADARGUMENTS),
        (create("/open/\x01"), ErrorCode.BADARGUMENTS),
        (create("/open"), ErrorCode.NODEEXISTS),
        (create("/ephemeral/x"), ErrorCode.NOCHILDRENFOREPHEMERALS),
    ],
)
def test_create_gives_the_first_error_that_applies(op: int, record: Any, code: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/open")).ok()
    client.call(OpCode.CREATE, create("/closed", acl=only(Perms.ALL & ~Perms.CREATE))).ok()
    client.call(OpCode.CREATE, create("/ephemeral", flags=1)).ok()
    before = tree_of(server)
    reply = client.call(op, record)
    assert reply.err == code
    assert reply.body == b""
    assert tree_of(server) == before


@pytest.mark.parametrize(
    ("ttl", "flags", "code"),
    [
        (0, 5, ErrorCode.BADARGUMENTS),
        (-1, 5, ErrorCode.BADARGUMENTS),
        (TTL_MAX_MS + 1, 6, ErrorCode.BADARGUMENTS),
        (1000, 7, ErrorCode.BADARGUMENTS),
        (1000, 0, ErrorCode.BADARGUMENTS),
        (-1, 0, ErrorCode.BADARGUMENTS),
        (-1, 4, ErrorCode.BADARGUMENTS),
    ],
)
def test_create_ttl_refuses_a_ttl_out_of_range_and_flags_without_one(ttl: int, flags: int, code: int) -> None:
    client = LocalServer(extended=True).client()
    assert err(client, OpCode.CREATE_TTL, create_ttl("/a", ttl, flags)) == code


@pytest.mark.parametrize("op", CREATES)
@pytest.mark.parametrize("flags", [5, 6])
def test_a_ttl_flag_on_a_create_without_a_ttl_is_refused_also_with_extended_types(
    op: int, flags: int
) -> None:
    client = LocalServer(extended=True).client()
    assert err(client, op, create("/a", flags=flags)) == ErrorCode.BADARGUMENTS


def test_create_ttl_is_unimplemented_while_extended_types_are_off_and_the_connection_stays() -> None:
    client = LocalServer().client()
    assert err(client, OpCode.CREATE_TTL, create_ttl("/a", 1000)) == ErrorCode.UNIMPLEMENTED
    assert not client.closed
    assert err(client, OpCode.CREATE, create("/a")) == ErrorCode.OK


# -- create: what it makes


@pytest.mark.parametrize(
    ("op", "flags", "owner", "txn"),
    [
        (OpCode.CREATE, 0, 0, CreateTxn),
        (OpCode.CREATE, 1, None, CreateTxn),
        (OpCode.CREATE, 4, 0, CreateTxn),
        (OpCode.CREATE2, 0, 0, CreateTxn),
        (OpCode.CREATE2, 1, None, CreateTxn),
        (OpCode.CREATE2, 4, 0, CreateTxn),
        (OpCode.CREATE_CONTAINER, 0, CONTAINER_OWNER, CreateContainerTxn),
        (OpCode.CREATE_CONTAINER, 1, CONTAINER_OWNER, CreateContainerTxn),
        (OpCode.CREATE_CONTAINER, 4, CONTAINER_OWNER, CreateContainerTxn),
        (OpCode.CREATE_TTL, 5, ttl_owner(60_000), CreateTTLTxn),
    ],
)
def test_the_opcode_and_not_the_flag_decides_what_is_created(
    op: int, flags: int, owner: int | None, txn: type
) -> None:
    server = LocalServer(extended=True)
    client = server.client()
    record = create_ttl("/a", 60_000, flags) if op == OpCode.CREATE_TTL else create("/a", flags=flags)
    reply = client.call(op, record)
    assert reply.path == "/a"
    node = server.tree.get("/a")
    assert node is not None
    assert node.owner == (client.session_id if owner is None else owner)
    assert isinstance(stored(server), txn)
    assert server.log[-1].type == op
    shown = client.call(OpCode.EXISTS, ExistsRequest("/a", False)).stat.ephemeral_owner
    assert shown == (client.session_id if owner is None else 0), "markers are not shown"


def test_create_answers_with_the_path_and_create2_with_the_stat_as_well() -> None:
    client = LocalServer(extended=True).client()
    assert client.call(OpCode.CREATE, create("/a")).body == b"\0\0\0\x02/a"
    requests: list[tuple[int, Any]] = [
        (OpCode.CREATE2, create("/b", b"12")),
        (OpCode.CREATE_CONTAINER, create("/c", b"12")),
        (OpCode.CREATE_TTL, create_ttl("/d", 1000, data=b"12")),
    ]
    for op, record in requests:
        reply = client.call(op, record)
        assert reply.path == record.path
        assert len(reply.body) == 6 + 68
        assert reply.stat.data_length == 2
        assert reply.stat.czxid == reply.zxid


def test_null_data_is_stored_as_null() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a", None)).ok()
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a", False)).data is None
    assert client.call(OpCode.EXISTS, ExistsRequest("/a", False)).stat.data_length == 0
    assert stored(server).data is None


def test_the_txn_has_the_parents_cversion_after_the_create() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/p")).ok()
    for number in (1, 2, 3):
        client.call(OpCode.CREATE, create(f"/p/{number}")).ok()
        assert stored(server).parent_c_version == number
    client.call(OpCode.DELETE, delete("/p/1")).ok()
    client.call(OpCode.CREATE, create("/p/1")).ok()
    assert stored(server).parent_c_version == 4


# -- sequence names (§9.2)


@pytest.mark.parametrize("flags", [2, 3])
def test_the_sequence_number_is_the_parents_count_of_creations_in_ten_digits(flags: int) -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/p")).ok()
    client.call(OpCode.CREATE, create("/p/other")).ok()
    client.call(OpCode.DELETE, delete("/p/other")).ok()
    assert client.call(OpCode.CREATE, create("/p/n-", flags=flags)).path == "/p/n-0000000001"
    assert client.call(OpCode.CREATE2, create("/p/n-", flags=flags)).path == "/p/n-0000000002"


def test_a_ttl_node_and_a_container_can_be_numbered() -> None:
    client = LocalServer(extended=True).client()
    client.call(OpCode.CREATE, create("/p")).ok()
    assert client.call(OpCode.CREATE_TTL, create_ttl("/p/t", 1000, 6)).path == "/p/t0000000000"
    assert client.call(OpCode.CREATE_CONTAINER, create("/p/c", flags=2)).path == "/p/c0000000001"


def test_a_sequential_create_may_end_in_a_slash() -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/p")).ok()
    assert client.call(OpCode.CREATE, create("/p/", flags=2)).path == "/p/0000000000"
    assert client.call(OpCode.CREATE, create("/", flags=2)).path == "/0000000001"


def test_numbers_count_creations_that_are_still_in_flight() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/p")).ok()
    server.holding = True
    for _ in range(3):
        client.send(OpCode.CREATE, create("/p/n", flags=2))
    server.settle()
    assert [reply.path for reply in client.replies()] == [
        "/p/n0000000000",
        "/p/n0000000001",
        "/p/n0000000002",
    ]


def test_numbers_of_a_failed_multi_are_given_out_again() -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/p")).ok()
    failed = multi(
        (OpCode.CREATE, create("/p/n", flags=2)),
        (OpCode.CREATE, create("/p/n", flags=2)),
        (OpCode.DELETE, delete("/missing")),
    )
    assert [r.err for r in client.call(OpCode.MULTI, failed).results] == [0, 0, ErrorCode.NONODE]
    assert client.call(OpCode.CREATE, create("/p/n", flags=2)).path == "/p/n0000000000"


def _almost_overflowing() -> tuple[LocalServer, Client]:
    """A server whose node /p has had as many children as can be counted."""
    tree = DataTree(OwnerRules(extended=False, emulate_353=False))
    for zxid, path, cversion in [(1, "/p", 1), (2, "/p/last", 2**31 - 1)]:
        record = CreateTxn(path, b"", OPEN, False, cversion)
        tree.apply(Txn.make(7, 0, zxid, 0, OpCode.CREATE, record, None), None)
    server = LocalServer(tree=tree)
    return server, server.client()


def test_after_the_largest_number_the_same_name_comes_again_and_exists() -> None:
    _, client = _almost_overflowing()
    reply = client.call(OpCode.CREATE2, create("/p/n", flags=2))
    assert reply.path == "/p/n2147483647"
    for _ in range(2):
        assert err(client, OpCode.CREATE, create("/p/n", flags=2)) == ErrorCode.NODEEXISTS
    stat = client.call(OpCode.EXISTS, ExistsRequest("/p", False)).stat
    assert stat.pzxid < reply.zxid, "the parent's counters no longer move"


def test_creates_pipelined_while_the_overflow_is_in_flight_get_negative_numbers() -> None:
    server, client = _almost_overflowing()
    server.holding = True
    for _ in range(3):
        client.send(OpCode.CREATE, create("/p/n", flags=2))
    server.settle()
    assert [reply.path for reply in client.replies()] == [
        "/p/n2147483647",
        "/p/n-2147483648",
        "/p/n-2147483647",
    ]


@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.SET_DATA, set_data("/p", b"1")),
        (OpCode.SET_ACL, SetACLRequest("/p", OPEN, -1)),
        (OpCode.DELETE, delete("/p/last")),
        (OpCode.CREATE, create("/p/n", flags=2)),
    ],
)
def test_after_an_overflow_the_digest_is_that_of_the_tree_and_not_of_the_view(op: int, record: Any) -> None:
    server, client = _almost_overflowing()
    server.holding = True
    client.send(OpCode.CREATE, create("/p/n", flags=2))
    client.send(op, record)
    server.settle()
    assert [reply.err for reply in client.replies()] == [0, 0]
    check_consistent(server.tree)


# -- delete


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"\0\0\0\x02/a", ErrorCode.MARSHALLINGERROR),
        (delete(None), ErrorCode.MARSHALLINGERROR),
        (delete("noslash"), ErrorCode.BADARGUMENTS),
        (delete("/missing/\0"), ErrorCode.BADARGUMENTS),
        (delete("/"), ErrorCode.BADARGUMENTS),
        (delete("/zookeeper"), ErrorCode.BADARGUMENTS),
        (delete("/zookeeper/quota"), ErrorCode.BADARGUMENTS),
        (delete("/zookeeper/config"), ErrorCode.BADARGUMENTS),
        (delete("/missing/x"), ErrorCode.NONODE),
        (delete("/closed/missing"), ErrorCode.NOAUTH),
        (delete("/closed/child", 99), ErrorCode.NOAUTH),
        (delete("/missing", 99), ErrorCode.NONODE),
        (delete("/open/"), ErrorCode.NONODE),
        (delete("//"), ErrorCode.NONODE),
        (delete("/open", 99), ErrorCode.BADVERSION),
        (delete("/open", 0), ErrorCode.NOTEMPTY),
        (delete("/open"), ErrorCode.NOTEMPTY),
    ],
)
def test_delete_gives_the_first_error_that_applies(record: Any, code: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/open")).ok()
    client.call(OpCode.CREATE, create("/open/child")).ok()
    client.call(OpCode.CREATE, create("/closed", acl=only(Perms.ALL & ~Perms.DELETE))).ok()
    client.call(OpCode.CREATE, create("/closed/child")).ok()
    before = tree_of(server)
    assert err(client, OpCode.DELETE, record) == code
    assert tree_of(server) == before


@pytest.mark.parametrize("version", [-1, 1])
def test_delete_needs_the_current_version_or_minus_one(version: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    client.call(OpCode.SET_DATA, set_data("/a", b"1")).ok()
    reply = client.call(OpCode.DELETE, delete("/a", version))
    assert reply.ok().body == b""
    assert tree_of(server) == []
    assert stored(server) == DeleteTxn("/a")


def test_delete_is_checked_on_the_parent_only() -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/a", acl=[ACL(31, OTHER)])).ok()
    assert err(client, OpCode.DELETE, delete("/a")) == ErrorCode.OK


def test_everything_else_below_zookeeper_is_ordinary() -> None:
    client = LocalServer().client()
    assert err(client, OpCode.CREATE, create("/zookeeper/mine")) == ErrorCode.OK
    assert err(client, OpCode.DELETE, delete("/zookeeper/mine")) == ErrorCode.OK


# -- deleteContainer sent by a client (§20)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (None, ErrorCode.MARSHALLINGERROR),
        ("/zookeeper", ErrorCode.BADARGUMENTS),
        ("noslash", ErrorCode.BADARGUMENTS),
        ("/missing", ErrorCode.NONODE),
        ("/full", ErrorCode.NOTEMPTY),
        ("/ephemeral", ErrorCode.BADVERSION),
        ("/closed/child", ErrorCode.NOAUTH),
        ("/plain", ErrorCode.OK),
        ("/container", ErrorCode.OK),
    ],
)
def test_delete_container_deletes_what_is_empty_and_not_ephemeral(path: str | None, code: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/full")).ok()
    client.call(OpCode.CREATE, create("/full/child")).ok()
    client.call(OpCode.CREATE, create("/plain")).ok()
    client.call(OpCode.CREATE, create("/ephemeral", flags=1)).ok()
    client.call(OpCode.CREATE_CONTAINER, create("/container")).ok()
    client.call(OpCode.CREATE, create("/closed", acl=only(Perms.ALL & ~Perms.DELETE))).ok()
    client.call(OpCode.CREATE, create("/closed/child")).ok()
    assert err(client, OpCode.DELETE_CONTAINER, DeleteContainerRequest(path)) == code
    assert (server.log[-1].type == OpCode.DELETE_CONTAINER) == (code == 0)


# -- setData


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"\0\0\0\x02/a", ErrorCode.MARSHALLINGERROR),
        (set_data(None, version=99), ErrorCode.BADARGUMENTS),
        (set_data("noslash"), ErrorCode.BADARGUMENTS),
        (set_data(""), ErrorCode.BADARGUMENTS),
        (set_data("/missing/"), ErrorCode.BADARGUMENTS),
        (set_data("/missing", version=99), ErrorCode.NONODE),
        (set_data("/closed", version=99), ErrorCode.NOAUTH),
        (set_data("/open", version=99), ErrorCode.BADVERSION),
    ],
)
def test_set_data_gives_the_first_error_that_applies(record: Any, code: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/open")).ok()
    client.call(OpCode.CREATE, create("/closed", acl=only(Perms.ALL & ~Perms.WRITE))).ok()
    assert err(client, OpCode.SET_DATA, record) == code


def test_set_data_answers_the_stat_right_after_it() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    server.wall_ms += 5
    reply = client.call(OpCode.SET_DATA, set_data("/a", b"123", 0))
    assert reply.stat.version == 1
    assert reply.stat.mzxid == reply.zxid
    assert reply.stat.mtime == server.wall_ms
    assert reply.stat.data_length == 3
    assert stored(server) == SetDataTxn("/a", b"123", 1)


def test_the_root_accepts_data() -> None:
    client = LocalServer().client()
    assert client.call(OpCode.SET_DATA, set_data("/", b"x")).stat.version == 1


def test_a_data_version_at_its_end_wraps_as_a_java_int() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    node = server.tree.nodes["/a"]
    node.version = 2**31 - 1
    assert client.call(OpCode.SET_DATA, set_data("/a", b"", 2**31 - 1)).stat.version == -(2**31)


# -- setACL


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"\0\0\0\x02/a", ErrorCode.MARSHALLINGERROR),
        (SetACLRequest(None, OPEN, -1), ErrorCode.BADARGUMENTS),
        (SetACLRequest("/missing/", [], -1), ErrorCode.BADARGUMENTS),
        (SetACLRequest("/missing", [], -1), ErrorCode.INVALIDACL),
        (SetACLRequest("/missing", OPEN, 99), ErrorCode.NONODE),
        (SetACLRequest("/closed", OPEN, 99), ErrorCode.NOAUTH),
        (SetACLRequest("/open", OPEN, 99), ErrorCode.BADVERSION),
    ],
)
def test_set_acl_gives_the_first_error_that_applies(record: Any, code: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/open")).ok()
    client.call(OpCode.CREATE, create("/closed", acl=only(Perms.ALL & ~Perms.ADMIN))).ok()
    assert err(client, OpCode.SET_ACL, record) == code


@pytest.mark.parametrize("version", [-1, 0])
def test_set_acl_compares_the_acl_version_and_counts_it_up(version: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    client.call(OpCode.SET_DATA, set_data("/a", b"")).ok()
    reply = client.call(OpCode.SET_ACL, SetACLRequest("/a", READ_ONLY, version))
    assert reply.stat.aversion == 1
    assert reply.stat.version == 1
    assert reply.stat.mzxid < reply.zxid, "setACL touches neither mzxid nor mtime"
    assert stored(server) == SetACLTxn("/a", READ_ONLY, 1)
    assert client.call(OpCode.GET_ACL, GetACLRequest("/a")).acl == READ_ONLY


def test_the_root_accepts_an_acl() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.SET_ACL, SetACLRequest("/", READ_ONLY, -1)).ok()
    assert err(client, OpCode.CREATE, create("/a")) == ErrorCode.NOAUTH


def test_a_set_acl_in_flight_counts_for_what_is_pipelined_behind_it() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    server.holding = True
    client.send(OpCode.SET_ACL, SetACLRequest("/a", READ_ONLY, -1))
    client.send(OpCode.SET_DATA, set_data("/a", b"1"))
    server.settle()
    assert [reply.err for reply in client.replies()] == [ErrorCode.OK, ErrorCode.NOAUTH]


# -- check, reconfig


@pytest.mark.parametrize(
    ("path", "version", "code"),
    [
        ("noslash", -1, ErrorCode.BADARGUMENTS),
        ("/missing", 99, ErrorCode.NONODE),
        ("/closed", 99, ErrorCode.NOAUTH),
        ("/open", 99, ErrorCode.BADVERSION),
        ("/open", 0, ErrorCode.OK),
        ("/open", -1, ErrorCode.OK),
    ],
)
def test_check_gives_the_first_error_that_applies(path: str, version: int, code: int) -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/open")).ok()
    client.call(OpCode.CREATE, create("/closed", acl=only(Perms.ALL & ~Perms.READ))).ok()
    reply = client.call(OpCode.MULTI, multi((OpCode.CHECK, CheckVersionRequest(path, version))))
    assert [result.err for result in reply.results] == [code]


@pytest.mark.parametrize(
    ("enabled", "record", "code"),
    [
        (False, ReconfigRequest("", "", None, -1), ErrorCode.RECONFIGDISABLED),
        (True, ReconfigRequest("", "", None, -1), ErrorCode.UNIMPLEMENTED),
        (True, b"\0", ErrorCode.MARSHALLINGERROR),
    ],
)
def test_a_standalone_server_cannot_be_reconfigured(enabled: bool, record: Any, code: int) -> None:
    client = LocalServer(reconfig_enabled=enabled).client()
    assert err(client, OpCode.RECONFIG, record) == code


# -- zxids of failed writes (§5)


def test_a_refused_write_uses_a_zxid_and_is_logged_as_an_error() -> None:
    server = LocalServer()
    client = server.client()
    reply = client.call(OpCode.DELETE, delete("/missing"))
    assert reply.zxid == server.tree.last_zxid == server.log[-1].zxid == 2
    assert stored(server) == ErrorTxn(ErrorCode.NONODE)
    assert server.log[-1].digest is None


@pytest.mark.parametrize(
    "op",
    [*CREATES, OpCode.CREATE_TTL, OpCode.DELETE, OpCode.DELETE_CONTAINER, OpCode.SET_DATA, OpCode.SET_ACL],
)
def test_a_write_that_cannot_be_decoded_uses_no_zxid(op: int) -> None:
    server = LocalServer()
    client = server.client()
    reply = client.call(op, b"\0\0\0\x02/a"[:5])
    assert (reply.err, reply.zxid) == (ErrorCode.MARSHALLINGERROR, 1)
    assert server.tree.last_zxid == 1
    assert not client.closed
    assert client.call(OpCode.CREATE, create("/b")).zxid == 2


def test_a_txn_names_the_session_and_the_xid_of_its_request() -> None:
    server = LocalServer()
    client = server.client()
    xid = client.send(OpCode.CREATE, create("/a"))
    txn = server.log[-1]
    assert (txn.client_id, txn.cxid, txn.time, txn.zxid) == (client.session_id, xid, server.wall_ms, 2)


def test_every_good_txn_carries_the_digest_of_the_tree_after_it() -> None:
    server = LocalServer(extended=True)
    client = server.client()
    client.call(OpCode.CREATE, create("/a", b"1")).ok()
    assert server.log[-1].digest == server.tree.digest
    client.call(
        OpCode.MULTI, multi((OpCode.CREATE, create("/a/b")), (OpCode.SET_DATA, set_data("/a", b"2")))
    ).ok()
    assert server.log[-1].digest == server.tree.digest
    assert server.tree.digest_mismatches == 0


def test_without_digests_txns_carry_none() -> None:
    server = LocalServer(digest=False)
    client = server.client()
    client.call(OpCode.CREATE, create("/a", b"1")).ok()
    client.call(OpCode.SET_DATA, set_data("/a", b"2")).ok()
    client.call(OpCode.SET_ACL, SetACLRequest("/a", READ_ONLY, -1)).ok()
    client.call(OpCode.DELETE, delete("/a")).ok()
    client.call(OpCode.CLOSE_SESSION)
    assert {txn.digest for txn in server.log} == {None}
    assert server.tree.digest == 0


# -- pipelined writes see each other


def test_pipelined_writes_see_those_before_them() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    requests: list[tuple[int, Any, int]] = [
        (OpCode.CREATE, create("/a"), 0),
        (OpCode.CREATE, create("/a"), ErrorCode.NODEEXISTS),
        (OpCode.CREATE, create("/a/b"), 0),
        (OpCode.DELETE, delete("/a"), ErrorCode.NOTEMPTY),
        (OpCode.SET_DATA, set_data("/a/b", b"1", 0), 0),
        (OpCode.SET_DATA, set_data("/a/b", b"2", 0), ErrorCode.BADVERSION),
        (OpCode.DELETE, delete("/a/b", 1), 0),
        (OpCode.SET_DATA, set_data("/a/b", b"3"), ErrorCode.NONODE),
        (OpCode.DELETE, delete("/a"), 0),
        (OpCode.CREATE, create("/a", flags=1), 0),
        (OpCode.CREATE, create("/a/b"), ErrorCode.NOCHILDRENFOREPHEMERALS),
    ]
    for op, record, _ in requests:
        client.send(op, record)
    assert client.received() == []
    server.settle()
    assert [reply.err for reply in client.replies()] == [code for _, _, code in requests]
    assert tree_of(server) == ["/a"]
    assert len(server.service.changes) == 0
    assert server.tree.digest_mismatches == 0


def test_a_session_that_closes_deletes_its_ephemerals_still_in_flight() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/applied", flags=1)).ok()
    client.call(OpCode.CREATE, create("/gone", flags=1)).ok()
    server.holding = True
    client.send(OpCode.CREATE, create("/flying", flags=1))
    client.send(OpCode.DELETE, delete("/gone"))
    client.send(OpCode.CLOSE_SESSION)
    server.settle()
    assert tree_of(server) == []
    assert stored(server).paths2_delete == ["/applied", "/flying"]
    assert server.tree.digest_mismatches == 0


def test_a_container_that_looks_ephemeral_by_its_flag_is_not_deleted_with_the_session() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CREATE_CONTAINER, create("/c", flags=1))
    client.send(OpCode.CLOSE_SESSION)
    server.settle()
    assert tree_of(server) == ["/c"]


def test_the_close_session_txn_lists_no_paths_when_that_is_switched_off() -> None:
    server = LocalServer(close_session_txn_enabled=False)
    client = server.client()
    client.call(OpCode.CREATE, create("/e", flags=1)).ok()
    client.call(OpCode.CLOSE_SESSION).ok()
    assert stored(server) is None
    assert server.log[-1].digest is None
    assert tree_of(server) == []


def _reply_errs(replies: list[Reply]) -> list[int]:
    return [reply.err for reply in replies]


def test_records_of_deleted_parents_do_not_live_on() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    for _ in range(3):
        client.send(OpCode.CREATE, create("/p"))
        client.send(OpCode.CREATE, create("/p/n", flags=2))
        client.send(OpCode.DELETE, delete("/p/n0000000000"))
        client.send(OpCode.DELETE, delete("/p"))
    server.settle()
    assert _reply_errs(client.replies()) == [0] * 12
    assert server.tree.digest_mismatches == 0


@pytest.mark.parametrize("count", [1, 3])
def test_changes_of_the_root_and_of_its_children_in_flight_see_each_other(count: int) -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    for number in range(count):
        client.send(OpCode.CREATE, create("/n", flags=2))
        client.send(OpCode.SET_DATA, set_data("/", b"1", number))
    client.send(OpCode.SET_ACL, SetACLRequest("/", READ_ONLY, -1))
    client.send(OpCode.CREATE, create("/a"))
    server.settle()
    assert _reply_errs(client.replies()) == [0] * (2 * count + 1) + [ErrorCode.NOAUTH]
    assert server.tree.digest_mismatches == 0
