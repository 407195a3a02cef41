"""The znodes: what a txn does to them, what a client sees of them, and the digest over all of them.

Owns nodes, ACL table, ephemerals, container and TTL sets, quota usage. Does not know sessions'
timeouts, watches, connections, files or where a txn comes from: committing, replaying a log and following
a leader all end in `DataTree.apply`, which therefore has to be idempotent over a fuzzy snapshot
(on-disk format §6.3).

Invariants:
    * ``nodes[""] is nodes["/"]``: parents of top-level nodes are looked up under the empty path, and every
      count of nodes includes the root twice, as Apache's does.
    * A node's `children` holds full paths, the same string objects as the keys of `nodes`.
    * `digest` is the sum over all nodes of `node_digest`. Apache keeps it in a signed long, which 2**31 nodes would overflow.
    * `last_zxid` moves only after the whole txn is applied, and never back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from librt.strings import BytesWriter, write_i32_be, write_i64_be

from zkpy.core.acl import AclList, AclTable
from zkpy.core.owners import CONTAINER, CONTAINER_OWNER, EPHEMERAL, TTL, OwnerRules, ttl_owner
from zkpy.core.paths import CONFIG_NODE, QUOTA_ROOT, ROOT
from zkpy.core.quotas import LIMIT_NAME, STATS_NAME, MalformedQuotaError, QuotaPaths, QuotaTrack, stats_path
from zkpy.core.types import wrap32
from zkpy_protocol.opcodes import ErrorCode, EventType, OpCode, Perms
from zkpy_protocol.records import (
    ACL,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteTxn,
    ErrorTxn,
    Id,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    decode_error_txn,
)
from zkpy_protocol.txns import decode_record

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from zkpy.core.pipeline.changes import ChangeRecord
    from zkpy.core.txn import Txn
    from zkpy_protocol.txns import TxnRecord

# Looked up for every txn, where a name of the module is faster than one of a class.
_OK: Final = ErrorCode.OK
_CREATE: Final = OpCode.CREATE
_DELETE: Final = OpCode.DELETE
_DELETE_CONTAINER: Final = OpCode.DELETE_CONTAINER
_SET_DATA: Final = OpCode.SET_DATA
_RECONFIG: Final = OpCode.RECONFIG
_SET_ACL: Final = OpCode.SET_ACL
_CLOSE_SESSION: Final = OpCode.CLOSE_SESSION
_MULTI: Final = OpCode.MULTI
_ERROR: Final = OpCode.ERROR
_CREATED: Final = EventType.NODE_CREATED
_DELETED: Final = EventType.NODE_DELETED
_DATA_CHANGED: Final = EventType.NODE_DATA_CHANGED
_CHILDREN_CHANGED: Final = EventType.NODE_CHILDREN_CHANGED

_UNCOUNTED: Final = -1
_SHORT_DATA: Final = 4096  # up to here one checksum over a copy is faster than three without

_INT_MAX: Final = (1 << 31) - 1

DIGEST_LOG_INTERVAL: Final = 128
_DIGEST_LOG_MAX: Final = 1024  # as many as Apache's `hash` command remembers

Change = tuple[int, str, AclList]
"""A watch trigger: event type, path, and the ACL that decides who may see the event."""

OpResult = tuple[int, int, str, bytes, int]
"""What one operation of a txn did: txn type (ERROR for one that failed), error code, path, encoded Stat right after it
(empty where its reply has none), bytes of data written, -1 where it is no write that is counted."""


class Znode:
    """The stored fields of a znode (cversion counts creations only), applied or proposed.

    `digest` caches `node_digest`; whoever changes a field resets it to None.
    """

    __slots__ = (
        "acl",
        "aversion",
        "ctime",
        "cversion",
        "czxid",
        "data",
        "digest",
        "mtime",
        "mzxid",
        "owner",
        "pzxid",
        "version",
    )

    data: bytes | None
    acl: AclList
    owner: int
    czxid: int
    mzxid: int
    pzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    digest: int | None

    def count_children(self) -> int:
        """How many children the znode has."""
        raise NotImplementedError


class Node(Znode):
    """A znode of the tree; `stat` caches its encoded Stat and is reset with `digest`, and with the children."""

    __slots__ = ("children", "stat")

    def __init__(self, data: bytes | None, acl: AclList, owner: int, zxid: int, time: int) -> None:
        """As a create leaves it."""
        self.data = data
        self.acl = acl
        self.owner = owner
        self.czxid = zxid
        self.mzxid = zxid
        self.pzxid = zxid
        self.ctime = time
        self.mtime = time
        self.version = 0
        self.cversion = 0
        self.aversion = 0
        self.digest = None
        self.children: dict[str, None] | None = None
        self.stat: bytes | None = None

    def count_children(self) -> int:
        """How many children the znode has."""
        children = self.children
        return 0 if children is None else len(children)


def node_digest(path: str, node: Znode) -> int:
    """Digest (version 2) of one node, unsigned 32 bits; nodes below ``/zookeeper/`` count nothing."""
    digest = node.digest
    if digest is None:
        digest = 0
        if not path.startswith("/zookeeper/"):
            writer = BytesWriter()
            if path != ROOT:
                writer.write(path.encode())
            data = node.data
            if data is not None:
                if len(data) < _SHORT_DATA:
                    writer.write(data)
                else:
                    digest = crc32(data, crc32(writer.getvalue()))
                    writer = BytesWriter()
            write_i64_be(writer, node.czxid)
            write_i64_be(writer, node.mzxid)
            write_i64_be(writer, node.pzxid)
            write_i64_be(writer, node.ctime)
            write_i64_be(writer, node.mtime)
            write_i32_be(writer, node.version)
            write_i32_be(writer, node.cversion)
            write_i32_be(writer, node.aversion)
            write_i64_be(writer, node.owner)
            digest = crc32(writer.getvalue(), digest)
        node.digest = digest
    return digest


class DataTree:
    """All znodes of a server."""

    __slots__ = (
        "acls",
        "containers",
        "data_size",
        "digest",
        "digest_enabled",
        "digest_log",
        "digest_mismatches",
        "ephemeral_count",
        "ephemerals",
        "last_zxid",
        "nodes",
        "owners",
        "quotas",
        "ttls",
    )

    def __init__(self, owners: OwnerRules, digest_enabled: bool = True) -> None:
        """An empty database: the root and the reserved nodes."""
        self.owners = owners
        self.digest_enabled = digest_enabled
        self.acls = AclTable()
        self.nodes: dict[str, Node] = {}
        self.ephemerals: dict[int, dict[str, None]] = {}
        self.ephemeral_count = 0
        self.containers: dict[str, None] = {}
        self.ttls: dict[str, None] = {}
        self.quotas = QuotaPaths()
        self.data_size = 0
        self.digest = 0
        self.digest_log: list[tuple[int, int]] = []
        self.digest_mismatches = 0
        self.last_zxid = 0
        self._add_reserved_nodes()

    def _add_reserved_nodes(self) -> None:
        root = self._reserved("/", self.acls.open)
        self.nodes[""] = root
        self._reserved("/zookeeper", self.acls.open)
        self._reserved(QUOTA_ROOT, self.acls.open)
        config = self._reserved(CONFIG_NODE, self.acls.intern([ACL(int(Perms.READ), Id("world", "anyone"))]))
        # Compat: Apache creates it and then sets its ACL without counting, which leaves -1 in the Stat.
        config.aversion = -1

    def _reserved(self, path: str, acl: AclList) -> Node:
        node = Node(b"", acl, 0, 0, 0)
        self.attach(path, node)
        return node

    # -- reading

    def get(self, path: str) -> Node | None:
        """The node at `path`; the empty string is an alias of the root."""
        return self.nodes.get(path)

    def stat(self, node: Node) -> bytes:
        """The 68 bytes of a node's Stat as clients see it: cversion counts deletions too, markers of
        containers and TTL nodes are not shown.
        """
        stat = node.stat
        if stat is None:
            data = node.data
            children = node.children
            child_count = 0 if children is None else len(children)
            cversion = 2 * node.cversion - child_count
            if not -_INT_MAX <= cversion <= _INT_MAX:
                cversion = wrap32(cversion)
            owner = node.owner
            if owner and self.owners.kind(owner) != EPHEMERAL:
                owner = 0
            writer = BytesWriter()
            write_i64_be(writer, node.czxid)
            write_i64_be(writer, node.mzxid)
            write_i64_be(writer, node.ctime)
            write_i64_be(writer, node.mtime)
            write_i32_be(writer, node.version)
            write_i32_be(writer, cversion)
            write_i32_be(writer, node.aversion)
            write_i64_be(writer, owner)
            write_i32_be(writer, 0 if data is None else len(data))
            write_i32_be(writer, child_count)
            write_i64_be(writer, node.pzxid)
            stat = node.stat = writer.getvalue()
        return stat

    @staticmethod
    def child_names(path: str, node: Node) -> list[str]:
        """Names of the children, in no promised order."""
        if not node.children:
            return []
        skip = len(path) + 1 if len(path) > 1 else 1
        return [child[skip:] for child in node.children]

    def descendants_count(self, path: str) -> int:
        """How many nodes are below `path`; the root itself does not count, its alias does (Apache)."""
        if path == ROOT:
            return len(self.nodes) - 2
        if not path:
            return len(self.nodes) - 1
        count = 0
        stack = [self.nodes[path]]
        while stack:
            children = stack.pop().children
            if children:
                count += len(children)
                stack.extend([self.nodes[child] for child in children])
        return count

    def ephemerals_of(self, session_id: int) -> list[str]:
        """Paths of the ephemeral nodes of a session, sorted."""
        return sorted(self.ephemerals.get(session_id, ()))

    # -- building from a snapshot

    @classmethod
    def bare(cls, owners: OwnerRules, digest_enabled: bool = True) -> DataTree:
        """A tree without any node.

        The reader of a snapshot fills it: `nodes` and their `children`, `uses` of their ACL lists, `data_size`, `digest`,
        `own` for nodes with an owner, and in the end `finish_load`. A call per node would cost as much as the rest.
        """
        tree = cls(owners, digest_enabled)
        tree.acls = AclTable()
        tree.nodes.clear()
        tree.data_size = 0
        tree.digest = 0
        return tree

    def finish_load(self) -> None:
        """Rebuild what a snapshot does not hold: quota usage; drop ACL lists nobody has."""
        self.acls.drop_unused()
        self.rebuild_quotas()

    def rebuild_quotas(self) -> None:
        """Register every limits node that is a leaf and count its subtree again (setupQuota)."""
        self.quotas = QuotaPaths()
        prefix = QUOTA_ROOT + "/"
        suffix = "/" + LIMIT_NAME
        for path in [p for p in self.nodes if p.startswith(prefix) and p.endswith(suffix)]:
            if not self.nodes[path].children:
                quota_path = path[len(QUOTA_ROOT) : path.index(suffix)]
                if quota_path:
                    self.recount_quota(quota_path)
                    self.quotas.add(quota_path)

    def attach(self, path: str, node: Node) -> None:
        """Put `node` into every index; the parent's own fields are left alone."""
        if path != ROOT:
            self._link(path, self.nodes[path[: path.rindex("/")]])
        self._enter(path, node)

    @staticmethod
    def _link(path: str, parent: Node) -> None:
        if parent.children is None:
            parent.children = {path: None}
        else:
            parent.children[path] = None
        parent.stat = None

    def _enter(self, path: str, node: Node) -> None:
        self.nodes[path] = node
        node.acl.uses += 1
        data = node.data
        self.data_size += len(path) if data is None else len(path) + len(data)
        if node.owner:
            self.own(path, node)
        if self.digest_enabled:
            self.digest += node_digest(path, node)

    def own(self, path: str, node: Node) -> None:
        """Enter a node that has an owner into the index of its kind."""
        owner = node.owner
        kind = self.owners.kind(owner)
        if kind == EPHEMERAL:
            self.ephemerals.setdefault(owner, {})[path] = None
            self.ephemeral_count += 1
        elif kind == CONTAINER:
            self.containers[path] = None
        else:
            self.ttls[path] = None

    # -- applying txns

    def apply(self, txn: Txn, changes: list[Change] | None) -> tuple[OpResult | None, list[OpResult]]:
        """Apply a committed txn.

        Args:
            txn: with a zxid above all applied ones, except over a fuzzy snapshot.
            changes: collects the watch triggers in the order of sending; None when nobody watches.

        Returns:
            result of a single operation, None for a multi; results of the members of a multi.
        """
        type_ = txn.type
        single: OpResult | None = None
        results: list[OpResult] = []
        if type_ == _MULTI:
            results = self._apply_multi(txn, changes)
        elif txn.prepared and type_ != _CLOSE_SESSION:
            single = self._take_over(txn.prepared[0], txn, changes)
        else:
            single = self._apply_op(type_, txn.record, txn, changes)
        zxid = txn.zxid
        if zxid > self.last_zxid:  # noqa: PLR1730  a comparison is cheaper than a call
            self.last_zxid = zxid
        if self.digest_enabled:
            if txn.digest is not None and txn.digest != self.digest:
                self.digest_mismatches += 1
            if zxid % DIGEST_LOG_INTERVAL == 0:
                self._log_digest(zxid)
        return single, results

    def _log_digest(self, zxid: int) -> None:
        self.digest_log.append((zxid, self.digest))
        if len(self.digest_log) > _DIGEST_LOG_MAX:
            del self.digest_log[0]

    def _apply_multi(self, txn: Txn, changes: list[Change] | None) -> list[OpResult]:
        if txn.prepared:
            return [self._take_over(record, txn, changes) for record in txn.prepared]
        results: list[OpResult] = []
        record = txn.record
        assert isinstance(record, MultiTxn)
        members = record.txns or []
        if any(member.type == _ERROR for member in members):
            failed = False
            for member in members:
                if member.type == _ERROR:
                    failed = True
                    code = decode_error_txn(member.data or b"")[0].err
                else:
                    code = ErrorCode.RUNTIMEINCONSISTENCY if failed else _OK
                results.append((_ERROR, code, "", b"", _UNCOUNTED))
        else:
            for member in members:
                operation, _ = decode_record(member.type, member.data or b"")
                results.append(self._apply_op(member.type, operation, txn, changes))
        return results

    def _take_over(self, record: ChangeRecord | None, txn: Txn, changes: list[Change] | None) -> OpResult:
        """An operation that this server has prepared."""
        if record is None:
            return OpCode.CHECK, _OK, "", b"", _UNCOUNTED
        type_ = record.type
        path = record.path
        if type_ in (_SET_DATA, _RECONFIG):
            return self._set_data(type_, path, record.data, record.version, txn, record, changes)
        if type_ in (_DELETE, _DELETE_CONTAINER):
            return self._delete(type_, path, txn.zxid, record.parent, changes)
        if type_ == _SET_ACL:
            return self._set_acl(path, record.acl, record.aversion)
        parent = record.parent
        assert parent is not None
        return self._create(
            type_, path, record.data, record.acl, record.owner, parent.cversion, txn, record, changes
        )

    def _apply_op(
        self, type_: int, record: TxnRecord | None, txn: Txn, changes: list[Change] | None
    ) -> OpResult:
        """An operation as the log or a leader has it."""
        if isinstance(record, SetDataTxn):
            assert record.path is not None
            return self._set_data(type_, record.path, record.data, record.version, txn, None, changes)
        if isinstance(record, CreateTxn):
            owner = txn.client_id if record.ephemeral else 0
            return self._create_from(type_, record, owner, txn, changes)
        if isinstance(record, CreateContainerTxn):
            return self._create_from(type_, record, CONTAINER_OWNER, txn, changes)
        if isinstance(record, CreateTTLTxn):
            return self._create_from(type_, record, ttl_owner(record.ttl), txn, changes)
        if isinstance(record, DeleteTxn):
            assert record.path is not None
            return self._delete(type_, record.path, txn.zxid, None, changes)
        if isinstance(record, SetACLTxn):
            assert record.path is not None
            return self._set_acl(record.path, self.acls.view(record.acl), record.version)
        if type_ == _CLOSE_SESSION:
            assert record is None or isinstance(record, CloseSessionTxn)
            paths = None if record is None else record.paths2_delete
            self._close_session(txn.client_id, paths, txn.zxid, changes)
        # createSession and check change nothing here.
        return type_, record.err if isinstance(record, ErrorTxn) else _OK, "", b"", _UNCOUNTED

    def _create_from(
        self,
        type_: int,
        record: CreateTxn | CreateContainerTxn | CreateTTLTxn,
        owner: int,
        txn: Txn,
        changes: list[Change] | None,
    ) -> OpResult:
        assert record.path is not None
        acl = self.acls.view(record.acl)
        return self._create(
            type_, record.path, record.data, acl, owner, record.parent_c_version, txn, None, changes
        )

    # Below, `prepared` is the operation's change record if this server has made the txn, and with it the digest.

    def _create(
        self,
        type_: int,
        path: str,
        data: bytes | None,
        acl: AclList,
        owner: int,
        cversion: int,
        txn: Txn,
        prepared: ChangeRecord | None,
        changes: list[Change] | None,
    ) -> OpResult:
        zxid = txn.zxid
        nodes = self.nodes
        slash = path.rindex("/")
        parent_path = path[:slash]
        parent = nodes.get(parent_path)
        if parent is None:
            return type_, ErrorCode.NONODE, path, b"", _UNCOUNTED
        acl = self.acls.shared(acl)
        if path in nodes and not self._replaces(path, nodes[path], parent, acl):
            if type_ == _CREATE:
                self._raise_cversion(parent_path, parent, cversion, zxid, None)
            return type_, ErrorCode.NODEEXISTS, path, b"", _UNCOUNTED
        self._raise_cversion(
            parent_path, parent, cversion, zxid, None if prepared is None else prepared.parent
        )
        node = Node(data, acl, owner, zxid, txn.time)
        if prepared is not None:
            node.digest = prepared.digest
        self._link(path, parent)
        self._enter(path, node)
        # Compat: of a stats node the reply shows the data as sent, the tree already holds what was counted.
        stat = b"" if type_ == _CREATE else self.stat(node)
        if parent_path.startswith(QUOTA_ROOT):
            self._register_quota(parent_path[len(QUOTA_ROOT) :], path[slash + 1 :])
        size = 0 if node.data is None else len(node.data)
        if self.quotas.paths:
            self._account(path, 1, size)
        if changes is not None:
            changes.append((_CREATED, path, acl))
            changes.append((_CHILDREN_CHANGED, parent_path or ROOT, parent.acl))
        return type_, _OK, path, stat, size

    def _replaces(self, path: str, existing: Node, parent: Node, acl: AclList) -> bool:
        """Fuzzy snapshot: the node of a create is there already. True: it is not the one, and is gone now."""
        if parent.children is None or path not in parent.children:
            # It outlived a parent that was deleted and made again, so this is not its create.
            del self.nodes[path]
            self._detach(path, existing)
            return True
        # The node may be a later incarnation, but its ACL reference may be stale.
        if existing.acl is not acl:
            acl.uses += 1
            self.acls.release(existing.acl)
            existing.acl = acl
        return False

    def _raise_cversion(
        self, path: str, parent: Node, cversion: int, zxid: int, prepared: ChangeRecord | None
    ) -> None:
        if cversion == -1:
            cversion = parent.cversion + 1  # logs older than 3.4 do not say
        if cversion > parent.cversion:
            before = node_digest(path, parent) if self.digest_enabled else 0
            parent.cversion = cversion
            parent.pzxid = zxid
            self._changed(path, parent, before, prepared)

    def _changed(self, path: str, node: Node, digest_before: int, prepared: ChangeRecord | None) -> None:
        """Account for new fields of `node`."""
        node.stat = None
        if self.digest_enabled:
            # After a sequence overflow the record has another cversion than the node, and so another digest.
            digest = None
            if prepared is not None and prepared.cversion == node.cversion:
                digest = prepared.digest
            node.digest = digest
            self.digest += (node_digest(path, node) if digest is None else digest) - digest_before

    def _register_quota(self, quota_path: str, name: str) -> None:
        if name == LIMIT_NAME:
            self.quotas.add(quota_path)
        elif name == STATS_NAME:
            self.recount_quota(quota_path)

    def _account(self, path: str, count: int, size: int) -> None:
        """Nodes came, went or changed their size in bytes at `path`."""
        prefix = self.quotas.deepest_prefix(path)
        if prefix is not None:
            self._add_usage(prefix, count, size)

    def recount_quota(self, path: str) -> None:
        """Write the usage of the subtree at `path`, the node itself included, into its stats node."""
        stats = self.nodes.get(stats_path(path))
        if stats is None:
            return
        count = size = 0
        stack = [path]
        while stack:
            node = self.nodes.get(stack.pop())
            if node is None:
                continue
            count += 1
            size += len(node.data or b"")
            stack.extend(node.children or ())
        track = QuotaTrack({"count": count, "bytes": size})
        self._set_usage(stats, track)

    def _add_usage(self, prefix: str, count: int, size: int) -> None:
        stats = self.nodes.get(stats_path(prefix))
        if stats is None:
            return
        try:
            track = QuotaTrack.parse(stats.data)
        except MalformedQuotaError:
            return  # Apache dies of it; the pipeline refuses the requests that would come here
        track.add(count, size)
        self._set_usage(stats, track)

    def _set_usage(self, stats: Node, track: QuotaTrack) -> None:
        # Compat: `data_size` is not told, so it drifts until the next start as Apache's approximate_data_size does.
        stats.data = track.encode()
        stats.stat = None

    def _delete(
        self, type_: int, path: str, zxid: int, prepared: ChangeRecord | None, changes: list[Change] | None
    ) -> OpResult:
        """`prepared` is the record of the parent here."""
        slash = path.rindex("/")
        parent_path = path[:slash]
        parent = self.nodes.get(parent_path)
        if parent is None:
            return type_, ErrorCode.NONODE, path, b"", _UNCOUNTED
        # Also when the node is already gone: a fuzzy snapshot may hold the parent from before.
        before = node_digest(parent_path, parent) if self.digest_enabled else 0
        if parent.children is not None:
            parent.children.pop(path, None)
            if not parent.children:
                parent.children = None
        if zxid > parent.pzxid:  # noqa: PLR1730  a comparison is cheaper than a call
            parent.pzxid = zxid
        self._changed(parent_path, parent, before, prepared)
        node = self.nodes.pop(path, None)
        if node is None:
            return type_, ErrorCode.NONODE, path, b"", _UNCOUNTED
        self._detach(path, node)
        if parent_path.startswith(QUOTA_ROOT) and path[slash + 1 :] == LIMIT_NAME:
            self.quotas.discard(parent_path[len(QUOTA_ROOT) :])
        if self.quotas.paths:
            self._account(path, -1, -len(node.data or b""))
        if changes is not None:
            changes.append((_DELETED, path, node.acl))
            changes.append((_CHILDREN_CHANGED, parent_path or ROOT, parent.acl))
        return type_, _OK, path, b"", 0

    def _detach(self, path: str, node: Node) -> None:
        if self.digest_enabled:
            self.digest -= node_digest(path, node)
        self.acls.release(node.acl)
        self.data_size -= len(path) + len(node.data or b"")
        owner = node.owner
        if not owner:
            return
        kind = self.owners.kind(owner)
        if kind == CONTAINER:
            self.containers.pop(path, None)
        elif kind == TTL:
            self.ttls.pop(path, None)
        else:
            # Compat: an owner without nodes stays until its session closes; `dump` counts it.
            del self.ephemerals[owner][path]
            self.ephemeral_count -= 1

    def _set_data(
        self,
        type_: int,
        path: str,
        data: bytes | None,
        version: int,
        txn: Txn,
        prepared: ChangeRecord | None,
        changes: list[Change] | None,
    ) -> OpResult:
        node = self.nodes.get(path)
        if node is None:
            return type_, ErrorCode.NONODE, path, b"", _UNCOUNTED
        before = node_digest(path, node) if self.digest_enabled else 0
        old = node.data
        size = 0 if data is None else len(data)
        grown = size if old is None else size - len(old)
        node.data = data
        node.mtime = txn.time
        node.mzxid = txn.zxid
        node.version = version
        self._changed(path, node, before, prepared)
        self.data_size += grown
        if self.quotas.paths:
            self._account(path, 0, grown)
        if changes is not None:
            changes.append((_DATA_CHANGED, path, node.acl))
        return type_, _OK, path, self.stat(node), size if type_ == _SET_DATA else _UNCOUNTED

    def _set_acl(self, path: str, acl: AclList, version: int) -> OpResult:
        node = self.nodes.get(path)
        if node is None:
            return _SET_ACL, ErrorCode.NONODE, path, b"", _UNCOUNTED
        before = node_digest(path, node) if self.digest_enabled else 0
        acl = self.acls.shared(acl)
        acl.uses += 1
        self.acls.release(node.acl)
        node.acl = acl
        node.aversion = version
        self._changed(path, node, before, None)
        return _SET_ACL, _OK, path, self.stat(node), _UNCOUNTED

    def drop_orphans(self, sessions: Container[int]) -> int:
        """Delete ephemerals of sessions that are not in the session table, as Apache does after loading.

        It is no txn, so the tree has to be saved before the next one is logged. A TTL node that looks like an
        ephemeral without ``extendedTypesEnabled`` may have children. They go with it, as they do with Apache at the
        start after: what hangs nowhere is in no snapshot.

        Returns:
            how many nodes went.
        """
        before = len(self.nodes)
        for owner in sorted(self.ephemerals):
            if owner not in sessions:
                for path in self.ephemerals_of(owner):
                    self._delete_below(path)
                self._close_session(owner, None, self.last_zxid, None)
        return before - len(self.nodes)

    def _delete_below(self, path: str) -> None:
        below = [path]
        for parent in below:  # which grows
            node = self.nodes.get(parent)
            if node is not None and node.children:
                below.extend(node.children)
        for child in reversed(below[1:]):
            self._delete(_DELETE, child, self.last_zxid, None, None)

    def _close_session(
        self, session_id: int, paths: Iterable[str | None] | None, zxid: int, changes: list[Change] | None
    ) -> None:
        for path in paths or ():
            assert path is not None
            self._delete(_DELETE, path, zxid, None, changes)
        # What the leader did not list can only be there over a fuzzy snapshot or an old log.
        for left in self.ephemerals_of(session_id):
            self._delete(_DELETE, left, zxid, None, changes)
        self.ephemerals.pop(session_id, None)
