"""What a peer does between and around its roles."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

from tests.unit.core.zab.learner_host import (
    LEADER,
    MEMBERS,
    UP_TO_DATE,
    Host,
    leader_info,
    new_leader,
    packet,
    payloads,
    proposal,
    txns,
    zxid,
)
from zkpy.core.leading import LeadingService
from zkpy.core.peer import Peer
from zkpy.core.pipeline.request import Request
from zkpy.core.zab.effects import ReloadDatabase, SaveAcceptedEpoch, SaveCurrentEpoch
from zkpy.core.zab.leader import Leader
from zkpy.core.zab.learner import DIAL_TRIES_MAX, Learner
from zkpy.core.zab.learner_packets import ack, ack_epoch, learner_info
from zkpy.core.zab.quorum_link import QuorumLink
from zkpy.core.zab.votes import Vote
from zkpy_protocol.election import Notification, ServerState
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import decode_quorum_packet

if TYPE_CHECKING:
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy_protocol.records import QuorumPacket

STRANGER = Notification(ServerState.OBSERVING, 9, 0, 1, 0)


def elected(host: Host, state: int) -> Peer:
    """A peer whose election has chosen server 3."""
    peer = Peer(host.state, random.Random(1))
    peer.start(host.mono_ms)
    vote = Vote(LEADER, 0, 1, 0)
    peer.election.stand(state, vote)
    peer.election.decided = vote
    peer.notified(9, STRANGER, host.wall_ms, host.mono_ms)
    peer.election.outbox.clear()
    return peer


def following() -> tuple[Host, Peer]:
    """A peer whose election has chosen another server."""
    host = Host()
    peer = elected(host, ServerState.FOLLOWING)
    assert isinstance(peer.role, Learner)
    return host, peer


def finish(host: Host, peer: Peer, effect: Effect) -> None:
    """The disk is done."""
    result = host.disk.load() if isinstance(effect, ReloadDatabase) else host.disk.carry_out(effect)
    peer.done(effect, result, host.wall_ms, host.mono_ms)


def carry_out_all(host: Host, peer: Peer) -> list[str]:
    """The disk does all the effects it is asked for."""
    names = []
    while (effect := peer.take_effect()) is not None:
        names.append(type(effect).__name__)
        finish(host, peer, effect)
    return names


def confirm(host: Host, peer: Peer, *taken: Txn) -> None:
    """What the log took is durable."""
    host.disk.log += taken
    peer.persisted(taken[-1].zxid, host.wall_ms, host.mono_ms)


def serving_follower() -> tuple[Host, Peer, QuorumLink]:
    """A follower of epoch 1 that serves."""
    host = Host()
    peer = elected(host, ServerState.FOLLOWING)
    link = QuorumLink(host.state.quorum_dirty, "leader")
    peer.connected(link, host.wall_ms, host.mono_ms)
    for each in (leader_info(1), packet(PacketType.DIFF, 0), new_leader(1), UP_TO_DATE):
        hear(host, peer, link, each)
        carry_out_all(host, peer)
    assert peer.service.is_serving
    return host, peer, link


def hear(host: Host, peer: Peer, link: QuorumLink, *packets: QuorumPacket) -> None:
    peer.receive(link, packets, host.wall_ms, host.mono_ms)


def serving_leader() -> tuple[Host, Peer, QuorumLink]:
    """The leader of epoch 1 and its link to a follower."""
    host = Host(server_id=LEADER)
    peer = elected(host, ServerState.LEADING)
    link = QuorumLink(host.state.quorum_dirty, "follower")
    peer.connected(link, host.wall_ms, host.mono_ms)
    said = (learner_info(1, 0, 0, is_observer=False), ack_epoch(0, 0), ack(1 << 32))
    for each in said:
        hear(host, peer, link, decode_quorum_packet(each)[0])
        carry_out_all(host, peer)
    assert peer.service.is_serving
    return host, peer, link


def votes(peer: Peer) -> set[tuple[int, int, int]]:
    """State, zxid and epoch of what was sent on the election port since the last look."""
    sent = {(each.state, each.zxid, each.peer_epoch) for _, each in peer.election.outbox}
    peer.election.outbox.clear()
    return sent


def test_a_leader_that_cannot_be_reached_is_given_up() -> None:
    host, peer = following()
    for _ in range(DIAL_TRIES_MAX - 1):
        peer.dial_failed("refused", host.wall_ms, host.mono_ms)
    before = peer.wanted_leader
    peer.dial_failed("refused", host.wall_ms, host.mono_ms)
    assert (before, peer.wanted_leader) == (LEADER, None)
    assert peer.election.state == ServerState.LOOKING
    reason = "the leader cannot be reached: refused"
    assert ("role.over", {"role": "follower", "leader": LEADER, "reason": reason}) in host.state.trace


def test_a_failure_that_comes_late_ends_nothing() -> None:
    host, peer = following()
    link = QuorumLink(host.state.quorum_dirty, "leader")
    peer.connected(link, host.wall_ms, host.mono_ms)
    for _ in range(DIAL_TRIES_MAX):
        peer.dial_failed("refused", host.wall_ms, host.mono_ms)
    assert peer.election.state == ServerState.FOLLOWING
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    peer.dial_failed("refused", host.wall_ms, host.mono_ms)
    assert peer.election.state == ServerState.LOOKING


def test_who_has_no_leader_for_long_says_once_whom_it_misses() -> None:
    host = Host()
    peer = Peer(host.state, random.Random(1))
    peer.start(host.mono_ms)
    vote = Notification(ServerState.LOOKING, 2, 0, 1, 0)
    peer.notified(2, vote, host.wall_ms, host.mono_ms)
    for ms in (0, 4999, 5000, 9000):
        peer.election.decided = None
        peer.tick(host.wall_ms + ms, host.mono_ms + ms)
    said = [values for event, values in host.state.trace if event == "election.undecided"]
    assert said == [{"heard_of": [1, 2], "missing": [3], "for_ms": 5000}]
    assert host.state.trace[0] == ("election.started", {"zxid": 0, "epoch": 0})


def test_a_decision_is_told_with_the_role_it_means_and_its_time() -> None:
    host, _ = following()
    (values,) = [values for event, values in host.state.trace if event == "election.decided"]
    assert values == {"role": "follower", "leader": LEADER, "round": 1, "took_ms": 0}


# -- between two roles (§5.4)


def test_4712_4541_4502_2845_a_follower_votes_when_its_log_has_everything_and_with_that() -> None:
    """Apache before 3.9.3: the log writer of the last role still runs while the next election has begun."""
    host, peer, link = serving_follower()
    first, second = txns(1, 1, 2)
    hear(host, peer, link, proposal(first), proposal(second))
    assert payloads(peer.take_unlogged(1)) == payloads([first])
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert (votes(peer), peer.election.state) == (set(), ServerState.FOLLOWING)
    assert not peer.service.is_serving
    confirm(host, peer, first)
    assert (votes(peer), peer.election.state) == (set(), ServerState.FOLLOWING)
    assert payloads(peer.take_unlogged(9)) == payloads([second])
    peer.tick(host.wall_ms, host.mono_ms)
    assert votes(peer) == set()
    confirm(host, peer, second)
    assert votes(peer) == {(ServerState.LOOKING, zxid(1, 2), 1)}
    assert host.paths == ["/n100000001", "/n100000002"]
    assert payloads(host.state.database.committed_log.txns()) == payloads([first, second])


def test_4712_2845_a_leader_votes_when_its_log_has_everything_and_with_that() -> None:
    host, peer, link = serving_leader()
    assert isinstance(peer.service, LeadingService)
    for session_id in (8, 9):
        frame = bytes(8) + struct.pack(">i", 4000)
        request = Request(None, session_id, 0, OpCode.CREATE_SESSION, frame, (), host.mono_ms)
        peer.service.submit_remote(request, host.wall_ms)
    taken = peer.take_unlogged(9)
    assert [txn.zxid for txn in taken] == [zxid(1, 1), zxid(1, 2)]
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    for _ in range(2):
        peer.tick(host.wall_ms, host.mono_ms)
    assert peer.role is None
    assert (votes(peer), peer.election.state) == (set(), ServerState.LEADING)
    confirm(host, peer, *taken)
    assert votes(peer) == {(ServerState.LOOKING, zxid(1, 2), 1)}
    assert host.state.database.sessions == {8: 4000, 9: 4000}


def test_nobody_votes_while_an_epoch_is_on_its_way_to_the_disk() -> None:
    """It would name the old one."""
    host = Host(server_id=LEADER)
    peer = elected(host, ServerState.LEADING)
    link = QuorumLink(host.state.quorum_dirty, "follower")
    peer.connected(link, host.wall_ms, host.mono_ms)
    hear(host, peer, link, decode_quorum_packet(learner_info(1, 0, 0, is_observer=False))[0])
    carry_out_all(host, peer)
    hear(host, peer, link, decode_quorum_packet(ack_epoch(0, 0))[0])
    effect = peer.take_effect()
    assert effect == SaveCurrentEpoch(1)
    assert isinstance(peer.role, Leader)
    peer.role.close()
    peer.step(host.wall_ms, host.mono_ms)
    assert (votes(peer), peer.election.state) == (set(), ServerState.LEADING)
    finish(host, peer, effect)
    assert votes(peer) == {(ServerState.LOOKING, 0, 1)}


def test_what_a_role_only_asked_for_is_dropped_with_it() -> None:
    host = Host(server_id=LEADER)
    peer = elected(host, ServerState.LEADING)
    link = QuorumLink(host.state.quorum_dirty, "follower")
    peer.connected(link, host.wall_ms, host.mono_ms)
    hear(host, peer, link, decode_quorum_packet(learner_info(1, 4, 0, is_observer=False))[0])
    assert list(host.state.effects) == [SaveAcceptedEpoch(5)]
    assert isinstance(peer.role, Leader)
    peer.role.close()
    peer.step(host.wall_ms, host.mono_ms)
    assert votes(peer) == {(ServerState.LOOKING, 0, 0)}
    assert peer.take_effect() is None


def test_3642_after_half_a_snap_the_disk_is_read_before_the_next_vote() -> None:
    """A DIFF on top of what was received so far would make a state that nobody ever had."""
    history = txns(1, 1, 3)
    host = Host(history=history, epoch=1)
    peer = elected(host, ServerState.FOLLOWING)
    link = QuorumLink(host.state.quorum_dirty, "leader")
    peer.connected(link, host.wall_ms, host.mono_ms)
    hear(host, peer, link, leader_info(1), packet(PacketType.SNAP, zxid(1, 9)))
    assert host.paths == []
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert votes(peer) == set()
    assert carry_out_all(host, peer) == ["ReloadDatabase"]
    assert votes(peer) == {(ServerState.LOOKING, zxid(1, 3), 1)}
    assert host.paths == ["/n100000001", "/n100000002", "/n100000003"]


# -- observers and observer masters (§13)

OBSERVES = MEMBERS.replace(
    "server.1=127.0.0.1:2181:2191:participant", "server.1=127.0.0.1:2181:2191:observer"
)
OBSERVES += "\nserver.4=127.0.0.1:2184:2194:participant"


def observing(**options: Any) -> tuple[Host, Peer]:
    """An observer whose election has chosen server 3."""
    host = Host(observer=True, members=OBSERVES, **options)
    return host, elected(host, ServerState.OBSERVING)


def look_again(host: Host, peer: Peer) -> None:
    """The role ends, and another election chooses server 3."""
    for _ in range(DIAL_TRIES_MAX):
        peer.dial_failed("refused", host.wall_ms, host.mono_ms)
    host.mono_ms += 1000
    peer.wake(host.wall_ms, host.mono_ms)
    vote = Vote(LEADER, 0, 1, 0)
    peer.election.stand(ServerState.OBSERVING, vote)
    peer.election.decided = vote
    peer.notified(9, STRANGER, host.wall_ms, host.mono_ms)


def test_an_observer_without_observer_masters_goes_to_the_leader() -> None:
    _, peer = observing()
    assert (peer.wanted_leader, peer.observes_by_masters) == (LEADER, False)


def test_an_observer_goes_round_the_observer_masters_whoever_leads() -> None:
    host, peer = observing(observer_master_port=2300)
    asked = []
    for _ in range(6):
        assert peer.observes_by_masters
        asked.append(peer.wanted_leader)
        look_again(host, peer)
    assert set(asked[:3]) == {2, 3, 4}
    assert asked[3:] == asked[:3]
    assert isinstance(peer.role, Learner)
    assert peer.role.leader_id == LEADER


def test_a_follower_goes_to_the_leader_although_there_are_observer_masters() -> None:
    host = Host(observer_master_port=2300)
    peer = elected(host, ServerState.FOLLOWING)
    assert (peer.wanted_leader, peer.observes_by_masters) == (LEADER, False)


def test_observers_pause_before_they_go_to_the_leader() -> None:
    host, peer = observing(observer_reconnect_delay_ms=500)
    assert peer.role is None
    due_ms = peer.next_deadline_ms
    assert due_ms is not None
    assert host.mono_ms <= due_ms < host.mono_ms + 500
    peer.wake(host.wall_ms, due_ms - 1)
    assert peer.wanted_leader is None
    peer.wake(host.wall_ms, due_ms)
    assert peer.wanted_leader == LEADER


def test_observers_pause_when_they_have_asked_all_observer_masters() -> None:
    host, peer = observing(observer_reconnect_delay_ms=500, observer_master_port=2300)
    asked = []
    for _ in range(3):
        asked.append(peer.wanted_leader)
        look_again(host, peer)
    assert None not in asked
    assert peer.role is None
    host.mono_ms += 500
    peer.wake(host.wall_ms, host.mono_ms)
    assert peer.wanted_leader == asked[0]


def test_a_follower_takes_observers_at_their_port_only_while_it_serves() -> None:
    host = Host(observer_master_port=2300)
    peer = elected(host, ServerState.FOLLOWING)
    early = QuorumLink(host.state.quorum_dirty, "observer")
    before = peer.wants_observers
    peer.observer_connected(early, host.wall_ms, host.mono_ms)
    assert early.closed == "this server does not follow"
    leader = QuorumLink(host.state.quorum_dirty, "leader")
    peer.connected(leader, host.wall_ms, host.mono_ms)
    for each in (leader_info(1), packet(PacketType.DIFF, 0), new_leader(1), UP_TO_DATE):
        hear(host, peer, leader, each)
        carry_out_all(host, peer)
    assert (before, peer.wants_observers) == (False, True)
    observer, gone = (QuorumLink(host.state.quorum_dirty, "observer") for _ in range(2))
    for link in (observer, gone):
        peer.observer_connected(link, host.wall_ms, host.mono_ms)
        for said in (learner_info(6, 0, 0, is_observer=True), ack_epoch(0, 0)):
            hear(host, peer, link, decode_quorum_packet(said)[0])
    peer.disconnected(gone, "reset", host.wall_ms, host.mono_ms)
    assert isinstance(peer.role, Learner)
    assert peer.role.observer_master is not None
    assert peer.role.observer_master.observer_count == 1
    peer.disconnected(leader, "reset", host.wall_ms, host.mono_ms)
    assert observer.closed == "this server follows no more"


def test_1732_whoever_looks_for_a_leader_is_told_the_epoch_that_is_established() -> None:
    """Before, the vote of the election counts; nobody may know that its epoch has come to something."""
    host, peer = following()
    late = Notification(ServerState.LOOKING, 2, 0, 1, 0)
    peer.notified(2, late, host.wall_ms, host.mono_ms)
    assert votes(peer) == {(ServerState.FOLLOWING, 0, 0)}
    host, peer, _ = serving_follower()
    peer.notified(2, late, host.wall_ms, host.mono_ms)
    assert votes(peer) == {(ServerState.FOLLOWING, 0, 1)}
    host, peer, _ = serving_leader()
    peer.notified(2, late, host.wall_ms, host.mono_ms)
    assert votes(peer) == {(ServerState.LEADING, 0, 1)}
