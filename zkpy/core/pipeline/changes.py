"""Outstanding changes: the tree as it will be when everything proposed so far is applied.

Requests are validated against this view, so that pipelined writes see each other before any of them is
committed (Apache: outstandingChangesForPath). A record replaces the one before it for its path and goes when
the txn that made it is applied. `digest` is the tree digest after the last proposed txn.

Invariant: without any record, the view and the digest are the tree's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree, Node, Znode, node_digest
from zkpy.core.errors import KeeperError
from zkpy.core.types import wrap64
from zkpy_protocol.opcodes import ErrorCode

if TYPE_CHECKING:
    from zkpy.core.acl import AclList

    Undo = list[tuple[str, "ChangeRecord | None"]]


class ChangeRecord(Znode):
    """One znode as a proposed txn leaves it; `exists` False for a deleted one."""

    __slots__ = ("child_count", "exists", "zxid")

    child_count: int
    exists: bool
    zxid: int

    @classmethod
    def created(cls, data: bytes | None, acl: AclList, owner: int, zxid: int, time: int) -> ChangeRecord:
        """A node that txn `zxid` creates."""
        record = cls(data, acl, owner, zxid, time)
        record.child_count = 0
        record.exists = True
        record.zxid = zxid
        return record


def revised(znode: Znode, zxid: int) -> ChangeRecord:
    """The same state, about to be changed by txn `zxid`."""
    record = ChangeRecord(znode.data, znode.acl, znode.owner, zxid, znode.mtime)
    record.exists = True
    record.zxid = zxid
    record.czxid = znode.czxid
    record.mzxid = znode.mzxid
    record.pzxid = znode.pzxid
    record.ctime = znode.ctime
    record.version = znode.version
    record.cversion = znode.cversion
    record.aversion = znode.aversion
    record.child_count = child_count(znode)
    return record


def child_count(znode: Znode) -> int:
    """How many children the znode will have."""
    if isinstance(znode, Node):
        children = znode.children
        return 0 if children is None else len(children)
    assert isinstance(znode, ChangeRecord)
    return znode.child_count


class OutstandingChanges:
    """Change records by path, over a tree."""

    __slots__ = ("_digest_enabled", "_nodes", "_records", "_tree", "_undo", "digest", "queued", "removed")

    def __init__(self, tree: DataTree) -> None:
        self._tree = tree
        self._nodes = tree.nodes
        self._digest_enabled = tree.digest_enabled
        self._records: dict[str, ChangeRecord] = {}
        self._undo: Undo = []
        self.digest = tree.digest
        self.queued = 0
        self.removed = 0

    def __len__(self) -> int:
        return len(self._records)

    def find(self, path: str) -> Znode | None:
        """The node at `path` as it will be; None when it will not exist. Not to be modified: use `revised`."""
        record = self._records.get(path)
        if record is None:
            return self._nodes.get(path)
        return record if record.exists else None

    def require(self, path: str) -> Znode:
        """As `find`.

        Raises:
            KeeperError: NONODE.
        """
        znode = self.find(path)
        if znode is None:
            raise KeeperError(ErrorCode.NONODE)
        return znode

    def put(self, path: str, record: ChangeRecord, previous: Znode | None) -> None:
        """`record` is how the txn being prepared leaves `path`, which was `previous` before."""
        if self._digest_enabled:
            before = 0
            if previous is not None:
                before = node_digest(path, previous) if previous.digest is None else previous.digest
            self.digest = wrap64(self.digest - before + node_digest(path, record))
        records = self._records
        self._undo.append((path, records.get(path)))
        records[path] = record
        self.queued += 1

    def put_deleted(self, path: str, previous: Znode, zxid: int) -> None:
        """Txn `zxid`, which is being prepared, deletes `path`."""
        record = revised(previous, zxid)
        record.exists = False
        if self._digest_enabled:
            self.digest = wrap64(self.digest - node_digest(path, previous))
        records = self._records
        self._undo.append((path, records.get(path)))
        records[path] = record
        self.queued += 1

    def take_undo(self) -> Undo:
        """The txn being prepared is proposed: what it has changed, for `applied`."""
        undo = self._undo
        self._undo = []
        return undo

    def roll_back(self, digest: int) -> None:
        """The txn being prepared fails: restore what was there before it, when the digest was `digest`."""
        for path, previous in reversed(self._undo):
            self.removed += 1
            if previous is None:
                del self._records[path]
            else:
                self._records[path] = previous
        self._undo.clear()
        self.digest = digest

    def applied(self, undo: Undo, zxid: int) -> None:
        """Txn `zxid`, which changed the paths of `undo`, is in the tree now."""
        records = self._records
        for path, _ in undo:
            record = records.get(path)
            if record is not None and record.zxid == zxid:
                del records[path]
                self.removed += 1

    def clear(self) -> None:
        """Nothing that was proposed will happen."""
        self._records.clear()
        self._undo.clear()
        self.digest = self._tree.digest

    def ephemerals_of(self, session_id: int) -> list[str]:
        """Paths the session will own, sorted."""
        paths = dict.fromkeys(self._tree.ephemerals.get(session_id, ()))
        for path, record in self._records.items():
            if not record.exists:
                paths.pop(path, None)
            elif record.owner == session_id:
                paths[path] = None
        return sorted(paths)
