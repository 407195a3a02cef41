"""Outstanding changes: the tree as it will be when everything proposed so far is applied.

Requests are validated against this view, so that pipelined writes see each other before any of them is
committed (Apache: outstandingChangesForPath). A record replaces the one before it for its path and goes when
the txn that made it is applied. `digest` is the tree digest after the last proposed txn.

Each kind of change is one method, which says what it does to the fields of a node and its parent. The checks before it are
the caller's; the tree takes the records over when the txn is applied (`Txn.prepared`).

Invariant: without any record, the view and the digest are the tree's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zkpy.core.data_tree import DataTree, Node, Znode, node_digest
from zkpy.core.errors import KeeperError
from zkpy_protocol.opcodes import ErrorCode, OpCode

if TYPE_CHECKING:
    from zkpy.core.acl import AclList
    from zkpy.core.txn import Txn

_PARENT: Final = 0
_SET_ACL: Final = OpCode.SET_ACL


class ChangeRecord(Znode):
    """One znode as an operation of a proposed txn leaves it. Nothing changes it afterwards.

    Attributes:
        type: txn type of the operation; 0 for what a create or delete does to the parent.
        exists: False for a node that the operation deletes.
        parent: what the operation does to the parent.
        replaced: the record there was for the path before, until the txn is applied.
    """

    __slots__ = ("child_count", "exists", "parent", "path", "replaced", "type")

    def __init__(
        self,
        type_: int,
        path: str,
        data: bytes | None,
        acl: AclList,
        owner: int,
        czxid: int,
        mzxid: int,
        pzxid: int,
        ctime: int,
        mtime: int,
        version: int,
        cversion: int,
        aversion: int,
        child_count: int,
    ) -> None:
        self.type = type_
        self.path = path
        self.data = data
        self.acl = acl
        self.owner = owner
        self.czxid = czxid
        self.mzxid = mzxid
        self.pzxid = pzxid
        self.ctime = ctime
        self.mtime = mtime
        self.version = version
        self.cversion = cversion
        self.aversion = aversion
        self.child_count = child_count
        self.digest = None
        self.exists = True
        self.parent: ChangeRecord | None = None
        self.replaced: ChangeRecord | None = None

    def count_children(self) -> int:
        """How many children the znode will have."""
        return self.child_count


class OutstandingChanges:
    """Change records by path, over a tree."""

    __slots__ = ("_digest_enabled", "_nodes", "_prepared", "_records", "_tree", "digest", "queued", "removed")

    def __init__(self, tree: DataTree) -> None:
        self._tree = tree
        self._nodes = tree.nodes
        self._digest_enabled = tree.digest_enabled
        self._records: dict[str, ChangeRecord] = {}
        self._prepared: list[ChangeRecord | None] = []
        self.digest = tree.digest
        self.queued = 0
        self.removed = 0

    def __len__(self) -> int:
        return len(self._records)

    # -- the view

    def find(self, path: str) -> Znode | None:
        """The node at `path` as it will be; None when it will not exist. Not to be modified."""
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

    def ephemerals_of(self, session_id: int) -> list[str]:
        """Paths the session will own, sorted."""
        paths = dict.fromkeys(self._tree.ephemerals.get(session_id, ()))
        for path, record in self._records.items():
            if not record.exists:
                paths.pop(path, None)
            elif record.owner == session_id:
                paths[path] = None
        return sorted(paths)

    # -- operations of the txn that is being prepared

    def create(
        self,
        type_: int,
        path: str,
        data: bytes | None,
        acl: AclList,
        owner: int,
        parent_path: str,
        parent: Znode,
        cversion: int,
        zxid: int,
        time_ms: int,
    ) -> None:
        """A new node, and its parent, whose cversion the creation raises to `cversion`."""
        record = ChangeRecord(type_, path, data, acl, owner, zxid, zxid, zxid, time_ms, time_ms, 0, 0, 0, 0)
        record.parent = self._put_parent(parent_path, parent, parent.count_children() + 1, cversion, zxid)
        self._put(record, None)
        self._prepared.append(record)

    def delete(self, type_: int, path: str, node: Znode, parent_path: str, parent: Znode, zxid: int) -> None:
        """The node `node` goes."""
        record = ChangeRecord(type_, path, None, node.acl, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        record.exists = False
        record.parent = self._put_parent(
            parent_path, parent, parent.count_children() - 1, parent.cversion, zxid
        )
        self._put(record, node)
        self._prepared.append(record)

    def set_data(
        self, type_: int, path: str, node: Znode, data: bytes | None, version: int, zxid: int, time_ms: int
    ) -> None:
        """The node gets other data."""
        record = ChangeRecord(
            type_,
            path,
            data,
            node.acl,
            node.owner,
            node.czxid,
            zxid,
            node.pzxid,
            node.ctime,
            time_ms,
            version,
            node.cversion,
            node.aversion,
            node.count_children(),
        )
        self._put(record, node)
        self._prepared.append(record)

    def set_acl(self, path: str, node: Znode, acl: AclList, aversion: int) -> None:
        """The node gets another ACL."""
        record = ChangeRecord(
            _SET_ACL,
            path,
            node.data,
            acl,
            node.owner,
            node.czxid,
            node.mzxid,
            node.pzxid,
            node.ctime,
            node.mtime,
            node.version,
            node.cversion,
            aversion,
            node.count_children(),
        )
        self._put(record, node)
        self._prepared.append(record)

    def check(self) -> None:
        """An operation of a multi that changes nothing."""
        self._prepared.append(None)

    def _put_parent(
        self, path: str, parent: Znode, child_count: int, cversion: int, zxid: int
    ) -> ChangeRecord:
        # Compat: the applied tree only ever raises cversion and pzxid together (sequence overflow, §9.2), but
        # Apache's outstanding record moves on regardless; both are visible to pipelined sequential creates.
        record = ChangeRecord(
            _PARENT,
            path,
            parent.data,
            parent.acl,
            parent.owner,
            parent.czxid,
            parent.mzxid,
            zxid,
            parent.ctime,
            parent.mtime,
            parent.version,
            cversion,
            parent.aversion,
            child_count,
        )
        self._put(record, parent)
        return record

    def _put(self, record: ChangeRecord, before: Znode | None) -> None:
        path = record.path
        records = self._records
        record.replaced = records.get(path)
        records[path] = record
        self.queued += 1
        if before is not None and self._digest_enabled:
            digest = before.digest
            if digest is None:
                # A record of this txn is replaced before its digest was needed. It counts nothing from now on.
                digest = before.digest = node_digest(path, before) if isinstance(before, Node) else 0
            self.digest -= digest

    # -- the end of a preparation

    def take_prepared(self) -> list[ChangeRecord | None]:
        """The txn being prepared is proposed: its operations, for `Txn.prepared`. Now `digest` is that of the txn."""
        prepared = self._prepared
        self._prepared = []
        if self._digest_enabled:
            for operation in prepared:
                record = operation
                while record is not None:
                    if record.exists and record.digest is None:
                        self.digest += node_digest(record.path, record)
                    record = record.parent
        return prepared

    def roll_back(self, digest: int) -> None:
        """The txn being prepared fails: restore what was there before it, when the digest was `digest`."""
        records = self._records
        for operation in reversed(self._prepared):
            record = operation
            while record is not None:
                if record.replaced is None:
                    del records[record.path]
                else:
                    records[record.path] = record.replaced
                self.removed += 1
                record = record.parent
        self._prepared.clear()
        self.digest = digest

    def applied(self, txn: Txn) -> None:
        """`txn` is in the tree now."""
        records = self._records
        for operation in txn.prepared or ():
            record = operation
            while record is not None:
                if records.get(record.path) is record:
                    del records[record.path]
                record.replaced = None
                self.removed += 1
                record = record.parent

    def clear(self) -> None:
        """Nothing that was proposed will happen."""
        self._records.clear()
        self._prepared.clear()
        self.digest = self._tree.digest
