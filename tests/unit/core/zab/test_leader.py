"""The leader's side of ZAB, step by step (quorum protocol §7.2, §7.3, §8.3 to §8.6, §9, §11, §12, §16, §17)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.unit.core.zab.led import Led, P, ScriptedLearner, created, members, z
from zkpy.core.membership import EnsembleView
from zkpy.core.zab.effects import (
    ReadHistory,
    SaveAcceptedEpoch,
    SaveCommittedConfig,
    SaveCurrentEpoch,
    SaveProposedConfig,
)
from zkpy.core.zab.leader import Phase
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.quorum_packets import encode_packet
from zkpy_protocol.records import (
    ErrorTxn,
    Id,
    LearnerInfo,
    QuorumPacket,
    ReconfigRequest,
    encode_learner_info,
    encode_quorum_packet,
    encode_reconfig_request,
)
from zkpy_protocol.txns import decode_payload

if TYPE_CHECKING:
    from zkpy.core.txn import Txn

HISTORY = [created(z(1, counter)) for counter in range(1, 7)]
SESSION = 0x200000000000001


def established(*followers: int, **options: object) -> tuple[Led, list[ScriptedLearner]]:
    led = Led(**options)  # type: ignore[arg-type]
    return led, led.establish(*followers)


# -- discovery: the epoch


def test_nobody_hears_of_the_epoch_before_a_quorum_and_the_own_disk_know_it() -> None:
    led = Led(voters=(1, 2, 3, 4, 5), history=HISTORY)
    one, two = led.learner(2).introduce(1), led.learner(3)
    assert list(led.state.effects) == []
    two.introduce(1)
    assert list(led.state.effects) == [SaveAcceptedEpoch(2)]
    assert one.received() == two.received() == []
    led.carry_out()
    assert one.received() == two.received() == [("LEADER_INFO", z(2, 0))]


def test_the_epoch_is_above_everything_that_was_accepted() -> None:
    """[T]: one follower with acceptedEpoch 4 in a fresh ensemble gives epoch 5."""
    led = Led(accepted_epoch=2)
    follower = led.learner(2).introduce(4)
    led.carry_out()
    assert follower.received() == [("LEADER_INFO", z(5, 0))]


def test_observers_and_strangers_raise_the_epoch_and_do_not_count() -> None:
    """ZOOKEEPER-2959."""
    led = Led(observers=(7,))
    observer = led.learner(7, is_observer=True).introduce(8)
    stranger = led.learner(9).introduce(5)
    voter_in_disguise = led.learner(2, is_observer=True).introduce(1)
    led.settle()
    assert led.is_in(Phase.DISCOVERY)
    led.learner(3).introduce()
    led.settle()
    for learner in (observer, stranger, voter_in_disguise):
        assert learner.received() == [("LEADER_INFO", z(9, 0))]
        learner.ack_epoch()
    led.settle()
    assert led.is_in(Phase.COMPARING), "nor do their epoch acks"


def test_whoever_comes_late_gets_the_epoch_at_once_even_if_it_has_accepted_a_later_one() -> None:
    led, _ = established(2)
    assert led.learner(3).introduce(9).received() == [("LEADER_INFO", z(1, 0))]


def test_a_connection_that_says_nothing_hears_nothing() -> None:
    led = Led()
    silent = led.learner(3)
    led.learner(2).introduce()
    led.settle()
    assert silent.received() == []
    silent.introduce()
    assert silent.received() == [("LEADER_INFO", z(1, 0))]


def test_whoever_comes_before_the_histories_are_compared_takes_part() -> None:
    led = Led(voters=(1, 2, 3, 4, 5))
    led.learner(2).introduce()
    led.learner(3).introduce()
    led.settle()
    assert led.is_in(Phase.COMPARING)
    late = led.learner(4).introduce()
    assert late.received() == [("LEADER_INFO", z(1, 0))]


def test_whoever_comes_while_newleader_is_acked_is_synchronized_at_once() -> None:
    led, _ = synchronizing(2, history=HISTORY)
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 6), 1)
    assert late.received() == [("LEADER_INFO", z(2, 0)), ("DIFF", z(1, 6)), ("NEW_LEADER", z(2, 0))]


def test_whoever_comes_while_the_epoch_is_written_waits_for_it() -> None:
    led = Led()
    led.learner(2).introduce()
    late = led.learner(3).introduce(6)
    assert late.received() == []
    led.carry_out()
    assert late.received() == [("LEADER_INFO", z(1, 0))], "the number was decided before"


def test_a_server_alone_leads_without_others() -> None:
    led = Led(voters=(1,), history=HISTORY)
    led.settle()
    assert led.disk == [SaveAcceptedEpoch(2), SaveCurrentEpoch(2)]
    assert led.leader.established_epoch == 2
    assert led.state.database.tree.last_zxid == z(2, 0)
    zxid = led.propose()
    assert led.service.proposals.last_committed == z(2, 0)
    led.settle()
    assert led.service.proposals.last_committed == zxid == z(2, 1)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (encode_packet(P.ACK, 0), "instead of FOLLOWERINFO"),
        (encode_packet(P.FOLLOWER_INFO, 0, b"1234567"), "cut short"),
        (
            encode_packet(P.FOLLOWER_INFO, z(2**31 - 1, 0), encode_learner_info(LearnerInfo(2, 65536, 0))),
            "no epoch",
        ),
        (encode_packet(P.FOLLOWER_INFO, 0, encode_learner_info(LearnerInfo(1, 65536, 0))), "id of this"),
        (encode_packet(P.FOLLOWER_INFO, 0, encode_learner_info(LearnerInfo(2, 65536, 1))), "configuration"),
    ],
)
def test_a_learner_that_introduces_itself_wrongly_is_closed(packet: bytes, reason: str) -> None:
    led = Led()
    learner = led.learner(2)
    learner.send_bytes(packet)
    assert not learner.is_open()
    assert reason in str(learner.closed)
    learner.introduce()
    assert learner.received() == [], "what comes behind is not looked at"
    led.settle()
    assert led.is_in(Phase.DISCOVERY)


def test_learners_without_a_name_do_not_replace_each_other() -> None:
    led, _ = established(2)
    anonymous = [led.learner(0), led.learner(0)]
    for learner in anonymous:
        learner.send(P.FOLLOWER_INFO, z(1, 0))
        assert learner.received() == [("NEW_LEADER", z(1, 0)), ("DIFF", z(1, 0))]
    assert [learner.closed for learner in anonymous] == [None, None]


def test_a_learner_from_before_epochs_gets_everything_behind_newleader_but_a_snapshot() -> None:
    led, _ = established(2, history=HISTORY)
    empty, behind = led.learner(0), led.learner(0)
    behind.send(P.FOLLOWER_INFO, z(1, 5))
    assert behind.received() == [
        ("NEW_LEADER", z(2, 0)),
        ("DIFF", z(1, 6)),
        ("PROPOSAL", z(1, 6)),
        ("COMMIT", z(1, 6)),
    ]
    empty.send(P.FOLLOWER_INFO, 0)
    packets = empty.packets()
    assert isinstance(packets[-1], QuorumPacket)
    assert (packets[-1].type, packets[-1].data) == (P.NEW_LEADER, None)
    assert len(packets) == 3


def test_a_learner_from_before_epochs_is_served_and_promises_nothing() -> None:
    led = Led()
    old = led.learner(2)
    old.send(P.FOLLOWER_INFO, 0, struct.pack(">q", 2))
    led.settle()
    assert led.is_in(Phase.DISCOVERY)
    three = led.learner(3).introduce()
    led.settle()
    assert led.is_in(Phase.COMPARING)
    three.ack_epoch()
    led.settle()
    old.ack_new_leader()
    assert led.is_in(Phase.SYNCHRONIZATION)
    three.ack_new_leader()
    zxid = led.propose()
    led.settle()
    old.ack(zxid)
    assert old.received() == [
        ("NEW_LEADER", z(1, 0)),
        ("DIFF", 0),
        ("UP_TO_DATE", -1),
        ("PROPOSAL", zxid),
    ]
    assert led.service.proposals.last_committed == z(1, 0)


# -- discovery: the history


def compared(led: Led, *server_ids: int) -> list[ScriptedLearner]:
    """Followers that were offered the epoch."""
    learners = [led.learner(server_id).introduce(1) for server_id in server_ids]
    led.carry_out()
    assert led.is_in(Phase.COMPARING)
    for learner in learners:
        learner.raw()
    return learners


@pytest.mark.parametrize(
    ("zxid", "current_epoch", "is_ahead"),
    [
        (z(1, 6), 1, False),
        (z(1, 5), 1, False),
        (z(1, 7), 1, True),
        (0, 2, True),
        (z(1, 9), 0, False),
        (z(1, 7), -1, False),
    ],
)
def test_whoever_is_ahead_of_the_leader_is_closed(zxid: int, current_epoch: int, is_ahead: bool) -> None:
    """Compared by current epoch first, then zxid; a learner that had accepted the epoch before is not compared."""
    led = Led(voters=(1, 2, 3, 4, 5), history=HISTORY)
    first, _ = compared(led, 2, 3)
    first.ack_epoch(zxid, current_epoch)
    assert (not first.is_open()) is is_ahead


def test_observers_are_compared_too() -> None:
    led = Led(observers=(7,), history=HISTORY)
    observer = led.learner(7, is_observer=True).introduce(1)
    compared(led, 2)
    observer.ack_epoch(z(1, 7), 1)
    assert not observer.is_open()


def test_nobody_is_compared_once_a_quorum_has_acked_the_epoch() -> None:
    led = Led(history=HISTORY)
    first, late = compared(led, 2, 3)
    first.ack_epoch(z(1, 6), 1)
    assert led.state.effects[0] == SaveCurrentEpoch(2)
    late.ack_epoch(z(1, 7), 1)
    assert late.is_open()
    led.settle()
    assert late.received()[0] == ("TRUNC", z(1, 6))


@pytest.mark.parametrize(("zxid", "current_epoch"), [(z(1, 6), -1), (-1, 0)])
def test_an_epoch_ack_that_is_no_promise_does_not_count(zxid: int, current_epoch: int) -> None:
    """[T]: with ACKEPOCH -1 from its only follower the leader times out."""
    led = Led(history=HISTORY)
    (follower,) = compared(led, 2)
    follower.ack_epoch(zxid, current_epoch)
    assert led.is_in(Phase.COMPARING)
    assert not led.state.effects


def test_no_history_is_sent_before_the_epoch_is_on_the_own_disk() -> None:
    led = Led(history=HISTORY)
    (follower,) = compared(led, 2)
    follower.ack_epoch(z(1, 6), 1)
    assert follower.received() == []
    assert led.carry_out() == SaveCurrentEpoch(2)
    assert follower.received() == [("DIFF", z(1, 6)), ("NEW_LEADER", z(2, 0))]


@pytest.mark.parametrize(
    "packet",
    [
        encode_packet(P.ACK, z(1, 1)),
        encode_packet(P.PING, 0, bytes(12)),
        encode_packet(P.ACK_EPOCH, 0),
        encode_packet(P.ACK_EPOCH, 0, b"123"),
    ],
)
def test_something_else_than_an_epoch_ack_ends_the_connection(packet: bytes) -> None:
    led = Led(history=HISTORY)
    (follower,) = compared(led, 2)
    follower.send_bytes(packet)
    assert not follower.is_open()


def test_a_learner_that_speaks_out_of_turn_is_closed() -> None:
    led = Led(voters=(1, 2, 3, 4, 5))
    follower = led.learner(2).introduce()
    follower.ack_epoch()
    assert not follower.is_open()
    led.learner(3).introduce()
    led.settle()
    assert led.is_in(Phase.COMPARING), "what it had told before still counts"


# -- giving up before it has begun


def test_it_gives_up_when_the_epoch_quorum_does_not_come_within_init_limit() -> None:
    led = Led(init_limit=5)
    led.beat(10)
    assert not led.is_over()
    led.beat()
    assert led.leader.over == "too few accepted epochs within initLimit"


def test_it_gives_up_when_the_epoch_acks_do_not_come_within_init_limit() -> None:
    led = Led(init_limit=5)
    led.beat(9)
    (follower,) = compared(led, 2)
    led.beat(10)
    follower.ack_epoch(0, -1)
    assert not led.is_over(), "each phase has its own time"
    led.beat()
    assert led.leader.over == "too few epoch acks within initLimit"


def test_it_gives_up_when_newleader_is_not_acked_within_init_limit() -> None:
    led = Led(init_limit=5)
    (follower,) = compared(led, 2)
    follower.ack_epoch()
    led.settle()
    led.beat(10)
    assert not led.is_over()
    led.beat()
    assert led.leader.over == "too few NEWLEADER acks within initLimit"
    assert not led.is_established()


def test_a_slow_disk_is_no_reason_to_give_up() -> None:
    led = Led(init_limit=5)
    led.learner(2).introduce()
    led.beat(30)
    assert not led.is_over()


@pytest.mark.parametrize(
    ("limit_ms", "beats", "is_over"), [(-1, 6, False), (5000, 5, False), (5000, 6, True)]
)
def test_a_disloyal_voter_ends_a_wait_that_takes_long_already(
    limit_ms: int, beats: int, is_over: bool
) -> None:
    """§7.3, off by default."""
    led = Led(max_time_to_wait_for_epoch_ms=limit_ms)
    led.leader.disloyal_voter = True
    led.beat(beats)
    assert (led.is_over()) is is_over


def test_a_disloyal_voter_is_too_late_once_the_epoch_is_decided() -> None:
    led = Led(max_time_to_wait_for_epoch_ms=0)
    led.learner(2).introduce()
    led.leader.disloyal_voter = True
    led.beat(2)
    assert not led.is_over()


# -- synchronization


def test_newleader_comes_behind_the_snapshot_and_what_is_in_flight() -> None:
    """ZOOKEEPER-3104."""
    led, _ = established(2, history=HISTORY)
    led.propose()
    learner = led.learner(3).introduce(2)
    learner.ack_epoch(0, -1)
    assert learner.received()[1:] == [
        ("SNAP", z(2, 0)),
        ("BODY", z(2, 0)),
        ("PROPOSAL", z(2, 1)),
        ("NEW_LEADER", z(2, 0)),
    ]


def test_proposals_go_to_every_follower_that_acked_the_epoch() -> None:
    """§16, from the TLA+ work: those that have not acked NEWLEADER included."""
    led, _ = established(2)
    late = led.learner(3).introduce(1)
    late.ack_epoch(0, -1)
    late.raw()
    zxid = led.propose()
    assert late.received() == [("PROPOSAL", zxid)]
    not_yet = led.learner(4).introduce(1)
    not_yet.raw()
    led.propose()
    assert not_yet.received() == []


def test_commits_wait_for_uptodate_and_follow_right_behind_it() -> None:
    """§17 rule 14, ZOOKEEPER-4394. Both what it got before NEWLEADER and what came later."""
    led, (follower,) = established(2)
    before = led.propose()
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 0), -1)
    after = led.propose()
    follower.ack(after)
    led.settle()
    assert led.service.proposals.last_committed == after
    assert late.received()[1:] == [
        ("DIFF", z(1, 0)),
        ("PROPOSAL", before),
        ("NEW_LEADER", z(1, 0)),
        ("PROPOSAL", after),
    ]
    late.ack_new_leader()
    assert late.received() == [("UP_TO_DATE", -1), ("COMMIT", before), ("COMMIT", after)]
    last = led.propose()
    follower.ack(last)
    led.settle()
    assert late.received() == [("PROPOSAL", last), ("COMMIT", last)]


def test_an_observer_gets_no_proposals() -> None:
    led, (follower,) = established(2, observers=(7,))
    led.propose()
    observer = led.learner(7, is_observer=True).introduce(1)
    observer.ack_epoch(z(1, 0), -1)
    assert observer.received()[1:] == [("DIFF", z(1, 0)), ("NEW_LEADER", z(1, 0))]
    zxid = led.propose()
    follower.ack(zxid)
    led.settle()
    assert observer.received() == []
    observer.ack_new_leader()
    assert observer.received() == [("UP_TO_DATE", -1), ("INFORM", z(1, 1)), ("INFORM", zxid)]


def test_a_leader_that_was_brought_up_to_date_serves_diffs_without_gaps() -> None:
    """ZOOKEEPER-4925: whoever is behind gets every txn between, of the old epoch and the new one."""
    led, (follower,) = established(2, history=HISTORY)
    for _ in range(3):
        follower.ack(led.propose())
        led.settle()
    kept = [txn.zxid for txn in led.state.database.committed_log.txns()]
    assert kept == [*(z(1, counter) for counter in range(1, 7)), z(2, 1), z(2, 2), z(2, 3)]
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 4), 1)
    sent = late.received()[1:]
    assert [zxid for name, zxid in sent if name == "PROPOSAL"] == [
        z(1, 5),
        z(1, 6),
        z(2, 1),
        z(2, 2),
        z(2, 3),
    ]


def test_what_memory_does_not_reach_is_read_from_the_log_while_others_go_on() -> None:
    led, (follower,) = established(2, history=HISTORY, committed_in_memory=2)
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 2), 1)
    (effect,) = led.state.effects
    assert effect == ReadHistory(late.link, z(1, 2), z(1, 5))
    assert late.received() == [("LEADER_INFO", z(2, 0))]
    follower.ack(led.propose())
    led.persist()
    led.read = lambda effect: [txn for txn in led.log if txn.zxid >= effect.from_zxid]
    led.carry_out()
    sent = late.received()
    assert sent[0] == ("DIFF", z(2, 1)), "decided anew: the committed log has moved on"
    assert [zxid for name, zxid in sent if name == "PROPOSAL"] == [
        z(1, 3),
        z(1, 4),
        z(1, 5),
        z(1, 6),
        z(2, 1),
    ]
    assert sent[-1] == ("NEW_LEADER", z(2, 0))


def test_a_log_that_does_not_reach_back_means_a_snapshot() -> None:
    led, _ = established(2, history=HISTORY, committed_in_memory=2)
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 2), 1)
    led.carry_out()
    assert [name for name, _ in late.received()] == ["LEADER_INFO", "SNAP", "BODY", "NEW_LEADER"]


def test_a_negative_size_factor_means_a_snapshot_at_once() -> None:
    led, _ = established(2, history=HISTORY, committed_in_memory=2, snapshot_size_factor=-1.0)
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 2), 1)
    assert not led.state.effects
    assert late.received()[1] == ("SNAP", z(2, 0))


def test_a_learner_that_is_gone_when_its_history_is_read_is_forgotten() -> None:
    led, _ = established(2, history=HISTORY, committed_in_memory=2)
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 2), 1)
    late.raw()
    led.leader.disconnected(late.link)
    led.carry_out()
    assert late.received() == []
    led.propose()
    assert late.received() == []


@pytest.mark.parametrize(("zxid", "limits"), [(0, (1, 9)), (z(1, 5), (9, 1))])
def test_observers_come_again_later_when_too_many_learners_synchronize(
    zxid: int, limits: tuple[int, int]
) -> None:
    """§8.4: snapshots and diffs are limited apart; followers are never turned away."""
    snaps, diffs = limits
    led, _ = established(
        2,
        observers=(7, 8),
        history=HISTORY,
        max_concurrent_snap_syncs=snaps,
        max_concurrent_diff_syncs=diffs,
    )
    learners = [
        led.learner(3),
        led.learner(7, is_observer=True),
        led.learner(4),
        led.learner(8, is_observer=True),
    ]
    for learner in learners[:3]:
        learner.introduce(1).ack_epoch(zxid, 1)
    assert [learner.is_open() for learner in learners[:3]] == [True, False, True]
    for learner in (learners[0], learners[2]):
        learner.ack_new_leader()
    learners[3].introduce(1).ack_epoch(zxid, 1)
    assert learners[3].is_open()


# -- NEWLEADER


def synchronizing(*server_ids: int, **options: object) -> tuple[Led, list[ScriptedLearner]]:
    """Followers that were given the history and have acked nothing."""
    led = Led(**options)  # type: ignore[arg-type]
    last = led.state.database.tree.last_zxid
    learners = [led.learner(server_id).introduce(1) for server_id in server_ids]
    led.settle()
    for learner in learners:
        learner.ack_epoch(last, last >> 32)
    led.settle()
    for learner in learners:
        learner.raw()
    assert led.is_in(Phase.SYNCHRONIZATION)
    return led, learners


def test_nobody_is_up_to_date_before_a_quorum_has_acked_newleader() -> None:
    led, (one, two, three) = synchronizing(2, 3, 4, voters=(1, 2, 3, 4, 5))
    one.ack_new_leader()
    assert one.received() == []
    assert (led.leader.service, led.leader.established_epoch) == (None, None)
    assert led.state.database.tree.last_zxid == 0
    two.ack_new_leader()
    assert led.leader.established_epoch == led.leader.epoch == 2
    assert led.state.database.tree.last_zxid == z(2, 0)
    assert one.received() == two.received() == [("UP_TO_DATE", -1)]
    assert three.received() == []
    three.ack_new_leader()
    assert three.received() == [("UP_TO_DATE", -1)]


def test_early_acks_of_other_txns_do_not_stand_in_the_way() -> None:
    """ZOOKEEPER-4685, and followers up to 3.9.2 that ack what came in a DIFF."""
    led, (follower,) = synchronizing(2, history=HISTORY)
    follower.ack(z(1, 5))
    follower.ack(z(1, 6))
    assert follower.is_open()
    assert not led.is_established()
    follower.ack_new_leader()
    assert follower.received() == [("UP_TO_DATE", -1)]


def test_an_early_ack_of_a_proposal_counts_when_newleader_is_acked() -> None:
    """Before that its currentEpoch may not be on disk, and the txn could lose an election."""
    led, _ = established(2, voters=(1, 2, 3))
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 0), -1)
    zxid = led.propose()
    led.persist()
    late.ack(zxid)
    assert led.service.proposals.last_committed == z(1, 0)
    late.raw()
    late.ack_new_leader()
    assert led.service.proposals.last_committed == zxid
    assert late.received() == [("UP_TO_DATE", -1), ("COMMIT", zxid)]


@pytest.mark.parametrize("zxid", [z(3, 0), z(1, 0), z(2, 1)])
def test_acks_of_what_was_never_sent_end_the_connection(zxid: int) -> None:
    _, (follower,) = synchronizing(2, history=HISTORY)
    follower.ack(zxid)
    assert not follower.is_open()


def test_the_ack_of_uptodate_is_ignored() -> None:
    led, (follower,) = established(2)
    follower.ack_new_leader()
    follower.ack_new_leader()
    assert follower.received() == []
    assert follower.is_open()
    assert not led.is_over()


def test_newleader_needs_the_old_and_the_new_members_when_a_reconfiguration_is_open() -> None:
    view = EnsembleView(members((1, 2, 3)), members((1, 4, 5), version=z(1, 6)))
    led, (two, four) = synchronizing(2, 4, view=view, history=HISTORY, reconfig_enabled=True)
    two.ack_new_leader()
    assert not led.is_established()
    four.ack_new_leader()
    assert led.is_established()
    assert led.state.view.committed == members((1, 4, 5), version=z(1, 6))


def test_a_leader_that_takes_no_clients_leads_all_the_same() -> None:
    led, (follower,) = established(2, leader_serves=False)
    assert not led.service.is_serving
    follower.request(SESSION, 0, OpCode.CREATE_SESSION, struct.pack(">i", 5000))
    assert follower.received() == [("PROPOSAL", z(1, 1))]
    serving, _ = established(2)
    assert serving.service.is_serving


# -- broadcast


def test_a_txn_is_committed_when_a_quorum_has_it_on_disk() -> None:
    led, (two, three) = established(2, 3)
    zxid = led.propose()
    assert two.received() == three.received() == [("PROPOSAL", zxid)]
    led.persist()
    assert led.service.proposals.last_committed == z(1, 0)
    three.ack(zxid)
    assert two.received() == three.received() == [("COMMIT", zxid)]
    assert led.state.database.tree.last_zxid == zxid


def test_the_leaders_own_disk_is_one_of_many() -> None:
    led, (two, three) = established(2, 3)
    zxid = led.propose()
    two.ack(zxid)
    assert led.service.proposals.last_committed == z(1, 0)
    three.ack(zxid)
    assert led.service.proposals.last_committed == zxid, "two followers are a quorum"
    led.persist()
    assert [name for name, _ in two.received()] == ["PROPOSAL", "COMMIT"]


def test_the_acks_of_a_connection_end_with_it() -> None:
    """A server that has logged and acked what is not committed is sent it anew, and has to ack it anew."""
    led, (two, three) = established(2, 3, voters=(1, 2, 3, 4, 5))
    committed, zxid = led.propose(), led.propose()
    led.persist()
    three.ack(committed)
    two.ack(zxid)
    assert led.service.proposals.last_committed == committed
    led.leader.disconnected(two.link)
    three.ack(zxid)
    assert led.service.proposals.last_committed == committed
    again = led.learner(2).introduce(1)
    again.ack_epoch(zxid, -1)
    assert again.received() == [
        ("LEADER_INFO", z(1, 0)),
        ("TRUNC", committed),
        ("PROPOSAL", zxid),
        ("NEW_LEADER", z(1, 0)),
    ]
    again.ack_new_leader()
    assert led.service.proposals.last_committed == committed
    again.ack(zxid)
    assert led.service.proposals.last_committed == zxid


def test_a_second_connection_of_a_server_ends_the_first_and_its_acks() -> None:
    led, (two, three) = established(2, 3, voters=(1, 2, 3, 4, 5))
    zxid = led.propose()
    led.persist()
    two.ack(zxid)
    two.raw()
    led.learner(2).introduce(1)
    assert two.closed == "the server has connected anew"
    three.ack(zxid)
    assert led.service.proposals.last_committed == z(1, 0), "the leader and server 3 only"
    two.ack(zxid)
    assert led.service.proposals.last_committed == z(1, 0)
    led.leader.disconnected(two.link)
    assert not led.is_over()


def test_an_ack_of_a_txn_that_was_not_proposed_ends_the_connection() -> None:
    led, (follower,) = established(2)
    zxid = led.propose()
    follower.ack(zxid + 1)
    assert not follower.is_open()
    led.persist()
    assert led.service.proposals.last_committed == z(1, 0)


def test_a_sync_is_answered_at_once_when_nothing_is_in_flight() -> None:
    _, (follower,) = established(2)
    follower.request(SESSION, 1, OpCode.SYNC, b"\0\0\0\1/")
    assert follower.received() == [("SYNC", 0)]


def test_a_sync_waits_for_what_was_proposed_before_it() -> None:
    led, (two, three) = established(2, 3)
    first, second = led.propose(), led.propose()
    two.request(SESSION, 1, OpCode.SYNC, b"\0\0\0\1/")
    third = led.propose()
    two.request(SESSION, 2, OpCode.SYNC, b"\0\0\0\1/")
    two.request(SESSION, 3, OpCode.SYNC, b"\0\0\0\1/")
    two.raw()
    led.persist()
    three.ack(second)
    assert two.received() == [("COMMIT", first), ("COMMIT", second), ("SYNC", 0)]
    three.ack(third)
    assert two.received() == [("COMMIT", third), ("SYNC", 0), ("SYNC", 0)]


def session_at(led: Led, follower: ScriptedLearner, session_id: int = SESSION) -> None:
    follower.request(session_id, 0, OpCode.CREATE_SESSION, struct.pack(">i", 6000))
    led.persist()
    follower.ack(led.service.last_proposed)
    follower.raw()


def error_of(follower: ScriptedLearner) -> int:
    """The error of the txn that was proposed just now."""
    (packet,) = follower.packets()
    assert isinstance(packet, QuorumPacket)
    header, record, digest = decode_payload(packet.data or b"")
    assert (header.type, digest) == (OpCode.ERROR, None)
    assert isinstance(record, ErrorTxn)
    return record.err


def test_a_request_of_a_session_that_has_moved_on_becomes_an_error_txn() -> None:
    led, (two, three) = established(2, 3)
    session_at(led, two)
    three.raw()
    three.create(SESSION, 1, "/a")
    assert error_of(three) == ErrorCode.SESSIONMOVED
    three.send(P.REVALIDATE, -1, struct.pack(">qi", SESSION, 6000))
    assert three.packets() == [QuorumPacket(P.REVALIDATE, -1, struct.pack(">q?", SESSION, True), None)]
    three.create(SESSION, 2, "/a")
    assert three.received() == [("PROPOSAL", led.service.last_proposed)]
    two.raw()
    two.create(SESSION, 3, "/b")
    assert error_of(two) == ErrorCode.SESSIONMOVED


def test_a_forwarded_check_becomes_an_error_txn() -> None:
    """ZOOKEEPER-2623: as a txn of its own it would end the log replay of every server."""
    led, (follower,) = established(2)
    session_at(led, follower)
    follower.request(SESSION, 1, OpCode.CHECK, b"\0\0\0\1/\xff\xff\xff\xff")
    assert error_of(follower) == ErrorCode.UNIMPLEMENTED


def test_acls_are_checked_with_the_identities_of_the_request() -> None:
    led, (follower,) = established(2, reconfig_enabled=True)
    session_at(led, follower)
    add = encode_reconfig_request(ReconfigRequest("server.9=h9:1:2:observer;3", None, None, -1))
    follower.request(SESSION, 1, OpCode.RECONFIG, add, [Id("ip", "127.0.0.1")])
    assert error_of(follower) == ErrorCode.NOAUTH
    follower.request(SESSION, 2, OpCode.RECONFIG, add, [Id("super", "")])
    assert follower.received() == [("PROPOSAL", led.service.last_proposed)]
    assert led.state.view.is_reconfiguring


@pytest.mark.parametrize(
    "packet",
    [
        encode_packet(P.REQUEST, -1, bytes(15)),
        encode_packet(P.REQUEST, -1),
        encode_packet(P.REQUEST, -1, struct.pack(">qii", SESSION, 0, OpCode.CREATE_SESSION) + bytes(5)),
        encode_packet(P.PING, 0, bytes(13)),
        encode_packet(P.REVALIDATE, -1, bytes(11)),
        encode_packet(P.REVALIDATE, -1),
    ],
)
def test_a_broken_packet_ends_the_connection_and_nothing_else(packet: bytes) -> None:
    led, (two, three) = established(2, 3)
    two.send_bytes(packet)
    assert not two.is_open()
    assert not led.is_over()
    assert led.service.proposals.last_proposed == z(1, 0)
    led.propose()
    assert three.received() == [("PROPOSAL", z(1, 1))]
    assert two.received() == []


def test_packets_of_unknown_types_are_skipped() -> None:
    led, (follower,) = established(2)
    follower.send(P.DIFF, 1)
    follower.send_bytes(encode_quorum_packet(QuorumPacket(77, 0, None, None)))
    assert follower.is_open()
    assert [values["type"] for values in led.traced("learner.packet_ignored")] == [P.DIFF, 77]


def test_a_learner_may_answer_a_ping_before_uptodate() -> None:
    """Pings go to whoever has NEWLEADER. There is no session yet that could be alive."""
    led, (follower,) = synchronizing(2)
    led.beat()
    assert follower.received() == [("PING", z(2, 0))]
    follower.send(P.PING, 0, struct.pack(">qi", SESSION, 6000))
    assert follower.is_open()
    follower.ack_new_leader()
    assert led.is_established()
    assert led.service.tracker.sessions == {}


def test_a_learner_serves_nobody_before_uptodate() -> None:
    _, (follower,) = synchronizing(2)
    follower.create(SESSION, 1, "/a")
    assert not follower.is_open()


def test_sessions_live_as_long_as_learners_hear_of_them() -> None:
    led, (follower,) = established(2)
    session_at(led, follower)
    led.beat(5)
    follower.raw()
    follower.send(P.PING, 0, struct.pack(">qi", SESSION, 6000))
    led.beat(6)
    assert {name for name, _ in follower.received()} == {"PING"}
    led.beat(2)
    assert ("PROPOSAL", z(1, 2)) in follower.received()
    (expiry,) = led.service.proposals.outstanding_txns()
    assert (expiry.type, expiry.client_id, expiry.cxid) == (OpCode.CLOSE_SESSION, SESSION, 0)


# -- time


def test_pings_go_every_half_tick_to_whoever_has_newleader() -> None:
    led, (one, _) = synchronizing(2, 3, voters=(1, 2, 3, 4, 5))
    waiting = led.learner(4).introduce(2)
    waiting.raw()
    led.beat()
    assert one.received() == [("PING", z(2, 0))]
    assert waiting.received() == []
    one.ack_new_leader()
    led.beat()
    assert one.received() == [("PING", z(2, 0))], "a follower that has acked waits for syncLimit only"


def test_pings_carry_the_last_proposed_zxid() -> None:
    led, (follower,) = established(2)
    zxid = led.propose()
    follower.raw()
    led.beat()
    assert follower.packets() == [QuorumPacket(P.PING, zxid, None, None)]


def test_it_steps_down_within_a_tick_without_a_quorum() -> None:
    led, (two, three) = established(2, 3, voters=(1, 2, 3, 4, 5))
    led.beat(2)
    assert not led.is_over()
    led.leader.disconnected(two.link)
    led.beat()
    assert not led.is_over(), "checked at full ticks"
    assert led.leader.follower_ids == [3]
    three.raw()
    led.service.tracker.track(SESSION, 0, led.mono_ms - 10_000)
    led.beat()
    assert led.leader.over == "no quorum is left: only servers [1, 3] are there"
    assert three.received() == [], "no PING"
    assert led.leader.pending == [], "no end of a session"
    service = led.service
    led.leader.close()
    assert three.closed == "not leading any more: no quorum is left: only servers [1, 3] are there"
    assert (service.is_serving, led.leader.service) == (False, None)


def test_nothing_happens_after_the_end() -> None:
    led, (two, three) = established(2, 3)
    zxid = led.propose()
    two.ack(zxid)
    led.leader.exhausted()
    two.raw()
    three.raw()
    three.ack(zxid)
    led.persist()
    led.beat(5)
    assert two.received() == three.received() == []
    assert led.service.proposals.last_committed == z(1, 0)
    assert [txn.zxid for txn in led.leader.pending] == [zxid]
    two.introduce()
    assert two.received() == []


def test_a_history_that_is_read_too_late_goes_nowhere() -> None:
    led, _ = established(2, history=HISTORY, committed_in_memory=2)
    late = led.learner(3).introduce(1)
    late.ack_epoch(z(1, 2), 1)
    late.raw()
    led.leader.exhausted()
    led.carry_out()
    assert late.received() == []


def test_the_rest_of_what_came_is_not_looked_at_once_it_is_over() -> None:
    led, (two, three) = established(2, 3)
    one, other = led.propose(), led.propose()
    led.service._prep.last_zxid = z(1, 0xFFFFFFFE)
    three.ack(other)
    data = struct.pack(">qiii", SESSION, 0, OpCode.CREATE_SESSION, 6000)
    packets = [QuorumPacket(P.REQUEST, -1, data, None), QuorumPacket(P.ACK, one, None, None)]
    led.leader.receive(two.link, packets, led.wall_ms, led.mono_ms)
    assert led.is_over()
    assert led.service.proposals.last_committed == z(1, 0)


def test_the_rest_of_what_came_is_not_looked_at_behind_a_broken_packet() -> None:
    led, (two, three) = established(2, 3)
    zxid = led.propose()
    three.ack(zxid)
    packets = [QuorumPacket(P.PING, 0, b"1", None), QuorumPacket(P.ACK, zxid, None, None)]
    led.leader.receive(two.link, packets, led.wall_ms, led.mono_ms)
    assert led.service.proposals.last_committed == z(1, 0)


def test_an_observer_does_not_keep_a_leader_in_office() -> None:
    led, (two,) = established(2, observers=(3,))
    led.learner(3, is_observer=True).follow(z(1, 0), accepted_epoch=1, current_epoch=-1)
    led.leader.disconnected(two.link)
    led.beat(2)
    assert led.is_over()


def test_a_follower_that_comes_back_keeps_the_leader_in_office() -> None:
    led, (two,) = established(2)
    led.leader.disconnected(two.link)
    led.learner(2).introduce(1)
    led.beat(2)
    assert not led.is_over()


def test_a_voter_that_has_promised_more_ends_an_established_epoch() -> None:
    """It refuses LEADERINFO of a smaller epoch; Apache's leaders go on without it until somebody else fails."""
    led, (two, _) = established(2, 3)
    three = led.learner(3).introduce(led.leader.epoch + 1)
    assert three.received() == [("LEADER_INFO", z(1, 0))]
    two.send(P.PING, 0, b"")
    led.beat(2)
    assert led.leader.over == "server 3 has accepted epoch 2 and cannot follow"


