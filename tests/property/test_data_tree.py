"""The data tree against a dict: any history of txns gives the same nodes, the same digest, the same Stats.

The second half cuts histories anywhere and replays them: over a fresh tree, over a copy from later on, and over what a server
writes that saves its nodes one after the other while txns go on (a fuzzy snapshot).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fakes.naive_tree import NaiveTree, Stored, check_consistent, stored_nodes
from zkpy.core.data_tree import Change, DataTree, Node
from zkpy.core.owners import OwnerRules
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import EventType, OpCode
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
    decode_stat,
)
from zkpy_protocol.records import Txn as Member
from zkpy_protocol.txns import encode_record

pytestmark = pytest.mark.slow
OWNERS = OwnerRules(extended=True, emulate_353=False)
SESSIONS = (0x100000000000001, 0x100000000000002, -(1 << 62))
ACLS = [
    [ACL(31, Id("world", "anyone"))],
    [ACL(1, Id("world", "anyone")), ACL(31, Id("digest", "bob:x"))],
    [ACL(31, Id("digest", "bob:x"))],
]

# Few names, so that histories come back to the same nodes; one beyond ASCII, because digests are over UTF-8.
NAMES = st.sampled_from(["a", "b", "ä"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
DATA = st.none() | st.binary(max_size=6)
KINDS = st.sampled_from(["plain", "plain2", "ephemeral", "ephemeral2", "container", "ttl"])


@st.composite
def ops(draw: st.DrawFn) -> tuple[Any, ...]:
    """One thing that a leader might be asked for."""
    what = draw(st.sampled_from(["create", "create", "create", "delete", "set", "acl", "check"]))
    path = draw(PATHS)
    if what == "create":
        return what, path, draw(KINDS), draw(DATA), draw(st.sampled_from(ACLS)), draw(st.integers(1, 1 << 30))
    if what == "set":
        return what, path, draw(DATA)
    if what == "acl":
        return what, path, draw(st.sampled_from(ACLS))
    return what, path


class Leader:
    """Makes txns that fit a naive tree, as a leader that knows its state makes them."""

    def __init__(self) -> None:
        self.model = NaiveTree.empty()
        self.txns: list[Txn] = []

    def add(self, session: int, type_: int, record: Any) -> Txn:
        zxid = len(self.txns) + 1
        time = 1_700_000_000_000 + 3 * zxid
        self.model.apply(Txn(session, 1, zxid, time, type_, record, None, b""))
        digest = None if type_ == OpCode.ERROR else self.model.digest
        txn = Txn.make(session, 1, zxid, time, type_, record, digest)
        self.txns.append(txn)
        return txn

    def record_of(self, op: tuple[Any, ...], model: NaiveTree) -> tuple[int, Any]:
        """The txn of an operation on this state, or its error."""
        what, path, *more = op
        node = model.nodes.get(path)
        parent = model.nodes.get(model.parent(path))
        if what == "create":
            if parent is None or (parent.owner in SESSIONS):
                return OpCode.ERROR, ErrorTxn(-101)
            if node is not None:
                return OpCode.ERROR, ErrorTxn(-110)
            kind, data, acl, ttl = more
            cversion = parent.cversion + 1
            if kind == "container":
                return OpCode.CREATE_CONTAINER, CreateContainerTxn(path, data, acl, cversion)
            if kind == "ttl":
                return OpCode.CREATE_TTL, CreateTTLTxn(path, data, acl, cversion, ttl)
            type_ = OpCode.CREATE2 if kind.endswith("2") else OpCode.CREATE
            return type_, CreateTxn(path, data, acl, kind.startswith("ephemeral"), cversion)
        if node is None:
            return OpCode.ERROR, ErrorTxn(-101)
        if what == "delete":
            if model.children(path):
                return OpCode.ERROR, ErrorTxn(-111)
            return OpCode.DELETE, DeleteTxn(path)
        if what == "set":
            return OpCode.SET_DATA, SetDataTxn(path, more[0], node.version + 1)
        if what == "acl":
            return OpCode.SET_ACL, SetACLTxn(path, more[0], node.aversion + 1)
        return OpCode.CHECK, CheckVersionTxn(path, node.version + 1)

    def do(self, session: int, op: tuple[Any, ...]) -> Txn:
        type_, record = self.record_of(op, self.model)
        if type_ == OpCode.CHECK:
            type_, record = OpCode.MULTI, MultiTxn([Member(type_, encode_record(type_, record))])
        return self.add(session, type_, record)

    def multi(self, session: int, operations: list[tuple[Any, ...]]) -> Txn:
        """All of them, or an error in place of the first that fails and of those behind it."""
        ahead = NaiveTree(dict(self.model.nodes))
        members: list[Member] = []
        failed = False
        for op in operations:
            type_, record = (OpCode.ERROR, ErrorTxn(-2)) if failed else self.record_of(op, ahead)
            failed = failed or type_ == OpCode.ERROR
            members.append(Member(type_, encode_record(type_, record)))
            zxid = len(self.txns) + 1
            ahead.apply(Txn(session, 1, zxid, 1_700_000_000_000 + 3 * zxid, type_, record, None, b""))
        return self.add(session, OpCode.MULTI, MultiTxn(members))

    def close(self, session: int) -> Txn:
        return self.add(session, OpCode.CLOSE_SESSION, CloseSessionTxn([*self.model.owned(session)]))


def check_same(tree: DataTree, model: NaiveTree) -> None:
    assert stored_nodes(tree) == model.nodes
    assert tree.digest == model.digest
    assert tree.last_zxid == model.last_zxid
    for path, node in tree.nodes.items():
        if path:
            stat = decode_stat(tree.stat(node))[0]
            children = model.children(path)
            stored = model.nodes[path]
            assert stat.num_children == len(children)
            assert stat.cversion == 2 * stored.cversion - len(children)
            assert stat.ephemeral_owner == (stored.owner if stored.owner in SESSIONS else 0)
            assert stat.data_length == len(stored.data or b"")
            assert (stat.czxid, stat.mzxid, stat.pzxid) == (stored.czxid, stored.mzxid, stored.pzxid)
            assert (stat.ctime, stat.mtime) == (stored.ctime, stored.mtime)
            assert (stat.version, stat.aversion) == (stored.version, stored.aversion)
            names = sorted(child.rsplit("/", 1)[1] for child in children)
            assert sorted(tree.child_names(path, node)) == names
            below = sum(other.startswith(path + "/") for other in model.nodes)
            if path != "/":
                assert tree.descendants_count(path) == below


class TreeMachine(RuleBasedStateMachine):
    """Txns of all kinds, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.leader = Leader()
        self.tree = DataTree(OWNERS)

    def _apply(self, txn: Txn) -> None:
        before = set(self.tree.nodes)
        changes: list[Change] = []
        decoded = Txn.from_payload(txn.payload)
        assert decoded.record == txn.record
        self.tree.apply(decoded, changes)
        gone = before - set(self.tree.nodes)
        come = set(self.tree.nodes) - before
        kinds = {kind: {path for k, path, _ in changes if k == kind} for kind in range(1, 5)}
        assert gone <= kinds[EventType.NODE_DELETED]
        assert come <= kinds[EventType.NODE_CREATED]
        touched = kinds[EventType.NODE_CREATED] | kinds[EventType.NODE_DELETED]
        assert {NaiveTree.parent(path) for path in touched} == kinds[EventType.NODE_CHILDREN_CHANGED]

    @rule(session=st.sampled_from(SESSIONS), op=ops())
    def operation(self, session: int, op: tuple[Any, ...]) -> None:
        self._apply(self.leader.do(session, op))

    @rule(session=st.sampled_from(SESSIONS), operations=st.lists(ops(), max_size=4))
    def multi(self, session: int, operations: list[tuple[Any, ...]]) -> None:
        self._apply(self.leader.multi(session, operations))

    @rule(session=st.sampled_from(SESSIONS))
    def close_session(self, session: int) -> None:
        self._apply(self.leader.close(session))

    @rule(session=st.sampled_from(SESSIONS))
    def create_session(self, session: int) -> None:
        self._apply(self.leader.add(session, OpCode.CREATE_SESSION, CreateSessionTxn(4000)))

    @invariant()
    def agrees(self) -> None:
        check_same(self.tree, self.leader.model)
        check_consistent(self.tree)
        assert self.tree.digest_mismatches == 0


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# -- replaying

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("op"), st.sampled_from(SESSIONS), ops()),
        st.tuples(st.just("multi"), st.sampled_from(SESSIONS), st.lists(ops(), min_size=1, max_size=3)),
        st.tuples(st.just("close"), st.sampled_from(SESSIONS)),
    ),
    min_size=1,
    max_size=25,
)


