"""What txns do to znodes, and what a client sees of it (client protocol §10, on-disk format §6.3)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.naive_tree import check_consistent, stored_nodes
from tests.fakes.replies import OPEN, READ_ONLY
from zkpy.core.data_tree import DIGEST_LOG_INTERVAL, Change, DataTree, Node
from zkpy.core.owners import OwnerRules, ttl_owner
from zkpy.core.txn import Txn
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import ErrorCode, EventType, OpCode
from zkpy_protocol.records import (
    ACL,
    CheckVersionTxn,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateSessionTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteTxn,
    ErrorTxn,
    Id,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    Stat,
    decode_stat,
)
from zkpy_protocol.records import Txn as Member
from zkpy_protocol.txns import encode_record

SESSION = 0x100000000000001
TIME = 1_700_000_000_000


def new_tree(*, digest: bool = True, extended: bool = True) -> DataTree:
    return DataTree(OwnerRules(extended, emulate_353=False), digest)


def apply(
    tree: DataTree, type_: int, record: Any, *, zxid: int | None = None, session: int = SESSION
) -> tuple[int, list[Change]]:
    """Apply the next txn; its error and what it triggers."""
    number = tree.last_zxid + 1 if zxid is None else zxid
    changes: list[Change] = []
    txn = Txn.make(session, 1, number, TIME + number, type_, record, None)
    single, results = tree.apply(txn, changes)
    check_consistent(tree)
    errors = [err for _, err, *_ in ([single] if single else results) if err]
    return errors[0] if errors else 0, changes


def created(path: str, cversion: int = 1, *, data: bytes | None = b"", ephemeral: bool = False) -> CreateTxn:
    return CreateTxn(path, data, OPEN, ephemeral, cversion)


def stat_of(tree: DataTree, path: str) -> Stat:
    node = tree.get(path)
    assert node is not None
    return decode_stat(tree.stat(node))[0]


def member(type_: int, record: Any) -> Member:
    return Member(type_, encode_record(type_, record))


# -- an empty database


def test_an_empty_tree_has_the_root_and_the_reserved_nodes() -> None:
    tree = new_tree()
    check_consistent(tree)
    assert sorted(tree.nodes) == ["", "/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"]
    assert len(tree.nodes) == 5, "the node count everywhere includes the root twice"
    assert tree.data_size == 44
    assert stat_of(tree, "/") == Stat(0, 0, 0, 0, 0, -1, 0, 0, 0, 1, 0)
    assert stat_of(tree, "/zookeeper") == Stat(0, 0, 0, 0, 0, -2, 0, 0, 0, 2, 0)
    assert stat_of(tree, "/zookeeper/config") == Stat(0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0)


def test_only_config_has_an_acl_with_a_number() -> None:
    tree = new_tree()
    assert tree.nodes["/"].acl.id == tree.nodes["/zookeeper/quota"].acl.id == -1
    assert tree.nodes["/zookeeper/config"].acl.id == 1


# -- Stat rules (§10)


def test_a_create_sets_all_zxids_and_times_of_the_node() -> None:
    tree = new_tree()
    err, _ = apply(tree, OpCode.CREATE, created("/a", data=b"123"))
    assert err == 0
    assert stat_of(tree, "/a") == Stat(1, 1, TIME + 1, TIME + 1, 0, 0, 0, 0, 3, 0, 1)


def test_a_create_raises_cversion_and_pzxid_of_the_parent_and_nothing_else() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.CREATE, created("/a/b", 1))
    stat = stat_of(tree, "/a")
    assert (stat.cversion, stat.pzxid, stat.num_children) == (1, 2, 1)
    assert (stat.mzxid, stat.mtime, stat.version) == (1, TIME + 1, 0)


def test_the_parent_stays_as_it_is_when_the_new_cversion_is_not_larger() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.CREATE, created("/a/b", 5))
    apply(tree, OpCode.CREATE, created("/a/c", 5))
    assert (tree.nodes["/a"].cversion, tree.nodes["/a"].pzxid) == (5, 2)
    apply(tree, OpCode.CREATE, created("/a/d", -(2**31)))
    assert (tree.nodes["/a"].cversion, tree.nodes["/a"].pzxid) == (5, 2)


def test_a_create_of_an_old_log_counts_the_parent_up_itself() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a", -1))
    apply(tree, OpCode.CREATE, created("/b", -1))
    assert (tree.nodes["/"].cversion, tree.nodes["/"].pzxid) == (2, 2)


def test_a_delete_moves_only_pzxid_of_the_parent() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.CREATE, created("/a/b", 1))
    assert apply(tree, OpCode.DELETE, DeleteTxn("/a/b"))[0] == 0
    stat = stat_of(tree, "/a")
    assert (tree.nodes["/a"].cversion, stat.cversion, stat.pzxid, stat.num_children) == (1, 2, 3, 0)


def test_the_visible_cversion_counts_creations_and_deletions_and_wraps() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    for number in range(1, 4):
        apply(tree, OpCode.CREATE, created(f"/a/{number}", number))
    apply(tree, OpCode.DELETE, DeleteTxn("/a/1"))
    assert stat_of(tree, "/a").cversion == 4
    apply(tree, OpCode.CREATE, created("/a/4", 2**31 - 1))
    assert stat_of(tree, "/a").cversion == -2 - 3


def test_set_data_moves_mzxid_mtime_and_version() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.SET_DATA, SetDataTxn("/a", b"12", 7))
    assert stat_of(tree, "/a") == Stat(1, 2, TIME + 1, TIME + 2, 7, 0, 0, 0, 2, 0, 1)


def test_set_acl_moves_only_the_acl_version() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.SET_ACL, SetACLTxn("/a", READ_ONLY, 3))
    assert stat_of(tree, "/a") == Stat(1, 1, TIME + 1, TIME + 1, 0, 0, 3, 0, 0, 0, 1)
    assert tree.nodes["/a"].acl.entries == tuple(READ_ONLY)


def test_reconfig_is_a_change_of_the_config_node() -> None:
    tree = new_tree()
    apply(tree, OpCode.RECONFIG, SetDataTxn("/zookeeper/config", b"server.1", -1))
    assert stat_of(tree, "/zookeeper/config").version == -1
    assert stat_of(tree, "/zookeeper/config").mzxid == 1


@pytest.mark.parametrize(
    ("type_", "record", "owner", "visible"),
    [
        (OpCode.CREATE2, created("/a", ephemeral=True), SESSION, SESSION),
        (OpCode.CREATE_CONTAINER, CreateContainerTxn("/a", b"", OPEN, 1), -(1 << 63), 0),
        (OpCode.CREATE_TTL, CreateTTLTxn("/a", b"", OPEN, 1, 5000), ttl_owner(5000), 0),
    ],
)
def test_markers_of_containers_and_ttl_nodes_are_not_visible(
    type_: int, record: Any, owner: int, visible: int
) -> None:
    tree = new_tree()
    apply(tree, type_, record)
    assert tree.nodes["/a"].owner == owner
    assert stat_of(tree, "/a").ephemeral_owner == visible
    apply(tree, OpCode.DELETE_CONTAINER, DeleteTxn("/a"))
    assert (tree.containers, tree.ttls, tree.ephemeral_count) == ({}, {}, 0)


def test_without_extended_types_a_ttl_node_looks_like_one_of_a_session() -> None:
    tree = new_tree(extended=False)
    apply(tree, OpCode.CREATE_TTL, CreateTTLTxn("/a", b"", OPEN, 1, 5000))
    assert stat_of(tree, "/a").ephemeral_owner == ttl_owner(5000)
    assert tree.drop_orphans({SESSION}) == 1
    assert tree.get("/a") is None
    check_consistent(tree)


# -- reading


def test_descendants_are_counted_at_any_depth() -> None:
    tree = new_tree()
    for number, path in enumerate(["/a", "/a/b", "/a/b/c", "/ab"], 1):
        apply(tree, OpCode.CREATE, created(path, number))
    assert [tree.descendants_count(path) for path in ("/a", "/a/b", "/ab", "/")] == [2, 1, 0, 7]


def test_ephemerals_of_a_session_are_sorted() -> None:
    tree = new_tree()
    for number, path in enumerate(["/c", "/a", "/b"], 1):
        apply(tree, OpCode.CREATE, created(path, number, ephemeral=True))
    assert tree.ephemerals_of(SESSION) == ["/a", "/b", "/c"]
    assert tree.ephemerals_of(1) == []


# -- sessions, multi, errors


def test_close_session_deletes_what_is_listed_and_what_is_left() -> None:
    tree = new_tree()
    for number, path in enumerate(["/a", "/b", "/c"], 1):
        apply(tree, OpCode.CREATE, created(path, number, ephemeral=path != "/c"))
    _, changes = apply(tree, OpCode.CLOSE_SESSION, CloseSessionTxn(["/b", "/missing"]))
    assert [(kind, path) for kind, path, _ in changes] == [
        (EventType.NODE_DELETED, "/b"),
        (EventType.NODE_CHILDREN_CHANGED, "/"),
        (EventType.NODE_DELETED, "/a"),
        (EventType.NODE_CHILDREN_CHANGED, "/"),
    ]
    assert tree.get("/c") is not None


def test_3145_2355_close_session_deletes_what_is_listed_even_where_it_is_gone() -> None:
    """Over a fuzzy snapshot that was finished later: the parent's pzxid says that a child went."""
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    assert apply(tree, OpCode.CLOSE_SESSION, CloseSessionTxn(["/a/gone"]), zxid=9) == (0, [])
    assert (tree.nodes["/a"].pzxid, tree.nodes["/a"].cversion) == (9, 0)