@pytest.mark.parametrize(
    ("server_id", "is_observer", "more"), [(4, True, 1), (4, False, 1), (3, True, 1), (3, False, 0)]
)
def test_whoever_does_not_vote_may_have_promised_what_it_likes(
    server_id: int, is_observer: bool, more: int
) -> None:
    led, _ = established(2)
    led.learner(server_id, is_observer=is_observer).introduce(led.leader.epoch + more)
    led.beat(2)
    assert not led.is_over()


def test_a_follower_that_takes_long_to_synchronize_keeps_the_leader_in_office() -> None:
    """§11.2: for initLimit and syncLimit ticks from its connection on, although it says nothing meanwhile."""
    led, (two,) = established(2, voters=(1, 2), init_limit=10, sync_limit=5)
    led.leader.disconnected(two.link)
    again = led.learner(2).introduce(1)
    again.ack_epoch(0, -1)
    led.beat(20)
    assert not led.is_over()


def test_a_silent_follower_is_closed_after_sync_limit() -> None:
    led, (two, _) = established(2, 3, sync_limit=5)
    three = led.learner(3).follow(z(1, 0), accepted_epoch=1, current_epoch=-1)
    for _ in range(10):
        led.beat()
        three.send(P.PING, z(1, 0), b"")
    assert two.is_open()
    led.beat()
    assert two.closed == "no answer while LIVE"
    assert (three.closed, led.leader.over) == (None, None)


