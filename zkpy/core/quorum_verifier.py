"""Which sets of servers are a quorum, as pure functions of a set of acks.

An ack of a server without a vote never counts, whoever passes it in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


class QuorumVerifier(Protocol):
    """A quorum system: the servers that vote, and which sets of them are enough."""

    @property
    def voters(self) -> frozenset[int]: ...

    def is_quorum(self, acks: AbstractSet[int]) -> bool: ...


class Majority:
    """More than half of the voters. A standalone server is a majority of one."""

    __slots__ = ("voters",)

    def __init__(self, voters: frozenset[int]) -> None:
        assert voters, "a quorum system needs a voter"
        self.voters = voters

    def is_quorum(self, acks: AbstractSet[int]) -> bool:
        """Whether the voters among `acks` are more than half of all voters."""
        return 2 * len(self.voters & acks) > len(self.voters)


class Hierarchical:
    """More than half of the weight in more than half of the groups that weigh anything.

    Halves are rounded down, as in Apache's QuorumHierarchical: a group of weight 3 is won with 2. A server that is listed
    in a group without being a voter adds to the weight of its group and can never be among the acks.
    """

    __slots__ = ("_group_of", "_group_weights", "_groups_needed", "_weights", "voters")

    def __init__(
        self, voters: frozenset[int], groups: Mapping[int, tuple[int, ...]], weights: Mapping[int, int]
    ) -> None:
        """`groups` are disjoint and hold every voter; `weights` knows every server of a group, none is negative."""
        assert voters, "a quorum system needs a voter"
        self.voters = voters
        self._weights = dict(weights)
        self._group_of = {server_id: group for group, members in groups.items() for server_id in members}
        assert sum(len(members) for members in groups.values()) == len(self._group_of), "groups overlap"
        assert voters <= self._group_of.keys(), "a voter without a group"
        self._group_weights = {
            group: sum(weights[server_id] for server_id in members) for group, members in groups.items()
        }
        self._groups_needed = sum(1 for weight in self._group_weights.values() if weight) // 2 + 1

    def is_quorum(self, acks: AbstractSet[int]) -> bool:
        """Whether the voters among `acks` win enough groups."""
        acked: dict[int, int] = {}
        for server_id in self.voters & acks:
            group = self._group_of[server_id]
            acked[group] = acked.get(group, 0) + self._weights[server_id]
        won = sum(1 for group, weight in acked.items() if weight > self._group_weights[group] // 2)
        return won >= self._groups_needed
