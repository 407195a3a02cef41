"""The service of a learner: what it forwards, which txn answers whom, syncs, sessions that move (quorum protocol §9.6 to §9.8, §10)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import Client
from tests.fakes.member_services import Ensemble
from tests.fakes.replies import Event, Reply, create, delete, encode, multi, set_data
from zkpy.core.passwords import session_password
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    AuthPacket,
    ConnectResponse,
    ErrorTxn,
    ExistsRequest,
    GetDataRequest,
    Id,
    SyncRequest,
)

if TYPE_CHECKING:
    from tests.fakes.member_services import LearnerServer

EXPIRED = ConnectResponse(0, 0, 0, bytes(16), False)
SYNC = SyncRequest("/")


def get(path: str, *, watch: bool = False) -> GetDataRequest:
    return GetDataRequest(path, watch)


def timeout(ms: int) -> bytes:
    return struct.pack(">i", ms)


def held() -> tuple[Ensemble, LearnerServer, Client]:
    """A client of learner 2, whose leader commits nothing more."""
    ensemble, client, _ = held_with(3)
    return ensemble, ensemble.learner(2), client


def held_with(server_id: int) -> tuple[Ensemble, Client, Client]:
    """The same, and a client of another server."""
    ensemble = Ensemble()
    clients = [ensemble.learner(2).client(), ensemble.learner(server_id).client()]
    ensemble.leader.holding = True
    return ensemble, clients[0], clients[1]


def held_up() -> tuple[Ensemble, LearnerServer, Client]:
    """The client is back while what it sent before is under way: a create, a sync and a delete, xids 1 to 3."""
    ensemble, learner, client = held()
    client.send(OpCode.CREATE, create("/old"), xid=1)
    client.send(OpCode.SYNC, SYNC, xid=2)
    client.send(OpCode.DELETE, delete("/none"), xid=3)
    client.hang_up()
    return ensemble, learner, learner.reconnect(client)


def commit_for_others(ensemble: Ensemble, client: Client, count: int) -> None:
    """The next txns are committed one by one, and none of them answers this client."""
    for _ in range(count):
        ensemble.leader.persist(1)
        ensemble.pump()
        assert client.received() == []


def xids(client: Client) -> list[int]:
    return [reply.xid for reply in client.replies()]


# -- writes


def test_a_write_is_answered_when_its_txn_is_applied_here() -> None:
    ensemble, learner, client = held()
    learner.deaf = True
    xid = client.send(OpCode.CREATE, create("/a", b"1"))
    ensemble.leader.persist()
    assert "/a" in ensemble.leader.service.tree.nodes
    assert client.received() == []
    learner.deaf = False
    ensemble.pump()
    (reply,) = client.replies()
    assert (reply.xid, reply.path, reply.zxid) == (xid, "/a", ensemble.leader.log[-1].zxid)
    assert client.call(OpCode.GET_DATA, get("/a")).data == b"1"


def test_the_leader_gets_what_the_client_sent_and_who_it_is() -> None:
    learner = Ensemble().learner(2)
    client = learner.client(timeout_ms=5000)
    session = client.session_id
    assert session >> 56 == 2
    record = create("/a", b"1")
    xid = client.send(OpCode.CREATE, record)
    client.send(OpCode.AUTH, AuthPacket(0, "digest", b"super:test"), xid=-4)
    client.send(OpCode.SYNC, SYNC)
    client.send(OpCode.CLOSE_SESSION)
    ip = (Id("ip", "127.0.0.1"),)
    forwarded = learner.forwarded
    assert forwarded[:2] == [
        ("request", session, 0, OpCode.CREATE_SESSION, timeout(5000), None),
        ("request", session, xid, OpCode.CREATE, encode(record), ip),
    ]
    assert forwarded[2][:5] == ("request", session, xid + 1, OpCode.SYNC, encode(SYNC))
    assert {id_.scheme for id_ in forwarded[2][5]} == {"ip", "digest", "super"}
    assert forwarded[3][:5] == ("request", session, xid + 2, OpCode.CLOSE_SESSION, b"")
    assert client.closed


def test_a_refused_write_has_the_zxid_of_its_error_txn() -> None:
    ensemble = Ensemble()
    client = ensemble.learner(2).client()
    reply = client.call(OpCode.DELETE, delete("/no"))
    assert (reply.err, reply.body) == (ErrorCode.NONODE, b"")
    assert reply.zxid == ensemble.leader.log[-1].zxid
    assert ensemble.leader.log[-1].type == OpCode.ERROR


@pytest.mark.parametrize(
    ("op", "record"),
    [(OpCode.CREATE, b"\0"), (OpCode.SET_DATA, b""), (OpCode.MULTI, b"\xff"), (OpCode.RECONFIG, b"12")],
)
def test_a_write_that_cannot_be_read_is_answered(op: int, record: bytes) -> None:
    """Without a txn the client would wait for ever, and everything behind this request with it."""
    client = Ensemble().learner(2).client()
    assert client.call(op, record).err in (ErrorCode.MARSHALLINGERROR, ErrorCode.RECONFIGDISABLED)
    assert client.call(OpCode.EXISTS, ExistsRequest("/", False)).err == ErrorCode.OK


def test_a_request_waits_for_the_writes_in_front_of_it() -> None:
    ensemble, client, other = held_with(2)
    client.send(OpCode.CREATE, create("/a", b"1"))
    client.send(OpCode.GET_DATA, get("/a"))
    client.send(OpCode.PING, xid=-2)
    client.send(OpCode.SET_DATA, set_data("/a", b"2"))
    client.send(OpCode.GET_DATA, get("/a"))
    assert client.received() == []
    assert other.call(OpCode.EXISTS, ExistsRequest("/a", False)).err == ErrorCode.NONODE
    ensemble.leader.persist(1)
    ensemble.pump()
    assert xids(client) == [1, 2, -2]
    ensemble.settle()
    set_, got = client.replies()
    assert (set_.stat.version, got.data) == (1, b"2")


def test_events_of_a_txn_come_before_its_reply() -> None:
    client = Ensemble().learner(2).client()
    client.call(OpCode.EXISTS, ExistsRequest("/a", True))
    client.send(OpCode.CREATE, create("/a"))
    assert [type(message) for message in client.received()] == [Event, Reply]


def test_watchers_hear_of_writes_at_other_servers() -> None:
    ensemble = Ensemble()
    watcher, writer = ensemble.learner(2).client(), ensemble.learner(3).client()
    watcher.call(OpCode.EXISTS, ExistsRequest("/a", True))
    writer.call(OpCode.CREATE, create("/a"))
    assert watcher.events() == [(1, "/a")]


def test_a_txn_of_another_session_answers_nobody() -> None:
    ensemble, client, same_xid = held_with(3)
    client.send(OpCode.CREATE, create("/a"), xid=7)
    same_xid.send(OpCode.CREATE, create("/b"), xid=7)
    ensemble.leader.persist(1)
    ensemble.pump()
    assert ([reply.path for reply in client.replies()], same_xid.replies()) == (["/a"], [])


def test_what_servers_do_for_a_session_does_not_answer_its_requests() -> None:
    """Such txns have cxid 0, which a client may use as well."""
    ensemble = Ensemble(local_sessions_enabled=True, local_sessions_upgrading_enabled=True)
    client = ensemble.learner(2).client()
    client.send(OpCode.CREATE, create("/e", flags=1), xid=0)
    assert [(reply.xid, reply.path) for reply in client.replies()] == [(0, "/e")]
    assert [txn.type for txn in ensemble.leader.log] == [OpCode.CREATE_SESSION, OpCode.CREATE]


def test_an_expiry_does_not_answer_a_request() -> None:
    ensemble = Ensemble()
    client = ensemble.learner(2).client()
    ensemble.learner(2).mute = True
    client.send(OpCode.CREATE, create("/a"), xid=0)
    ensemble.advance(14_000)
    assert (client.received(), client.closed) == ([], True)
    ensemble.settle()
    assert ensemble.leader.log[-1].type == OpCode.ERROR, "the request came too late"


def test_old_requests_of_a_session_do_not_answer_those_of_its_next_connection() -> None:
    """Some clients count their xids from 1 on every connection."""
    ensemble, learner, again = held_up()
    assert again.connect_response is not None
    again.send(OpCode.CREATE, create("/new"), xid=1)
    again.send(OpCode.CREATE, create("/newer"), xid=3)
    commit_for_others(ensemble, again, 2)
    ensemble.settle()
    assert [(reply.xid, reply.path) for reply in again.replies()] == [(1, "/new"), (3, "/newer")]
    assert learner.service.stats.outstanding == 0


def test_each_old_request_has_one_txn_and_a_sync_has_none() -> None:
    ensemble, _, again = held_up()
    # Without the zxid from which on its own requests count, as at an observer.
    again.link.since_zxid = 0
    again.send(OpCode.CREATE, create("/new"), xid=3)
    ensemble.leader.persist(2)
    ensemble.pump()
    assert again.received() == []
    ensemble.settle()
    assert [reply.path for reply in again.replies()] == ["/new"]


def test_requests_of_the_role_before_are_none_of_this_one() -> None:
    _, learner, client = held()
    client.send(OpCode.CREATE, create("/a"))
    learner.service.links.clear()
    client.hang_up()
    assert learner.service._abandoned == {}
    assert learner.service.stats.outstanding == 0


def test_a_session_that_the_leader_could_not_make_ends_its_connection_without_a_byte() -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(2)
    learner.mute = True
    client = Client(learner)
    client.connect()
    error = ErrorTxn(ErrorCode.SYSTEMERROR)
    zxid = learner.service.tree.last_zxid + 1
    learner.service.commit(Txn.make(client.link.session_id, 0, zxid, 1, OpCode.ERROR, error, None), 0)
    learner.deliver()
    assert (client.closed, client.connect_response) == (True, None)


def test_what_is_committed_can_be_handed_on_to_other_learners() -> None:
    """ZOOKEEPER-4925: this server may lead next."""
    ensemble = Ensemble()
    ensemble.learner(2).client().call(OpCode.CREATE, create("/a"))
    for server in ensemble.servers:
        kept = server.service.database.committed_log.txns()
        assert [txn.zxid for txn in kept] == [txn.zxid for txn in ensemble.leader.log]


def test_requests_that_a_session_has_sent_elsewhere_do_not_answer_those_it_sends_here() -> None:
    """Session and xid are the same; only their zxids tell that they were proposed before the session came here."""
    ensemble, learner, client = held()
    elsewhere = ensemble.learner(3).reconnect(client)
    elsewhere.send(OpCode.CREATE, create("/there"), xid=1)
    elsewhere.send(OpCode.DELETE, delete("/none"), xid=2)
    back = learner.reconnect(elsewhere)
    back.send(OpCode.CREATE, create("/here"), xid=1)
    back.send(OpCode.CREATE, create("/here/too"), xid=2)
    commit_for_others(ensemble, back, 2)
    ensemble.settle()
    assert [(reply.xid, reply.path) for reply in back.replies()] == [(1, "/here"), (2, "/here/too")]


def test_what_an_old_connection_left_behind_does_not_hold_up_the_next_one_for_ever() -> None:
    """A leader that owes an answer is not waited for once it has answered something later."""
    ensemble, learner, client = held()
    learner.mute = True
    client.send(OpCode.CREATE, create("/lost"), xid=1)
    learner.outbox.clear()
    client.hang_up()
    learner.mute = False
    again = learner.reconnect(client)
    ensemble.leader.holding = False
    assert again.call(OpCode.CREATE, create("/a"), xid=2).path == "/a"
    assert again.call(OpCode.CREATE, create("/b"), xid=1).path == "/b"


def test_a_client_that_goes_away_while_its_session_is_made_leaves_nothing() -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(2)
    ensemble.leader.holding = True
    client = Client(learner)
    client.connect()
    client.hang_up()
    ensemble.settle()
    assert learner.service.links == {}
    assert learner.service.stats.outstanding == 0
    assert len(learner.service.sessions.committed) == 1, "it expires like any other"


def test_requests_behind_closesession_are_dropped() -> None:
    learner = Ensemble().learner(2)
    client = learner.client()
    client.send_frames(
        *[struct.pack(">ii", xid, OpCode.CLOSE_SESSION) for xid in (1, 2)],
        struct.pack(">ii", 3, OpCode.CREATE) + encode(create("/a")),
    )
    assert xids(client) == [1]
    assert client.closed
    assert "/a" not in learner.service.tree.nodes
    assert len(learner.forwarded) == 2


def test_requests_behind_closesession_are_dropped_whenever_they_come() -> None:
    """With local sessions a leader would let them write: it does not know the session any more."""
    ensemble, learner, client = held()
    client.send(OpCode.CLOSE_SESSION)
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.PING, xid=-2)
    assert learner.forwarded[-1][3] == OpCode.CLOSE_SESSION
    ensemble.settle()
    assert xids(client) == [1]
    assert client.closed
    assert learner.service.stats.stale_requests_dropped == 2


# -- syncs


def test_a_sync_is_answered_behind_everything_that_was_proposed_before() -> None:
    ensemble, client, writer = held_with(3)
    writer.send(OpCode.CREATE, create("/a", b"1"))
    client.send(OpCode.SYNC, SYNC)
    client.send(OpCode.GET_DATA, get("/a"))
    assert client.received() == []
    ensemble.settle()
    sync, got = client.replies()
    assert (sync.path, sync.zxid, got.data) == ("/", ensemble.leader.log[-1].zxid, b"1")
    assert client.server.service.stats.outstanding == 0


def test_syncs_are_answered_in_the_order_in_which_they_came() -> None:
    ensemble, first, second = held_with(2)
    learner = ensemble.learner(2)
    learner.deaf = True
    second.send(OpCode.SYNC, SYNC)
    first.send(OpCode.SYNC, SYNC)
    second.send(OpCode.SYNC, SYNC)
    assert list(learner.inbox) == [("synced",)] * 3
    seen = []
    for _ in range(3):
        learner.service.synced(learner.mono_ms)
        learner.deliver()
        seen.append((xids(first), xids(second)))
    assert seen == [([], [1]), ([1], []), ([], [2])]


def test_a_sync_of_a_connection_that_is_gone_keeps_its_place() -> None:
    """The leader answers it all the same, and says not whom."""
    ensemble, gone, stays = held_with(2)
    learner = ensemble.learner(2)
    learner.deaf = True
    gone.send(OpCode.SYNC, SYNC)
    gone.hang_up()
    stays.send(OpCode.SYNC, SYNC)
    learner.service.synced(learner.mono_ms)
    learner.deliver()
    assert stays.received() == []
    learner.service.synced(learner.mono_ms)
    learner.deliver()
    assert xids(stays) == [1]
    assert learner.service.stats.outstanding == 0


def test_sync_and_write_are_answered_in_their_order() -> None:
    ensemble, _, client = held()
    client.send(OpCode.CREATE, create("/a"))
    client.send(OpCode.SYNC, SYNC)
    client.send(OpCode.CREATE, create("/b"))
    client.send(OpCode.SYNC, SYNC)
    ensemble.leader.persist(1)
    ensemble.pump()
    assert xids(client) == [1, 2]
    ensemble.settle()
    assert xids(client) == [3, 4]


def test_answers_to_nobody_are_ignored() -> None:
    service = Ensemble().learner(2).service
    assert service.mode == "follower"
    service.synced(0)
    service.revalidated(5, True)
    service.revalidated(5, False)
    assert service.links == {}


# -- sessions


def test_a_session_comes_back_when_the_leader_says_so() -> None:
    ensemble = Ensemble()
    client = ensemble.learner(2).client()
    learner = ensemble.learner(3)
    learner.deaf = True
    again = learner.reconnect(client, timeout_ms=5000)
    assert again.connect_response is None
    learner.deaf = False
    ensemble.pump()
    assert again.connect_response == ConnectResponse(0, 5000, client.session_id, client.password, False)
    assert learner.forwarded == [("revalidate", client.session_id, 5000)]


@pytest.mark.parametrize("known", [False, True])
def test_a_session_that_the_leader_does_not_know_is_expired(known: bool) -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(3)
    client = Client(learner)
    session = 0x200000000000007
    if known:
        learner.service.sessions.committed[session] = 10_000
    client.connect(session_id=session, password=session_password(session))
    assert client.connect_response == EXPIRED
    assert client.closed


def test_a_wrong_password_is_no_business_of_the_leader_and_still_closes_the_connection_before() -> None:
    learner = Ensemble().learner(2)
    client = learner.client()
    stranger = Client(learner)
    stranger.connect(session_id=client.session_id, password=bytes(16))
    assert stranger.connect_response == EXPIRED
    assert client.closed
    assert not any(what == "revalidate" for what, *_ in learner.forwarded)


def test_the_answer_for_a_connection_that_was_replaced_goes_to_its_successor() -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(3)
    client = ensemble.learner(2).client()
    learner.deaf = True
    first = learner.reconnect(client)
    second = learner.reconnect(client)
    assert first.closed
    learner.deaf = False
    learner.receive()
    learner.deliver()
    assert second.session_id == client.session_id
    ensemble.pump()
    assert first.connect_response is None
    assert second.call(OpCode.CREATE, create("/a")).path == "/a"


def test_a_stranger_that_came_in_between_is_not_let_in_by_the_answer() -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(3)
    client = ensemble.learner(2).client()
    learner.deaf = True
    learner.reconnect(client)
    stranger = Client(learner)
    stranger.connect(session_id=client.session_id, password=b"guess")
    learner.deaf = False
    ensemble.pump()
    assert stranger.connect_response == EXPIRED
    assert learner.service.links == {}


def test_the_answer_for_a_connection_that_is_gone_is_ignored() -> None:
    ensemble = Ensemble()
    learner = ensemble.learner(3)
    learner.deaf = True
    learner.reconnect(ensemble.learner(2).client()).hang_up()
    learner.deaf = False
    ensemble.pump()
    assert learner.service.links == {}


def moved() -> tuple[Ensemble, Client]:
    """A client whose session was taken to another server; it has not noticed."""
    ensemble = Ensemble()
    client = ensemble.learner(2).client()
    client.call(OpCode.CREATE, create("/a", b"1"))
    assert ensemble.learner(3).reconnect(client).session_id == client.session_id
    return ensemble, client


@pytest.mark.parametrize(
    ("op", "record"),
    [
        (OpCode.CREATE, create("/b")),
        (OpCode.SET_DATA, set_data("/a")),
        (OpCode.DELETE, delete("/a")),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/b")), (OpCode.DELETE, delete("/a")))),
    ],
)
def test_a_write_of_a_session_that_has_moved_closes_the_connection_without_a_byte(
    op: int, record: Any
) -> None:
    ensemble, client = moved()
    assert client.call(OpCode.GET_DATA, get("/a")).data == b"1", "reads go on"
    client.send(op, record)
    client_saw = client.received()
    assert (client_saw, client.closed) == ([], True)
    assert [path for path in ensemble.leader.service.tree.nodes if path in ("/a", "/b")] == ["/a"]


def test_a_session_that_moves_back_may_write_again() -> None:
    ensemble, client = moved()
    back = ensemble.learner(2).reconnect(client)
    assert back.call(OpCode.CREATE, create("/b")).path == "/b"


def test_a_session_that_was_closed_elsewhere_ends_its_connections_without_a_byte() -> None:
    ensemble, client = moved()
    elsewhere = ensemble.learner(3).reconnect(client)
    elsewhere.send(OpCode.CLOSE_SESSION)
    assert (client.received(), client.closed) == ([], True)
    assert [reply.err for reply in elsewhere.replies()] == [0]


def test_an_expired_session_is_gone_everywhere() -> None:
    ensemble = Ensemble()
    client = ensemble.learner(2).client(timeout_ms=4000)
    watcher = ensemble.learner(3).client(timeout_ms=40_000)
    client.call(OpCode.CREATE, create("/e", flags=1))
    watcher.call(OpCode.EXISTS, ExistsRequest("/e", True))
    ensemble.learner(2).mute = True
    ensemble.advance(8000)
    assert (client.received(), client.closed) == ([], True)
    assert watcher.events() == [(2, "/e")]
    ensemble.learner(2).mute = False
    assert ensemble.learner(2).reconnect(client).connect_response == EXPIRED


def test_a_session_lives_as_long_as_its_client_is_heard_of() -> None:
    ensemble = Ensemble()
    client = ensemble.learner(2).client(timeout_ms=4000)
    for _ in range(10):
        client.call(OpCode.PING, xid=-2)
        ensemble.advance(3000)
    assert not client.closed
    ensemble.advance(8000)
    assert client.closed


def test_touched_sessions_are_reported_once_and_so_are_those_that_were_committed() -> None:
    ensemble = Ensemble()
    one, two = ensemble.learner(2).client(timeout_ms=5000), ensemble.learner(3).client(timeout_ms=6000)
    both = [(one.session_id, 5000), (two.session_id, 6000)]
    service = ensemble.learner(2).service
    assert service.take_touched() == both, "every learner reports every new session"
    assert service.take_touched() == []
    again = ensemble.learner(2).reconnect(two, timeout_ms=8000)
    again.call(OpCode.PING, xid=-2)
    assert service.take_touched() == [(two.session_id, 8000)]


def test_a_client_that_has_seen_more_is_sent_elsewhere() -> None:
    ensemble = Ensemble()
    client = Client(ensemble.learner(2))
    client.connect(last_zxid_seen=(1 << 32) + 1)
    assert client.closed
    assert client.connect_response is None


# -- low space in the own log


def test_without_space_in_the_log_writes_are_refused_in_their_turn() -> None:
    ensemble, learner, client = held()
    client.send(OpCode.CREATE, create("/a"))
    learner.service.refuse_writes = True
    client.send(OpCode.CREATE, create("/b"))
    client.send(OpCode.SYNC, SYNC)
    client.send(OpCode.CLOSE_SESSION)
    assert client.received() == []
    ensemble.settle()
    first, second, third, last = client.replies()
    assert (first.path, second.err, third.path, last.err) == ("/a", ErrorCode.SYSTEMERROR, "/", 0)
    assert "/b" not in ensemble.leader.service.tree.nodes
    new = Client(learner)
    new.connect()
    assert (new.closed, new.connect_response) == (True, None)


def test_the_writes_of_others_are_applied_all_the_same() -> None:
    ensemble = Ensemble()
    ensemble.learner(2).service.refuse_writes = True
    ensemble.learner(3).client().call(OpCode.CREATE, create("/a"))
    assert "/a" in ensemble.learner(2).service.tree.nodes


# -- the end


def test_when_the_role_ends_every_client_is_closed_without_a_byte() -> None:
    _, learner, client = held()
    client.send(OpCode.CREATE, create("/a"))
    learner.service.close()
    learner.deliver()
    assert (client.received(), client.closed) == ([], True)
    assert learner.service.stats.outstanding == 0
    late = Client(learner)
    late.connect()
    assert late.closed
