"""Order and equality of votes, and the order's properties over everything small."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from zkpy.core.membership import EnsembleView, parse_membership
from zkpy.core.zab.votes import LEAST, Vote, better, equal
from zkpy_protocol.election import Notification, ServerState

EXHAUSTIVE = [
    Vote(leader, zxid, 1, peer_epoch) for leader, zxid, peer_epoch in product(range(1, 6), (0, 1), (0, 1))
]


def test_the_epoch_counts_before_the_zxid_and_the_zxid_before_the_id() -> None:
    """§4.2; the round does not count here."""
    assert better(Vote(1, 0, 1, 2), Vote(5, 9, 9, 1), 1)
    assert better(Vote(1, 10, 1, 1), Vote(5, 9, 9, 1), 1)
    assert better(Vote(5, 9, 1, 1), Vote(4, 9, 9, 1), 1)
    assert not better(Vote(5, 9, 9, 1), Vote(5, 9, 1, 1), 1)


def test_votes_are_compared_signed() -> None:
    """An observer's vote, all of whose values are the least, beats nobody."""
    observer = Vote(LEAST, LEAST, 1, LEAST)
    assert better(Vote(1, -1, 1, 0), observer, 1)
    assert not better(observer, Vote(1, -1, 1, 0), 1)


def test_a_candidate_without_weight_is_never_better() -> None:
    """Whatever its history is."""
    assert not better(Vote(9, 1 << 60, 1, 1 << 30), Vote(1, 0, 1, 0), 0)


def test_better_is_a_strict_total_order_on_candidates() -> None:
    """Exhaustively: irreflexive, asymmetric, total, transitive. So all who know the same votes choose the same one."""
    for one in EXHAUSTIVE:
        assert not better(one, one, 1)
    for one, other in permutations(EXHAUSTIVE, 2):
        assert better(one, other, 1) != better(other, one, 1)
    for one, other, third in permutations(EXHAUSTIVE, 3):
        if better(one, other, 1) and better(other, third, 1):
            assert better(one, third, 1)


@pytest.mark.parametrize("count", range(1, 6))
def test_any_order_of_hearing_the_votes_ends_with_the_same_choice(count: int) -> None:
    """Every subset of this size of five servers, in every order, one of them without weight."""
    candidates = [Vote(server_id, zxid, 1, 1) for server_id, zxid in enumerate((3, 7, 7, 9, 1), 1)]
    weights = {1: 1, 2: 1, 3: 1, 4: 0, 5: 1}
    for heard in permutations(candidates, count):
        choice = Vote(LEAST, LEAST, 1, LEAST)
        for vote in heard:
            if better(vote, choice, weights[vote.leader]):
                choice = vote
        eligible = [vote for vote in heard if weights[vote.leader]]
        assert choice == max(
            eligible, key=lambda vote: (vote.zxid, vote.leader), default=Vote(LEAST, LEAST, 1, LEAST)
        )


@pytest.mark.parametrize("field", ["leader", "zxid", "election_epoch", "peer_epoch"])
def test_votes_of_looking_servers_are_equal_in_everything_or_not_at_all(field: str) -> None:
    """One of the two suffices."""
    values = {"leader": 1, "zxid": 2, "election_epoch": 3, "peer_epoch": 4}
    looking = Vote(**values)
    following = Vote(**values, version=2, state=ServerState.FOLLOWING)
    assert equal(looking, Vote(**values))
    assert equal(looking, following)
    assert equal(following, looking)
    values[field] += 1
    other = Vote(**values)
    assert not equal(looking, other)
    assert not equal(other, following)
    assert not equal(following, other)


def test_zookeeper_1805_established_votes_are_equal_whatever_their_zxid_and_round() -> None:
    """A server that joined late voted in another round, with the zxid that the leader had by then."""
    one = Vote(3, 0, 1, 1, 2, ServerState.FOLLOWING)
    assert equal(one, Vote(3, 0x100000005, 9, 1, 2, ServerState.LEADING))
    assert not equal(one, Vote(3, 0, 1, 2, 2, ServerState.LEADING))
    assert not equal(one, Vote(2, 0, 1, 1, 2, ServerState.FOLLOWING))


def test_zookeeper_1818_against_a_vote_without_version_only_the_leader_counts() -> None:
    """Members up to 3.4 do not refresh the peer epoch of their vote."""
    old = Vote(3, 0, 1, 0, 0, ServerState.FOLLOWING)
    new = Vote(3, 0, 1, 7, 2, ServerState.LEADING)
    assert equal(old, new)
    assert equal(new, old)
    assert not equal(old, Vote(2, 0, 1, 0, 2, ServerState.LEADING))
    assert not equal(old, Vote(3, 0, 1, 7, 0, ServerState.LEADING))


def test_equality_is_symmetric() -> None:
    """Exhaustively over states, versions and two values of everything."""
    votes = [
        Vote(leader, 0, election_epoch, peer_epoch, version, state)
        for leader, election_epoch, peer_epoch, version, state in product(
            (1, 2), (1, 2), (1, 2), (0, 2), (0, 1, 2)
        )
    ]
    for one, other in product(votes, votes):
        assert equal(one, other) == equal(other, one)


def test_a_vote_is_what_a_notification_says() -> None:
    """With its format, which equality may look at."""
    notification = Notification(ServerState.LEADING, 1, 2, 3, 4, config="version=0")
    assert Vote.of(notification) == Vote(1, 2, 3, 4, 2, ServerState.LEADING)
    assert Vote.of(notification).without_version() == Vote(1, 2, 3, 4, 0, ServerState.LEADING)


def test_a_view_gives_a_voter_of_the_last_seen_configuration_a_weight() -> None:
    """It may be elected while the reconfiguration that adds it is under way."""
    old = parse_membership({f"server.{n}": f"h:{n}:{n + 10}" for n in (1, 2, 3)})
    new = parse_membership({f"server.{n}": f"h:{n}:{n + 10}" for n in (3, 4, 5)}, 7)
    assert EnsembleView(old, new).weight(4) == 1
    assert EnsembleView(old).weight(4) == 0