@pytest.mark.parametrize("stage", ["NEW", "OFFERED", "SYNCING"])
def test_a_learner_that_does_not_answer_is_closed_after_init_limit(stage: str) -> None:
    led, (two,) = established(2, init_limit=6)
    learner = led.learner(3)
    if stage != "NEW":
        learner.introduce(1)
    if stage == "SYNCING":
        learner.ack_epoch(z(1, 0), -1)
    for _ in range(12):
        led.beat()
        two.send(P.PING, 0, b"")
    assert learner.is_open()
    led.beat()
    assert learner.closed == f"no answer while {stage}"


def test_a_learner_that_takes_its_snapshot_piece_by_piece_is_not_late() -> None:
    led, (two,) = established(2, init_limit=6)
    learner = led.learner(3).introduce(1)
    learner.ack_epoch(0, -1)
    for _ in range(30):
        led.beat()
        two.send(P.PING, 0, b"")
        led.leader.receive(learner.link, [], led.wall_ms, led.mono_ms)
    assert learner.is_open()


def test_a_learner_that_waits_for_the_leader_is_not_late() -> None:
    led = Led(voters=(1, 2, 3, 4, 5), init_limit=6)
    early = led.learner(2).introduce()
    led.beat(12)
    led.learner(3).introduce()
    led.settle()
    early.ack_epoch()
    led.beat(12)
    assert early.is_open()
    assert not led.is_over()


