"""Which sets of servers are a quorum."""

from __future__ import annotations

from itertools import combinations

import pytest

from zkpy.core.quorum_verifier import Majority


def test_a_standalone_server_is_a_quorum_of_one() -> None:
    assert Majority(frozenset({1})).is_quorum({1})
    assert not Majority(frozenset({1})).is_quorum(set())


def test_acks_of_servers_without_a_vote_do_not_count() -> None:
    assert not Majority(frozenset({1, 2, 3})).is_quorum({1, 7, 8, 9})


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_two_quorums_always_share_a_server(count: int) -> None:
    voters = frozenset(range(count))
    quorums = [
        set(chosen)
        for size in range(count + 1)
        for chosen in combinations(sorted(voters), size)
        if Majority(voters).is_quorum(set(chosen))
    ]
    assert quorums
    assert all(one & other for one in quorums for other in quorums)


def test_a_quorum_system_without_voters_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        Majority(frozenset())