# Two names, little but creates and deletes: parents go and come back, and what was below them does too.
_FEW_PATHS = st.sampled_from(["/a", "/b", "/a/a", "/a/b", "/a/a/a"])
_CHURN = st.one_of(
    _FEW_PATHS.map(lambda path: ("delete", path)),
    st.builds(
        lambda path, kind, acl: ("create", path, kind, b"1", acl, 5), _FEW_PATHS, KINDS, st.sampled_from(ACLS)
    ),
    st.builds(lambda path, data: ("set", path, data), _FEW_PATHS, DATA),
)
CHURN = st.lists(
    st.one_of(
        st.tuples(st.just("op"), st.sampled_from(SESSIONS), _CHURN),
        st.tuples(st.just("op"), st.sampled_from(SESSIONS), _CHURN),
        st.tuples(st.just("multi"), st.sampled_from(SESSIONS), st.lists(_CHURN, min_size=2, max_size=3)),
        st.tuples(st.just("close"), st.sampled_from(SESSIONS)),
    ),
    min_size=10,
    max_size=40,
)


class History:
    """Txns, and the nodes after each of them; `states[0]` is the empty database."""

    def __init__(self, steps: list[Any]) -> None:
        leader = Leader()
        self.states = [dict(leader.model.nodes)]
        for what, session, *more in steps:
            if what == "op":
                leader.do(session, more[0])
            elif what == "multi":
                leader.multi(session, more[0])
            else:
                leader.close(session)
            self.states.append(dict(leader.model.nodes))
        self.txns = leader.txns
        self.model = leader.model