def test_close_session_without_a_record_deletes_what_the_session_owns() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a", ephemeral=True))
    apply(tree, OpCode.CLOSE_SESSION, None)
    assert tree.get("/a") is None


@pytest.mark.parametrize(
    ("type_", "record", "err"),
    [
        (OpCode.CREATE_SESSION, CreateSessionTxn(4000), 0),
        (OpCode.ERROR, ErrorTxn(-101), -101),
        (OpCode.MULTI, MultiTxn([member(OpCode.CHECK, CheckVersionTxn("/", 1))]), 0),
        (OpCode.MULTI, MultiTxn([]), 0),
        (OpCode.MULTI, MultiTxn(None), 0),
    ],
)
def test_what_changes_nothing_moves_the_zxid_only(type_: int, record: Any, err: int) -> None:
    tree = new_tree()
    before = stored_nodes(tree)
    assert apply(tree, type_, record) == (err, [])
    assert stored_nodes(tree) == before
    assert tree.last_zxid == 1


def test_a_failed_multi_changes_nothing_and_gives_the_code_of_each_member() -> None:
    tree = new_tree()
    record = MultiTxn(
        [
            member(OpCode.CREATE, created("/a")),
            member(OpCode.ERROR, ErrorTxn(ErrorCode.NONODE)),
            member(OpCode.ERROR, ErrorTxn(ErrorCode.RUNTIMEINCONSISTENCY)),
        ]
    )
    changes: list[Change] = []
    txn = Txn.make(SESSION, 1, 1, TIME, OpCode.MULTI, record, None)
    single, results = tree.apply(txn, changes)
    assert (single, changes) == (None, [])
    assert [result[:2] for result in results] == [(-1, 0), (-1, ErrorCode.NONODE), (-1, -2)]
    assert tree.get("/a") is None


