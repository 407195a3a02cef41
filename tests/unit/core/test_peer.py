"""What a peer does between and around its roles."""

from __future__ import annotations

import random

from tests.unit.core.zab.learner_host import LEADER, Host
from zkpy.core.peer import Peer
from zkpy.core.zab.learner import DIAL_TRIES_MAX, Learner
from zkpy.core.zab.quorum_link import QuorumLink
from zkpy.core.zab.votes import Vote
from zkpy_protocol.election import Notification, ServerState

STRANGER = Notification(ServerState.OBSERVING, 9, 0, 1, 0)


def following() -> tuple[Host, Peer]:
    """A peer whose election has chosen another server."""
    host = Host()
    peer = Peer(host.state, random.Random(1))
    peer.start(host.mono_ms)
    vote = Vote(LEADER, 0, 1, 0)
    peer.election.stand(ServerState.FOLLOWING, vote)
    peer.election.decided = vote
    peer.notified(9, STRANGER, host.wall_ms, host.mono_ms)
    assert isinstance(peer.role, Learner)
    return host, peer


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
