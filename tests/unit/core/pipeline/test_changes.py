"""Outstanding changes: the tree as it will be."""

from __future__ import annotations

import pytest

from tests.fakes.local_server import LocalServer
from tests.fakes.replies import create, delete, multi, set_data
from zkpy.core.data_tree import DataTree
from zkpy.core.errors import KeeperError
from zkpy.core.owners import OwnerRules
from zkpy.core.pipeline.changes import OutstandingChanges
from zkpy_protocol.opcodes import ErrorCode, OpCode


def test_without_records_the_view_is_the_tree() -> None:
    tree = DataTree(OwnerRules(extended=False, emulate_353=False))
    changes = OutstandingChanges(tree)
    assert len(changes) == 0
    assert changes.digest == tree.digest
    found = changes.find("/zookeeper")
    assert found is not None
    assert found.aversion == 0
    assert changes.find("/missing") is None
    with pytest.raises(KeeperError) as error:
        changes.require("/missing")
    assert error.value.code == ErrorCode.NONODE


def test_the_view_shows_what_is_in_flight_until_it_is_applied() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/old")).ok()
    server.holding = True
    changes = server.service.changes
    client.send(OpCode.CREATE, create("/a", b"1"))
    client.send(OpCode.SET_DATA, set_data("/a", b"2"))
    client.send(OpCode.DELETE, delete("/old"))
    assert changes.require("/a").data == b"2"
    assert changes.require("/a").version == 1
    assert changes.find("/old") is None
    assert changes.find("/") is not None
    before = len(changes)
    server.persist(1)
    assert changes.require("/a").data == b"2", "of a later txn"
    assert server.tree.nodes["/a"].data == b"1"
    assert len(changes) <= before
    server.settle()
    assert len(changes) == 0
    assert changes.digest == server.tree.digest


def test_a_failed_multi_leaves_the_view_as_it_was() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    changes = server.service.changes
    client.send(OpCode.CREATE, create("/a", b"1"))
    count, digest = len(changes), changes.digest
    client.send(
        OpCode.MULTI,
        multi(
            (OpCode.CREATE, create("/b")), (OpCode.DELETE, delete("/a")), (OpCode.DELETE, delete("/missing"))
        ),
    )
    assert (len(changes), changes.digest) == (count, digest)
    assert changes.find("/b") is None
    assert changes.require("/a").data == b"1"


def test_one_failed_multi_after_the_other_is_taken_back() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    failing = multi((OpCode.CREATE, create("/b")), (OpCode.DELETE, delete("/missing")))
    for _ in range(2):
        client.send(OpCode.MULTI, failing)
    client.send(OpCode.CREATE, create("/b"))
    client.send(OpCode.MULTI, failing)
    assert server.service.changes.find("/b") is not None
    server.settle()
    assert [len(reply.results) for reply in client.replies() if len(reply.body) > 6] == [2, 2, 2]
    assert server.tree.get("/b") is not None
    assert len(server.service.changes) == 0
    assert server.tree.digest_mismatches == 0


def test_records_are_counted_as_they_come_and_go() -> None:
    server = LocalServer()
    client = server.client()
    for _ in range(3):
        client.call(OpCode.CREATE, create("/n", flags=2)).ok()
    changes = server.service.changes
    assert changes.queued == changes.removed == 6
    client.call(OpCode.DELETE, delete("/n0000000000")).ok()
    assert changes.queued == changes.removed == 8