# -- what is triggered


def test_3127_the_last_zxid_moves_behind_a_whole_multi_only() -> None:
    """Whoever looks at it in between must not take a half for the whole, as a snapshot's name would."""
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"), zxid=5)
    half = [member(OpCode.CREATE, created("/b", 2)), Member(OpCode.DELETE, b"\0")]
    with pytest.raises(DecodeError):
        apply(tree, OpCode.MULTI, MultiTxn(half), zxid=6)
    assert tree.last_zxid == 5


def test_a_change_says_which_acl_decides_who_may_hear_of_it() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, CreateTxn("/a", b"", READ_ONLY, False, 1))
    _, changes = apply(tree, OpCode.CREATE, created("/a/b"))
    assert [(kind, path, acl.entries) for kind, path, acl in changes] == [
        (EventType.NODE_CREATED, "/a/b", tuple(OPEN)),
        (EventType.NODE_CHILDREN_CHANGED, "/a", tuple(READ_ONLY)),
    ]


# -- digest


def test_the_digest_of_a_txn_is_compared() -> None:
    tree = new_tree()
    good, bad = new_tree(), new_tree()
    txn = Txn.make(SESSION, 1, 1, TIME, OpCode.CREATE, created("/a"), None)
    tree.apply(txn, None)
    record = created("/a")
    good.apply(Txn.make(SESSION, 1, 1, TIME, OpCode.CREATE, record, tree.digest), None)
    bad.apply(Txn.make(SESSION, 1, 1, TIME, OpCode.CREATE, record, tree.digest + 1), None)
    assert (good.digest_mismatches, bad.digest_mismatches) == (0, 1)


