"""Which sets of servers are a quorum, as pure functions of a set of acks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


class Majority:
    """More than half of the voters. A standalone server is a majority of one."""

    __slots__ = ("voters",)

    def __init__(self, voters: frozenset[int]) -> None:
        assert voters, "a quorum system needs a voter"
        self.voters = voters

    def is_quorum(self, acks: AbstractSet[int]) -> bool:
        """Whether the voters among `acks` are more than half of all voters."""
        return 2 * len(self.voters & acks) > len(self.voters)
