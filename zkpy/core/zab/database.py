"""What a server keeps in memory from one role to the next: the tree, the sessions, the last committed txns.

Invariant: everything up to `tree.last_zxid` is applied. While a server has no role, or before it leads, that is all it
has logged (quorum protocol §5.4).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zkpy.core.data_tree import Change, DataTree
    from zkpy.core.txn import Txn

COMMITTED_LOG_MIN = 500
"""Smaller values of commitLogCount are raised to this, as with Apache."""

_CREATE_SESSION = int(OpCode.CREATE_SESSION)
_CLOSE_SESSION = int(OpCode.CLOSE_SESSION)


class CommittedLog:
    """The last committed txns, ascending without gaps: what a learner that was away for a moment gets (§8.1)."""

    __slots__ = ("_txns",)

    def __init__(self, count_max: int, txns: Iterable[Txn] = ()) -> None:
        self._txns: deque[Txn] = deque(txns, max(count_max, COMMITTED_LOG_MIN))

    def append(self, txn: Txn) -> None:
        """`txn` is committed."""
        assert not self._txns or txn.zxid > self._txns[-1].zxid
        self._txns.append(txn)

    @property
    def newest(self) -> Txn | None:
        """The txn committed last, None when there is none."""
        return self._txns[-1] if self._txns else None

    def txns(self) -> list[Txn]:
        """All of them, ascending."""
        return list(self._txns)


class Database:
    """Tree, session table and committed log.

    Attributes:
        sessions: session id -> timeout in ms of every session whose createSession is applied.
        is_trusted: False for an empty database that may have been something else (§5.3); its server takes no part in
            elections until it got the data from others.
    """

    __slots__ = ("committed_log", "is_trusted", "sessions", "tree")

    def __init__(
        self,
        tree: DataTree,
        sessions: dict[int, int],
        committed_log: CommittedLog,
        *,
        is_trusted: bool = True,
    ) -> None:
        self.tree = tree
        self.sessions = sessions
        self.committed_log = committed_log
        self.is_trusted = is_trusted

    def apply(self, txn: Txn) -> None:
        """Apply a txn that nobody serves yet: during a sync, or between two roles. No watch fires."""
        changes: list[Change] | None = None
        self.tree.apply(txn, changes)
        if txn.type == _CREATE_SESSION:
            self.sessions[txn.client_id] = txn.record.time_out
        elif txn.type == _CLOSE_SESSION:
            self.sessions.pop(txn.client_id, None)
        self.committed_log.append(txn)
