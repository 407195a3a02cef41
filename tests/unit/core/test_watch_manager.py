"""Watches: who is told what, in which order (client protocol §15)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.local_server import Client, LocalServer
from tests.fakes.replies import Event, Reply, create, delete, multi, set_data
from zkpy.core.watch_manager import event_frame
from zkpy_protocol.opcodes import AddWatchMode, ErrorCode, EventType, KeeperState, OpCode, Perms, WatcherType
from zkpy_protocol.records import (
    ACL,
    AddWatchRequest,
    AuthPacket,
    CheckWatchesRequest,
    ExistsRequest,
    GetChildren2Request,
    GetChildrenRequest,
    GetDataRequest,
    Id,
    RemoveWatchesRequest,
    SetACLRequest,
    SetWatches,
    SetWatches2,
)

CREATED, DELETED = EventType.NODE_CREATED, EventType.NODE_DELETED
CHANGED, CHILDREN = EventType.NODE_DATA_CHANGED, EventType.NODE_CHILDREN_CHANGED
PERSISTENT, RECURSIVE = AddWatchMode.PERSISTENT, AddWatchMode.PERSISTENT_RECURSIVE


def watch_data(client: Client, path: str) -> None:
    client.call(OpCode.GET_DATA, GetDataRequest(path, True)).ok()


def watch_exists(client: Client, path: str) -> Reply:
    return client.call(OpCode.EXISTS, ExistsRequest(path, True))


def watch_children(client: Client, path: str, op: int = OpCode.GET_CHILDREN) -> None:
    record: Any = GetChildrenRequest(path, True)
    client.call(op, record if op == OpCode.GET_CHILDREN else GetChildren2Request(path, True)).ok()


def add_watch(client: Client, path: str, mode: int) -> None:
    client.call(OpCode.ADD_WATCH, AddWatchRequest(path, mode)).ok()


def setup(*paths: str) -> tuple[LocalServer, Client, Client]:
    """A server with these nodes, somebody who writes and somebody who watches."""
    server = LocalServer()
    writer, watcher = server.client(), server.client()
    for path in paths:
        writer.call(OpCode.CREATE, create(path)).ok()
    return server, writer, watcher


def write(client: Client, op: int, record: Any) -> None:
    client.call(op, record).ok()


# -- what triggers what (§15.2)


def test_a_data_watch_hears_of_a_change_once() -> None:
    _, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    write(writer, OpCode.SET_DATA, set_data("/a", b"2"))
    assert watcher.events() == [(CHANGED, "/a")]


def test_a_data_watch_hears_of_the_deletion() -> None:
    _, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    write(writer, OpCode.DELETE, delete("/a"))
    assert watcher.events() == [(DELETED, "/a")]


def test_an_exists_watch_on_a_missing_node_hears_of_its_creation() -> None:
    _, writer, watcher = setup()
    assert watch_exists(watcher, "/a").err == ErrorCode.NONODE
    write(writer, OpCode.CREATE, create("/a"))
    write(writer, OpCode.DELETE, delete("/a"))
    assert watcher.events() == [(CREATED, "/a")]


@pytest.mark.parametrize("op", [OpCode.GET_DATA, OpCode.GET_CHILDREN, OpCode.GET_CHILDREN2])
def test_a_read_that_fails_leaves_no_watch(op: int) -> None:
    server, writer, watcher = setup()
    record: Any = GetDataRequest("/a", True) if op == OpCode.GET_DATA else GetChildrenRequest("/a", True)
    assert watcher.call(op, record).err == ErrorCode.NONODE
    assert len(server.service.watches) == 0
    write(writer, OpCode.CREATE, create("/a"))
    assert watcher.events() == []


def test_an_exists_without_read_permission_leaves_no_watch() -> None:
    server, writer, watcher = setup()
    acl = [ACL(Perms.ALL & ~Perms.READ, Id("world", "anyone"))]
    writer.call(OpCode.CREATE, create("/a", acl=acl)).ok()
    assert watch_exists(watcher, "/a").err == ErrorCode.NOAUTH
    assert len(server.service.watches) == 0


@pytest.mark.parametrize("op", [OpCode.GET_CHILDREN, OpCode.GET_CHILDREN2])
def test_a_child_watch_hears_of_creations_and_deletions_below(op: int) -> None:
    _, writer, watcher = setup("/a", "/a/x")
    for change, record in [(OpCode.CREATE, create("/a/b")), (OpCode.DELETE, delete("/a/x"))]:
        watch_children(watcher, "/a", op)
        write(writer, change, record)
        assert watcher.events() == [(CHILDREN, "/a")]


def test_a_child_watch_does_not_hear_of_data_or_of_grandchildren() -> None:
    _, writer, watcher = setup("/a", "/a/b")
    watch_children(watcher, "/a")
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    write(writer, OpCode.SET_DATA, set_data("/a/b", b"1"))
    write(writer, OpCode.CREATE, create("/a/b/c"))
    assert watcher.events() == []


def test_the_parent_of_a_top_level_node_is_called_slash() -> None:
    _, writer, watcher = setup()
    watch_children(watcher, "/")
    write(writer, OpCode.CREATE, create("/a"))
    assert watcher.events() == [(CHILDREN, "/")]


def test_a_watch_on_the_empty_path_is_another_watch_than_one_on_the_root() -> None:
    _, writer, watcher = setup()
    watch_children(watcher, "")
    write(writer, OpCode.CREATE, create("/a"))
    assert watcher.events() == []


def test_a_child_watch_hears_of_the_deletion_of_its_node() -> None:
    _, writer, watcher = setup("/a")
    watch_children(watcher, "/a")
    write(writer, OpCode.DELETE, delete("/a"))
    assert watcher.events() == [(DELETED, "/a")]


def test_who_watches_data_and_children_of_a_deleted_node_is_told_once() -> None:
    server, writer, watcher = setup("/a")
    other = server.client()
    watch_data(watcher, "/a")
    watch_children(watcher, "/a")
    watch_children(other, "/a")
    write(writer, OpCode.DELETE, delete("/a"))
    assert watcher.events() == [(DELETED, "/a")]
    assert other.events() == [(DELETED, "/a")]
    assert len(server.service.watches) == 0


def test_set_acl_fires_nothing_at_all() -> None:
    _, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    add_watch(watcher, "/", RECURSIVE)
    write(writer, OpCode.SET_ACL, SetACLRequest("/a", [ACL(31, Id("world", "anyone"))], -1))
    assert watcher.events() == []


def test_failed_writes_fire_nothing() -> None:
    _, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    watch_exists(watcher, "/b")
    failed = multi((OpCode.CREATE, create("/b")), (OpCode.SET_DATA, set_data("/a", b"1", 9)))
    writer.call(OpCode.MULTI, failed).ok()
    assert writer.call(OpCode.CREATE, create("/a")).err == ErrorCode.NODEEXISTS
    assert watcher.events() == []


def test_a_multi_fires_for_all_its_operations_in_their_order() -> None:
    _, writer, watcher = setup("/a")
    add_watch(watcher, "/", RECURSIVE)
    ops = multi(
        (OpCode.CREATE, create("/a/b")),
        (OpCode.SET_DATA, set_data("/a/b", b"1")),
        (OpCode.DELETE, delete("/a/b")),
        (OpCode.CREATE, create("/a/b")),
    )
    writer.call(OpCode.MULTI, ops).ok()
    assert watcher.events() == [(CREATED, "/a/b"), (CHANGED, "/a/b"), (DELETED, "/a/b"), (CREATED, "/a/b")]


def test_the_end_of_a_session_fires_for_each_of_its_ephemerals() -> None:
    server, _writer, watcher = setup("/p")
    owner = server.client()
    for path in ("/p/e1", "/p/e2"):
        owner.call(OpCode.CREATE, create(path, flags=1)).ok()
        watch_data(watcher, path)
    watch_children(watcher, "/p")
    owner.call(OpCode.CLOSE_SESSION)
    assert watcher.events() == [(DELETED, "/p/e1"), (CHILDREN, "/p"), (DELETED, "/p/e2")]


# -- modes (§15.3)


def test_a_persistent_watch_hears_all_four_types_for_exactly_its_path_and_stays() -> None:
    _, writer, watcher = setup()
    add_watch(watcher, "/a", PERSISTENT)
    for op, record in [
        (OpCode.CREATE, create("/a")),
        (OpCode.SET_DATA, set_data("/a", b"1")),
        (OpCode.CREATE, create("/a/b")),
        (OpCode.SET_DATA, set_data("/a/b", b"1")),
        (OpCode.DELETE, delete("/a/b")),
        (OpCode.DELETE, delete("/a")),
        (OpCode.CREATE, create("/a")),
    ]:
        write(writer, op, record)
    assert watcher.events() == [
        (CREATED, "/a"),
        (CHANGED, "/a"),
        (CHILDREN, "/a"),
        (CHILDREN, "/a"),
        (DELETED, "/a"),
        (CREATED, "/a"),
    ]


@pytest.mark.parametrize("at", ["/", "/a"])
def test_a_recursive_watch_hears_of_its_node_and_all_below_but_never_of_children_as_such(at: str) -> None:
    _, writer, watcher = setup()
    add_watch(watcher, at, RECURSIVE)
    for op, record in [
        (OpCode.CREATE, create("/a")),
        (OpCode.CREATE, create("/a/b")),
        (OpCode.SET_DATA, set_data("/a/b", b"1")),
        (OpCode.CREATE, create("/other")),
        (OpCode.CREATE, create("/ab")),
        (OpCode.DELETE, delete("/a/b")),
        (OpCode.DELETE, delete("/a")),
    ]:
        write(writer, op, record)
    expected = [(CREATED, "/a"), (CREATED, "/a/b"), (CHANGED, "/a/b")]
    if at == "/":
        expected += [(CREATED, "/other"), (CREATED, "/ab")]
    assert watcher.events() == [*expected, (DELETED, "/a/b"), (DELETED, "/a")]


def test_one_connection_gets_one_event_per_trigger_however_many_of_its_watches_match() -> None:
    server, writer, watcher = setup("/a", "/a/b")
    watch_data(watcher, "/a/b")
    watch_children(watcher, "/a/b")
    for path, mode in [("/a/b", PERSISTENT), ("/a/b", RECURSIVE), ("/a", RECURSIVE), ("/", RECURSIVE)]:
        add_watch(watcher, path, mode)
    write(writer, OpCode.SET_DATA, set_data("/a/b", b"1"))
    assert watcher.events() == [(CHANGED, "/a/b")]
    data, child = server.service.watches.data, server.service.watches.child
    assert (len(data), len(child)) == (3, 1)
    write(writer, OpCode.DELETE, delete("/a/b"))
    assert watcher.events() == [(DELETED, "/a/b")]


def test_a_standard_watch_beside_others_is_used_up_alone() -> None:
    _, writer, watcher = setup("/a")
    add_watch(watcher, "/a", PERSISTENT)
    watch_data(watcher, "/a")
    check = CheckWatchesRequest("/a", WatcherType.DATA)
    watcher.call(OpCode.CHECK_WATCHES, check).ok()
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    assert watcher.call(OpCode.CHECK_WATCHES, check).err == ErrorCode.NOWATCHER
    watcher.call(OpCode.CHECK_WATCHES, CheckWatchesRequest("/a", WatcherType.PERSISTENT)).ok()


def test_a_second_registration_changes_nothing() -> None:
    server, writer, watcher = setup("/a")
    for _ in range(2):
        watch_data(watcher, "/a")
        add_watch(watcher, "/a", RECURSIVE)
    assert len(server.service.watches) == 1
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    assert watcher.events() == [(CHANGED, "/a")]
    watcher.call(OpCode.REMOVE_WATCHES, RemoveWatchesRequest("/a", WatcherType.ANY)).ok()
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    assert watcher.events() == []


def test_a_watch_on_a_null_path_is_taken_and_never_fires() -> None:
    _, writer, watcher = setup()
    watcher.call(OpCode.ADD_WATCH, AddWatchRequest(None, PERSISTENT)).ok()
    watcher.call(OpCode.CHECK_WATCHES, CheckWatchesRequest(None, WatcherType.PERSISTENT)).ok()
    write(writer, OpCode.CREATE, create("/a"))
    assert watcher.events() == []


# -- order and delivery (§15.4, §5)


def test_the_three_columns_are_sent_in_order() -> None:
    _, writer, watcher = setup("/p", "/p/c")
    watch_children(watcher, "/p")
    watch_data(watcher, "/p/c")
    write(writer, OpCode.DELETE, delete("/p/c"))
    assert watcher.events() == [(DELETED, "/p/c"), (CHILDREN, "/p")]


def test_events_come_before_the_reply_of_the_write_also_for_the_writer_itself() -> None:
    _, writer, _ = setup("/a")
    watch_data(writer, "/a")
    writer.send(OpCode.SET_DATA, set_data("/a", b"1"))
    event, reply = writer.received()
    assert isinstance(event, Event)
    assert isinstance(reply, Reply)
    assert event.zxid == reply.zxid


def test_the_reply_to_the_read_that_left_a_watch_comes_before_its_event() -> None:
    server, writer, watcher = setup("/a")
    server.holding = True
    writer.send(OpCode.SET_DATA, set_data("/a", b"1"))
    watcher.send(OpCode.GET_DATA, GetDataRequest("/a", True))
    server.settle()
    reply, event = watcher.received()
    assert isinstance(reply, Reply)
    assert reply.data == b""
    assert isinstance(event, Event)


def test_an_event_has_the_zxid_of_the_change_and_the_state_connected() -> None:
    server, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    (event,) = watcher.received()
    assert isinstance(event, Event)
    assert (event.zxid, event.state) == (server.tree.last_zxid, KeeperState.SYNC_CONNECTED)


def test_an_event_on_the_wire() -> None:
    assert event_frame(CHANGED, "/a", 0x1_0000_0002).hex() == (
        "0000001e" "ffffffff" "0000000100000002" "00000000" "00000003" "00000003" "00000002" "2f61"
    )  # fmt: skip


def test_a_closed_connection_gets_nothing_and_leaves_nothing() -> None:
    server, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    watch_children(watcher, "/a")
    add_watch(watcher, "/", RECURSIVE)
    watcher.hang_up()
    assert len(server.service.watches) == 0
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    assert watcher.inbox == []


def test_a_session_that_expires_together_with_another_hears_nothing_of_its_ephemerals() -> None:
    """Expiry closes without a byte, also when the other closeSession is in the same batch."""
    server = LocalServer()
    watcher, owner = server.client(timeout_ms=4000), server.client(timeout_ms=4000)
    owner.call(OpCode.CREATE, create("/e", flags=1)).ok()
    add_watch(watcher, "/e", PERSISTENT)
    server.holding = True
    server.advance(8000)
    assert [txn.client_id for txn in server.service.unlogged] == [watcher.session_id, owner.session_id]
    server.settle()
    assert (watcher.closed, watcher.inbox) == (True, [])


def test_watches_belong_to_the_connection_and_not_to_the_session() -> None:
    server, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    again = server.reconnect(watcher)
    assert watcher.closed
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    assert again.events() == []


# -- READ decides who sees an event


def _secret(writer: Client) -> list[ACL]:
    writer.call(OpCode.AUTH, AuthPacket(0, "digest", b"bob:x"), xid=-4).ok()
    (bob,) = [id_ for id_ in writer.link.ids if id_.scheme == "digest"]
    return [ACL(31, bob), ACL(Perms.ALL & ~Perms.READ, Id("world", "anyone"))]


def test_an_event_is_dropped_without_read_and_the_watch_is_used_up() -> None:
    server, writer, watcher = setup()
    acl = _secret(writer)
    watch_exists(watcher, "/a")
    watch_exists(writer, "/a")
    writer.call(OpCode.CREATE, create("/a", acl=acl)).ok()
    assert watcher.events() == []
    assert writer.events() == [(CREATED, "/a")]
    assert len(server.service.watches) == 0


def test_deletion_is_judged_by_the_acl_before_it_and_children_by_the_parents() -> None:
    _server, writer, watcher = setup()
    acl = _secret(writer)
    writer.call(OpCode.CREATE, create("/p", acl=acl)).ok()
    writer.call(OpCode.CREATE, create("/p/open")).ok()
    writer.call(OpCode.CREATE, create("/open")).ok()
    writer.call(OpCode.CREATE, create("/open/secret", acl=acl)).ok()
    add_watch(watcher, "/p", PERSISTENT)
    add_watch(watcher, "/open", PERSISTENT)
    add_watch(watcher, "/", RECURSIVE)
    write(writer, OpCode.DELETE, delete("/p/open"))
    assert watcher.events() == [(DELETED, "/p/open")]
    write(writer, OpCode.DELETE, delete("/open/secret"))
    assert watcher.events() == [(CHILDREN, "/open")]


# -- setWatches (§15.5)


def test_set_watches_catches_up_list_by_list_and_sets_the_rest() -> None:
    server, writer, watcher = setup("/old", "/new", "/parent", "/quiet")
    relative = server.tree.last_zxid
    write(writer, OpCode.SET_DATA, set_data("/new", b"1"))
    write(writer, OpCode.CREATE, create("/parent/x"))
    request = SetWatches(
        relative, ["/gone", "/new", "/old"], ["/old", "/missing"], ["/gone", "/parent", "/quiet"]
    )
    watcher.send(OpCode.SET_WATCHES, request, xid=-8)
    *events, reply = watcher.received()
    assert [(e.type, e.path, e.zxid) for e in events if isinstance(e, Event)] == [
        (DELETED, "/gone", -1),
        (CHANGED, "/new", -1),
        (CREATED, "/old", -1),
        (DELETED, "/gone", -1),
        (CHILDREN, "/parent", -1),
    ]
    assert reply == Reply(-8, server.tree.last_zxid, 0, b"")
    for change, record in [
        (OpCode.SET_DATA, set_data("/new", b"2")),
        (OpCode.SET_DATA, set_data("/old", b"2")),
        (OpCode.CREATE, create("/missing")),
        (OpCode.CREATE, create("/parent/y")),
        (OpCode.CREATE, create("/quiet/y")),
    ]:
        write(writer, change, record)
    assert watcher.events() == [(CHANGED, "/old"), (CREATED, "/missing"), (CHILDREN, "/quiet")]


def test_a_change_at_the_relative_zxid_itself_was_seen() -> None:
    server, _writer, watcher = setup("/a")
    request = SetWatches(server.tree.last_zxid, ["/a"], [], ["/a"])
    watcher.send(OpCode.SET_WATCHES, request, xid=-8)
    assert len(watcher.replies()) == 1


def test_persistent_watches_are_set_again_without_catching_up() -> None:
    _server, writer, watcher = setup("/a", "/b")
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    request = SetWatches2(0, [], [], [], ["/a", "/missing", None], ["/b", None])
    watcher.send(OpCode.SET_WATCHES2, request, xid=-8)
    assert len(watcher.replies()) == 1
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    write(writer, OpCode.CREATE, create("/b/c"))
    write(writer, OpCode.CREATE, create("/missing"))
    write(writer, OpCode.CREATE, create("/a/x"))
    expected = [(CHANGED, "/a"), (CREATED, "/b/c"), (CREATED, "/missing"), (CHILDREN, "/a")]
    assert watcher.events() == expected


def test_catch_up_events_are_not_filtered_by_acls() -> None:
    _server, writer, watcher = setup()
    acl = _secret(writer)
    writer.call(OpCode.CREATE, create("/a", acl=acl)).ok()
    watcher.send(OpCode.SET_WATCHES, SetWatches(0, ["/a"], ["/a"], []), xid=-8)
    events = [message for message in watcher.received() if isinstance(message, Event)]
    assert [(event.type, event.path) for event in events] == [(CHANGED, "/a"), (CREATED, "/a")]


# -- check and remove (§15.6)

WATCHES: dict[str, Any] = {
    "data": lambda client: watch_data(client, "/a"),
    "child": lambda client: watch_children(client, "/a"),
    "persistent": lambda client: add_watch(client, "/a", PERSISTENT),
    "recursive": lambda client: add_watch(client, "/a", RECURSIVE),
}
KINDS = {
    WatcherType.CHILDREN: {"child"},
    WatcherType.DATA: {"data"},
    WatcherType.ANY: {"data", "child", "persistent", "recursive"},
    WatcherType.PERSISTENT: {"persistent"},
    WatcherType.PERSISTENT_RECURSIVE: {"recursive"},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("watch", sorted(WATCHES))
def test_check_and_remove_find_the_watches_of_their_type(kind: int, watch: str) -> None:
    server, _, watcher = setup("/a")
    WATCHES[watch](watcher)
    expected = ErrorCode.OK if watch in KINDS[kind] else ErrorCode.NOWATCHER
    before = len(server.service.watches)
    check = watcher.call(OpCode.CHECK_WATCHES, CheckWatchesRequest("/a", kind))
    assert (check.err, check.body, len(server.service.watches)) == (expected, b"", before)
    remove = watcher.call(OpCode.REMOVE_WATCHES, RemoveWatchesRequest("/a", kind))
    assert (remove.err, remove.body) == (expected, b"")
    assert len(server.service.watches) == (before if expected else 0)
    assert watcher.received() == [], "a removal is no event"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_remove_takes_only_its_type_from_a_path_with_all_of_them(kind: int) -> None:
    _, _, watcher = setup("/a")
    for set_watch in WATCHES.values():
        set_watch(watcher)
    watcher.call(OpCode.REMOVE_WATCHES, RemoveWatchesRequest("/a", kind)).ok()
    left = set().union(*KINDS.values()) - KINDS[kind]
    for other, modes in KINDS.items():
        code = watcher.call(OpCode.CHECK_WATCHES, CheckWatchesRequest("/a", other)).err
        assert (code == ErrorCode.OK) == bool(modes & left), other


def test_watches_of_other_connections_and_paths_are_not_found() -> None:
    server, writer, watcher = setup("/a", "/a/b")
    watch_data(watcher, "/a")
    request = RemoveWatchesRequest("/a", WatcherType.ANY)
    assert writer.call(OpCode.REMOVE_WATCHES, request).err == ErrorCode.NOWATCHER
    other = RemoveWatchesRequest("/a/b", WatcherType.ANY)
    assert watcher.call(OpCode.REMOVE_WATCHES, other).err == ErrorCode.NOWATCHER
    assert len(server.service.watches) == 1


# -- counting (§15.7)


def test_a_persistent_watch_counts_twice_and_only_once_in_the_data_table() -> None:
    server, writer, watcher = setup("/a")
    add_watch(watcher, "/a", PERSISTENT)
    watch_data(writer, "/a")
    add_watch(writer, "/b", RECURSIVE)
    watches = server.service.watches
    assert len(watches) == 4
    assert watches.data.summary() == (2, 2, 3)
    assert watches.data.by_path() == {
        "/a": [watcher.session_id, writer.session_id],
        "/b": [writer.session_id],
    }
    assert watches.data.by_session() == {watcher.session_id: ["/a"], writer.session_id: ["/a", "/b"]}


def test_watchers_told_are_counted_by_type() -> None:
    server, writer, watcher = setup("/a")
    watch_data(watcher, "/a")
    watch_data(writer, "/a")
    write(writer, OpCode.SET_DATA, set_data("/a", b"1"))
    told = server.service.stats.watchers_told[CHANGED]
    assert (told.count, told.sum) == (1, 2)
    assert server.service.stats.watch_bytes == 2 * (28 + 2)