def test_a_follower_that_does_not_ack_a_proposal_is_closed_after_sync_limit() -> None:
    led, (two, three) = established(2, 3, sync_limit=5)
    led.beat(3)
    zxid = led.propose()
    three.ack(zxid)
    for _ in range(10):
        led.beat()
        two.send(P.PING, 0, b"")
        three.send(P.PING, 0, b"")
    assert two.is_open()
    two.raw()
    led.beat()
    assert two.closed == "a proposal was not acked in time"
    assert three.is_open()
    assert two.received() == [], "and gets no PING any more"


def test_without_proposals_there_is_nothing_to_ack() -> None:
    """Neither the start of the epoch nor what came before it waits for an ack."""
    led, (two,) = established(2, history=HISTORY, sync_limit=5)
    for _ in range(30):
        led.beat()
        two.send(P.PING, 0, b"")
    assert two.is_open()


def test_an_observer_acks_nothing() -> None:
    led, (two,) = established(2, observers=(7,), sync_limit=5)
    seven = led.learner(7, is_observer=True).follow(z(1, 0), accepted_epoch=1, current_epoch=-1)
    for _ in range(30):
        two.ack(led.propose())
        led.persist()
        led.beat()
        two.send(P.PING, 0, b"")
        seven.send(P.PING, 0, b"")
    assert seven.is_open()


