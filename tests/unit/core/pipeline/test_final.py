"""The last stage: replies of writes, what is counted, who is told."""

from __future__ import annotations

from tests.fakes.local_server import LocalServer
from tests.fakes.replies import create, create_ttl, delete, multi, set_data
from zkpy_protocol.opcodes import ErrorCode, OpCode


def test_a_reply_to_a_write_has_the_zxid_of_the_write() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    for number in range(3):
        client.send(OpCode.CREATE, create(f"/{number}"))
    client.send(OpCode.DELETE, delete("/missing"))
    server.settle()
    assert [(reply.zxid, reply.err) for reply in client.replies()] == [
        (2, 0),
        (3, 0),
        (4, 0),
        (5, ErrorCode.NONODE),
    ]


def test_writes_are_counted_by_namespace_when_they_have_happened() -> None:
    server = LocalServer(extended=True)
    client = server.client()
    client.call(OpCode.CREATE, create("/a", b"12")).ok()
    client.call(OpCode.CREATE2, create("/a/b", b"123")).ok()
    client.call(OpCode.SET_DATA, set_data("/a", b"1")).ok()
    client.call(OpCode.SET_DATA, set_data("/a", None)).ok()
    client.call(OpCode.DELETE, delete("/a/b")).ok()
    assert client.call(OpCode.DELETE, delete("/a/b")).err == ErrorCode.NONODE
    summary = server.service.stats.write_per_namespace["a"]
    assert (summary.count, summary.sum) == (5, (2 + 2) + (4 + 3) + (2 + 1) + (2 + 0) + (4 + 0))


def test_members_of_a_multi_and_ephemerals_of_a_session_are_counted_too() -> None:
    server = LocalServer(extended=True)
    client = server.client()
    ops = multi(
        (OpCode.CREATE, create("/a", b"1")),
        (OpCode.CREATE_TTL, create_ttl("/t", 1000)),
        (OpCode.CREATE, create("/a/e", flags=1)),
    )
    client.call(OpCode.MULTI, ops).ok()
    counts = {name: summary.count for name, summary in server.service.stats.write_per_namespace.items()}
    assert counts == {"a": 2, "t": 1}
    client.call(OpCode.CLOSE_SESSION).ok()
    assert server.service.stats.write_per_namespace["a"].count == 3


def test_members_of_a_failed_multi_are_not_counted() -> None:
    server = LocalServer()
    client = server.client()
    ops = multi((OpCode.CREATE, create("/a", b"1")), (OpCode.DELETE, delete("/b")))
    client.call(OpCode.MULTI, ops).ok()
    assert server.service.stats.write_per_namespace == {}


def test_replies_are_measured() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    assert server.service.stats.last_response_bytes == 16 + 6
    client.call(OpCode.DELETE, delete("/missing"))
    assert server.service.stats.last_response_bytes == 16


def test_a_write_whose_client_is_being_closed_is_applied_without_an_answer() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(99)
    server.settle()
    assert [reply.err for reply in client.replies()] == [ErrorCode.UNIMPLEMENTED]
    assert server.tree.get("/a") is not None
