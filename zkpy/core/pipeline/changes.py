"""Outstanding changes: the tree as it will be when everything proposed so far is applied.

Requests are validated against this view, so that pipelined writes see each other before any of them is
committed (Apache: outstandingChangesForPath). A record replaces the one before it for its path and goes when
the txn that made it is applied. `digest` is the tree digest after the last proposed txn.

Invariant: without any record, the view and the digest are the tree's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree, Node, fields_digest
from zkpy.core.errors import KeeperError
from zkpy.core.paths import ROOT
from zkpy.core.types import wrap64
from zkpy_protocol.opcodes import ErrorCode

if TYPE_CHECKING:
    from zkpy.core.acl import AclList


class ChangeRecord:
    """One znode as a proposed txn leaves it; `exists` False for a deleted one."""

    __slots__ = (
        "acl",
        "aversion",
        "child_count",
        "ctime",
        "cversion",
        "czxid",
        "data",
        "digest",
        "exists",
        "mtime",
        "mzxid",
        "owner",
        "pzxid",
        "version",
        "zxid",
    )

    acl: AclList
    aversion: int
    child_count: int
    ctime: int
    cversion: int
    czxid: int
    data: bytes | None
    digest: int
    exists: bool
    mtime: int
    mzxid: int
    owner: int
    pzxid: int
    version: int
    zxid: int

    @classmethod
    def of_node(cls, node: Node, digest: int) -> ChangeRecord:
        """The node as it is in the tree."""
        record = cls()
        record.zxid = -1
        record.exists = True
        record.czxid = node.czxid
        record.mzxid = node.mzxid
        record.pzxid = node.pzxid
        record.ctime = node.ctime
        record.mtime = node.mtime
        record.version = node.version
        record.cversion = node.cversion
        record.aversion = node.aversion
        record.owner = node.owner
        record.child_count = 0 if node.children is None else len(node.children)
        record.acl = node.acl
        record.data = node.data
        record.digest = digest
        return record

    @classmethod
    def of_new(cls, data: bytes | None, acl: AclList, owner: int, zxid: int, time: int) -> ChangeRecord:
        """A node that txn `zxid` creates."""
        record = cls.of_node(Node(data, acl, owner, zxid, time), 0)
        record.zxid = zxid
        return record

    def copy(self, zxid: int) -> ChangeRecord:
        """The same state, about to be changed by txn `zxid`."""
        record = ChangeRecord()
        record.zxid = zxid
        record.exists = self.exists
        record.czxid = self.czxid
        record.mzxid = self.mzxid
        record.pzxid = self.pzxid
        record.ctime = self.ctime
        record.mtime = self.mtime
        record.version = self.version
        record.cversion = self.cversion
        record.aversion = self.aversion
        record.owner = self.owner
        record.child_count = self.child_count
        record.acl = self.acl
        record.data = self.data
        record.digest = self.digest
        return record


class OutstandingChanges:
    """Change records by path, over a tree."""

    __slots__ = ("_records", "_tree", "_undo", "digest", "queued", "removed")

    def __init__(self, tree: DataTree) -> None:
        self._tree = tree
        self._records: dict[str, ChangeRecord] = {}
        self._undo: list[tuple[str, ChangeRecord | None]] = []
        self.digest = tree.digest
        self.queued = 0
        self.removed = 0

    def __len__(self) -> int:
        return len(self._records)

    def find(self, path: str) -> ChangeRecord | None:
        """The node at `path` as it will be; None when it will not exist. Not to be modified: `copy` first."""
        record = self._records.get(path)
        if record is None:
            node = self._tree.nodes.get(path)
            if node is None:
                return None
            return ChangeRecord.of_node(
                node, self._tree.node_digest(path, node) if self._tree.digest_enabled else 0
            )
        return record if record.exists else None

    def require(self, path: str) -> ChangeRecord:
        """As `find`.

        Raises:
            KeeperError: NONODE.
        """
        record = self.find(path)
        if record is None:
            raise KeeperError(ErrorCode.NONODE)
        return record

    def put(self, path: str, record: ChangeRecord, previous_digest: int) -> None:
        """`record` is how the txn being prepared leaves `path`; its digest is computed here."""
        if self._tree.digest_enabled:
            record.digest = fields_digest(
                path or ROOT,
                record.data,
                record.czxid,
                record.mzxid,
                record.pzxid,
                record.ctime,
                record.mtime,
                record.version,
                record.cversion,
                record.aversion,
                record.owner,
            )
            self.digest = wrap64(self.digest - previous_digest + record.digest)
        self._store(path, record)

    def put_deleted(self, path: str, record: ChangeRecord) -> None:
        """The txn being prepared deletes `path`; `record` is a copy of its last state."""
        record.exists = False
        self.digest = wrap64(self.digest - record.digest)
        self._store(path, record)

    def _store(self, path: str, record: ChangeRecord) -> None:
        self._undo.append((path, self._records.get(path)))
        self._records[path] = record
        self.queued += 1

    def begin(self) -> None:
        """A txn is going to be prepared."""
        self._undo.clear()

    def touched(self) -> list[str]:
        """Paths that the txn being prepared has changed, for `applied`."""
        return [path for path, _ in self._undo]

    def roll_back(self, digest: int) -> None:
        """The txn being prepared fails: restore what was there at `begin`, when the digest was `digest`."""
        for path, previous in reversed(self._undo):
            self.removed += 1
            if previous is None:
                del self._records[path]
            else:
                self._records[path] = previous
        self._undo.clear()
        self.digest = digest

    def applied(self, paths: list[str] | tuple[()], zxid: int) -> None:
        """Txn `zxid`, which changed `paths`, is in the tree now."""
        records = self._records
        for path in paths:
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