def test_acks_that_lag_behind_are_in_time_as_long_as_each_of_them_is() -> None:
    led, (two,) = established(2, sync_limit=5)
    zxids = []
    for beat in range(40):
        zxids.append(led.propose())
        led.beat()
        two.send(P.PING, 0, b"")
        if beat >= 8:
            two.ack(zxids[beat - 8])
    assert two.is_open()


def test_committed_txns_of_a_diff_need_no_ack() -> None:
    """Followers since 3.9.3 do not ack them."""
    led, _ = established(2, history=HISTORY, sync_limit=5)
    three = led.learner(3).follow(z(1, 2), accepted_epoch=2, current_epoch=-1)
    assert three.is_open()
    for _ in range(15):
        led.beat()
        three.send(P.PING, 0, b"")
    assert three.is_open()


def test_the_last_zxid_of_an_epoch_is_never_proposed() -> None:
    """ZOOKEEPER-1277; [T]: the last txn is …fffffffe."""
    led, (follower,) = established(2)
    led.service._prep.last_zxid = z(1, 0xFFFFFFFD)
    session_at_end = 0x100000000000000
    follower.request(session_at_end, 0, OpCode.CREATE_SESSION, struct.pack(">i", 6000))
    assert follower.received() == [("PROPOSAL", z(1, 0xFFFFFFFE))]
    assert not led.is_over()
    follower.request(session_at_end + 1, 0, OpCode.CREATE_SESSION, struct.pack(">i", 6000))
    assert follower.received() == []
    assert led.leader.over == "the zxids of epoch 1 are used up"
    assert [txn.zxid for txn in led.leader.pending] == [z(1, 0xFFFFFFFE)]


