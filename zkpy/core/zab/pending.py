"""Proposals of one leader that a learner has received and not applied.

Owns the rule that a leader's txns come without a gap: within an epoch each is the successor of the one before, a later
epoch begins with counter 1. Apache checks the first half of that since 3.9.4 and only during a sync (ZOOKEEPER-4925);
a learner that goes on behind a gap has lost txns for good (ZOOKEEPER-2846), so here it always leaves the leader.

Invariant: zxids in `queue` ascend without gaps and are above `base`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from zkpy.core.zab.peer_state import counter_of, epoch_of
from zkpy_protocol.errors import ProtocolError

if TYPE_CHECKING:
    from zkpy.core.txn import Txn


class PendingProposals:
    """What may still be committed, oldest first.

    Attributes:
        base: zxid of the state that the sync started from. A leader that sends a SNAP repeats proposals up to it (§8.5):
            the state was complete up to `base` before the leader began to send it, so they are left out.
    """

    __slots__ = ("_epoch", "_last", "base", "queue")

    def __init__(self, base: int, epoch: int) -> None:
        self.base = base
        self.queue: deque[Txn] = deque()
        self._epoch = epoch
        self._last = base

    @property
    def last_zxid(self) -> int:
        """Of the last proposal, or of the state that the sync started from."""
        return self._last

    def propose(self, txn: Txn) -> bool:
        """Remember a proposal.

        Returns:
            False when the state already holds it.

        Raises:
            ProtocolError: there is a gap before it, or its epoch is later than its leader's.
        """
        zxid = txn.zxid
        if zxid <= self.base:
            return False
        last = self._last
        if zxid != last + 1 and not (epoch_of(zxid) > epoch_of(last) and counter_of(zxid) == 1):
            raise ProtocolError(f"the leader left a gap: 0x{zxid:x} does not follow 0x{last:x}")
        if epoch_of(zxid) > self._epoch:
            raise ProtocolError(f"txn 0x{zxid:x} is of a later epoch than its leader")
        self._last = zxid
        self.queue.append(txn)
        return True

    def commit(self, zxid: int) -> Txn | None:
        """Take the oldest proposal if it is the one that is committed; None when it is another, or there is none."""
        queue = self.queue
        if queue and queue[0].zxid == zxid:
            return queue.popleft()
        return None

    def forget(self) -> None:
        """What is not committed will be proposed once more."""
        if self.queue:
            self._last = self.queue[0].zxid - 1
            self.queue.clear()
