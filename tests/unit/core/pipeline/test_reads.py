"""Requests that change no node (client protocol §6)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.local_server import LocalServer
from tests.fakes.replies import OPEN, Reply, create, delete, encode, multi, set_data
from zkpy_protocol.opcodes import ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    ACL,
    AddWatchRequest,
    AuthPacket,
    CheckWatchesRequest,
    ExistsRequest,
    GetACLRequest,
    GetAllChildrenNumberRequest,
    GetChildren2Request,
    GetChildrenRequest,
    GetDataRequest,
    GetEphemeralsRequest,
    Id,
    RemoveWatchesRequest,
    SetWatches,
    SetWatches2,
    SyncRequest,
    decode_who_am_i_response,
)

NONODE, NOAUTH, MARSHALLING = ErrorCode.NONODE, ErrorCode.NOAUTH, ErrorCode.MARSHALLINGERROR


def without(perm: int) -> list[ACL]:
    return [ACL(Perms.ALL & ~perm, Id("world", "anyone"))]


NODE_READS: list[tuple[int, Any]] = [
    (OpCode.GET_DATA, lambda path: GetDataRequest(path, False)),
    (OpCode.EXISTS, lambda path: ExistsRequest(path, False)),
    (OpCode.GET_CHILDREN, lambda path: GetChildrenRequest(path, False)),
    (OpCode.GET_CHILDREN2, lambda path: GetChildren2Request(path, False)),
    (OpCode.GET_ACL, GetACLRequest),
    (OpCode.GET_ALL_CHILDREN_NUMBER, GetAllChildrenNumberRequest),
]


@pytest.mark.parametrize(("op", "request_of"), NODE_READS)
@pytest.mark.parametrize("path", ["/missing", "noslash", "/a/", "//", "/\x01"])
def test_reads_look_up_any_string(op: int, request_of: Any, path: str) -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/a")).ok()
    assert client.call(op, request_of(path)).err == NONODE


@pytest.mark.parametrize(("op", "request_of"), NODE_READS)
def test_the_empty_path_is_the_root_for_reads(op: int, request_of: Any) -> None:
    client = LocalServer().client()
    empty, root = client.call(op, request_of("")).ok(), client.call(op, request_of("/")).ok()
    if op != OpCode.GET_ALL_CHILDREN_NUMBER:
        assert empty.body == root.body


@pytest.mark.parametrize(("op", "request_of"), NODE_READS)
def test_a_null_path_is_a_marshalling_error(op: int, request_of: Any) -> None:
    client = LocalServer().client()
    assert client.call(op, request_of(None)).err == MARSHALLING
    assert not client.closed


@pytest.mark.parametrize(("op", "request_of"), NODE_READS)
def test_a_read_that_cannot_be_decoded_is_answered(op: int, request_of: Any) -> None:
    client = LocalServer().client()
    reply = client.call(op, b"\0\0\0\x05/")
    assert (reply.err, reply.body, reply.zxid) == (MARSHALLING, b"", 1)
    client.call(op, request_of("/")).ok()


@pytest.mark.parametrize(("op", "request_of"), NODE_READS)
def test_reads_of_a_node_need_read_and_get_acl_takes_admin_as_well(op: int, request_of: Any) -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/a", acl=without(Perms.READ))).ok()
    expected = 0 if op == OpCode.GET_ACL else NOAUTH
    assert client.call(op, request_of("/a")).err == expected


@pytest.mark.parametrize(("op", "request_of"), NODE_READS)
def test_bytes_behind_the_record_are_ignored(op: int, request_of: Any) -> None:
    client = LocalServer().client()
    client.call(op, encode(request_of("/")) + b"more").ok()


def test_exists_of_a_path_with_a_nul_is_a_bad_argument() -> None:
    client = LocalServer().client()
    assert client.call(OpCode.EXISTS, ExistsRequest("/a\0", False)).err == ErrorCode.BADARGUMENTS
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a\0", False)).err == NONODE


def test_get_data_answers_data_and_stat() -> None:
    client = LocalServer().client()
    made = client.call(OpCode.CREATE2, create("/a", b"12345"))
    reply = client.call(OpCode.GET_DATA, GetDataRequest("/a", False))
    assert reply.data == b"12345"
    assert reply.stat == made.stat
    client.call(OpCode.SET_DATA, set_data("/a", None)).ok()
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a", False)).data is None
    client.call(OpCode.SET_DATA, set_data("/a", b"")).ok()
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a", False)).data == b""


def test_children_are_names_without_the_path() -> None:
    client = LocalServer().client()
    for path in ("/a", "/a/b", "/a/b/c", "/a/d"):
        client.call(OpCode.CREATE, create(path)).ok()
    assert client.call(OpCode.GET_CHILDREN, GetChildrenRequest("/a", False)).children == ["b", "d"]
    reply = client.call(OpCode.GET_CHILDREN2, GetChildren2Request("/", False))
    assert reply.children == ["a", "zookeeper"]
    assert reply.stat.num_children == 2
    assert client.call(OpCode.GET_CHILDREN, GetChildrenRequest("/a/d", False)).children == []


def test_the_number_of_all_children_counts_descendants_and_never_the_root() -> None:
    client = LocalServer().client()
    for path in ("/a", "/a/b", "/a/b/c", "/a/d"):
        client.call(OpCode.CREATE, create(path)).ok()

    def count(path: str) -> int:
        return client.call(OpCode.GET_ALL_CHILDREN_NUMBER, GetAllChildrenNumberRequest(path)).number

    assert (count("/a"), count("/a/b"), count("/a/d"), count("/zookeeper")) == (3, 1, 0, 2)
    assert count("/") == 7
    assert count("") == 8, "the alias of the root counts the root, as with Apache"


# -- getACL


def test_a_caller_without_admin_does_not_see_the_secrets_of_digest_ids() -> None:
    client = LocalServer().client()
    entries = [
        ACL(Perms.READ, Id("world", "anyone")),
        ACL(31, Id("digest", "bob:hash=")),
        ACL(31, Id("ip", "10.0.0.1")),
        ACL(3, Id("digest", "a:b:c")),
    ]
    client.call(OpCode.CREATE, create("/a", acl=entries[:3])).ok()
    shown = client.call(OpCode.GET_ACL, GetACLRequest("/a")).acl
    assert shown == [entries[0], ACL(31, Id("digest", "bob:x")), entries[2]]


def test_a_caller_with_admin_sees_everything() -> None:
    client = LocalServer().client()
    entries = [ACL(Perms.ADMIN, Id("world", "anyone")), ACL(31, Id("digest", "bob:hash="))]
    client.call(OpCode.CREATE, create("/a", acl=entries)).ok()
    assert client.call(OpCode.GET_ACL, GetACLRequest("/a")).acl == entries


def test_the_acl_of_the_config_node_is_read_only_and_was_never_counted() -> None:
    reply = LocalServer().client().call(OpCode.GET_ACL, GetACLRequest("/zookeeper/config"))
    assert reply.acl == [ACL(1, Id("world", "anyone"))]
    assert reply.stat.aversion == -1


# -- getEphemerals


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("/\0 \x1f", ["/a/e", "/a/es-1", "/b"]),  # Java trims all of these
        (None, ["/a/e", "/a/es-1", "/b"]),
        ("", ["/a/e", "/a/es-1", "/b"]),
        ("  ", ["/a/e", "/a/es-1", "/b"]),
        ("/", ["/a/e", "/a/es-1", "/b"]),
        ("/a/e", ["/a/e", "/a/es-1"]),
        ("/a/es", ["/a/es-1"]),
        ("/c", []),
        ("b", []),
    ],
)
def test_ephemerals_of_the_session_are_listed_by_plain_prefix(prefix: str | None, found: list[str]) -> None:
    server = LocalServer()
    client, other = server.client(), server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    for path in ("/a/e", "/a/es-1", "/b"):
        client.call(OpCode.CREATE, create(path, flags=1)).ok()
    other.call(OpCode.CREATE, create("/a/e2", flags=1)).ok()
    assert client.call(OpCode.GET_EPHEMERALS, GetEphemeralsRequest(prefix)).children == found


def test_a_session_without_ephemerals_has_an_empty_list() -> None:
    reply = LocalServer().client().call(OpCode.GET_EPHEMERALS, GetEphemeralsRequest(None))
    assert reply.ok().body == b"\0\0\0\0"


# -- sync, ping, whoAmI


@pytest.mark.parametrize("path", ["/", "/missing", "", "no slash", "ä", "/\x01"])
def test_sync_echoes_any_path(path: str) -> None:
    reply = LocalServer().client().call(OpCode.SYNC, SyncRequest(path))
    assert reply.path == path


def test_sync_echoes_a_null_path_as_null() -> None:
    assert LocalServer().client().call(OpCode.SYNC, SyncRequest(None)).ok().body == b"\xff\xff\xff\xff"


def test_sync_writes_characters_beyond_the_basic_plane_as_java_does() -> None:
    reply = LocalServer().client().call(OpCode.SYNC, SyncRequest("/\U0001f600"))
    assert reply.ok().body == b"\0\0\0\x07/\xed\xa0\xbd\xed\xb8\x80"


def test_the_reply_to_a_ping_has_the_xid_minus_two_whatever_was_sent() -> None:
    client = LocalServer().client()
    client.send(OpCode.PING, xid=42)
    client.send(OpCode.PING, xid=-2)
    assert [(reply.xid, reply.err, reply.zxid, reply.body) for reply in client.replies()] == [
        (-2, 0, 1, b"")
    ] * 2


def test_who_am_i_names_the_user_of_every_id() -> None:
    client = LocalServer().client(host="10.1.2.3")
    client.call(OpCode.AUTH, AuthPacket(0, "digest", b"bob:secret"), xid=-4).ok()
    client.call(OpCode.AUTH, AuthPacket(0, "digest", b"super:test"), xid=-4).ok()
    response, _ = decode_who_am_i_response(client.call(OpCode.WHO_AM_I).ok().body)
    infos = [(info.auth_scheme, info.user) for info in response.client_info or []]
    assert sorted(infos, key=str) == [
        ("digest", "bob"),
        ("digest", "super"),
        ("ip", "10.1.2.3"),
        ("super", ""),
    ]


# -- watches: what is answered (what they do is in test_watch_manager)


@pytest.mark.parametrize("mode", [-1, 2, 3])
def test_an_unknown_mode_of_add_watch_is_a_marshalling_error(mode: int) -> None:
    server = LocalServer()
    assert server.client().call(OpCode.ADD_WATCH, AddWatchRequest("/a", mode)).err == MARSHALLING
    assert len(server.service.watches) == 0


def test_add_watch_answers_with_an_int_and_needs_no_node() -> None:
    client = LocalServer().client()
    assert client.call(OpCode.ADD_WATCH, AddWatchRequest("/missing", 0)).number == 0


@pytest.mark.parametrize("op", [OpCode.CHECK_WATCHES, OpCode.REMOVE_WATCHES])
@pytest.mark.parametrize("kind", [0, 6, -1])
def test_an_unknown_type_of_watcher_is_a_marshalling_error(op: int, kind: int) -> None:
    record = CheckWatchesRequest("/", kind) if op == OpCode.CHECK_WATCHES else RemoveWatchesRequest("/", kind)
    assert LocalServer().client().call(op, record).err == MARSHALLING


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
def test_no_watch_of_a_kind_is_an_error(kind: int) -> None:
    client = LocalServer().client()
    assert client.call(OpCode.CHECK_WATCHES, CheckWatchesRequest("/", kind)).err == ErrorCode.NOWATCHER
    assert client.call(OpCode.REMOVE_WATCHES, RemoveWatchesRequest("/", kind)).err == ErrorCode.NOWATCHER


@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.SET_WATCHES, SetWatches(0, None, [], [])),
        (OpCode.SET_WATCHES, SetWatches(0, [], None, [])),
        (OpCode.SET_WATCHES, SetWatches(0, [], [], None)),
        (OpCode.SET_WATCHES, SetWatches(0, ["/a", None], [], [])),
        (OpCode.SET_WATCHES2, SetWatches2(0, [], [], [], None, [])),
        (OpCode.SET_WATCHES2, SetWatches2(0, [], [], [], [], None)),
    ],
)
def test_null_lists_and_paths_of_set_watches_are_a_marshalling_error(op: int, record: Any) -> None:
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/a")).ok()
    client.send(op, record, xid=-8)
    assert client.received()[-1] == Reply(-8, 2, MARSHALLING, b"")


def test_a_read_does_not_wait_for_writes_of_others() -> None:
    server = LocalServer()
    writer, reader = server.client(), server.client()
    server.holding = True
    writer.send(OpCode.CREATE, create("/a"))
    reader.call(OpCode.EXISTS, ExistsRequest("/", False)).ok()
    server.settle()
    reader.call(OpCode.EXISTS, ExistsRequest("/a", False)).ok()


def test_the_header_has_the_zxid_applied_last() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a", acl=OPEN)).ok()
    client.call(OpCode.DELETE, delete("/missing"))
    assert client.call(OpCode.EXISTS, ExistsRequest("/a", False)).zxid == 3


def test_reads_are_counted_by_namespace_with_path_data_and_stat() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a", b"1234")).ok()
    client.call(OpCode.CREATE, create("/a/bc")).ok()
    sizes = server.service.stats.read_per_namespace
    requests: list[tuple[int, Any, int]] = [
        (OpCode.GET_DATA, GetDataRequest("/a", False), 4 + 68),
        (OpCode.EXISTS, ExistsRequest("/a", False), 68),
        (OpCode.GET_CHILDREN, GetChildrenRequest("/a", False), 2 + 68),
        (OpCode.GET_CHILDREN2, GetChildren2Request("/a", False), 2 + 68),
        (OpCode.MULTI_READ, multi((OpCode.GET_DATA, GetDataRequest("/a", False))), 4 + 68),
        (OpCode.MULTI_READ, multi((OpCode.GET_CHILDREN, GetChildrenRequest("/a", False))), 2 + 68),
    ]
    total = 0
    for op, record, size in requests:
        client.call(op, record).ok()
        total += len("/a") + size
        assert sizes["a"].sum == total, op
    assert client.call(OpCode.GET_DATA, GetDataRequest("/a/none", False)).err == NONODE
    assert sizes["a"].count == len(requests)