def test_a_tree_without_digests_compares_nothing() -> None:
    tree = new_tree(digest=False)
    tree.apply(Txn.make(SESSION, 1, 1, TIME, OpCode.CREATE, created("/a"), 12345), None)
    assert (tree.digest, tree.digest_mismatches, tree.digest_log) == (0, 0, [])


def test_the_digest_of_every_128th_zxid_is_remembered_the_last_1024_of_them() -> None:
    tree = new_tree()
    for number in range(1, 1030):
        zxid = number * DIGEST_LOG_INTERVAL
        for near in (zxid - 1, zxid):
            tree.apply(Txn.make(SESSION, 1, near, TIME, OpCode.ERROR, ErrorTxn(-1), None), None)
    assert len(tree.digest_log) == 1024
    assert tree.digest_log[-1] == (1029 * 128, tree.digest)
    assert tree.digest_log[0][0] == 6 * 128


# -- over a fuzzy snapshot


def test_a_create_of_an_existing_node_takes_its_acl_and_raises_the_parent() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.CREATE, created("/a/b", 3, data=b"newer"))
    older = CreateTxn("/a/b", b"older", READ_ONLY, False, 5)
    assert apply(tree, OpCode.CREATE, older, zxid=9)[0] == ErrorCode.NODEEXISTS
    node, parent = tree.nodes["/a/b"], tree.nodes["/a"]
    assert (node.data, node.acl.entries) == (b"newer", tuple(READ_ONLY))
    assert (parent.cversion, parent.pzxid) == (5, 9)


def test_a_create_whose_parent_is_gone_is_ignored() -> None:
    tree = new_tree()
    assert apply(tree, OpCode.CREATE, created("/a/b")) == (ErrorCode.NONODE, [])


def test_a_delete_of_a_node_that_is_gone_still_moves_the_parents_pzxid() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    assert apply(tree, OpCode.DELETE, DeleteTxn("/a/b"), zxid=9) == (ErrorCode.NONODE, [])
    assert tree.nodes["/a"].pzxid == 9
    assert apply(tree, OpCode.DELETE, DeleteTxn("/missing/b"))[0] == ErrorCode.NONODE


@pytest.mark.parametrize("type_", [OpCode.CREATE, OpCode.CREATE2])
def test_a_node_that_outlived_its_parent_is_replaced_by_the_create_that_comes_again(type_: int) -> None:
    """The snapshot has a child made later, the log begins with the deletion of the parent from before it."""
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/a"))
    apply(tree, OpCode.CREATE, created("/a/b", 1, data=b"later"))
    txns = [(OpCode.DELETE, DeleteTxn("/a")), (OpCode.CREATE, created("/a", 2))]
    for zxid, (kind, record) in enumerate(txns, 3):
        tree.apply(Txn.make(SESSION, 1, zxid, TIME, kind, record, None), None)
    assert apply(tree, type_, created("/a/b", 1, data=b"again"))[0] == 0
    assert (tree.nodes["/a/b"].data, tree.nodes["/a/b"].czxid) == (b"again", 5)


