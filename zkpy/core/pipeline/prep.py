"""First stage: turn a write request into a txn, or into the error it deserves.

Validates against the tree plus everything proposed (`OutstandingChanges`), in the exact order of Apache's
checks (client protocol §6.1), and computes the digest the tree will have. Takes the zxid last, so that a
request that cannot be decoded uses none; a request that is refused otherwise becomes an error txn, which
uses one. Knows nothing of logs, quorums and replies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zkpy.core import paths
from zkpy.core.errors import KeeperError
from zkpy.core.owners import CONTAINER_OWNER, EPHEMERAL, TTL_MAX_MS, ttl_owner
from zkpy.core.pipeline.changes import ChangeRecord, OutstandingChanges, child_count, revised
from zkpy.core.pipeline.multi import read_write_ops
from zkpy.core.pipeline.reconfig import next_membership
from zkpy.core.quotas import LIMIT_NAME, MalformedQuotaError, QuotaTrack, limits_path, stats_path
from zkpy.core.txn import Txn
from zkpy.core.types import wrap32
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import CreateFlags, ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    CheckVersionTxn,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateSessionTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteTxn,
    ErrorTxn,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    decode_create_request,
    decode_create_ttl_request,
    decode_delete_container_request,
    decode_delete_request,
    decode_reconfig_request,
    decode_set_acl_request,
    decode_set_data_request,
)
from zkpy_protocol.records import Txn as TxnMember
from zkpy_protocol.txns import encode_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.acl import AccessRules
    from zkpy.core.data_tree import DataTree, Znode
    from zkpy.core.pipeline.reconfig import Ensemble
    from zkpy.core.pipeline.request import Request
    from zkpy.core.session_tracker import SessionTracker
    from zkpy.core.stats import CoreStats
    from zkpy_protocol.records import Id, ReconfigRequest

HEADER_BYTES = 8
ANY_VERSION = -1

_EPHEMERAL_FLAGS = (CreateFlags.EPHEMERAL, CreateFlags.EPHEMERAL_SEQUENTIAL)
_TTL_FLAGS = (CreateFlags.PERSISTENT_WITH_TTL, CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL)
_SEQUENTIAL_FLAGS = (
    CreateFlags.PERSISTENT_SEQUENTIAL,
    CreateFlags.EPHEMERAL_SEQUENTIAL,
    CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL,
)

WRITE_OPS = frozenset(
    (
        OpCode.CREATE,
        OpCode.CREATE2,
        OpCode.CREATE_CONTAINER,
        OpCode.CREATE_TTL,
        OpCode.DELETE,
        OpCode.DELETE_CONTAINER,
        OpCode.SET_DATA,
        OpCode.SET_ACL,
        OpCode.MULTI,
        OpCode.RECONFIG,
        OpCode.CREATE_SESSION,
        OpCode.CLOSE_SESSION,
    )
)


class _Undecodable(Exception):  # noqa: N818  not an error of ours: it carries the answer
    """The request uses a zxid although its record cannot be read (multi only)."""


class PrepStage:
    """Makes txns. `last_zxid` is the zxid proposed last; `ensemble` is what a leader may reconfigure."""

    __slots__ = (
        "_access",
        "_close_lists_paths",
        "_digest_enabled",
        "_enforce_quota",
        "_members",
        "_reconfig_enabled",
        "_sessions",
        "_stats",
        "_tree",
        "changes",
        "ensemble",
        "last_zxid",
    )

    def __init__(
        self,
        tree: DataTree,
        access: AccessRules,
        sessions: SessionTracker,
        stats: CoreStats,
        *,
        enforce_quota: bool,
        reconfig_enabled: bool,
        close_lists_paths: bool,
        ensemble: Ensemble | None = None,
    ) -> None:
        self._tree = tree
        self._access = access
        self._sessions = sessions
        self._stats = stats
        self._enforce_quota = enforce_quota
        self._reconfig_enabled = reconfig_enabled
        self._close_lists_paths = close_lists_paths
        self._digest_enabled = tree.digest_enabled
        self.ensemble = ensemble
        self.changes = OutstandingChanges(tree)
        self._members: list[tuple[int, Any]] | None = None
        self.last_zxid = tree.last_zxid

    def prepare(self, request: Request, time_ms: int) -> None:
        """Give `request` its txn, or its `err` when it is refused without using a zxid."""
        zxid = self.last_zxid + 1
        changes = self.changes
        digest_before = changes.digest
        op = request.op
        type_ = op
        record: Any
        try:
            record = self._prepare_op(op, request, zxid, time_ms)
        except KeeperError as error:
            changes.roll_back(digest_before)
            type_, record = OpCode.ERROR, ErrorTxn(error.code)
        except _Undecodable:
            changes.roll_back(digest_before)
            type_, record = OpCode.ERROR, ErrorTxn(ErrorCode.MARSHALLINGERROR)
        except DecodeError:
            changes.roll_back(digest_before)
            request.err = ErrorCode.MARSHALLINGERROR
            return
        self._make_txn(request, zxid, time_ms, type_, record)
        if op == OpCode.MULTI:
            assert request.txn is not None
            request.txn.members = self._members
            self._members = None
        request.undo = changes.take_undo()

    def refuse(self, request: Request, time_ms: int) -> None:
        """Give a request that was refused without a zxid an error txn after all."""
        self._make_txn(request, self.last_zxid + 1, time_ms, OpCode.ERROR, ErrorTxn(request.err))

    def _make_txn(self, request: Request, zxid: int, time_ms: int, type_: int, record: Any) -> None:
        self.last_zxid = zxid
        has_digest = self._digest_enabled and type_ != OpCode.ERROR and record is not None
        request.txn = Txn.make(
            request.session_id,
            request.xid,
            zxid,
            time_ms,
            type_,
            record,
            self.changes.digest if has_digest else None,
        )

    def discard(self, last_zxid: int) -> None:
        """Nothing proposed beyond `last_zxid`, the last applied txn, will happen."""
        self.changes.clear()
        self.last_zxid = last_zxid

    # -- one method per operation; each returns the record of its txn

    def _prepare_op(self, op: int, request: Request, zxid: int, time_ms: int) -> Any:
        if request.refusal and op != OpCode.MULTI:
            raise KeeperError(request.refusal)
        frame = request.frame
        if op == OpCode.SET_DATA:
            set_data, _ = decode_set_data_request(frame, HEADER_BYTES)
            return self._set_data(set_data, request.ids, zxid, time_ms)
        if op in (OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER):
            create, _ = decode_create_request(frame, HEADER_BYTES)
            return self._create(op, create, -1, request, zxid, time_ms)
        if op == OpCode.CREATE_TTL:
            create_ttl, _ = decode_create_ttl_request(frame, HEADER_BYTES)
            return self._create(op, create_ttl, create_ttl.ttl, request, zxid, time_ms)
        if op == OpCode.DELETE:
            delete, _ = decode_delete_request(frame, HEADER_BYTES)
            return self._delete(delete.path, delete.version, request.ids, zxid)
        if op == OpCode.MULTI:
            return self._multi(request, zxid, time_ms)
        if op == OpCode.SET_ACL:
            set_acl, _ = decode_set_acl_request(frame, HEADER_BYTES)
            return self._set_acl(set_acl, request.ids, zxid)
        if op == OpCode.CREATE_SESSION:
            return CreateSessionTxn(int.from_bytes(frame[HEADER_BYTES:], "big", signed=True))
        if op == OpCode.CLOSE_SESSION:
            return self._close_session(request.session_id, zxid)
        if op == OpCode.DELETE_CONTAINER:
            delete_container, _ = decode_delete_container_request(frame, HEADER_BYTES)
            return self._delete_container(delete_container.path, request, zxid)
        assert op == OpCode.RECONFIG, op
        reconfig, _ = decode_reconfig_request(frame, HEADER_BYTES)
        return self._reconfig(reconfig, request.ids, zxid, time_ms)

    def _create(self, op: int, create: Any, ttl: int, request: Request, zxid: int, time_ms: int) -> Any:
        flags = create.flags
        self._check_flags(op, flags, ttl)
        path: str | None = create.path
        if path is None:
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        if "/" not in path or "\0" in path:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        entries = self._access.fix_up(create.acl, request.ids)
        parent_path = paths.parent_of(path)
        changes = self.changes
        parent = changes.require(parent_path)
        self._require_perm(parent, Perms.CREATE, request.ids)
        if flags in _SEQUENTIAL_FLAGS:
            path = f"{path}{parent.cversion:010d}" if parent.cversion >= 0 else f"{path}{parent.cversion}"
        if not paths.is_valid(path):
            raise KeeperError(ErrorCode.BADARGUMENTS)
        if changes.find(path) is not None:
            raise KeeperError(ErrorCode.NODEEXISTS)
        if parent.owner and self._tree.owners.kind(parent.owner) == EPHEMERAL:
            raise KeeperError(ErrorCode.NOCHILDRENFOREPHEMERALS)
        data: bytes | None = create.data
        if self._tree.quotas.paths:
            self._check_quota(path, 1, 0 if data is None else len(data))
        if path == f"{paths.QUOTA_ROOT}/{LIMIT_NAME}":
            # Apache stores it and dies (client protocol §20): the root cannot have a quota.
            raise KeeperError(ErrorCode.BADARGUMENTS)
        cversion = wrap32(parent.cversion + 1)
        if op == OpCode.CREATE_CONTAINER:
            owner = CONTAINER_OWNER
        elif op == OpCode.CREATE_TTL:
            owner = ttl_owner(ttl)
        else:
            owner = request.session_id if flags in _EPHEMERAL_FLAGS else 0
        self._put_parent(parent_path, parent, zxid, 1, cversion)
        acl = self._tree.acls.view(entries)
        changes.put(path, ChangeRecord.created(data, acl, owner, zxid, time_ms), None)
        if op == OpCode.CREATE_CONTAINER:
            return CreateContainerTxn(path, data, entries, cversion)
        if op == OpCode.CREATE_TTL:
            return CreateTTLTxn(path, data, entries, cversion, ttl)
        return CreateTxn(path, data, entries, owner != 0, cversion)

    def _check_flags(self, op: int, flags: int, ttl: int) -> None:
        """Apache checks the flags as a create mode first, whatever the opcode says."""
        if not CreateFlags.PERSISTENT <= flags <= CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        if flags in _TTL_FLAGS:
            if not self._tree.owners.extended:
                raise KeeperError(ErrorCode.UNIMPLEMENTED)
            if not 0 < ttl <= TTL_MAX_MS or op != OpCode.CREATE_TTL:
                raise KeeperError(ErrorCode.BADARGUMENTS)
        elif op == OpCode.CREATE_TTL:
            # Apache lets a negative ttl pass here and dies of the txn (client protocol §20).
            raise KeeperError(ErrorCode.BADARGUMENTS)

    def _put_parent(self, path: str, parent: Znode, zxid: int, children: int, cversion: int) -> None:
        changed = revised(parent, zxid)
        changed.child_count += children
        # Compat: the applied tree only ever raises cversion and pzxid together (sequence overflow, §9.2), but
        # Apache's outstanding record moves on regardless; both are visible to pipelined sequential creates.
        changed.cversion = cversion
        changed.pzxid = zxid
        self.changes.put(path, changed, parent)

    def _delete(self, path: str | None, version: int, ids: Sequence[Id], zxid: int) -> DeleteTxn:
        parent_path = self._deletable_parent(path)
        assert path is not None
        changes = self.changes
        parent = changes.require(parent_path)
        self._require_perm(parent, Perms.DELETE, ids)
        node = changes.require(path)
        if version not in (ANY_VERSION, node.version):
            raise KeeperError(ErrorCode.BADVERSION)
        if child_count(node) > 0:
            raise KeeperError(ErrorCode.NOTEMPTY)
        return self._put_deleted(path, node, parent_path, parent, zxid)

    def _delete_container(self, path: str | None, request: Request, zxid: int) -> DeleteTxn:
        parent_path = self._deletable_parent(path)
        assert path is not None
        changes = self.changes
        node = changes.require(path)
        if child_count(node) > 0:
            raise KeeperError(ErrorCode.NOTEMPTY)
        if self._tree.owners.kind(node.owner) == EPHEMERAL:
            raise KeeperError(ErrorCode.BADVERSION)
        parent = changes.require(parent_path)
        if request.link is not None or request.owner is not None:
            # Apache checks nothing here, so that any client may delete any empty node (client protocol §20).
            self._require_perm(parent, Perms.DELETE, request.ids)
        return self._put_deleted(path, node, parent_path, parent, zxid)

    def _deletable_parent(self, path: str | None) -> str:
        if path is None:
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        if "/" not in path or "\0" in path or path in paths.RESERVED:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        return paths.parent_of(path)

    def _put_deleted(self, path: str, node: Znode, parent_path: str, parent: Znode, zxid: int) -> DeleteTxn:
        self._check_usage_is_readable(path)
        self._put_parent(parent_path, parent, zxid, -1, parent.cversion)
        self.changes.put_deleted(path, node, zxid)
        return DeleteTxn(path)

    def _set_data(self, set_data: Any, ids: Sequence[Id], zxid: int, time_ms: int) -> SetDataTxn:
        path: str | None = set_data.path
        if path is None:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        node = self.changes.find(path)
        if node is None or not path:
            # Only a path that names no node can be invalid, but for the alias of the root.
            raise KeeperError(ErrorCode.NONODE if paths.is_valid(path) else ErrorCode.BADARGUMENTS)
        if not node.acl.anyone & Perms.WRITE:
            self._require_perm(node, Perms.WRITE, ids)
        data: bytes | None = set_data.data
        if self._tree.quotas.paths:
            size = 0 if data is None else len(data)
            self._check_quota(path, 0, size - (0 if node.data is None else len(node.data)))
        if set_data.version not in (ANY_VERSION, node.version):
            raise KeeperError(ErrorCode.BADVERSION)
        changed = revised(node, zxid)
        changed.version = version = wrap32(node.version + 1)
        changed.mtime = time_ms
        changed.mzxid = zxid
        changed.data = data
        self.changes.put(path, changed, node)
        return SetDataTxn(path, data, version)

    def _set_acl(self, set_acl: Any, ids: Sequence[Id], zxid: int) -> SetACLTxn:
        path: str | None = set_acl.path
        if path is None or not paths.is_valid(path):
            raise KeeperError(ErrorCode.BADARGUMENTS)
        entries = self._access.fix_up(set_acl.acl, ids)
        node = self.changes.require(path)
        self._require_perm(node, Perms.ADMIN, ids)
        if set_acl.version not in (ANY_VERSION, node.aversion):
            raise KeeperError(ErrorCode.BADVERSION)
        changed = revised(node, zxid)
        changed.aversion = version = wrap32(node.aversion + 1)
        changed.acl = self._tree.acls.view(entries)
        self.changes.put(path, changed, node)
        return SetACLTxn(path, entries, version)

    def _check(self, check: Any, ids: Sequence[Id]) -> CheckVersionTxn:
        path: str | None = check.path
        if path is None or not paths.is_valid(path):
            raise KeeperError(ErrorCode.BADARGUMENTS)
        node = self.changes.require(path)
        self._require_perm(node, Perms.READ, ids)
        if check.version not in (ANY_VERSION, node.version):
            raise KeeperError(ErrorCode.BADVERSION)
        return CheckVersionTxn(path, wrap32(node.version + 1))

    def _reconfig(self, reconfig: ReconfigRequest, ids: Sequence[Id], zxid: int, time_ms: int) -> SetDataTxn:
        if not self._reconfig_enabled:
            raise KeeperError(ErrorCode.RECONFIGDISABLED)
        ensemble = self.ensemble
        if ensemble is None:
            # Compat: a standalone Apache server answers this once the feature is enabled.
            raise KeeperError(ErrorCode.UNIMPLEMENTED)
        membership = next_membership(reconfig, ensemble, zxid)
        node = self.changes.require(paths.CONFIG_NODE)
        self._require_perm(node, Perms.WRITE, ids)
        changed = revised(node, zxid)
        changed.version = ANY_VERSION  # the node never has another one
        changed.mtime = time_ms
        changed.mzxid = zxid
        changed.data = membership.text().encode()
        self.changes.put(paths.CONFIG_NODE, changed, node)
        ensemble.reconfigured(membership)
        return SetDataTxn(paths.CONFIG_NODE, changed.data, ANY_VERSION)

    def _close_session(self, session_id: int, zxid: int) -> CloseSessionTxn | None:
        changes = self.changes
        owned = self._with_descendants(changes.ephemerals_of(session_id))
        for path in owned:
            parent_path = paths.parent_of(path)
            parent = changes.require(parent_path)
            node = changes.require(path)
            self._put_parent(parent_path, parent, zxid, -1, parent.cversion)
            changes.put_deleted(path, node, zxid)
        self._sessions.set_closing(session_id)
        return CloseSessionTxn([*owned]) if self._close_lists_paths else None

    def _with_descendants(self, owned: list[str]) -> list[str]:
        """Children before their parents. Only a TTL node that is read as an ephemeral (see `OwnerRules`) has any."""
        nodes = self._tree.nodes
        below = [path for path in owned if path in nodes and nodes[path].children]
        if not below:
            return owned
        for path in below:  # which grows
            below.extend(nodes[path].children or ())
        return sorted({*owned, *below}, key=lambda path: (-path.count("/"), path))

    def _multi(self, request: Request, zxid: int, time_ms: int) -> MultiTxn:
        try:
            ops = read_write_ops(request.frame, HEADER_BYTES)
        except KeeperError as error:
            raise DecodeError("null ACL in a multi") from error
        except DecodeError as damage:  # another name: compiled, a variable has one type
            raise _Undecodable from damage
        changes = self.changes
        digest_before = changes.digest
        members: list[TxnMember] = []
        prepared: list[tuple[int, Any]] = []
        failed = False
        for type_, op in ops:
            if failed:
                members.append(_error_member(ErrorCode.RUNTIMEINCONSISTENCY))
                continue
            try:
                record = self._prepare_member(type_, op, request, zxid, time_ms)
            except KeeperError as error:
                if error.code == ErrorCode.MARSHALLINGERROR:
                    raise _Undecodable from error
                failed = True
                changes.roll_back(digest_before)
                members.append(_error_member(error.code))
            else:
                members.append(TxnMember(type_, encode_record(type_, record)))
                prepared.append((type_, record))
        if not failed:
            self._members = prepared
        return MultiTxn(members)

    def _prepare_member(self, type_: int, op: Any, request: Request, zxid: int, time_ms: int) -> Any:
        if request.refusal:
            raise KeeperError(request.refusal)
        if type_ == OpCode.SET_DATA:
            return self._set_data(op, request.ids, zxid, time_ms)
        if type_ == OpCode.DELETE:
            return self._delete(op.path, op.version, request.ids, zxid)
        if type_ == OpCode.CHECK:
            return self._check(op, request.ids)
        ttl = op.ttl if type_ == OpCode.CREATE_TTL else -1
        return self._create(type_, op, ttl, request, zxid, time_ms)

    # -- rules shared by several operations

    def _require_perm(self, record: Znode, perm: int, ids: Sequence[Id]) -> None:
        if not record.acl.anyone & perm and not self._access.allows(record.acl, perm, ids):
            raise KeeperError(ErrorCode.NOAUTH)

    def _check_quota(self, path: str, count: int, size: int) -> None:
        """Hard limits of the deepest quota above `path`, against the applied usage (client protocol §13)."""
        prefix = self._tree.quotas.deepest_prefix(path)
        if prefix is None:
            return
        if self._enforce_quota:
            try:
                self._enforce(prefix, path, count, size)
            except MalformedQuotaError:
                # Compat: Apache's number format exception ends as an unexpected error.
                raise KeeperError(ErrorCode.MARSHALLINGERROR) from None
        self._check_usage_is_readable(path)

    def _enforce(self, prefix: str, path: str, count: int, size: int) -> None:
        limits_node = self._tree.get(limits_path(prefix))
        if limits_node is None:
            return
        limits = QuotaTrack.parse(limits_node.data)
        by_count = count != 0 and max(limits.get("count"), limits.get("countHardLimit")) > -1
        by_size = size != 0 and max(limits.get("bytes"), limits.get("byteHardLimit")) > -1
        stats_node = self._tree.get(stats_path(prefix))
        if not (by_count or by_size) or stats_node is None:
            return
        usage = QuotaTrack.parse(stats_node.data)
        over_count = by_count and -1 < limits.get("countHardLimit") < usage.get("count") + count
        over_size = by_size and -1 < limits.get("byteHardLimit") < usage.get("bytes") + size
        if over_count or over_size:
            namespace = paths.top_namespace(path) or ""
            self._stats.quota_exceeded[namespace] = self._stats.quota_exceeded.get(namespace, 0) + 1
            raise KeeperError(ErrorCode.QUOTAEXCEEDED)

    def _check_usage_is_readable(self, path: str) -> None:
        """A write below a quota whose usage cannot be read kills Apache when it is applied; we refuse it."""
        prefix = self._tree.quotas.deepest_prefix(path)
        if prefix is None:
            return
        stats_node = self._tree.get(stats_path(prefix))
        if stats_node is None:
            return
        try:
            QuotaTrack.parse(stats_node.data)
        except MalformedQuotaError:
            raise KeeperError(ErrorCode.BADARGUMENTS) from None


def _error_member(code: int) -> TxnMember:
    return TxnMember(OpCode.ERROR, encode_record(OpCode.ERROR, ErrorTxn(code)))


def sweepable(tree: DataTree, now_ms: int, never_used_ms: int) -> list[str]:
    """Containers and TTL nodes that the background sweep should ask to delete (client protocol §9.4).

    `now_ms` is the wall clock, `never_used_ms` the age after which a container that never had a child goes too
    (0: never).
    """
    found = []
    for path in tree.containers:
        node = tree.nodes[path]
        if not node.children and (
            node.cversion > 0 or (node.cversion == 0 and 0 < never_used_ms < now_ms - node.mtime)
        ):
            found.append(path)
    for path in tree.ttls:
        node = tree.nodes[path]
        if not node.children and now_ms - node.mtime > tree.owners.ttl_ms(node.owner):
            found.append(path)
    return found
