"""Which sets of servers are a quorum."""

from __future__ import annotations

from itertools import chain, combinations
from typing import TYPE_CHECKING

import pytest

from zkpy.core.quorum_verifier import Hierarchical, Majority

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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


def subsets(ids: Iterable[int]) -> Iterator[tuple[int, ...]]:
    pool = sorted(ids)
    return chain.from_iterable(combinations(pool, size) for size in range(len(pool) + 1))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_majority_is_more_than_half_of_the_voters(count: int) -> None:
    voters = range(1, count + 1)
    majority = Majority(frozenset(voters))
    for acks in subsets(range(count + 3)):
        expected = sum(1 for id_ in acks if 1 <= id_ <= count) > count / 2
        assert majority.is_quorum(set(acks)) is expected


def is_quorum_by_definition(
    groups: dict[int, tuple[int, ...]], weights: dict[int, int], acks: tuple[int, ...]
) -> bool:
    """More than half (rounded down) of the weight, in more than half (rounded down) of the groups with a weight."""
    won = 0
    for members in groups.values():
        weight = sum(weights[id_] for id_ in members)
        if sum(weights[id_] for id_ in members if id_ in acks) > int(weight / 2):
            won += 1
    heavy = sum(1 for members in groups.values() if any(weights[id_] for id_ in members))
    return won > int(heavy / 2)


def partitions(ids: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    if not ids:
        yield []
        return
    first, rest = ids[0], ids[1:]
    for partition in partitions(rest):
        yield [(first,), *partition]
        for at, group in enumerate(partition):
            yield [*partition[:at], (first, *group), *partition[at + 1 :]]


def weightings(ids: tuple[int, ...], highest: int) -> Iterator[dict[int, int]]:
    if not ids:
        yield {}
        return
    for rest in weightings(ids[1:], highest):
        for weight in range(highest + 1):
            yield {ids[0]: weight, **rest}


@pytest.mark.parametrize(("count", "highest"), [(1, 3), (2, 3), (3, 3), (4, 2), (5, 1)])
def test_hierarchical_quorums_are_as_defined_for_every_grouping_and_weighting(
    count: int, highest: int
) -> None:
    ids = tuple(range(1, count + 1))
    for partition in partitions(ids):
        groups = dict(enumerate(partition))
        for weights in weightings(ids, highest):
            verifier = Hierarchical(frozenset(ids), groups, weights)
            for acks in subsets(ids):
                assert verifier.is_quorum({*acks, 99}) is is_quorum_by_definition(groups, weights, acks)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_two_hierarchical_quorums_always_share_a_server(count: int) -> None:
    ids = tuple(range(count))
    for partition in partitions(ids):
        for weights in weightings(ids, 2):
            verifier = Hierarchical(frozenset(ids), dict(enumerate(partition)), weights)
            quorums = [set(acks) for acks in subsets(ids) if verifier.is_quorum(set(acks))]
            assert all(one & other for one in quorums for other in quorums)


def test_a_weightless_server_cannot_replace_the_only_one_that_weighs_in_its_group() -> None:
    """Observed at real servers: groups {1,2,3} and {4,5} with weight.5=0."""
    verifier = Hierarchical(
        frozenset({1, 2, 3, 4, 5}), {1: (1, 2, 3), 2: (4, 5)}, {1: 1, 2: 1, 3: 1, 4: 1, 5: 0}
    )
    assert not verifier.is_quorum({1, 2, 3})
    assert verifier.is_quorum({1, 2, 3, 4})
    assert not verifier.is_quorum({1, 2, 3, 5})


def test_an_observer_in_a_group_adds_to_its_weight_but_never_acks() -> None:
    verifier = Hierarchical(frozenset({1, 2}), {1: (1, 2, 3)}, {1: 1, 2: 1, 3: 2})
    assert not verifier.is_quorum({1, 2, 3})


def test_without_any_weight_nothing_is_a_quorum() -> None:
    assert not Hierarchical(frozenset({1, 2}), {1: (1, 2)}, {1: 0, 2: 0}).is_quorum({1, 2})


@pytest.mark.parametrize("groups", [{1: (1, 2), 2: (2,)}, {1: (1,)}])
def test_groups_that_are_not_a_partition_of_the_voters_are_a_mistake(
    groups: dict[int, tuple[int, ...]],
) -> None:
    with pytest.raises(AssertionError):
        Hierarchical(frozenset({1, 2}), groups, {1: 1, 2: 1})