def test_changes_of_a_node_that_is_gone_are_ignored() -> None:
    tree = new_tree()
    assert apply(tree, OpCode.SET_DATA, SetDataTxn("/a", b"", 1)) == (ErrorCode.NONODE, [])
    assert apply(tree, OpCode.SET_ACL, SetACLTxn("/a", OPEN, 1)) == (ErrorCode.NONODE, [])


def test_the_last_zxid_never_goes_back() -> None:
    tree = new_tree()
    apply(tree, OpCode.ERROR, ErrorTxn(-1), zxid=9)
    apply(tree, OpCode.ERROR, ErrorTxn(-1), zxid=3)
    assert tree.last_zxid == 9


# -- orphans and ACLs


def test_orphans_of_sessions_that_are_unknown_are_dropped() -> None:
    tree = new_tree()
    apply(tree, OpCode.CREATE, created("/mine", 1, ephemeral=True))
    apply(tree, OpCode.CREATE, created("/orphan", 2, ephemeral=True), session=5)
    assert tree.drop_orphans({SESSION: 4000}) == 1
    assert tree.get("/orphan") is None
    assert tree.get("/mine") is not None
    assert tree.last_zxid == 2
    check_consistent(tree)


def test_what_is_below_an_orphan_goes_with_it() -> None:
    """A TTL node without extended types: children that hang nowhere would make the next snapshot unreadable."""
    plain = new_tree(extended=False)
    for zxid, path, owner in [
        (1, "/t", 5000),
        (4, "/t/t", 5000),
        (2, "/t/a", 0),
        (3, "/t/a/b", 0),
        (5, "/other", 0),
    ]:
        plain.attach(path, Node(b"", plain.acls.intern(OPEN), ttl_owner(owner) if owner else 0, zxid, TIME))
    plain.last_zxid = 5
    assert plain.drop_orphans({}) == 4
    assert sorted(plain.nodes) == ["", "/", "/other", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"]
    assert plain.nodes["/"].pzxid == 5
    check_consistent(plain)


def test_nodes_with_equal_acls_share_one_list_that_goes_with_the_last_of_them() -> None:
    tree = new_tree()
    acl = [ACL(1, Id("digest", "a:b"))]
    for number, path in enumerate(["/a", "/b"], 1):
        apply(tree, OpCode.CREATE, CreateTxn(path, b"", acl, False, number))
    assert tree.nodes["/a"].acl is tree.nodes["/b"].acl
    assert tree.nodes["/a"].acl.id == 2
    apply(tree, OpCode.SET_ACL, SetACLTxn("/a", OPEN, 1))
    apply(tree, OpCode.DELETE, DeleteTxn("/b"))
    assert tree.acls.by_id(2) is None


# -- quotas after a restart


def test_quotas_are_found_and_counted_again_after_loading() -> None:
    tree = new_tree()
    paths = ["/q", "/q/a", "/zookeeper/quota/q", "/zookeeper/quota/q/zookeeper_limits"]
    for number, path in enumerate([*paths, "/zookeeper/quota/q/zookeeper_stats"], 1):
        apply(tree, OpCode.CREATE, created(path, number, data=b"12"))
    stats = tree.nodes["/zookeeper/quota/q/zookeeper_stats"]
    assert stats.data == b"count=2,bytes=4"
    stats.data = b"nonsense="
    apply(tree, OpCode.CREATE, created("/zookeeper/quota/zookeeper_limits", 9))
    apply(tree, OpCode.CREATE, created("/zookeeper/quota/x", 10))
    apply(tree, OpCode.CREATE, created("/zookeeper/quota/x/zookeeper_limits", 11))
    apply(tree, OpCode.CREATE, created("/zookeeper/quota/x/zookeeper_limits/child", 12))
    tree.rebuild_quotas()
    assert stats.data == b"count=2,bytes=4"
    assert list(tree.quotas) == ["/q"], "only limits without children, and never the root's"