def load(nodes: dict[str, Stored], zxid: int) -> DataTree:
    """A tree as the reader of a snapshot builds it."""
    tree = DataTree.bare(OWNERS)
    for path in sorted(nodes):
        stored = nodes[path]
        acl = tree.acls.intern([ACL(perms, Id(scheme, id_)) for perms, scheme, id_ in stored.acl])
        node = Node(stored.data, acl, stored.owner, stored.czxid, stored.ctime)
        node.mzxid, node.pzxid, node.mtime = stored.mzxid, stored.pzxid, stored.mtime
        node.version, node.cversion, node.aversion = stored.version, stored.cversion, stored.aversion
        tree.attach(path, node)
        if path == "/":
            tree.nodes[""] = node
    tree.last_zxid = zxid
    tree.finish_load()
    return tree


def replay(tree: DataTree, history: History, zxid: int) -> None:
    """Everything above `zxid`."""
    for txn in history.txns[zxid:]:
        tree.apply(Txn.from_payload(txn.payload), None)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_the_payloads_of_a_history_give_the_same_tree_again(steps: list[Any]) -> None:
    history = History(steps)
    tree = DataTree(OWNERS)
    replay(tree, history, 0)
    check_same(tree, history.model)
    assert tree.digest_mismatches == 0


@settings(deadline=None, max_examples=100)
@given(STEPS | CHURN, st.data())
def test_replaying_over_a_copy_from_later_on_gives_the_same_tree(
    steps: list[Any], data: st.DataObject
) -> None:
    history = History(steps)
    name = data.draw(st.integers(0, len(history.txns)))
    taken = data.draw(st.integers(name, len(history.txns)))
    tree = load(history.states[taken], name)
    replay(tree, history, name)
    check_same(tree, history.model)
    check_consistent(tree)


def fuzzy(history: History, name: int, data: st.DataObject) -> dict[str, Stored]:
    """What a server saves that walks its tree from the root while txns go on: each node later than its parent's list."""
    saved: dict[str, Stored] = {}
    now = name

    def save(path: str) -> None:
        nonlocal now
        now += data.draw(st.integers(0, min(3, len(history.txns) - now)))
        state = history.states[now]
        if path in state:
            saved[path] = state[path]
            for child in NaiveTree(state).children(path):
                save(child)

    save("/")
    return saved


@settings(deadline=None, max_examples=150)
@given(STEPS | CHURN, st.data())
def test_replaying_over_a_fuzzy_snapshot_gives_the_same_tree(steps: list[Any], data: st.DataObject) -> None:
    history = History(steps)
    name = data.draw(st.integers(0, len(history.txns)))
    tree = load(fuzzy(history, name, data), name)
    replay(tree, history, name)
    check_same(tree, history.model)
    check_consistent(tree)