# -- reconfiguration


def reconfig(led: Led, *, join: str | None = None, leave: str | None = None) -> int:
    return ask_reconfig(led, join=join, leave=leave).zxid


def ask_reconfig(led: Led, *, join: str | None = None, leave: str | None = None) -> Txn:
    led.service.tracker.track(SESSION, 60_000, led.mono_ms)
    record = encode_reconfig_request(ReconfigRequest(join, leave, None, -1))
    return led.write(OpCode.RECONFIG, record, session_id=SESSION)


def test_the_first_configuration_that_is_established_gets_a_version() -> None:
    """ZOOKEEPER-1783, §11.1."""
    led, _ = established(2, reconfig_enabled=True)
    with_version = members((1, 2, 3), version=z(1, 0))
    assert led.disk == [
        SaveAcceptedEpoch(1),
        SaveProposedConfig(with_version.text()),
        SaveCurrentEpoch(1),
    ]
    assert led.state.view.committed == with_version
    assert list(led.state.effects) == [SaveCommittedConfig(with_version.text())]
    node = led.state.database.tree.get("/zookeeper/config")
    assert node is not None
    assert (node.data, node.mzxid, node.version) == (with_version.text().encode(), z(1, 0), -1)


def test_a_static_configuration_keeps_version_0() -> None:
    led, _ = synchronizing(2)
    assert led.disk == [SaveAcceptedEpoch(2), SaveCurrentEpoch(2)]
    assert led.state.view.last_seen.version == 0


