"""Proposed txns that are not committed yet, and who has them on disk.

An ack is cumulative: a server that has txn z on disk has every proposed txn before it. Txns commit in the
order of their zxids, each once, when the quorum that was in force when they were proposed has them: a change of
membership asks for a quorum of the old and of the new members from its own txn on (quorum protocol §12).

Invariants: zxids in the queue ascend without gaps; `last_committed` never goes back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from zkpy.core.pipeline.request import Request
    from zkpy.core.txn import Txn

_UNLIMITED = 1 << 63


class Quorum(Protocol):
    """Decides which servers are enough: one quorum system, or two while a membership changes."""

    def is_quorum(self, acks: AbstractSet[int]) -> bool: ...


class Proposals:
    """The outstanding proposals of a leader; a standalone server leads a quorum of one."""

    __slots__ = ("_acked", "_commit_end", "_later", "_queue", "_quorum", "last_committed")

    def __init__(self, quorum: Quorum, last_committed: int) -> None:
        self._quorum = quorum
        self._later: deque[tuple[int, Quorum]] = deque()
        self._commit_end = _UNLIMITED
        self._queue: deque[Request] = deque()
        self._acked: dict[int, int] = {}
        self.last_committed = last_committed

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def last_proposed(self) -> int:
        """Zxid of the last proposal, committed or not."""
        if not self._queue:
            return self.last_committed
        txn = self._queue[-1].txn
        assert txn is not None
        return txn.zxid

    def outstanding_txns(self) -> list[Txn]:
        """What is proposed and not committed, ascending."""
        return [request.txn for request in self._queue if request.txn is not None]

    def propose(self, request: Request) -> None:
        """Remember a prepared request until a quorum has its txn."""
        txn = request.txn
        assert txn is not None
        queue = self._queue
        if queue:
            before = queue[-1].txn
            assert before is not None
            assert txn.zxid == before.zxid + 1, "a gap between proposals"
        queue.append(request)

    def change_quorum(self, quorum: Quorum, from_zxid: int) -> None:
        """Proposals from `from_zxid` on need this quorum; those before keep theirs."""
        assert from_zxid > self.last_committed
        if self._later:
            assert from_zxid >= self._later[-1][0]
            if from_zxid == self._later[-1][0]:
                self._later.pop()  # nothing was proposed for that one
        self._later.append((from_zxid, quorum))

    def commit_no_further(self, zxid: int) -> None:
        """Nothing above `zxid` is committed any more: another server leads from there on."""
        self._commit_end = zxid

    def ack(self, server_id: int, zxid: int) -> list[Request]:
        """`server_id` has everything up to `zxid` on disk.

        Returns:
            the requests that this commits, in zxid order.
        """
        self._acked[server_id] = max(zxid, self._acked.get(server_id, zxid))
        committed: list[Request] = []
        self._commit(committed)
        while self._later and self._later[0][0] == self.last_committed + 1:
            _, self._quorum = self._later.popleft()
            self._commit(committed)
        return committed

    def acked_by(self, server_id: int) -> int:
        """Up to where a server has everything on disk, as far as this leader knows; -1 if it has said nothing."""
        return self._acked.get(server_id, -1)

    def forget(self, server_id: int) -> None:
        """The acks of a server do not count any more: it comes back and may have cut its log."""
        self._acked.pop(server_id, None)

    def _commit(self, committed: list[Request]) -> None:
        """Move what the present quorum has from the queue to `committed`."""
        end = min(self._committable(), self._commit_end)
        if self._later:
            end = min(end, self._later[0][0] - 1)
        queue = self._queue
        while queue:
            txn = queue[0].txn
            assert txn is not None
            if txn.zxid > end:
                break
            self.last_committed = txn.zxid
            committed.append(queue.popleft())

    def _committable(self) -> int:
        """The highest zxid that a quorum has acked."""
        acked = self._acked
        for zxid in sorted(set(acked.values()), reverse=True):
            if self._quorum.is_quorum({id_ for id_, up_to in acked.items() if up_to >= zxid}):
                return zxid
        return -1

    def drop_all(self) -> list[Request]:
        """What is outstanding will never be committed: nobody has it on disk."""
        dropped = list(self._queue)
        self._queue.clear()
        return dropped
