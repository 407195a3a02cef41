"""What a member counts: sizes, elections, syncs, as its roles go through them."""

from __future__ import annotations

import random

from tests.unit.core.zab.learner_host import UP_TO_DATE, Host, leader_info, new_leader, packet
from tests.unit.core.zab.led import Led, z
from zkpy.core.peer import Peer
from zkpy.core.zab.leader import Leader
from zkpy.core.zab.quorum_stats import QuorumStats, Sizes
from zkpy.core.zab.votes import Vote
from zkpy_protocol.election import Notification, ServerState
from zkpy_protocol.quorum_packets import PacketType


def test_sizes_are_negative_before_the_first() -> None:
    sizes = Sizes()
    assert (sizes.last, sizes.min, sizes.max) == (-1, -1, -1)
    for size in (48, 90, 0, 62):
        sizes.add(size)
    assert (sizes.last, sizes.min, sizes.max) == (62, 0, 90)
    sizes.reset()
    assert (sizes.last, sizes.min, sizes.max) == (-1, -1, -1)


def test_srst_sets_everything_back_and_keeps_the_series_of_learners() -> None:
    stats = QuorumStats()
    names = [name for name in dir(stats) if not name.startswith("_") and not callable(getattr(stats, name))]
    assert len(names) > 20
    for name in names:
        value = getattr(stats, name)
        if isinstance(value, int):
            setattr(stats, name, 3)
        elif not isinstance(value, dict):
            value.add(5)
    stats.learner_queue(7).add(2)
    stats.reset()
    fresh = QuorumStats()
    for name in names:
        value, wanted = getattr(stats, name), getattr(fresh, name)
        if isinstance(value, int):
            assert value == wanted, name
        elif not isinstance(value, dict):
            assert (value.min, value.max) == (wanted.min, wanted.max), name
    assert stats.learner_queues[7].count == 0


def test_a_leader_counts_syncs_at_their_beginning_and_end() -> None:
    led = Led(observers=(4, 5))
    led.establish(2)
    stats = led.state.stats
    assert (stats.diffs, stats.inflight_diffs.count, stats.inflight_diffs.sum) == (1, 2, 1)
    first, second = led.learner(4, is_observer=True), led.learner(5, is_observer=True)
    for observer in (first, second):
        observer.introduce()
        observer.ack_epoch()
    assert (stats.snaps, stats.inflight_snaps.max, stats.inflight_snaps.count) == (2, 2, 2)
    first.ack_new_leader()
    led.leader.disconnected(second.link)
    assert (stats.inflight_snaps.count, stats.inflight_snaps.sum, stats.inflight_snaps.min) == (
        4,
        1 + 2 + 1 + 0,
        0,
    )
    led.leader.disconnected(first.link)
    assert stats.inflight_snaps.count == 4


def test_a_leader_counts_commits_and_the_time_to_their_quorum() -> None:
    led = Led()
    (follower,) = led.establish(2)
    for _ in range(3):
        led.propose()
    led.mono_ms += 17
    led.persist()
    follower.ack(z(1, 3))
    stats = led.state.stats
    assert stats.commits == 3
    assert (stats.quorum_ack_latency.count, stats.quorum_ack_latency.max) == (3, 17)
    assert led.state.parts.stats.propagation_latency.sum == 51


def test_a_new_leader_has_proposed_nothing() -> None:
    led = Led()
    sizes = led.state.stats.proposal_sizes
    sizes.add(5)
    Leader(led.state, led.wall_ms, led.mono_ms)
    assert sizes.last == -1


def test_a_learner_times_its_sync_from_the_epoch_on() -> None:
    for observer in (False, True):
        host = Host(observer=observer)
        host.advance(300)
        host.connect()
        host.receive(leader_info(1))
        host.settle()
        host.mono_ms += 40
        host.receive(packet(PacketType.DIFF, host.tree.last_zxid), new_leader(1))
        host.settle()
        host.mono_ms += 2
        host.receive(UP_TO_DATE)
        stats = host.state.stats
        used, other = stats.follower_sync, stats.observer_sync
        if observer:
            used, other = other, used
        assert (used.count, used.sum, other.count) == (1, 42, 0)


def test_a_peer_times_its_elections_and_how_long_it_does_not_serve() -> None:
    led = Led()
    peer = Peer(led.state, random.Random(1))
    stats = led.state.stats
    start_ms = led.mono_ms
    peer.start(start_ms)
    assert (stats.looking, stats.election.count) == (1, 0)
    elected = Vote(1, 0, 1, 0)
    peer.election.stand(ServerState.LEADING, elected)
    peer.election.decided = elected
    peer.notified(9, Notification(ServerState.OBSERVING, 9, 0, 1, 0), led.wall_ms, start_ms + 250)
    assert (stats.election.count, stats.election.sum) == (1, 250)
    assert isinstance(peer.role, Leader)
    led.leader = peer.role
    led.mono_ms = start_ms + 400
    led.establish(2)
    peer.step(led.wall_ms, start_ms + 400)
    assert peer.service is peer.role.service
    assert (stats.unavailable.sum, stats.leader_unavailable.sum) == (400, 400)
    peer.role.over = "the end"
    peer.step(led.wall_ms, start_ms + 1000)
    assert stats.looking == 2
    assert stats.unavailable.count == 1


def test_what_waits_for_a_learner_is_looked_at_from_its_sync_on() -> None:
    led = Led()
    led.establish(2)
    queue = led.state.stats.learner_queues[2]
    before = queue.count
    led.beat()
    led.beat()
    # The mode, NEWLEADER and LEADERINFO before; nothing, and the PING that nobody took, then.
    assert (queue.count, queue.min) == (before + 2, 0)
