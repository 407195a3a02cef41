"""Votes of a leader election: what one says, which of two is better, when two are the same.

Pure values and functions; whose votes count and how many are needed is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zkpy_protocol.election import ServerState

if TYPE_CHECKING:
    from zkpy_protocol.election import Notification

LEAST = -(1 << 63)
"""Stands for leader, zxid and peer epoch in the vote of a server that cannot be elected."""
UNTRUSTED_ZXID = -1
"""Last logged zxid of a server whose database is empty and may have been lost."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A server's opinion of who should lead.

    Attributes:
        leader: server id.
        zxid: last zxid in the leader's log when it proposed itself.
        election_epoch: round in which the vote was cast.
        peer_epoch: the leader's current epoch.
        version: format of the notification that brought it, where that counts; 0 otherwise.
        state: of the server that cast it.
    """

    leader: int
    zxid: int
    election_epoch: int
    peer_epoch: int
    version: int = 0
    state: int = ServerState.LOOKING

    @classmethod
    def of(cls, notification: Notification) -> Vote:
        """What a notification says, format included."""
        return cls(
            notification.leader,
            notification.zxid,
            notification.election_epoch,
            notification.peer_epoch,
            notification.version,
            notification.state,
        )

    def without_version(self) -> Vote:
        return replace(self, version=0)


def better(new: Vote, current: Vote, weight: int) -> bool:
    """Whether a candidate of this weight beats the current one: by epoch, then zxid, then server id."""
    return weight != 0 and (new.peer_epoch, new.zxid, new.leader) > (
        current.peer_epoch,
        current.zxid,
        current.leader,
    )


def equal(one: Vote, other: Vote) -> bool:
    """Whether two votes are for the same thing.

    Compat: votes of servers that are not LOOKING are compared without zxid and round, which may be those of the
    established leader or of a later joiner (ZOOKEEPER-1732, 1805). A vote without a format version comes from a server that
    may not have updated its peer epoch, so that against one with a version only the leader counts (ZOOKEEPER-1818).
    """
    if ServerState.LOOKING in (one.state, other.state):
        return (one.leader, one.zxid, one.election_epoch, one.peer_epoch) == (
            other.leader,
            other.zxid,
            other.election_epoch,
            other.peer_epoch,
        )
    if (one.version > 0) != (other.version > 0):
        return one.leader == other.leader
    return (one.leader, one.peer_epoch) == (other.leader, other.peer_epoch)
