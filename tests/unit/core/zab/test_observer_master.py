"""What a follower does for observers: the recorded conversations byte by byte, then step by step; and whom observers ask."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import Client
from tests.unit.core.zab.learner_host import (
    MEMBERS,
    Host,
    commit,
    committed,
    create,
    filler,
    packet,
    proposal,
    reconfig,
    shown,
    txns,
    zxid,
)
from tests.unit.core.zab.test_learner import LearnerGate, served
from zkpy.core.membership import Membership
from zkpy.core.passwords import session_password
from zkpy.core.zab.effects import ReadHistory
from zkpy.core.zab.learner_packets import ack, ack_epoch, learner_info, ping_reply, request, revalidate
from zkpy.core.zab.observer_master import ObserverMaster, ObserverMasters
from zkpy.core.zab.quorum_link import QuorumLink, SnapshotBody
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import (
    Id,
    QuorumPacket,
    SyncRequest,
    decode_quorum_packet,
    encode_quorum_packet,
)

if TYPE_CHECKING:
    from zkpy.core.txn import Txn

VECTORS = Path(__file__).parents[4] / "protocol" / "vectors" / "quorum-wire.json"
CAPTURES: dict[str, list[dict[str, Any]]] = {
    capture["name"]: capture["messages"]
    for capture in json.loads(VECTORS.read_text(encoding="utf-8"))["captures"]
    if capture["port"] == "observerMaster"
}
TICK_MS = 1000
PORT = 2300


class Scripted:
    """An observer that does what a test says."""

    def __init__(self, host: Host, server_id: int = 6) -> None:
        master = host.learner.observer_master
        assert master is not None
        self.master: ObserverMaster = master
        self.server_id = server_id
        self.link = QuorumLink(host.state.quorum_dirty, "observer")
        master.connected(self.link)

    def say(self, *packets: bytes) -> None:
        self.master.receive(self.link, [decode_quorum_packet(each)[0] for each in packets])

    def introduce(self, config_version: int = 0) -> None:
        self.say(learner_info(self.server_id, 0, config_version, is_observer=True))

    def synchronize(self, last_zxid: int) -> Scripted:
        """As far as live packets, with this history."""
        self.introduce()
        self.say(ack_epoch(last_zxid, -1))
        self.say(ack(zxid(1, 0)))
        self.received()
        return self

    def taken(self) -> list[bytes | SnapshotBody]:
        return self.link.take()

    def packets(self) -> list[QuorumPacket]:
        return [decode_quorum_packet(each)[0] for each in self.taken() if isinstance(each, bytes)]

    def closed(self) -> str | None:
        return self.link.closed

    def received(self) -> list[tuple[str, int]]:
        return shown(self.packets())


def following(*history: Txn, **options: Any) -> Host:
    """A follower in epoch 1 that takes observers."""
    host = Host(history=history, epoch=1, **({"observer_master_port": PORT} | options))
    host.follow(1)
    return host


def takes_observers(host: Host) -> bool:
    return host.learner.observer_master is not None


def commit_txns(host: Host, *history: Txn) -> None:
    host.receive(*committed(*history))
    host.settle()


# -- as recorded


def test_an_observer_is_synchronized_as_recorded() -> None:
    messages = CAPTURES["observer-master-sync"]
    config = next(m["decoded"]["config"] for m in messages if m["decoded"]["name"] == "NEWLEADER")
    fillers = [filler(zxid(1, counter)) for counter in range(1, 0x12)]
    host = following(*fillers, members=config, reconfig_enabled=True, snapshot_size_factor=-1)
    observer = Scripted(host)
    expected: list[bytes] = []
    for message in [*messages, {"dir": "learner", "hex": "", "decoded": {}}]:
        data = bytes.fromhex(message["hex"])
        if message["dir"].startswith("leader"):
            expected.append(data)
            continue
        sent = observer.taken()
        assert [each for each in sent if isinstance(each, bytes)] == expected
        if len(expected) == 2:
            assert isinstance(sent[1], SnapshotBody)
        expected = []
        if data:
            observer.say(data)
    assert observer.link.closed is None


def test_informs_syncs_and_revalidations_are_passed_on_as_recorded() -> None:
    inform, sync, synced, asked, answered = (
        bytes.fromhex(m["hex"]) for m in CAPTURES["observer-master-stream"]
    )
    host = following(*(filler(zxid(1, counter)) for counter in range(1, 0x12)))
    observer = Scripted(host).synchronize(zxid(1, 0x11))
    told, _ = decode_quorum_packet(inform)
    host.receive(packet(PacketType.PROPOSAL, told.zxid, told.data))
    assert observer.taken() == []
    host.receive(packet(PacketType.COMMIT, told.zxid))
    assert observer.taken() == [inform]
    host.settle()
    host.sent()
    observer.say(sync)
    assert host.taken() == sync
    host.receive(decode_quorum_packet(synced)[0])
    assert observer.taken() == [synced]
    observer.say(asked)
    assert host.taken() == asked
    host.receive(decode_quorum_packet(answered)[0])
    assert observer.taken() == [answered]


def test_a_follower_is_turned_away_as_recorded() -> None:
    (message,) = CAPTURES["follower-at-observer-master"]
    observer = Scripted(following())
    observer.say(bytes.fromhex(message["hex"]))
    assert observer.taken() == []
    assert observer.link.closed == "followers have to go to the leader"


# -- who takes observers


def test_only_a_follower_that_serves_takes_observers_and_only_where_a_port_is_set() -> None:
    host = Host(observer_master_port=PORT)
    host.discover(1)
    host.receive(packet(PacketType.DIFF, 0), packet(PacketType.NEW_LEADER, zxid(1, 0)))
    host.settle()
    assert not takes_observers(host)
    host.receive(packet(PacketType.UP_TO_DATE, -1))
    assert takes_observers(host)
    assert not takes_observers(following(observer_master_port=0))
    assert not takes_observers(following(observer=True))


def test_observers_are_told_to_go_when_the_role_ends() -> None:
    host = following()
    live, new = Scripted(host).synchronize(0), Scripted(host, 7)
    host.learner.disconnected("the leader is gone")
    assert host.learner.observer_master is None
    assert live.link.closed == new.link.closed == "this server follows no more"


# -- synchronization


def test_what_is_committed_meanwhile_follows_uptodate() -> None:
    host = following()
    commit_txns(host, *txns(1, 1, 3))
    observer = Scripted(host)
    observer.introduce()
    assert observer.received() == [("LEADER_INFO", zxid(1, 0))]
    observer.say(ack_epoch(zxid(1, 1), 1))
    behind = [(name, zxid(1, n)) for n in (2, 3) for name in ("PROPOSAL", "COMMIT")]
    assert observer.received() == [("DIFF", zxid(1, 3)), *behind, ("NEW_LEADER", zxid(1, 0))]
    commit_txns(host, create(zxid(1, 4)))
    assert observer.received() == []
    observer.say(ack(zxid(1, 0)))
    assert observer.received() == [("UP_TO_DATE", -1), ("INFORM", zxid(1, 4))]
    observer.say(ack(zxid(1, 0)))
    commit_txns(host, create(zxid(1, 5)))
    assert observer.received() == [("INFORM", zxid(1, 5))]


def test_what_is_only_proposed_is_nothing_to_observers() -> None:
    host = following()
    host.receive(proposal(create(zxid(1, 1))))
    observer = Scripted(host)
    observer.introduce()
    observer.say(ack_epoch(0, 0))
    assert observer.received() == [("LEADER_INFO", zxid(1, 0)), ("DIFF", 0), ("NEW_LEADER", zxid(1, 0))]
    observer.say(ack(zxid(1, 0)))
    host.receive(commit(create(zxid(1, 1))))
    assert observer.received() == [("UP_TO_DATE", -1), ("INFORM", zxid(1, 1))]


def test_an_observer_that_is_ahead_asks_another_server() -> None:
    """It was at a follower that had heard of more commits: nothing of that may be cut off. Later it may come again."""
    host = following()
    commit_txns(host, create(zxid(1, 1)))
    observer = Scripted(host)
    observer.introduce()
    observer.say(ack_epoch(zxid(1, 3), 1))
    assert observer.received() == [("LEADER_INFO", zxid(1, 0))]
    assert observer.closed() == "its history up to 0x100000003 is ahead of this server's"
    commit_txns(host, *txns(1, 2, 3))
    again = Scripted(host)
    again.introduce()
    again.say(ack_epoch(zxid(1, 3), 1))
    assert again.received()[1] == ("DIFF", zxid(1, 3))


def test_what_an_observer_has_of_an_earlier_epoch_and_nobody_else_has_is_cut_off() -> None:
    """It was a follower then; the leader of this epoch has begun without that."""
    host = Host(history=txns(1, 1, 2), epoch=1, observer_master_port=PORT)
    host.follow(2)
    observer = Scripted(host)
    observer.introduce()
    observer.say(ack_epoch(zxid(1, 3), 1))
    assert observer.received() == [
        ("LEADER_INFO", zxid(2, 0)),
        ("TRUNC", zxid(1, 2)),
        ("NEW_LEADER", zxid(2, 0)),
    ]


def test_what_memory_does_not_hold_is_read_from_the_log() -> None:
    history = txns(1, 1, 600)
    host = following(*history)
    observer = Scripted(host)
    observer.introduce()
    observer.say(ack_epoch(zxid(1, 2), 1))
    effect = host.state.effects.popleft()
    assert effect == ReadHistory(observer.link, zxid(1, 2), zxid(1, 101))
    commit_txns(host, create(zxid(1, 601)))
    observer.received()
    host.learner.done(effect, history[1:105], host.wall_ms, host.mono_ms)
    sent = observer.received()
    assert sent[0] == ("DIFF", zxid(1, 601))
    assert sent[1:-1] == [(name, zxid(1, n)) for n in range(3, 602) for name in ("PROPOSAL", "COMMIT")]


def test_without_a_log_that_reaches_back_it_is_the_whole_state_and_one_that_is_gone_gets_nothing() -> None:
    host = following(*txns(1, 1, 600))
    one, other = Scripted(host), Scripted(host, 7)
    for observer in (one, other):
        observer.introduce()
        observer.say(ack_epoch(zxid(1, 2), 1))
        observer.received()
    other.master.disconnected(other.link)
    for _ in range(2):
        host.learner.done(host.state.effects.popleft(), None, host.wall_ms, host.mono_ms)
    assert one.received() == [("SNAP", zxid(1, 600)), ("NEW_LEADER", zxid(1, 0))]
    assert other.taken() == []
    assert one.master.observer_count == 1


@pytest.mark.parametrize(("is_snap", "option"), [(True, "snap"), (False, "diff")])
def test_only_so_many_synchronize_at_once(is_snap: bool, option: str) -> None:
    limits: dict[str, Any] = {f"max_concurrent_{option}_syncs": 1, "snapshot_size_factor": -1}
    host = following(*txns(1, 1, 3), **limits)
    observers = [Scripted(host, server_id) for server_id in (6, 7)]
    for observer in observers:
        observer.introduce()
        observer.say(ack_epoch(0 if is_snap else zxid(1, 1), 0))
    assert observers[0].link.closed is None
    assert observers[1].link.closed == "too many observers synchronize at this moment"
    observers[0].say(ack(zxid(1, 0)))
    third = Scripted(host, 8).synchronize(0 if is_snap else zxid(1, 1))
    assert third.link.closed is None


# -- what is refused

INFO = learner_info(6, 0, 0, is_observer=True)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([ack(0)], "packet of type 3 instead of FOLLOWERINFO"),
        ([learner_info(6, 0, 9, is_observer=True)], "its configuration 0x9 is ahead of this server's"),
        ([encode_quorum_packet(packet(PacketType.OBSERVER_INFO, 0))], "its protocol is that of 3.3"),
        ([INFO, ack(0)], "packet of type 3 instead of ACKEPOCH"),
        ([INFO, ack_epoch(0, 0), ack(zxid(1, 1))], "packet of type 3 while SYNCING"),
        ([INFO, ack_epoch(0, 0), ping_reply(0, [])], "packet of type 5 while SYNCING"),
        ([INFO, ack_epoch(0, 0), ack(zxid(1, 0)), ack(zxid(1, 2))], "an observer acks 0x100000002"),
        (
            [INFO, ack_epoch(0, 0), ack(zxid(1, 0)), encode_quorum_packet(packet(PacketType.REQUEST, -1))],
            "REQUEST with 0 bytes of data",
        ),
    ],
)
def test_an_observer_that_breaks_the_protocol_is_dropped(said: list[bytes], reason: str) -> None:
    host = following()
    observer = Scripted(host)
    observer.say(*said, ping_reply(0, [(5, 5000)]))
    assert observer.link.closed == reason
    assert host.learner.over is None
    assert observer.master.observer_count == 0
    host.receive(packet(PacketType.PING, 0))
    assert host.sent_packets()[-1].data == b"", "nothing of it is taken any more"
    observer.say(ack(0))
    dropped = [values for event, values in host.state.trace if event == "learner.dropped"]
    assert [values["reason"] for values in dropped] == [reason], "nor is it looked at"


def test_packets_that_mean_nothing_are_skipped() -> None:
    """As at the leader."""
    host = following()
    observer = Scripted(host).synchronize(0)
    observer.say(encode_quorum_packet(packet(77, 0)), encode_quorum_packet(packet(PacketType.COMMIT, 5)))
    assert observer.closed() is None
    commit_txns(host, create(zxid(1, 1)))
    assert observer.received() == [("INFORM", zxid(1, 1))]


def test_one_that_waits_for_the_log_says_nothing() -> None:
    host = following(*txns(1, 1, 600))
    observer = Scripted(host)
    observer.say(INFO, ack_epoch(zxid(1, 2), 1), ping_reply(0, []))
    assert observer.link.closed == "packet of type 5 while COMPARED"


# -- live


def test_a_reconfiguration_is_passed_on_before_the_follower_leaves_its_leader() -> None:
    host = following(reconfig_enabled=True)
    observer = Scripted(host).synchronize(0)
    txn = reconfig(zxid(1, 1), MEMBERS.replace("2183", "2283"))
    host.receive(proposal(txn), packet(PacketType.COMMIT_AND_ACTIVATE, txn.zxid, (2).to_bytes(8)))
    (told,) = observer.packets()
    assert (told.type, told.zxid) == (PacketType.INFORM_AND_ACTIVATE, txn.zxid)
    assert told.data == (2).to_bytes(8) + txn.payload
    host.settle()
    assert host.learner.designated_leader == 2
    assert observer.link.closed is not None


def test_requests_go_to_the_leader_with_the_identities_of_their_clients() -> None:
    host = following()
    observer = Scripted(host).synchronize(0)
    ids = [Id("digest", "bob:x"), Id("ip", "10.0.0.1")]
    said = [
        request(0x600000000000001, 3, OpCode.CREATE, b"record", ids),
        request(0x600000000000001, 0, OpCode.CREATE_SESSION, struct.pack(">i", 5000), None),
    ]
    observer.say(*said)
    assert host.taken() == b"".join(said)


def test_the_leader_answers_syncs_in_the_order_of_asking_whoever_asked() -> None:
    host = following(*txns(1, 1, 1))
    gate, client = served(host)
    observer = Scripted(host).synchronize(host.tree.last_zxid)
    sync = request(5, 1, OpCode.SYNC, b"\0\0\0\1/", None)
    client.send(OpCode.SYNC, SyncRequest("/"), xid=7)
    observer.say(sync, sync)
    client.send(OpCode.SYNC, SyncRequest("/"), xid=8)
    answered = []
    for _ in range(4):
        host.receive(packet(PacketType.SYNC, 0))
        gate.pump()
        answered.append(([reply.xid for reply in client.replies()], observer.received()))
    assert answered == [([7], []), ([], [("SYNC", 0)]), ([], [("SYNC", 0)]), ([8], [])]


def test_an_answer_about_a_session_goes_to_whoever_asked_first_and_for_that_session() -> None:
    host = following()
    observer = Scripted(host).synchronize(0)
    observer.say(revalidate(8, 4000), revalidate(9, 5000))
    gate = LearnerGate(host)
    client = Client(gate)
    client.connect(timeout_ms=8000, session_id=99, password=session_password(99))
    host.sent()
    for session_id, valid in ((99, True), (8, False), (9, True)):
        host.receive(packet(PacketType.REVALIDATE, -1, session_id.to_bytes(8) + bytes([valid])))
    gate.pump()
    assert client.session_id == 99
    assert [(each.type, each.data) for each in observer.packets()] == [
        (PacketType.REVALIDATE, (8).to_bytes(8) + b"\0"),
        (PacketType.REVALIDATE, (9).to_bytes(8) + b"\1"),
    ]
    host.receive(packet(PacketType.PING, 0))
    assert (9).to_bytes(8) + (5000).to_bytes(4) in (host.sent_packets()[-1].data or b"")


def test_the_leader_hears_of_the_sessions_that_observers_have_heard_of() -> None:
    host = following()
    observer = Scripted(host).synchronize(0)
    observer.say(ping_reply(0, [(8, 4000), (9, 5000)]))
    host.receive(packet(PacketType.PING, 3))
    (sent,) = host.sent_packets()
    assert sent.data == b"".join(struct.pack(">qi", *entry) for entry in ((8, 4000), (9, 5000)))


# -- time


def test_observers_are_pinged_every_half_tick_from_newleader_on() -> None:
    host = following()
    commit_txns(host, create(zxid(1, 1)))
    live, syncing, new = Scripted(host).synchronize(zxid(1, 1)), Scripted(host, 7), Scripted(host, 8)
    syncing.say(INFO, ack_epoch(zxid(1, 1), 1))
    syncing.received()
    host.advance(TICK_MS)
    assert live.received() == syncing.received() == [("PING", zxid(1, 1))] * 2
    assert new.received() == []


def test_an_observer_that_is_silent_for_too_long_is_dropped() -> None:
    """InitLimit ticks until it is in sync, syncLimit ticks from then on; a piece of its snapshot counts."""
    host = following(sync_limit=5, init_limit=10)
    live, syncing, alive = Scripted(host).synchronize(0), Scripted(host, 7), Scripted(host, 8)
    syncing.say(INFO, ack_epoch(0, 0))
    for _ in range(5):
        host.advance(TICK_MS)
        host.receive(packet(PacketType.PING, 0))
    assert live.closed() is None
    host.advance(TICK_MS // 2)
    assert live.closed() == "no answer while LIVE"
    syncing.say()
    for _ in range(5):
        host.advance(TICK_MS)
        host.receive(packet(PacketType.PING, 0))
    assert alive.link.closed == "no answer while NEW"
    assert syncing.link.closed is None


# -- whom observers ask


def membership(*participants: int, version: int = 0) -> Membership:
    lines = [f"server.{n}=127.0.0.1:{2000 + n}:{3000 + n}" for n in participants]
    return Membership.from_text("\n".join([*lines, "server.9=127.0.0.1:2009:3009:observer"])).with_version(
        version
    )


def test_an_observer_goes_round_all_voters_in_an_order_of_its_own() -> None:
    orders = set()
    for seed in range(20):
        masters = ObserverMasters(random.Random(seed))
        members = membership(1, 2, 3)
        first = [masters.next(members) for _ in range(3)]
        assert sorted(first) == [1, 2, 3]
        assert masters.is_exhausted_for(members)
        assert [masters.next(members) for _ in range(3)] == first
        orders.add(tuple(first))
    assert len(orders) == 6


def test_a_new_configuration_is_a_new_round() -> None:
    masters = ObserverMasters(random.Random(1))
    before, after = membership(1, 2, 3), membership(4, 5, version=1)
    assert not masters.is_exhausted_for(before)
    assert masters.next(before) in (1, 2, 3)
    assert not masters.is_exhausted_for(after)
    assert {masters.next(after), masters.next(after)} == {4, 5}
    assert masters.is_exhausted_for(after)