def test_a_static_configuration_is_in_the_tree_of_the_leader_too() -> None:
    led, _ = established(2)
    node = led.state.database.tree.get("/zookeeper/config")
    assert node is not None
    assert (node.data, node.mzxid, node.version) == (led.state.view.committed.text().encode(), 0, -1)


def test_a_reconfig_needs_the_old_and_the_new_members_and_so_does_what_follows() -> None:
    led, (two, three, four) = established(2, 3, 4, voters=(1, 2, 3), reconfig_enabled=True)
    led.settle()
    zxid = reconfig(led, join="server.4=h4:1:2;3", leave="2,3")
    assert led.state.view.last_seen.participants == (1, 4)
    later = led.propose()
    led.settle()
    two.ack(later)
    assert led.service.proposals.last_committed == z(1, 0), "not a quorum of {1, 4}"
    four.ack(later)
    assert led.service.proposals.last_committed == later
    data = struct.pack(">q", 1)
    assert encode_packet(P.COMMIT_AND_ACTIVATE, zxid, data) in three.raw()
    last = led.propose()
    led.settle()
    two.ack(last)
    three.ack(last)
    assert led.service.proposals.last_committed == later
    four.ack(last)
    assert led.service.proposals.last_committed == last
    assert not led.is_over()


def test_a_reconfig_counts_as_persisted_here_when_the_configuration_is_on_disk_as_well() -> None:
    led, (two,) = established(2, reconfig_enabled=True)
    led.settle()
    before = led.propose()
    zxid = reconfig(led, join="server.9=h9:1:2:observer;3")
    later = led.propose()
    two.ack(later)
    led.persist()
    assert led.service.proposals.last_committed == before
    assert isinstance(led.carry_out(), SaveProposedConfig)
    assert led.service.proposals.last_committed == later
    assert led.state.view.committed.version == zxid
    assert isinstance(led.carry_out(), SaveCommittedConfig)


