"""A learner in broadcast, its deadlines, its end, its clients, and reconfigurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.local_server import Client, Gate
from tests.fakes.replies import OPEN
from tests.fakes.replies import create as create_request
from tests.unit.core.zab.learner_host import (
    LEADER,
    MEMBERS,
    UP_TO_DATE,
    Host,
    commit,
    committed,
    create,
    inform,
    leader_info,
    new_leader,
    packet,
    payloads,
    proposal,
    reconfig,
    txns,
    zxid,
)
from zkpy.core.passwords import session_password
from zkpy.core.txn import Txn
from zkpy.core.zab.learner import DIAL_TRIES_MAX
from zkpy.core.zab.quorum_link import QuorumLink
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import (
    CloseSessionTxn,
    CreateSessionTxn,
    CreateTxn,
    ErrorTxn,
    Id,
    QuorumPacket,
    SyncRequest,
)

if TYPE_CHECKING:
    from zkpy.core.service import Service


def following(**options: object) -> Host:
    host = Host(**options)  # type: ignore[arg-type]
    host.follow(1)
    return host


# -- broadcast (§9)


def test_a_proposal_is_acked_when_it_is_durable_each_by_itself_and_in_order() -> None:
    host = following()
    history = txns(1, 1, 4)
    host.receive(*map(proposal, history))
    assert host.sent() == []
    host.persist(3)
    assert host.sent() == [("ACK", txn.zxid) for txn in history[:3]]
    host.persist(1)
    assert host.sent() == [("ACK", history[3].zxid)]
    assert [txn.zxid for txn in host.learner.pending] == [txn.zxid for txn in history]
    assert host.paths == []


def test_a_commit_is_applied_even_before_the_own_disk_has_it() -> None:
    host = following()
    first, second = txns(1, 1, 2)
    host.receive(proposal(first), proposal(second), commit(first))
    assert host.paths == ["/n100000001"]
    assert [txn.zxid for txn in host.learner.pending] == [second.zxid]
    host.persist()
    assert host.sent() == [("ACK", first.zxid), ("ACK", second.zxid)]
    assert payloads(host.state.database.committed_log.txns()) == payloads([first])


def test_a_commit_that_is_not_the_next_one_stops_the_server() -> None:
    """Exit code 12, as with Apache."""
    host = following()
    first, second = txns(1, 1, 2)
    host.receive(proposal(first), proposal(second), commit(second), commit(first))
    assert host.learner.fatal == (12, "COMMIT of 0x100000002, but the next one is 0x100000001")
    assert host.over() is None
    assert not host.is_serving()
    assert host.link.closed is not None
    assert host.paths == []


def test_a_commit_with_nothing_pending_is_ignored() -> None:
    host = following()
    (first,) = txns(1, 1, 1)
    host.receive(*committed(first), commit(first))
    assert host.learner.fatal is None
    assert host.over() is None
    assert host.state.trace[-1] == ("learner.commit_ignored", {"zxid": first.zxid})


def test_a_proposal_that_the_state_holds_already_is_nothing_new() -> None:
    """§8.5: the leader goes on with what it had under way when it took the snapshot."""
    state = Host(history=txns(1, 1, 3), epoch=1).tree
    host = Host()
    host.discover(1)
    host.receive(packet(PacketType.SNAP, zxid(1, 3)))
    host.snapshot(state)
    host.receive(new_leader(1))
    host.settle()
    host.receive(UP_TO_DATE)
    host.sent()
    host.receive(proposal(create(zxid(1, 3))))
    host.settle()
    assert (host.over(), host.sent(), host.disk.log) == (None, [], [])
    assert host.state.stats.proposals_received == 1
    (next_one,) = txns(1, 4, 4)
    host.receive(proposal(next_one))
    host.settle()
    assert host.sent() == [("ACK", next_one.zxid)]


def test_a_gap_between_proposals_ends_the_role() -> None:
    """Apache goes on, without the txns it did not get."""
    host = following()
    host.receive(proposal(create(zxid(1, 1))), proposal(create(zxid(1, 3))))
    assert host.over() == "the leader left a gap: 0x100000003 does not follow 0x100000001"
    assert host.unlogged() == [zxid(1, 1)], "what was handed to the log stays there"
    assert [txn.zxid for txn in host.learner.pending] == [zxid(1, 1)]


@pytest.mark.parametrize("type_", [PacketType.UP_TO_DATE, PacketType.NEW_LEADER, PacketType.INFORM, 77])
def test_packets_that_mean_nothing_are_skipped(type_: int) -> None:
    host = following()
    host.receive(packet(type_, 5), packet(PacketType.PING, 6))
    assert host.sent() == [("PING", 6)]
    assert host.state.trace[-1] == ("learner.packet_ignored", {"type": type_, "zxid": 5})


def test_an_observer_takes_informs_only() -> None:
    host = following(observer=True)
    first, second = txns(1, 1, 2)
    host.receive(proposal(first), commit(first))
    assert host.paths == []
    host.receive(inform(first), inform(second))
    assert host.paths == ["/n100000001", "/n100000002"]
    assert host.unlogged() == [first.zxid, second.zxid]


def test_an_inform_that_comes_twice_in_broadcast_is_a_gap() -> None:
    host = following(observer=True)
    (first,) = txns(1, 1, 1)
    host.receive(inform(first), inform(first))
    assert host.over() == "the leader left a gap: 0x100000001 does not follow 0x100000001"


def test_the_established_epoch_is_known_with_the_ack_of_uptodate() -> None:
    """ZOOKEEPER-1732: the current vote's epoch is refreshed then."""
    host = Host()
    host.discover(7)
    host.receive(packet(PacketType.DIFF, 0), new_leader(7))
    host.settle()
    assert host.established_epoch() is None
    assert not host.is_serving()
    host.receive(UP_TO_DATE)
    assert host.established_epoch() == 7
    assert host.is_serving()


