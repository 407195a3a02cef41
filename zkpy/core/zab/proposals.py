"""Proposed txns that are not committed yet, and who has them on disk.

An ack is cumulative: a server that has txn z on disk has every proposed txn before it. Txns commit in the
order of their zxids, each once.

Invariants: zxids in the queue ascend without gaps; `last_committed` never goes back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkpy.core.pipeline.request import Request
    from zkpy.core.quorum_verifier import QuorumVerifier


class Proposals:
    """The outstanding proposals of a leader; a standalone server leads a quorum of one."""

    __slots__ = ("_acked", "_queue", "_verifier", "last_committed")

    def __init__(self, verifier: QuorumVerifier, last_committed: int) -> None:
        self._verifier = verifier
        self._queue: deque[Request] = deque()
        self._acked: dict[int, int] = {}
        self.last_committed = last_committed

    def __len__(self) -> int:
        return len(self._queue)

    def propose(self, request: Request) -> None:
        """Remember a prepared request until a quorum has its txn."""
        txn = request.txn
        assert txn is not None
        if self._queue:
            before = self._queue[-1].txn
            assert before is not None
            assert txn.zxid == before.zxid + 1, "a gap between proposals"
        self._queue.append(request)

    def ack(self, server_id: int, zxid: int) -> list[Request]:
        """`server_id` has everything up to `zxid` on disk.

        Returns:
            the requests that this commits, in zxid order.
        """
        self._acked[server_id] = max(zxid, self._acked.get(server_id, zxid))
        committable = self._committable()
        committed: list[Request] = []
        queue = self._queue
        while queue:
            txn = queue[0].txn
            assert txn is not None
            if txn.zxid > committable:
                break
            self.last_committed = txn.zxid
            committed.append(queue.popleft())
        return committed

    def _committable(self) -> int:
        """The highest zxid that a quorum has acked."""
        acked = self._acked
        for zxid in sorted(set(acked.values()), reverse=True):
            if self._verifier.is_quorum({id_ for id_, up_to in acked.items() if up_to >= zxid}):
                return zxid
        return -1

    def drop_all(self) -> list[Request]:
        """What is outstanding will never be committed: nobody has it on disk."""
        dropped = list(self._queue)
        self._queue.clear()
        return dropped