@pytest.mark.parametrize(
    ("stage", "error"), [("gone", ErrorCode.NEWCONFIGNOQUORUM), ("syncing", ErrorCode.NEWCONFIGNOQUORUM)]
)
def test_a_reconfig_needs_a_quorum_of_the_new_members_in_sync(stage: str, error: int) -> None:
    led, _ = established(2, reconfig_enabled=True)
    led.settle()
    if stage == "syncing":
        led.learner(4).introduce(1).ack_epoch(z(1, 0), -1)
    txn = ask_reconfig(led, join="server.4=h4:1:2;3", leave="2,3")
    assert txn.record == ErrorTxn(error)
    assert not led.state.view.is_reconfiguring


def test_who_joins_during_a_reconfig_is_told_what_is_committed() -> None:
    led, _ = established(2, reconfig_enabled=True)
    led.settle()
    committed = led.state.view.committed
    reconfig(led, join="server.9=h9:1:2:observer;3")
    three = led.learner(3)
    three.introduce(1).ack_epoch(z(1, 0), -1)
    assert encode_packet(P.NEW_LEADER, z(1, 0), committed.text().encode()) in three.raw()
    assert led.state.view.last_seen.version > committed.version


def test_one_reconfig_at_a_time() -> None:
    led, _ = established(2, reconfig_enabled=True)
    led.settle()
    reconfig(led, join="server.9=h9:1:2:observer;3")
    second = ask_reconfig(led, join="server.8=h8:1:2:observer;3")
    assert second.record == ErrorTxn(ErrorCode.RECONFIGINPROGRESS)


@pytest.mark.parametrize("change", [{"leave": "1"}, {"join": "server.1=elsewhere:1:2;3"}])
def test_a_leader_that_cannot_go_on_hands_over_to_the_best_follower(change: dict[str, str]) -> None:
    """§12: the new voter that has acked most; nothing behind the reconfig is committed by the old leader."""
    led, (two, three) = established(2, 3, reconfig_enabled=True)
    led.settle()
    zxid = reconfig(led, **change)
    later = led.propose()
    led.settle()
    two.raw()
    three.ack(later)
    assert led.service.proposals.last_committed == (zxid if "join" in change else z(1, 0))
    two.ack(zxid)
    assert led.service.proposals.last_committed == zxid
    suggested = 3
    assert encode_packet(P.COMMIT_AND_ACTIVATE, zxid, struct.pack(">q", suggested)) in two.raw()
    assert led.leader.designated_leader == suggested
    two.ack(later)
    assert led.service.proposals.last_committed == zxid
    assert [txn.zxid for txn in led.leader.pending] == [later]
    assert not led.is_over(), "the followers leave, so that all of them get the message"
    led.leader.disconnected(two.link)
    led.leader.disconnected(three.link)
    led.beat(2)
    assert led.is_over()
    assert led.leader.designated_leader == suggested


def test_a_leader_that_needs_nobody_else_goes_on_wherever_it_moves() -> None:
    led, (two, _) = established(2, 3, reconfig_enabled=True, standalone_enabled=False)
    led.settle()
    zxid = reconfig(led, join="server.1=elsewhere:1:2;3", leave="2,3")
    later = led.propose()
    two.ack(later)
    led.settle()
    assert led.service.proposals.last_committed == later
    assert encode_packet(P.COMMIT_AND_ACTIVATE, zxid, struct.pack(">q", 1)) in two.raw()
    assert led.leader.designated_leader is None


def test_a_leader_that_is_not_left_goes_by_itself() -> None:
    led, (two, three) = established(2, 3, reconfig_enabled=True, sync_limit=5)
    led.settle()
    zxid = reconfig(led, leave="1")
    led.settle()
    two.ack(zxid)
    three.ack(zxid)
    for _ in range(10):
        led.beat()
        two.send(P.PING, 0, b"")
        three.send(P.PING, 0, b"")
    assert not led.is_over()
    led.beat(2)
    assert led.leader.over == "server 2 leads by the new configuration"


def test_a_leader_that_finds_itself_removed_only_completes_the_reconfig() -> None:
    """A reconfig of the last leader, found in the log: NEWLEADER commits it, another server leads by it."""
    view = EnsembleView(members((1, 2, 3)), members((2, 3), version=z(1, 6)))
    led, (two, three) = synchronizing(2, 3, view=view, history=HISTORY, reconfig_enabled=True)
    two.ack_new_leader()
    assert not led.is_established()
    three.ack_new_leader()
    assert two.received() == [("UP_TO_DATE", -1)]
    assert led.leader.designated_leader == 2
    zxid = led.propose()
    led.settle()
    two.ack(zxid)
    three.ack(zxid)
    assert led.service.proposals.last_committed == z(2, 0)
