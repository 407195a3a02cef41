"""One server from frames to frames: connecting, order of answers, sessions, refusals, flow control (client protocol §3 to §5)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.local_server import Client, LocalServer, PacketAuth
from tests.fakes.replies import Event, Reply, create, create_ttl, delete, encode, multi, set_data
from zkpy.auth.providers import DigestProvider
from zkpy.core.data_tree import DataTree
from zkpy.core.link import QUEUED_BYTES_MAX
from zkpy.core.owners import OwnerRules
from zkpy.core.passwords import session_password
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    ACL,
    AuthPacket,
    CloseSessionTxn,
    ConnectResponse,
    CreateSessionTxn,
    ErrorTxn,
    ExistsRequest,
    GetACLRequest,
    GetDataRequest,
    GetEphemeralsRequest,
    Id,
    RequestHeader,
    SetACLRequest,
    SyncRequest,
    decode_connect_response,
)

EXPIRED = ConnectResponse(0, 0, 0, bytes(16), False)


def get(path: str, *, watch: bool = False) -> GetDataRequest:
    return GetDataRequest(path, watch)


def xids(messages: list[Any]) -> list[int]:
    return [message.xid for message in messages if isinstance(message, Reply)]


def header(xid: int, op: int) -> bytes:
    return encode(RequestHeader(xid, op))


# -- connecting (§3.2)


def test_a_new_session_is_a_txn_and_is_answered_when_it_is_applied() -> None:
    server = LocalServer()
    server.holding = True
    client = Client(server)
    assert client.connect(timeout_ms=10_000) is None
    server.settle()
    response = client.connect_response
    assert response is not None
    assert response.passwd == session_password(response.session_id)
    assert (response.protocol_version, response.time_out, response.read_only) == (0, 10_000, False)
    (txn,) = server.log
    assert (txn.type, txn.client_id, txn.cxid) == (OpCode.CREATE_SESSION, response.session_id, 0)
    assert txn.record == CreateSessionTxn(10_000)
    assert server.service.sessions.committed == {response.session_id: 10_000}


@pytest.mark.parametrize(
    ("asked", "granted"), [(1, 4000), (4000, 4000), (39_999, 39_999), (10**9, 40_000), (-5, 4000)]
)
def test_the_timeout_is_clamped_to_the_configured_range(asked: int, granted: int) -> None:
    client = LocalServer().client(timeout_ms=asked)
    assert client.connect_response is not None
    assert client.connect_response.time_out == granted


@pytest.mark.parametrize("password", [None, b"", b"x" * 40])
def test_the_password_of_a_request_for_a_new_session_is_ignored(password: bytes | None) -> None:
    client = Client(LocalServer())
    response = client.connect(password=password)
    assert response is not None
    assert response.session_id != 0


@pytest.mark.parametrize(("sent", "answered"), [(None, None), (False, False), (True, False)])
def test_the_read_only_byte_is_answered_to_those_who_sent_it(
    sent: bool | None, answered: bool | None
) -> None:
    client = Client(LocalServer())
    response = client.connect(read_only=sent)
    assert response is not None
    assert response.read_only is answered


def test_a_client_that_has_seen_more_than_this_server_is_closed_without_an_answer() -> None:
    server = LocalServer()
    client = Client(server)
    assert client.connect(last_zxid_seen=1) is None
    assert client.closed
    assert server.log == []


def test_sessions_of_one_server_have_ids_in_a_row() -> None:
    server = LocalServer()
    assert server.client().session_id + 1 == server.client().session_id


def test_what_is_pipelined_behind_the_connect_is_served_after_it() -> None:
    server = LocalServer()
    server.holding = True
    client = Client(server)
    client.connect()
    client.send(OpCode.CREATE, create("/a", flags=1))
    assert server.service.links == {client.link.session_id: client.link}
    server.settle()
    assert client.replies()[0].path == "/a"


# -- re-attaching


def test_a_session_is_taken_over_by_a_new_connection_with_id_and_password() -> None:
    server = LocalServer()
    old = server.client()
    old.call(OpCode.CREATE, create("/e", flags=1)).ok()
    zxid = server.tree.last_zxid
    new = server.reconnect(old, timeout_ms=5000)
    response = new.connect_response
    assert response is not None
    assert (response.session_id, response.passwd, response.time_out) == (old.session_id, old.password, 5000)
    assert old.closed
    assert old.inbox == []
    assert server.tree.last_zxid == zxid, "no txn"
    assert new.call(OpCode.GET_EPHEMERALS, GetEphemeralsRequest(None)).children == ["/e"]
    assert server.service.stats.connection_revalidations == 1


def test_a_wrong_password_gets_the_expired_answer_and_kicks_out_the_live_connection_first() -> None:
    server = LocalServer()
    live = server.client()
    intruder = Client(server)
    assert intruder.connect(session_id=live.session_id, password=b"wrong") == EXPIRED
    assert intruder.closed
    assert live.closed
    again = server.reconnect(live)
    assert again.session_id == live.session_id, "the session lives on"


@pytest.mark.parametrize("session_id", [12345, -1])
def test_an_unknown_session_gets_the_expired_answer(session_id: int) -> None:
    client = Client(LocalServer())
    assert client.connect(session_id=session_id, password=session_password(session_id)) == EXPIRED
    assert client.closed


def test_the_expired_answer_lacks_the_read_only_byte_where_the_request_lacked_it() -> None:
    client = Client(LocalServer())
    response = client.connect(session_id=5, password=b"", read_only=None)
    assert response is not None
    assert response.read_only is None


def test_the_timeout_of_a_new_connection_counts_and_the_persisted_one_stays() -> None:
    server = LocalServer()
    old = server.client(timeout_ms=4000)
    new = server.reconnect(old, timeout_ms=20_000)
    assert server.service.sessions.committed == {old.session_id: 4000}
    server.advance(12_000)
    assert not new.closed
    server.advance(12_000)
    assert new.closed


def test_sessions_survive_a_restart_with_their_passwords() -> None:
    server = LocalServer()
    old = server.client()
    old.call(OpCode.CREATE, create("/e", flags=1)).ok()
    restarted = LocalServer(tree=server.tree, sessions=dict(server.service.sessions.committed))
    new = restarted.reconnect(old)
    assert new.session_id == old.session_id
    new.call(OpCode.DELETE, delete("/e")).ok()


def test_a_dropped_connection_does_not_end_the_session() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/e", flags=1)).ok()
    client.hang_up()
    assert server.service.links == {}
    assert server.tree.get("/e") is not None
    assert server.reconnect(client).session_id == client.session_id


def test_a_late_end_of_the_old_connection_does_not_forget_the_new_one() -> None:
    server = LocalServer()
    old = server.client()
    new = server.reconnect(old)
    server.service.disconnected(old.link)
    assert server.service.links == {new.session_id: new.link}


# -- closing and expiry (§4)


def test_close_session_is_answered_with_a_header_and_then_closed() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/e", flags=1)).ok()
    reply = client.call(OpCode.CLOSE_SESSION)
    assert (reply.err, reply.body, reply.zxid) == (0, b"", 3)
    assert client.closed
    assert server.tree.get("/e") is None
    assert server.log[-1].record == CloseSessionTxn(["/e"])
    assert server.service.sessions.committed == {}
    assert server.service.links == {}


def test_what_is_pipelined_behind_close_session_is_dropped() -> None:
    server = LocalServer()
    client = server.client()
    frames = [
        header(1, OpCode.CLOSE_SESSION),
        header(2, OpCode.PING),
        header(3, OpCode.CREATE) + encode(create("/a")),
    ]
    client.send_frames(*frames)
    assert xids(client.received()) == [1]
    assert server.tree.get("/a") is None
    assert client.closed


def test_a_request_that_arrives_while_the_session_closes_is_dropped() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CLOSE_SESSION)
    client.send(OpCode.GET_DATA, get("/"))
    client.send(OpCode.CREATE, create("/a"))
    server.settle()
    assert xids(client.received()) == [1]
    assert server.service.stats.stale_requests_dropped == 2


def test_a_closed_session_is_never_valid_again() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CLOSE_SESSION)
    assert server.reconnect(client).connect_response == EXPIRED


def test_a_session_that_is_being_closed_cannot_be_taken_over() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CLOSE_SESSION)
    assert server.reconnect(client).connect_response == EXPIRED
    server.settle()
    assert server.service.sessions.committed == {}


def test_a_silent_session_expires_and_its_connection_is_closed_without_a_byte() -> None:
    server = LocalServer()
    quiet, watcher = server.client(timeout_ms=4000), server.client(timeout_ms=40_000)
    quiet.call(OpCode.CREATE, create("/e", flags=1)).ok()
    watcher.call(OpCode.GET_DATA, get("/e", watch=True)).ok()
    server.advance(4000)
    too_early = quiet.closed
    server.advance(3000)
    assert (too_early, quiet.closed, quiet.inbox) == (False, True, [])
    assert watcher.events() == [(2, "/e")]
    txn = server.log[-1]
    assert (txn.type, txn.client_id, txn.cxid) == (OpCode.CLOSE_SESSION, quiet.session_id, 0)
    assert server.reconnect(quiet).connect_response == EXPIRED
    assert server.service.stats.sessions_expired == 1


@pytest.mark.parametrize("op", [OpCode.PING, OpCode.WHO_AM_I, OpCode.CLOSE_SESSION - 100])
def test_every_request_keeps_the_session_alive(op: int) -> None:
    server = LocalServer()
    client = server.client(timeout_ms=4000)
    for _ in range(4):
        server.advance(3000)
        if client.closed:
            break
        client.send(OpCode.PING if op < 0 else op)
    assert not client.closed
    assert len(client.replies()) == 4


def test_an_expired_session_without_a_connection_leaves_no_ephemerals() -> None:
    server = LocalServer()
    client = server.client(timeout_ms=4000)
    client.call(OpCode.CREATE, create("/e", flags=1)).ok()
    client.hang_up()
    server.advance(8000)
    assert server.tree.get("/e") is None
    assert server.service.sessions.committed == {}


def test_a_session_that_never_touched_again_after_a_restart_expires() -> None:
    server = LocalServer(sessions={7: 4000})
    server.advance(8000)
    assert server.log[-1].client_id == 7
    assert server.service.sessions.committed == {}


# -- order of replies (§5)


def test_replies_come_in_the_order_of_the_requests_pings_included() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.GET_DATA, get("/"), xid=1)
    client.send(OpCode.CREATE, create("/a"), xid=2)
    client.send(OpCode.GET_DATA, get("/a"), xid=3)
    client.send(OpCode.PING, xid=-2)
    client.send(OpCode.SET_DATA, b"\0", xid=5)
    client.send(OpCode.SYNC, SyncRequest("/"), xid=6)
    client.send(OpCode.DELETE, delete("/missing"), xid=7)
    client.send(OpCode.EXISTS, ExistsRequest("/a", False), xid=8)
    assert xids(client.received()) == [1]
    server.persist(1)
    assert xids(client.received()) == [2, 3, -2, 5, 6]
    server.settle()
    seven, eight = client.replies()
    assert (seven.xid, seven.err, eight.xid, eight.err) == (7, ErrorCode.NONODE, 8, 0)


def test_a_read_never_overtakes_an_earlier_write_of_its_session() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/a")).ok()
    server.holding = True
    client.send(OpCode.SET_DATA, set_data("/a", b"new"))
    client.send(OpCode.GET_DATA, get("/a"))
    server.settle()
    assert client.replies()[1].data == b"new"


def test_nothing_is_told_before_it_is_durable() -> None:
    server = LocalServer()
    client, other = server.client(), server.client()
    server.holding = True
    client.send(OpCode.CREATE, create("/a"))
    assert client.received() == []
    other.send(OpCode.EXISTS, ExistsRequest("/a", False))
    assert other.replies()[0].err == ErrorCode.NONODE
    assert server.persist(1)
    assert client.replies()[0].path == "/a"


def test_a_batch_is_applied_in_the_order_of_zxids_over_all_connections() -> None:
    server = LocalServer()
    one, two = server.client(), server.client()
    server.holding = True
    one.send(OpCode.CREATE, create("/a"))
    two.send(OpCode.SET_DATA, set_data("/a", b"two"))
    one.send(OpCode.SET_DATA, set_data("/a", b"one"))
    assert [txn.zxid for txn in server.service.take_unlogged(0)] == []
    server.settle()
    assert [reply.zxid for reply in one.replies()] == [3, 5]
    assert [reply.zxid for reply in two.replies()] == [4]


def test_persisting_in_pieces_applies_in_pieces() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    for name in "abc":
        client.send(OpCode.CREATE, create(f"/{name}"))
    taken = server.service.take_unlogged(2)
    assert [txn.zxid for txn in taken] == [2, 3]
    server.service.persisted(2, server.mono_ms)
    server.pump()
    assert xids(client.received()) == [1]
    server.service.persisted(3, server.mono_ms)
    server.settle()
    assert xids(client.received()) == [2, 3]


def test_writes_of_a_connection_that_is_gone_still_happen() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.GET_DATA, get("/a"))
    client.hang_up()
    assert server.service.stats.outstanding == 0
    server.settle()
    assert server.tree.get("/a") is not None
    assert client.inbox == []


# -- auth and sasl overtake (§5)


def test_auth_overtakes_and_the_ids_of_a_request_are_those_it_came_with() -> None:
    server = LocalServer()
    client = server.client()
    secret = [ACL(31, Id("digest", DigestProvider().generate_digest("bob:secret")))]
    server.holding = True
    client.send(OpCode.CREATE, create("/a", acl=secret), xid=1)
    client.send(OpCode.GET_DATA, get("/a"), xid=2)
    client.send(OpCode.AUTH, AuthPacket(0, "digest", b"bob:secret"), xid=-4)
    client.send(OpCode.GET_DATA, get("/a"), xid=3)
    (auth,) = client.replies()
    assert auth == Reply(-4, 0, 0, b"")
    server.settle()
    assert [(reply.xid, reply.err) for reply in client.replies()] == [(1, 0), (2, ErrorCode.NOAUTH), (3, 0)]


def test_auth_echoes_the_xid_it_got() -> None:
    client = LocalServer().client()
    client.send(OpCode.AUTH, AuthPacket(0, "digest", b"bob:secret"), xid=77)
    assert client.replies() == [Reply(77, 0, 0, b"")]


def test_the_same_credentials_twice_are_one_id() -> None:
    client = LocalServer().client()
    for _ in range(2):
        client.send(OpCode.AUTH, AuthPacket(0, "digest", b"bob:secret"), xid=-4)
    assert len(client.link.ids) == 2


def test_failed_auth_is_answered_and_closed_and_nothing_behind_it_is_served() -> None:
    server = LocalServer()
    client = server.client()
    packet = encode(AuthPacket(0, "nope", b""))
    client.send_frames(header(-4, OpCode.AUTH) + packet, header(2, OpCode.CREATE) + encode(create("/a")))
    assert client.replies() == [Reply(-4, 0, ErrorCode.AUTHFAILED, b"")]
    assert client.closed
    assert server.tree.get("/a") is None
    assert server.service.stats.auth_failed == 1
    assert server.reconnect(client).session_id == client.session_id, "the session lives on"


def test_replies_of_writes_in_flight_are_lost_with_a_failed_auth() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.AUTH, AuthPacket(0, "nope", b""), xid=-4)
    server.settle()
    assert xids(client.received()) == [-4]
    assert server.tree.get("/a") is not None


def test_a_connection_that_is_being_closed_gets_no_more_replies_before_its_socket_is_gone() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CREATE, create("/a"), xid=1)
    client.send(OpCode.GET_DATA, get("/a"), xid=2)
    packet = header(-4, OpCode.AUTH) + encode(AuthPacket(0, "nope", b""))
    server.service.receive(client.link, [packet], 0, server.wall_ms, server.mono_ms)
    (txn,) = server.service.take_unlogged(10)
    server.service.persisted(txn.zxid, server.mono_ms)
    assert server.service.stats.outstanding == 0
    server.pump()
    assert xids(client.received()) == [-4]


def test_an_authenticator_may_close_without_an_answer() -> None:
    server = LocalServer()
    client = server.client()
    client.send(OpCode.AUTH, AuthPacket(0, "silent", b""), xid=-4)
    assert client.received() == []
    assert client.closed
    assert server.service.stats.auth_failed == 1


def test_sasl_answers_with_a_token_and_adds_an_id() -> None:
    client = LocalServer().client()
    client.send(OpCode.SASL, b"\0\0\0\x01t", xid=5)
    assert client.replies() == [Reply(5, 0, 0, b"\0\0\0\x01t")]
    assert Id("sasl", "bob") in client.link.ids


# -- enforcement (§12.2)


def _enforcing() -> LocalServer:
    return LocalServer(auth=PacketAuth(DigestProvider(), needed="digest"))


@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.PING, b""),
        (OpCode.GET_DATA, get("/")),
        (OpCode.CREATE, create("/a")),
        (OpCode.CLOSE_SESSION, b""),
        (99, b""),
    ],
)
def test_without_the_demanded_id_everything_is_refused_and_closed(op: int, record: Any) -> None:
    server = _enforcing()
    client = server.client()
    client.send_frames(header(5, op) + encode(record), header(6, OpCode.CREATE) + encode(create("/b")))
    assert client.replies() == [Reply(5, 0, ErrorCode.SESSIONCLOSEDREQUIRESASLAUTH, b"")]
    assert client.closed
    assert server.tree.last_zxid == 1


def test_with_the_demanded_id_everything_is_served() -> None:
    client = _enforcing().client()
    client.send(OpCode.AUTH, AuthPacket(0, "digest", b"bob:secret"), xid=-4)
    client.call(OpCode.CREATE, create("/a")).ok()
    client.call(OpCode.PING).ok()


def test_what_is_pipelined_behind_close_session_is_dropped_there_too() -> None:
    """An ephemeral that came to be after the end of its session would stay for ever."""
    server = _enforcing()
    client = server.client()
    client.send(OpCode.AUTH, AuthPacket(0, "digest", b"bob:secret"), xid=-4)
    late = header(2, OpCode.CREATE) + encode(create("/e", flags=1))
    client.send_frames(header(1, OpCode.CLOSE_SESSION), late, header(3, OpCode.PING))
    assert xids(client.received()) == [-4, 1]
    assert server.tree.get("/e") is None
    assert server.tree.ephemeral_count == 0


def test_super_is_above_every_acl() -> None:
    server = LocalServer()
    client, root = server.client(), server.client()
    nobody = [ACL(0, Id("world", "anyone"))]
    client.call(OpCode.CREATE, create("/a", acl=nobody)).ok()
    assert client.call(OpCode.GET_DATA, get("/a")).err == ErrorCode.NOAUTH
    root.call(OpCode.AUTH, AuthPacket(0, "digest", b"super:test"), xid=-4).ok()
    root.call(OpCode.GET_DATA, get("/a")).ok()
    root.call(OpCode.SET_ACL, SetACLRequest("/a", [ACL(31, Id("world", "anyone"))], -1)).ok()
    client.call(OpCode.GET_DATA, get("/a")).ok()


def test_skip_acl_opens_everything() -> None:
    client = LocalServer(skip_acl=True).client()
    client.call(OpCode.CREATE, create("/a", acl=[ACL(0, Id("world", "anyone"))])).ok()
    client.call(OpCode.SET_DATA, set_data("/a", b"1")).ok()
    assert client.call(OpCode.GET_ACL, GetACLRequest("/a")).acl[0].perms == 0


def test_an_acl_for_an_address_lets_that_address_in() -> None:
    server = LocalServer()
    inside, outside = server.client(host="10.1.2.3"), server.client(host="11.1.2.3")
    acl = [ACL(Perms.ALL, Id("ip", "10.0.0.0/8"))]
    outside.call(OpCode.CREATE, create("/a", acl=acl)).ok()
    inside.call(OpCode.GET_DATA, get("/a")).ok()
    assert outside.call(OpCode.GET_DATA, get("/a")).err == ErrorCode.NOAUTH


# -- answered or closed (§19)


@pytest.mark.parametrize("op", [0, -1, 10, 13, 23, 99, 108, 1000, -12, 2**31 - 1, -(2**31)])
def test_an_unknown_opcode_is_unimplemented_and_closes(op: int) -> None:
    server = LocalServer()
    client = server.client()
    client.send_frames(header(9, op), header(10, OpCode.PING))
    assert client.replies() == [Reply(9, -1, ErrorCode.UNIMPLEMENTED, b"")]
    assert client.closed
    assert server.tree.last_zxid == 1


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0\0\0\1\0\0\0"])
def test_a_frame_too_short_for_a_header_closes_without_a_byte(frame: bytes) -> None:
    client = LocalServer().client()
    client.send_frames(header(1, OpCode.PING), frame, header(2, OpCode.PING))
    assert client.received() == [], "what was answered before is lost with the connection"
    assert client.closed


def test_a_client_that_asks_for_a_session_again_gets_its_connect_response_once_more() -> None:
    server = LocalServer()
    client = server.client()
    frame = header(7, OpCode.CREATE_SESSION)
    server.service.receive(client.link, [frame], 0, server.wall_ms, server.mono_ms)
    response, _ = decode_connect_response(client.link.take(), 4)
    assert response == client.connect_response
    assert server.tree.last_zxid == 1, "and no txn is made"


def test_the_xid_is_echoed_whatever_it_is() -> None:
    client = LocalServer().client()
    for xid in (0, -7, 2**31 - 1, -(2**31), 1, 1):
        client.send(OpCode.EXISTS, ExistsRequest("/", False), xid=xid)
    assert xids(client.received()) == [0, -7, 2**31 - 1, -(2**31), 1, 1]


# -- writes the log has no room for


def _state(server: LocalServer) -> tuple[Any, ...]:
    """What a client or a snapshot could tell apart."""
    tree = server.tree
    return (
        tree.last_zxid,
        tree.digest,
        tree.digest_mismatches,
        dict(server.service.sessions.committed),
        sorted(tree.nodes),
        server.service.changes.digest,
        len(server.service.changes),
        server.service.stats.outstanding,
    )


def test_while_writes_are_refused_reads_go_on_and_sessions_can_be_closed() -> None:
    server = LocalServer()
    client, other = server.client(), server.client()
    client.call(OpCode.CREATE, create("/e", flags=1)).ok()
    before = _state(server)
    server.service.refuse_writes = True
    for op, record in [(OpCode.CREATE, create("/a")), (OpCode.MULTI, multi()), (OpCode.DELETE, delete("/e"))]:
        reply = client.call(op, record)
        assert (reply.err, reply.body, reply.zxid) == (ErrorCode.SYSTEMERROR, b"", 3)
    client.call(OpCode.GET_DATA, get("/e")).ok()
    assert _state(server) == before
    client.call(OpCode.CLOSE_SESSION).ok()
    assert server.tree.get("/e") is None
    server.service.refuse_writes = False
    other.call(OpCode.CREATE, create("/a")).ok()


def test_while_writes_are_refused_new_sessions_are_closed_without_an_answer() -> None:
    server = LocalServer()
    known = server.client()
    server.service.refuse_writes = True
    client = Client(server)
    assert client.connect() is None
    assert client.closed
    assert server.reconnect(known).session_id == known.session_id
    zxid = server.tree.last_zxid
    server.advance(60_000)
    assert [txn.client_id for txn in server.log if txn.zxid > zxid] == [known.session_id], (
        "nothing else to close"
    )


def test_refused_writes_are_answered_in_their_turn() -> None:
    server = LocalServer()
    client = server.client()
    server.holding = True
    client.send(OpCode.CREATE, create("/a"))
    server.service.refuse_writes = True
    client.send(OpCode.CREATE, create("/b"))
    client.send(OpCode.GET_DATA, get("/a"))
    assert client.received() == []
    server.settle()
    assert [(reply.xid, reply.err) for reply in client.replies()] == [
        (1, 0),
        (2, ErrorCode.SYSTEMERROR),
        (3, 0),
    ]


def test_what_the_log_had_no_room_for_leaves_no_trace() -> None:
    server = LocalServer()
    client, closing = server.client(), server.client()
    client.call(OpCode.CREATE, create("/p")).ok()
    client.call(OpCode.CREATE, create("/p/n", flags=2)).ok()
    before = _state(server)
    server.holding = True
    client.send(OpCode.CREATE, create("/p/n", flags=2))
    client.send(OpCode.GET_DATA, get("/p"))
    client.send(OpCode.SET_DATA, set_data("/p", b"1"))
    client.send(OpCode.SET_DATA, b"")
    client.send(OpCode.DELETE, delete("/missing"))
    closing.send(OpCode.CLOSE_SESSION)
    newcomer = Client(server)
    newcomer.connect()
    server.service.take_unlogged(2)
    server.log_full()
    assert server.service.refuse_writes
    assert [(reply.xid, reply.err) for reply in client.replies()] == [
        (3, ErrorCode.SYSTEMERROR),
        (4, 0),
        (5, ErrorCode.SYSTEMERROR),
        (6, ErrorCode.MARSHALLINGERROR),
        (7, ErrorCode.SYSTEMERROR),
    ]
    assert [(reply.xid, reply.err) for reply in closing.replies()] == [(1, ErrorCode.SYSTEMERROR)]
    assert newcomer.closed
    assert newcomer.inbox == []
    assert _state(server) == before
    server.service.refuse_writes = False
    server.holding = False
    assert client.call(OpCode.CREATE, create("/p/n", flags=2)).path == "/p/n0000000001"
    assert server.log[-1].zxid == before[0] + 1, "zxids go on where the log ends"
    assert server.tree.digest_mismatches == 0
    assert closing.closed, "what it may have sent behind was dropped"
    server.reconnect(closing).call(OpCode.CLOSE_SESSION).ok()


def test_a_connection_whose_session_could_not_be_expired_begins_anew() -> None:
    """Its requests were dropped while the session was closing, so the xids of replies would not fit any more."""
    server = LocalServer()
    client = server.client(timeout_ms=4000)
    server.holding = True
    server.advance(7000)
    client.send(OpCode.CREATE, create("/a"))
    server.log_full()
    assert client.closed
    server.service.refuse_writes = False
    server.holding = False
    server.reconnect(client).call(OpCode.CREATE, create("/a")).ok()


def test_an_expiry_the_log_had_no_room_for_is_tried_again() -> None:
    server = LocalServer()
    client = server.client(timeout_ms=4000)
    client.hang_up()
    server.holding = True
    server.advance(7000)
    assert len(server.service.unlogged) == 1
    server.log_full()
    server.holding = False
    server.advance(8000)
    assert server.service.sessions.committed == {}


def test_a_sweep_makes_no_requests_while_writes_are_refused() -> None:
    server = LocalServer(container_check_interval_ms=1000)
    client = server.client(timeout_ms=40_000)
    client.call(OpCode.CREATE_CONTAINER, create("/c", flags=4)).ok()
    client.call(OpCode.CREATE, create("/c/x")).ok()
    client.call(OpCode.DELETE, delete("/c/x")).ok()
    server.service.refuse_writes = True
    zxid = server.tree.last_zxid
    server.advance(3000)
    assert server.tree.last_zxid == zxid
    server.service.refuse_writes = False
    server.advance(3000)
    assert server.tree.get("/c") is None


# -- containers and TTL nodes (§9.4)


def _sweeping(**options: Any) -> tuple[LocalServer, Client]:
    server = LocalServer(extended=True, container_check_interval_ms=60_000, **options)
    return server, server.client(timeout_ms=40_000)


def advance_alive(server: LocalServer, client: Client, ms: int) -> None:
    for _ in range(ms // 10_000):
        server.advance(10_000)
        client.call(OpCode.PING).ok()


def test_containers_that_had_a_child_and_have_none_are_deleted_once_a_minute() -> None:
    server, client = _sweeping()
    for path in ("/used", "/full", "/fresh"):
        client.call(OpCode.CREATE_CONTAINER, create(path, flags=4)).ok()
    client.call(OpCode.CREATE, create("/used/x")).ok()
    client.call(OpCode.CREATE, create("/full/x")).ok()
    client.call(OpCode.DELETE, delete("/used/x")).ok()
    advance_alive(server, client, 50_000)
    assert server.tree.get("/used") is not None
    advance_alive(server, client, 20_000)
    assert [server.tree.get(path) is None for path in ("/used", "/full", "/fresh")] == [True, False, False]
    txn = server.log[-1]
    assert (txn.type, txn.client_id, txn.cxid, txn.record.path) == (OpCode.DELETE_CONTAINER, 0, 0, "/used")
    assert server.tree.digest_mismatches == 0


def test_containers_that_were_never_used_go_after_the_configured_time() -> None:
    server, client = _sweeping(container_max_never_used_interval_ms=90_000)
    client.call(OpCode.CREATE_CONTAINER, create("/c", flags=4)).ok()
    advance_alive(server, client, 60_000)
    assert server.tree.get("/c") is not None
    advance_alive(server, client, 60_000)
    assert server.tree.get("/c") is None


def test_ttl_nodes_go_when_they_are_unchanged_and_childless_for_their_ttl() -> None:
    server, client = _sweeping()
    for path in ("/old", "/changed", "/full"):
        client.call(OpCode.CREATE_TTL, create_ttl(path, 55_000)).ok()
    client.call(OpCode.CREATE_TTL, create_ttl("/long", 10**9)).ok()
    client.call(OpCode.CREATE, create("/full/x")).ok()
    advance_alive(server, client, 30_000)
    client.call(OpCode.SET_DATA, set_data("/changed", b"1")).ok()
    advance_alive(server, client, 30_000)
    paths = ("/old", "/changed", "/full", "/long")
    assert [server.tree.get(path) is None for path in paths] == [True, False, False, False]
    client.call(OpCode.DELETE, delete("/full/x")).ok()
    advance_alive(server, client, 50_000)
    assert [server.tree.get(path) is None for path in paths] == [True, False, False, False], "not yet looked"
    advance_alive(server, client, 10_000)
    assert [server.tree.get(path) is None for path in paths] == [True, True, True, False]


def test_the_sweep_keeps_the_pace_of_the_operator() -> None:
    server, client = _sweeping(container_max_per_minute=120)
    for number in range(5):
        client.call(OpCode.CREATE_TTL, create_ttl(f"/t{number}", 1)).ok()
    advance_alive(server, client, 50_000)
    server.advance(10_000)
    assert len(server.tree.ttls) == 3, "two per half tick"
    server.advance(1000)
    assert len(server.tree.ttls) == 1


def test_what_the_sweep_found_is_checked_again_when_it_is_deleted() -> None:
    server, client = _sweeping(container_max_per_minute=60)
    for path in ("/t1", "/t2", "/t3"):
        client.call(OpCode.CREATE_TTL, create_ttl(path, 1)).ok()
    server.holding = True
    client.send(OpCode.CREATE, create("/t1/x"))
    server.advance(60_000 // 2)
    client.send(OpCode.PING)
    server.advance(60_000 // 2)
    server.settle()
    assert server.log[-1].record == ErrorTxn(ErrorCode.NOTEMPTY)
    assert server.tree.get("/t1/x") is not None


# -- the end of an epoch


def test_the_zxids_of_a_standalone_server_count_on_into_the_next_epoch() -> None:
    tree = DataTree(OwnerRules(extended=False, emulate_353=False))
    record = CreateSessionTxn(10_000)
    tree.apply(Txn.make(7, 0, 0xFFFFFFFE, 0, OpCode.CREATE_SESSION, record, None), None)
    server = LocalServer(tree=tree, sessions={7: 10_000})
    client = Client(server)
    client.connect(session_id=7, password=session_password(7))
    zxids = [client.call(OpCode.CREATE, create(f"/{number}")).zxid for number in range(3)]
    assert zxids == [0xFFFFFFFF, 0x1_0000_0000, 0x1_0000_0001]


# -- flow control


def test_a_link_with_something_outstanding_waits_while_too_much_is_outstanding() -> None:
    server = LocalServer(global_outstanding_limit=3)
    one, two = server.client(), server.client()
    server.holding = True
    for number in range(6):
        one.send(OpCode.CREATE, create(f"/one{number}"))
    assert one.waiting == 2
    assert server.service.must_wait(one.link)
    assert not server.service.must_wait(two.link)
    two.send(OpCode.CREATE, create("/two"))
    two.send(OpCode.CREATE, create("/two2"))
    assert two.waiting == 1
    server.settle()
    assert xids(one.received()) == [1, 2, 3, 4, 5, 6]
    assert xids(two.received()) == [1, 2]
    assert server.service.stats.outstanding == 0


def test_a_link_whose_replies_pile_up_waits() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/big", bytes(1 << 18))).ok()
    frame = header(1, OpCode.GET_DATA) + encode(get("/big"))
    taken = server.service.receive(client.link, [frame] * 10, 0, server.wall_ms, server.mono_ms)
    assert taken == 4
    assert client.link.queued_bytes > QUEUED_BYTES_MAX
    data = client.link.take()
    assert len(data) > QUEUED_BYTES_MAX
    assert client.link.queued_bytes == 0
    assert server.service.receive(client.link, [frame] * 10, taken, server.wall_ms, server.mono_ms) == 8


# -- what is counted


def test_requests_replies_and_latencies_are_counted() -> None:
    server = LocalServer()
    client = server.client()
    stats = server.service.stats
    assert (stats.received, stats.sent, stats.commits, stats.proposals) == (1, 1, 1, 1)
    server.holding = True
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.GET_DATA, get("/a"))
    assert stats.outstanding == 2
    server.mono_ms += 7
    server.settle()
    client.send(OpCode.GET_DATA, get("/a"))
    assert (stats.received, stats.sent, stats.outstanding, stats.commits) == (4, 4, 0, 2)
    assert stats.prepared == 2
    assert (stats.latency.max, stats.update_latency.max, stats.read_latency.max) == (7, 7, 7)
    assert stats.latency.count == 4
    link = client.link
    assert (link.received, link.sent, link.replies) == (4, 4, 4)
    assert (link.last_op, link.last_cxid, link.last_zxid) == ("GETD", 3, 2)
    assert (link.min_latency, link.max_latency) == (0, 7)


def test_connections_that_end_are_counted() -> None:
    server = LocalServer()
    server.client().hang_up()
    server.client().call(OpCode.CLOSE_SESSION)
    assert server.service.stats.connection_drops == 1
    assert server.service.stats.connection_requests == 2


def test_answers_that_overtake_are_packets_too() -> None:
    server = LocalServer()
    client = server.client()
    sent = server.service.stats.sent
    client.send(OpCode.AUTH, AuthPacket(0, "digest", b"bob:x"), xid=-4)
    client.send(99)
    assert (server.service.stats.sent, client.link.sent) == (sent + 2, 3)


def test_events_are_packets_too() -> None:
    server = LocalServer()
    client = server.client()
    client.call(OpCode.EXISTS, ExistsRequest("/a", True))
    sent = server.service.stats.sent
    client.call(OpCode.CREATE, create("/a")).ok()
    assert server.service.stats.sent == sent + 2
    assert isinstance(client.inbox[0], Event)