# -- clients (§9.5 to §10)


class LearnerGate(Gate):
    """Where clients of a learner come to."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.host = host

    @property
    def service(self) -> Service:
        service = self.host.learner.service
        assert service is not None
        return service


def committed_at(host: Host, txn: Txn) -> None:
    if host.observer:
        host.receive(inform(txn))
    else:
        host.receive(*committed(txn))


def session_txn(zxid_: int, session_id: int, timeout_ms: int = 10_000) -> Txn:
    return Txn.make(session_id, 0, zxid_, 1, OpCode.CREATE_SESSION, CreateSessionTxn(timeout_ms), None)


@pytest.mark.parametrize("observer", [False, True])
def test_a_client_is_served_by_way_of_the_leader(observer: bool) -> None:
    host = following(observer=observer)
    gate = LearnerGate(host)
    client = Client(gate, ids=[Id("digest", "u:p")])
    assert client.connect(timeout_ms=10_000) is None
    (request,) = host.sent_packets()
    session_id = client.link.session_id
    assert request == QuorumPacket(
        PacketType.REQUEST,
        -1,
        session_id.to_bytes(8) + bytes(4) + b"\xff\xff\xff\xf6" + (10_000).to_bytes(4),
        None,
    )
    committed_at(host, session_txn(zxid(1, 1), session_id))
    gate.pump()
    assert client.session_id == session_id

    client.send(OpCode.CREATE, create_request("/a", b"x"), xid=5)
    (request,) = host.sent_packets()
    assert request.authinfo == [Id("ip", "127.0.0.1"), Id("digest", "u:p")]
    assert request.data == session_id.to_bytes(8) + (5).to_bytes(4) + (1).to_bytes(4) + bytes.fromhex(
        "000000022f61 0000000178 00000001 0000001f 00000005776f726c64 00000006616e796f6e65 00000000"
    )
    record = CreateTxn("/a", b"x", OPEN, False, 1)
    committed_at(host, Txn.make(session_id, 5, zxid(1, 2), 1, OpCode.CREATE, record, None))
    gate.pump()
    (reply,) = client.replies()
    assert (reply.xid, reply.err, reply.zxid) == (5, 0, zxid(1, 2))

    client.send(OpCode.CREATE, create_request("/a"), xid=6)
    host.sent()
    refused = ErrorTxn(ErrorCode.NODEEXISTS)
    committed_at(host, Txn.make(session_id, 6, zxid(1, 3), 1, OpCode.ERROR, refused, None))
    gate.pump()
    (reply,) = client.replies()
    assert (reply.xid, reply.err) == (6, ErrorCode.NODEEXISTS)


def served(host: Host) -> tuple[LearnerGate, Client]:
    """A client with a session."""
    gate = LearnerGate(host)
    client = Client(gate)
    client.connect(timeout_ms=10_000)
    committed_at(host, session_txn(host.tree.last_zxid + 1 or zxid(1, 1), client.link.session_id))
    gate.pump()
    host.settle()
    host.sent()
    return gate, client


def test_pings_carry_the_sessions_that_were_heard_of() -> None:
    host = Host(history=txns(1, 1, 1), epoch=1)
    host.follow(1)
    ping = packet(PacketType.PING, 77)
    _, client = served(host)
    host.receive(*committed(session_txn(zxid(1, 3), 9, 4000)), ping, ping)
    first, second = host.sent_packets()
    entry = client.session_id.to_bytes(8) + (10_000).to_bytes(4)
    assert first == QuorumPacket(PacketType.PING, 77, entry + (9).to_bytes(8) + (4000).to_bytes(4), None)
    assert second == QuorumPacket(PacketType.PING, 77, b"", None)
    client.send(OpCode.PING, xid=-2)
    host.receive(ping)
    assert [each.data for each in host.sent_packets()] == [entry]


def test_syncs_are_answered_in_order() -> None:
    host = Host(history=txns(1, 1, 1), epoch=1)
    host.follow(1)
    gate, client = served(host)
    client.send(OpCode.SYNC, SyncRequest("/"), xid=7)
    client.send(OpCode.SYNC, SyncRequest("/"), xid=8)
    assert [(each.type, (each.data or b"")[12:16]) for each in host.sent_packets()] == [
        (PacketType.REQUEST, (9).to_bytes(4))
    ] * 2
    host.receive(packet(PacketType.SYNC, 0))
    gate.pump()
    assert [reply.xid for reply in client.replies()] == [7]
    host.receive(packet(PacketType.SYNC, 0))
    gate.pump()
    assert [reply.xid for reply in client.replies()] == [8]


@pytest.mark.parametrize("valid", [False, True])
def test_a_session_of_another_server_goes_on_if_the_leader_says_so(valid: bool) -> None:
    host = following()
    gate = LearnerGate(host)
    client = Client(gate)
    assert client.connect(timeout_ms=8000, session_id=99, password=session_password(99)) is None
    assert host.sent_packets() == [
        QuorumPacket(PacketType.REVALIDATE, -1, (99).to_bytes(8) + (8000).to_bytes(4), None)
    ]
    host.receive(packet(PacketType.REVALIDATE, -1, (99).to_bytes(8) + bytes([valid])))
    gate.pump()
    assert client.session_id == (99 if valid else 0)


@pytest.mark.parametrize("data", [None, b"", bytes(8), bytes(10)])
def test_a_broken_answer_about_a_session_ends_the_role(data: bytes | None) -> None:
    host = following()
    host.receive(packet(PacketType.REVALIDATE, -1, data))
    assert host.over() == f"REVALIDATE with {len(data or b'')} bytes of data"


def test_clients_lose_their_server_with_its_leader() -> None:
    host = Host(history=txns(1, 1, 1), epoch=1)
    host.follow(1)
    gate, client = served(host)
    service = host.learner.service
    assert service is not None
    host.learner.disconnected("the leader is gone")
    assert not host.is_serving()
    assert not service.is_serving
    for link in host.state.client_dirty:
        assert link.shell is client
    assert gate.host is host


def test_what_a_closed_session_had_is_what_the_leader_lists() -> None:
    """ZOOKEEPER-2355, -3145: the txn says what to delete."""
    host = following()
    created = Txn.make(5, 1, zxid(1, 2), 1, OpCode.CREATE, CreateTxn("/e", b"", OPEN, True, 1), None)
    closed = Txn.make(5, 2, zxid(1, 3), 1, OpCode.CLOSE_SESSION, CloseSessionTxn(["/e"]), None)
    host.receive(*committed(session_txn(zxid(1, 1), 5), created))
    assert "/e" in host.tree.nodes
    assert host.state.database.sessions == {5: 10_000}
    host.receive(*committed(closed))
    assert "/e" not in host.tree.nodes
    assert host.state.database.sessions == {}


# -- connecting, deadlines, the end


def test_the_leader_is_dialled_until_it_answers() -> None:
    host = Host()
    assert host.wants_connection()
    assert host.learner.leader_id == LEADER
    host.connect()
    assert not host.wants_connection()
    other = QuorumLink(host.state.quorum_dirty, "second address")
    host.learner.connected(other)
    assert other.closed is not None
    assert host.learner.link is host.link


def test_a_leader_that_refuses_connections_is_given_up_soon() -> None:
    host = Host()
    for _ in range(DIAL_TRIES_MAX - 1):
        host.learner.dial_failed("refused")
    assert host.wants_connection()
    host.learner.dial_failed("refused")
    assert not host.wants_connection()
    assert host.over() == "the leader cannot be reached: refused"


@pytest.mark.parametrize(("limit", "patience_ms"), [(0, 10_000), (3, 3000)])
def test_dialling_has_its_own_limit(limit: int, patience_ms: int) -> None:
    host = Host(connect_to_learner_master_limit=limit)
    assert host.learner.next_deadline_ms == host.mono_ms + patience_ms
    host.advance(patience_ms - 500)
    assert host.over() is None
    host.advance(500)
    assert host.over() == f"the leader was silent for {patience_ms} ms"


def test_the_leader_has_init_limit_until_the_sync_is_acked_and_sync_limit_then() -> None:
    host = Host()
    host.advance(4000)
    host.connect()
    host.advance(9500)
    assert host.over() is None
    host.receive(leader_info(1))
    host.settle()
    host.advance(9500)
    host.receive(packet(PacketType.DIFF, 0), new_leader(1))
    host.settle()
    assert host.learner.next_deadline_ms == host.mono_ms + 5000
    host.advance(4500)
    assert host.over() is None
    host.advance(500)
    assert host.over() == "the leader was silent for 5000 ms"
    assert host.link.closed == host.over()


def test_every_packet_is_a_sign_of_life() -> None:
    host = following()
    for _ in range(5):
        host.advance(4500)
        host.receive(packet(PacketType.PING, 0))
    assert host.over() is None
    host.advance(5000)
    assert host.over() is not None


def test_so_is_every_piece_of_a_snapshot() -> None:
    host = Host()
    host.discover(1)
    host.receive(packet(PacketType.SNAP, 1 << 32))
    for _ in range(5):
        host.advance(9500)
        host.receive()
    assert host.over() is None
    host.advance(10_000)
    assert host.over() == "the leader was silent for 10000 ms"


def test_nobody_times_out_while_the_own_disk_is_slow() -> None:
    host = Host()
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), new_leader(1))
    assert host.is_busy()
    host.advance(60_000)
    assert host.over() is None
    host.settle()
    assert not host.is_busy()
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.learner.next_deadline_ms == host.mono_ms + 5000


def test_nobody_times_out_while_this_server_does_not_run() -> None:
    host = following()
    host.mono_ms += 60_000
    host.learner.tick(host.wall_ms, host.mono_ms)
    assert host.over() is None
    host.advance(5000)
    assert host.over() is not None


def test_what_comes_behind_the_end_is_not_looked_at() -> None:
    host = following()
    host.learner.disconnected("gone")
    host.receive(*committed(create(zxid(1, 1))))
    host.learner.disconnected("again")
    host.learner.close()
    host.advance(60_000)
    assert host.over() == "gone"
    assert host.unlogged() == []


def test_a_snapshot_that_arrives_behind_the_end_is_not_taken() -> None:
    host = Host()
    host.discover(1)
    host.receive(packet(PacketType.SNAP, zxid(1, 3)))
    host.learner.disconnected("gone")
    host.snapshot(Host(history=txns(1, 1, 3), epoch=1).tree)
    assert host.paths == []
    assert host.asked() == []
    assert host.learner.database_lost


def test_nothing_is_acked_behind_the_end() -> None:
    """ZOOKEEPER-4537, -4409: the log is drained when the role is over."""
    host = following()
    (first,) = txns(1, 1, 1)
    host.receive(proposal(first))
    host.learner.disconnected("gone")
    host.persist()
    assert host.sent() == []
    assert [txn.zxid for txn in host.learner.pending] == [first.zxid], "ZOOKEEPER-2845: to be fast-forwarded"


def test_a_stopped_server_closes_the_connection() -> None:
    host = following()
    host.learner.close()
    assert host.link.closed == host.over() == "the role was closed"


# -- reconfiguration (§12)

WITH_OBSERVER = MEMBERS + "\nserver.4=127.0.0.1:2184:2194:observer;127.0.0.1:2174"
ONE_OBSERVES = WITH_OBSERVER.replace(
    "server.1=127.0.0.1:2181:2191:participant", "server.1=127.0.0.1:2181:2191:observer"
)


def activation(txn: Txn, leader: int, *, observer: bool = False) -> QuorumPacket:
    if observer:
        return packet(PacketType.INFORM_AND_ACTIVATE, txn.zxid, leader.to_bytes(8) + txn.payload)
    return packet(PacketType.COMMIT_AND_ACTIVATE, txn.zxid, leader.to_bytes(8))


def test_a_configuration_is_last_seen_when_proposed_and_committed_when_activated() -> None:
    host = following(reconfig_enabled=True)
    txn = reconfig(zxid(1, 1), WITH_OBSERVER)
    host.receive(proposal(txn))
    view = host.state.view
    assert (view.committed.version, view.last_seen.version) == (0, zxid(1, 1))
    assert view.is_reconfiguring
    assert host.asked() == ["SaveProposedConfig"]
    host.receive(activation(txn, LEADER))
    assert host.asked() == ["SaveProposedConfig", "SaveCommittedConfig"]
    assert host.state.view.committed.version == zxid(1, 1)
    assert not host.state.view.is_reconfiguring
    assert host.over() is None
    host.receive(activation(txn, LEADER))
    assert host.over() is None, "as a COMMIT with nothing pending"


@pytest.mark.parametrize("observer", [False, True])
def test_a_new_leader_is_followed_without_an_election(observer: bool) -> None:
    host = following(reconfig_enabled=True, observer=observer, members=ONE_OBSERVES if observer else MEMBERS)
    txn = reconfig(zxid(1, 1), host.state.view.committed.text().rpartition("\n")[0].replace("2183", "2283"))
    if observer:
        host.receive(activation(txn, 2, observer=True))
    else:
        host.receive(proposal(txn), activation(txn, 2))
    assert host.learner.designated_leader == 2
    assert host.over() is None, "its configuration is not on disk yet"
    assert host.tree.last_zxid == zxid(1, 1), "the txn is applied first"
    host.settle()
    assert host.over() == "reconfiguration from version 0 to 100000001"
    assert host.disk.configs[-1] == ("committed", host.state.view.committed.text())


def test_a_voter_that_becomes_an_observer_leaves_its_leader() -> None:
    host = following(reconfig_enabled=True)
    txn = reconfig(zxid(1, 1), ONE_OBSERVES)
    host.receive(proposal(txn), activation(txn, LEADER))
    host.settle()
    assert host.over() is not None
    assert host.learner.designated_leader == LEADER


@pytest.mark.parametrize("sync_enabled", [True, False])
def test_an_observer_that_gets_a_vote_must_have_its_state_on_disk(sync_enabled: bool) -> None:
    host = following(reconfig_enabled=True, observer=True, members=ONE_OBSERVES, sync_enabled=sync_enabled)
    txn = reconfig(zxid(1, 1), WITH_OBSERVER)
    host.receive(activation(txn, LEADER, observer=True))
    host.settle()
    assert host.learner.designated_leader == LEADER
    assert host.learner.database_lost is not sync_enabled


def test_the_same_members_under_another_version_change_nothing() -> None:
    host = following(reconfig_enabled=True)
    txn = reconfig(zxid(1, 1), MEMBERS)
    host.receive(proposal(txn), activation(txn, 2))
    host.settle()
    assert host.over() is None
    assert host.state.view.committed.version == zxid(1, 1)


def test_a_reconfiguration_in_the_history_is_activated_too() -> None:
    host = Host(reconfig_enabled=True)
    txn = reconfig(zxid(1, 1), WITH_OBSERVER)
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), proposal(txn), activation(txn, LEADER), new_leader(1))
    host.settle()
    assert host.state.view.committed.version == zxid(1, 1)
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.tree.last_zxid == zxid(1, 1)


@pytest.mark.parametrize("observer", [False, True])
def test_a_reconfiguration_that_the_snapshot_holds_is_not_activated_again(observer: bool) -> None:
    """Its leader may be another one by now, and the configuration comes with NEWLEADER."""
    host = Host(reconfig_enabled=True, observer=observer, members=ONE_OBSERVES if observer else MEMBERS)
    text = host.state.view.committed.text().rpartition("\n")[0]
    txn = reconfig(zxid(1, 1), text.replace("2183", "2283"))
    host.discover(1)
    host.receive(packet(PacketType.SNAP, zxid(1, 1)))
    host.snapshot(Host(history=txns(1, 1, 1), epoch=1).tree)
    first = [] if observer else [proposal(txn)]
    host.receive(*first, activation(txn, 2, observer=observer))
    assert (host.over(), host.learner.designated_leader, host.asked()) == (None, None, [])
    assert host.state.view.committed.version == 0
    host.receive(new_leader(1))
    host.settle()
    assert host.sent() == [("ACK", zxid(1, 0))]


def test_a_reconfiguration_that_an_observer_holds_is_not_activated_again() -> None:
    host = Host(observer=True, reconfig_enabled=True, members=ONE_OBSERVES)
    host.discover(1)
    host.receive(packet(PacketType.SNAP, zxid(1, 1)))
    host.snapshot(Host(history=txns(1, 1, 1), epoch=1).tree)
    host.receive(new_leader(1))
    host.settle()
    host.receive(UP_TO_DATE)
    host.receive(activation(reconfig(zxid(1, 1), ONE_OBSERVES.replace("2183", "2283")), 2, observer=True))
    assert (host.over(), host.asked(), host.state.view.committed.version) == (None, [], 0)
    assert host.is_serving()


@pytest.mark.parametrize("observer", [False, True])
def test_a_new_leader_in_the_history_ends_the_sync(observer: bool) -> None:
    host = Host(reconfig_enabled=True, observer=observer, members=ONE_OBSERVES if observer else MEMBERS)
    txn = reconfig(zxid(1, 1), host.state.view.committed.text().rpartition("\n")[0].replace("2183", "2283"))
    host.discover(1)
    first = [] if observer else [proposal(txn)]
    host.receive(packet(PacketType.DIFF, 0), *first, activation(txn, 2, observer=observer), new_leader(1))
    host.settle()
    assert host.learner.designated_leader == 2
    assert host.over() is not None
    assert host.disk.marked_epoch is None
    assert host.tree.last_zxid == 0


def test_the_leaders_configuration_is_last_seen_with_newleader_and_committed_with_uptodate() -> None:
    host = Host(reconfig_enabled=True)
    host.discover(1)
    text = f"{WITH_OBSERVER}\nversion=100000000"
    host.receive(packet(PacketType.DIFF, 0), new_leader(1, text))
    assert host.asked() == ["SaveProposedConfig", "MarkCurrentEpoch"]
    assert host.state.view.last_seen.version == 1 << 32
    host.settle()
    assert host.state.view.committed.version == 0
    host.sent()
    host.receive(UP_TO_DATE)
    assert host.state.view.committed.version == 1 << 32
    assert host.sent() == [("ACK", 1 << 32)]
    node = host.tree.get("/zookeeper/config")
    assert node is not None
    assert (node.data, node.mzxid, node.version) == (text.encode(), 1 << 32, -1)
    host.settle()
    assert host.disk.configs == [("proposed", text), ("committed", text)]


@pytest.mark.parametrize("observer", [False, True])
def test_a_reconfiguration_under_way_is_not_committed_by_uptodate(observer: bool) -> None:
    """An Apache leader names it in NEWLEADER. If it dies now, no other leader would take whoever has activated it."""
    members = ONE_OBSERVES if observer else MEMBERS
    host = Host(reconfig_enabled=True, observer=observer, members=members)
    host.discover(1)
    changed = members.replace("2183", "2283")
    txn = reconfig(zxid(1, 1), changed)
    first = [] if observer else [proposal(txn)]
    host.receive(packet(PacketType.DIFF, 0), *first, new_leader(1, f"{changed}\nversion={txn.zxid:x}"))
    host.settle()
    host.receive(UP_TO_DATE)
    assert host.is_serving()
    assert (host.state.view.committed.version, host.state.view.last_seen.version) == (0, txn.zxid)
    host.receive(activation(txn, LEADER, observer=observer))
    assert host.state.view.committed.version == txn.zxid


def test_a_reconfiguration_under_way_stays_the_last_seen_one_when_newleader_names_the_one_before() -> None:
    host = Host(reconfig_enabled=True)
    host.discover(1)
    txn = reconfig(zxid(1, 1), WITH_OBSERVER)
    host.receive(packet(PacketType.DIFF, 0), proposal(txn), new_leader(1, f"{MEMBERS}\nversion=100000000"))
    host.settle()
    host.receive(UP_TO_DATE)
    assert (host.state.view.committed.version, host.state.view.last_seen.version) == (1 << 32, txn.zxid)


def test_a_configuration_that_only_gets_a_version_is_in_the_tree() -> None:
    host = Host(reconfig_enabled=True)
    host.discover(1)
    text = f"{MEMBERS}\nversion=100000000"
    host.receive(packet(PacketType.DIFF, 0), new_leader(1, text))
    host.settle()
    host.receive(UP_TO_DATE)
    node = host.tree.get("/zookeeper/config")
    assert node is not None
    assert (node.data, node.mzxid) == (text.encode(), 1 << 32)
    assert host.over() is None


@pytest.mark.parametrize(
    "text",
    [
        MEMBERS.replace("2183", "2283"),
        MEMBERS.replace("server.3=127.0.0.1:2183:2193:participant", "server.3=127.0.0.1:2183:2193:observer"),
        MEMBERS.partition("\nserver.3")[0],
        MEMBERS.replace("server.1=127.0.0.1:2181:2191:participant", "server.1=127.0.0.1:2181:2191:observer"),
    ],
    ids=["leader moved", "leader observes", "leader left", "own role"],
)
def test_a_leader_whose_configuration_moves_it_is_elected_anew(text: str) -> None:
    host = Host(reconfig_enabled=True)
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), new_leader(1, f"{text}\nversion=100000000"))
    host.settle()
    host.sent()
    host.receive(UP_TO_DATE)
    host.settle()
    assert host.over() == "the leader's configuration changes the leader, or the role of this server"
    assert host.learner.designated_leader is None
    assert host.established_epoch() is None
    assert host.sent() == []


def test_a_configuration_that_is_known_changes_nothing() -> None:
    host = Host(reconfig_enabled=True, members=f"{MEMBERS}\nversion=5")
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), new_leader(1, f"{MEMBERS}\nversion=5"))
    host.settle()
    host.receive(UP_TO_DATE)
    host.settle()
    assert host.disk.configs == []
    assert host.over() is None


def test_a_proposed_configuration_that_the_next_leader_does_not_know_is_forgotten() -> None:
    host = following(reconfig_enabled=True)
    host.receive(proposal(reconfig(zxid(1, 1), WITH_OBSERVER)))
    assert host.state.view.is_reconfiguring
    again = Host(reconfig_enabled=True)
    again.state.view = host.state.view
    again.discover(2)
    again.receive(packet(PacketType.DIFF, 0), new_leader(2, f"{MEMBERS}\nversion=0"))
    assert not again.state.view.is_reconfiguring


@pytest.mark.parametrize("data", [b"server.1=nonsense", b"\xff\xfe", b"version=1"])
def test_a_configuration_that_cannot_be_read_ends_the_role(data: bytes) -> None:
    host = Host(reconfig_enabled=True)
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), packet(PacketType.NEW_LEADER, 1 << 32, data))
    assert (host.over() or "").startswith("unreadable configuration")


def test_without_reconfig_enabled_configurations_are_not_looked_at() -> None:
    """ZOOKEEPER-3829: the static file decides."""
    host = Host()
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), packet(PacketType.NEW_LEADER, 1 << 32, b"nonsense"))
    host.settle()
    txn = reconfig(zxid(1, 1), WITH_OBSERVER)
    host.receive(UP_TO_DATE, proposal(txn), activation(txn, 2))
    host.settle()
    assert host.over() is None
    assert host.state.view.last_seen.version == 0
    assert host.disk.configs == []
    assert host.tree.last_zxid == zxid(1, 1)


@pytest.mark.parametrize("observer", [False, True])
def test_an_activation_without_its_leader_ends_the_role(observer: bool) -> None:
    host = following(observer=observer, members=ONE_OBSERVES if observer else MEMBERS)
    txn = reconfig(zxid(1, 1), WITH_OBSERVER)
    if observer:
        host.receive(packet(PacketType.INFORM_AND_ACTIVATE, txn.zxid, b"\0\0"))
    else:
        host.receive(proposal(txn), packet(PacketType.COMMIT_AND_ACTIVATE, txn.zxid, b"\0\0"))
    assert host.over() is not None
