"""First stage: turn a write request into a txn, or into the error it deserves.

Validates against the tree plus everything proposed (`OutstandingChanges`), in the exact order of Apache's
checks (client protocol §6.1), and computes the digest the tree will have. Takes the zxid last, so that a
request that cannot be decoded uses none; a request that is refused otherwise becomes an error txn, which
uses one. Knows nothing of logs, quorums and replies.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from librt.strings import BytesWriter, write_i32_be, write_i64_be

from zkpy.core import paths
from zkpy.core.acl import AclReader
from zkpy.core.errors import KeeperError
from zkpy.core.owners import CONTAINER_OWNER, EPHEMERAL, TTL_MAX_MS, ttl_owner
from zkpy.core.pipeline.changes import OutstandingChanges
from zkpy.core.pipeline.multi import NO_TTL, read_write_ops
from zkpy.core.pipeline.reconfig import next_membership
from zkpy.core.quotas import MalformedQuotaError, QuotaTrack, limits_path, stats_path
from zkpy.core.txn import Txn, encode_txn
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import CreateFlags, ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    CloseSessionTxn,
    SetACLTxn,
    SetDataTxn,
    decode_delete_container_request,
    decode_reconfig_request,
    decode_set_acl_request,
    encode_close_session_txn,
    encode_set_acl_txn,
    encode_set_data_txn,
)
from zkpy_protocol.requests import (
    read_int,
    read_long,
    read_path_and_data,
    read_path_and_version,
    read_set_data,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.acl import AccessRules, AclList, RequestedAcl
    from zkpy.core.data_tree import DataTree, Znode
    from zkpy.core.pipeline.multi import WriteOp
    from zkpy.core.pipeline.reconfig import Ensemble
    from zkpy.core.pipeline.request import Request
    from zkpy.core.session_tracker import SessionTracker
    from zkpy.core.stats import CoreStats
    from zkpy_protocol.records import Id, ReconfigRequest, SetACLRequest

HEADER_BYTES: Final = 8
ANY_VERSION: Final = -1

_INT: Final = struct.Struct(">i").pack
_INT_MAX: Final = (1 << 31) - 1
_ROOT_LIMITS: Final = limits_path("")

_CREATE_OPS: Final = (OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL)
_EPHEMERAL_FLAGS: Final = (CreateFlags.EPHEMERAL, CreateFlags.EPHEMERAL_SEQUENTIAL)
_TTL_FLAGS: Final = (CreateFlags.PERSISTENT_WITH_TTL, CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL)
_SEQUENTIAL_FLAGS: Final = (
    CreateFlags.PERSISTENT_SEQUENTIAL,
    CreateFlags.EPHEMERAL_SEQUENTIAL,
    CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL,
)

WRITE_OPS: Final = frozenset(
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
        "_acls",
        "_close_lists_paths",
        "_digest_enabled",
        "_enforce_quota",
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
        self._acls = AclReader()
        self.last_zxid = tree.last_zxid

    def prepare(self, request: Request, time_ms: int) -> None:
        """Give `request` its txn, or its `err` when it is refused without using a zxid."""
        zxid = self.last_zxid + 1
        changes = self.changes
        digest_before = changes.digest
        type_ = request.op
        body: bytes | None
        try:
            body = self._prepare_op(type_, request, zxid, time_ms)
        except KeeperError as error:
            changes.roll_back(digest_before)
            type_, body = OpCode.ERROR, _INT(error.code)
        except _Undecodable:
            changes.roll_back(digest_before)
            type_, body = OpCode.ERROR, _INT(ErrorCode.MARSHALLINGERROR)
        except DecodeError:
            changes.roll_back(digest_before)
            request.err = ErrorCode.MARSHALLINGERROR
            return
        self._make_txn(request, zxid, time_ms, type_, body)

    def refuse(self, request: Request, time_ms: int) -> None:
        """Give a request that was refused without a zxid an error txn after all."""
        self._make_txn(request, self.last_zxid + 1, time_ms, OpCode.ERROR, _INT(request.err))

    def _make_txn(self, request: Request, zxid: int, time_ms: int, type_: int, body: bytes | None) -> None:
        self.last_zxid = zxid
        prepared = self.changes.take_prepared()
        client_id = request.session_id
        cxid = request.xid
        digest = None
        if self._digest_enabled and type_ != OpCode.ERROR and body is not None:
            digest = self.changes.digest
        payload = encode_txn(client_id, cxid, zxid, time_ms, type_, body, digest)
        request.txn = Txn(client_id, cxid, zxid, time_ms, type_, None, digest, payload, prepared)

    def discard(self, last_zxid: int) -> None:
        """Nothing proposed beyond `last_zxid`, the last applied txn, will happen."""
        self.changes.clear()
        self.last_zxid = last_zxid

    # -- one method per operation; each returns the encoded record of its txn

    def _prepare_op(self, op: int, request: Request, zxid: int, time_ms: int) -> bytes | None:
        if request.refusal and op != OpCode.MULTI:
            raise KeeperError(request.refusal)
        frame = request.frame
        if op == OpCode.SET_DATA:
            path, data, version, end = read_set_data(frame, HEADER_BYTES)
            head = frame[HEADER_BYTES : end - 4]
            return self._set_data(path, data, version, head, request.ids, zxid, time_ms)
        if op in _CREATE_OPS:
            path, data, pos = read_path_and_data(frame, HEADER_BYTES)
            head = frame[HEADER_BYTES:pos]
            acl, pos = self._acls.read(frame, pos)
            flags = read_int(frame, pos)
            ttl = read_long(frame, pos + 4) if op == OpCode.CREATE_TTL else NO_TTL
            return self._create(op, path, data, head, acl, flags, ttl, request, zxid, time_ms)
        if op == OpCode.DELETE:
            path, version, end = read_path_and_version(frame, HEADER_BYTES)
            return self._delete(path, version, frame[HEADER_BYTES : end - 4], request.ids, zxid)
        if op == OpCode.MULTI:
            return self._multi(request, zxid, time_ms)
        if op == OpCode.SET_ACL:
            set_acl, _ = decode_set_acl_request(frame, HEADER_BYTES)
            return self._set_acl(set_acl, request.ids)
        if op == OpCode.CREATE_SESSION:
            return _INT(int.from_bytes(frame[HEADER_BYTES:], "big", signed=True))
        if op == OpCode.CLOSE_SESSION:
            return self._close_session(request.session_id, zxid)
        if op == OpCode.DELETE_CONTAINER:
            delete_container, end = decode_delete_container_request(frame, HEADER_BYTES)
            return self._delete_container(delete_container.path, frame[HEADER_BYTES:end], request, zxid)
        assert op == OpCode.RECONFIG, op
        reconfig, _ = decode_reconfig_request(frame, HEADER_BYTES)
        return self._reconfig(reconfig, request.ids, zxid, time_ms)

    def _create(
        self,
        op: int,
        path: str | None,
        data: bytes | None,
        head: bytes,
        requested: RequestedAcl,
        flags: int,
        ttl: int,
        request: Request,
        zxid: int,
        time_ms: int,
    ) -> bytes:
        if flags or op == OpCode.CREATE_TTL:
            self._check_flags(op, flags, ttl)
            if flags in _EPHEMERAL_FLAGS and not self._sessions.is_live(request.session_id):
                # A local session of another server, or one that is over: nobody would ever delete the node.
                raise KeeperError(ErrorCode.SESSIONEXPIRED)
        if path is None:
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        if "/" not in path or "\0" in path:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        acl = self._stored_acl(requested, request.ids)
        parent_path = paths.parent_of(path)
        changes = self.changes
        parent = changes.require(parent_path)
        self._require_perm(parent, Perms.CREATE, request.ids)
        if flags in _SEQUENTIAL_FLAGS:
            path = f"{path}{parent.cversion:010d}" if parent.cversion >= 0 else f"{path}{parent.cversion}"
            raw = path.encode()
            head = _INT(len(raw)) + raw + head[4 + read_int(head, 0) :]
        if not paths.is_valid(path):
            raise KeeperError(ErrorCode.BADARGUMENTS)
        if changes.find(path) is not None:
            raise KeeperError(ErrorCode.NODEEXISTS)
        tree = self._tree
        if parent.owner and tree.owners.kind(parent.owner) == EPHEMERAL:
            raise KeeperError(ErrorCode.NOCHILDRENFOREPHEMERALS)
        if tree.quotas.paths:
            self._check_quota(path, 1, 0 if data is None else len(data))
        if path == _ROOT_LIMITS:
            # Apache stores it and dies (client protocol §20): the root cannot have a quota.
            raise KeeperError(ErrorCode.BADARGUMENTS)
        cversion = _next(parent.cversion)
        if op == OpCode.CREATE_CONTAINER:
            owner = CONTAINER_OWNER
        elif op == OpCode.CREATE_TTL:
            owner = ttl_owner(ttl)
        else:
            owner = request.session_id if flags in _EPHEMERAL_FLAGS else 0
        changes.create(op, path, data, acl, owner, parent_path, parent, cversion, zxid, time_ms)
        writer = BytesWriter()
        writer.write(head)
        writer.write(acl.encoded)
        if op not in (OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL):
            writer.append(owner != 0)
        write_i32_be(writer, cversion)
        if op == OpCode.CREATE_TTL:
            write_i64_be(writer, ttl)
        return writer.getvalue()

    def _stored_acl(self, requested: RequestedAcl, ids: Sequence[Id]) -> AclList:
        acl = requested.stored
        if acl is None or acl.uses <= 0:
            acl = self._tree.acls.view(self._access.fix_up(requested.entries, ids))
            if not self._access.depends_on_caller(requested.entries):
                requested.stored = acl
        return acl

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

    def _delete(self, path: str | None, version: int, head: bytes, ids: Sequence[Id], zxid: int) -> bytes:
        parent_path = self._deletable_parent(path)
        assert path is not None
        changes = self.changes
        parent = changes.require(parent_path)
        self._require_perm(parent, Perms.DELETE, ids)
        node = changes.require(path)
        if version not in (ANY_VERSION, node.version):
            raise KeeperError(ErrorCode.BADVERSION)
        if node.count_children() > 0:
            raise KeeperError(ErrorCode.NOTEMPTY)
        self._check_usage_is_readable(path)
        changes.delete(OpCode.DELETE, path, node, parent_path, parent, zxid)
        return head

    def _delete_container(self, path: str | None, head: bytes, request: Request, zxid: int) -> bytes:
        parent_path = self._deletable_parent(path)
        assert path is not None
        changes = self.changes
        node = changes.require(path)
        if node.count_children() > 0:
            raise KeeperError(ErrorCode.NOTEMPTY)
        if self._tree.owners.kind(node.owner) == EPHEMERAL:
            raise KeeperError(ErrorCode.BADVERSION)
        parent = changes.require(parent_path)
        if request.link is not None or request.owner is not None:
            # Apache checks nothing here, so that any client may delete any empty node (client protocol §20).
            self._require_perm(parent, Perms.DELETE, request.ids)
        self._check_usage_is_readable(path)
        changes.delete(OpCode.DELETE_CONTAINER, path, node, parent_path, parent, zxid)
        return head

    def _deletable_parent(self, path: str | None) -> str:
        if path is None:
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        if "/" not in path or "\0" in path or path in paths.RESERVED:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        return paths.parent_of(path)

    def _set_data(
        self,
        path: str | None,
        data: bytes | None,
        version: int,
        head: bytes,
        ids: Sequence[Id],
        zxid: int,
        time_ms: int,
    ) -> bytes:
        if path is None:
            raise KeeperError(ErrorCode.BADARGUMENTS)
        node = self.changes.find(path)
        if node is None or not path:
            # Only a path that names no node can be invalid, but for the alias of the root.
            raise KeeperError(ErrorCode.NONODE if paths.is_valid(path) else ErrorCode.BADARGUMENTS)
        if not node.acl.anyone & Perms.WRITE:
            self._require_perm(node, Perms.WRITE, ids)
        if self._tree.quotas.paths:
            size = 0 if data is None else len(data)
            self._check_quota(path, 0, size - (0 if node.data is None else len(node.data)))
        if version not in (ANY_VERSION, node.version):
            raise KeeperError(ErrorCode.BADVERSION)
        new_version = _next(node.version)
        self.changes.set_data(OpCode.SET_DATA, path, node, data, new_version, zxid, time_ms)
        return _with_int(head, new_version)

    def _set_acl(self, set_acl: SetACLRequest, ids: Sequence[Id]) -> bytes:
        path = set_acl.path
        if path is None or not paths.is_valid(path):
            raise KeeperError(ErrorCode.BADARGUMENTS)
        entries = self._access.fix_up(set_acl.acl, ids)
        node = self.changes.require(path)
        self._require_perm(node, Perms.ADMIN, ids)
        if set_acl.version not in (ANY_VERSION, node.aversion):
            raise KeeperError(ErrorCode.BADVERSION)
        acl = self._tree.acls.view(entries)
        aversion = _next(node.aversion)
        self.changes.set_acl(path, node, acl, aversion)
        return encode_set_acl_txn(SetACLTxn(path, entries, aversion))

    def _check(self, path: str, version: int, head: bytes, ids: Sequence[Id]) -> bytes:
        if not paths.is_valid(path):
            raise KeeperError(ErrorCode.BADARGUMENTS)
        node = self.changes.require(path)
        self._require_perm(node, Perms.READ, ids)
        if version not in (ANY_VERSION, node.version):
            raise KeeperError(ErrorCode.BADVERSION)
        self.changes.check()
        return _with_int(head, _next(node.version))

    def _reconfig(self, reconfig: ReconfigRequest, ids: Sequence[Id], zxid: int, time_ms: int) -> bytes:
        if not self._reconfig_enabled:
            raise KeeperError(ErrorCode.RECONFIGDISABLED)
        ensemble = self.ensemble
        if ensemble is None:
            # Compat: a standalone Apache server answers this once the feature is enabled.
            raise KeeperError(ErrorCode.UNIMPLEMENTED)
        membership = next_membership(reconfig, ensemble, zxid)
        path = paths.CONFIG_NODE
        node = self.changes.require(path)
        self._require_perm(node, Perms.WRITE, ids)
        data = membership.text().encode()
        version = ANY_VERSION  # the node never has another one
        self.changes.set_data(OpCode.RECONFIG, path, node, data, version, zxid, time_ms)
        ensemble.reconfigured(membership)
        return encode_set_data_txn(SetDataTxn(path, data, version))

    def _close_session(self, session_id: int, zxid: int) -> bytes | None:
        changes = self.changes
        owned = self._with_descendants(changes.ephemerals_of(session_id))
        for path in owned:
            parent_path = paths.parent_of(path)
            parent = changes.require(parent_path)
            changes.delete(OpCode.DELETE, path, changes.require(path), parent_path, parent, zxid)
        self._sessions.set_closing(session_id)
        return encode_close_session_txn(CloseSessionTxn([*owned])) if self._close_lists_paths else None

    def _with_descendants(self, owned: list[str]) -> list[str]:
        """Children before their parents. Only a TTL node that is read as an ephemeral (see `OwnerRules`) has any."""
        nodes = self._tree.nodes
        below = [path for path in owned if path in nodes and nodes[path].children]
        if not below:
            return owned
        for path in below:  # which grows
            below.extend(nodes[path].children or ())
        return sorted({*owned, *below}, key=lambda path: (-path.count("/"), path))

    def _multi(self, request: Request, zxid: int, time_ms: int) -> bytes:
        try:
            ops = read_write_ops(request.frame, HEADER_BYTES, self._acls)
        except KeeperError as error:
            raise DecodeError("null ACL in a multi") from error
        except DecodeError as damage:  # another name: compiled, a variable has one type
            raise _Undecodable from damage
        digest_before = self.changes.digest
        members = BytesWriter()
        write_i32_be(members, len(ops))
        failed = False
        for op in ops:
            if failed:
                _add_error_member(members, ErrorCode.RUNTIMEINCONSISTENCY)
                continue
            try:
                body = self._prepare_member(op, request, zxid, time_ms)
            except KeeperError as error:
                if error.code == ErrorCode.MARSHALLINGERROR:
                    raise _Undecodable from error
                failed = True
                self.changes.roll_back(digest_before)
                _add_error_member(members, error.code)
            else:
                write_i32_be(members, op.type)
                write_i32_be(members, len(body))
                members.write(body)
        return members.getvalue()

    def _prepare_member(self, op: WriteOp, request: Request, zxid: int, time_ms: int) -> bytes:
        if request.refusal:
            raise KeeperError(request.refusal)
        type_ = op.type
        if type_ == OpCode.SET_DATA:
            return self._set_data(op.path, op.data, op.number, op.head, request.ids, zxid, time_ms)
        if type_ == OpCode.DELETE:
            return self._delete(op.path, op.number, op.head, request.ids, zxid)
        if type_ == OpCode.CHECK:
            return self._check(op.path, op.number, op.head, request.ids)
        assert op.acl is not None
        return self._create(
            type_, op.path, op.data, op.head, op.acl, op.number, op.ttl, request, zxid, time_ms
        )

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


def _add_error_member(members: BytesWriter, code: int) -> None:
    write_i32_be(members, OpCode.ERROR)
    write_i32_be(members, 4)
    write_i32_be(members, code)


def _with_int(head: bytes, value: int) -> bytes:
    writer = BytesWriter()
    writer.write(head)
    write_i32_be(writer, value)
    return writer.getvalue()


def _next(version: int) -> int:
    return version + 1 if version != _INT_MAX else -_INT_MAX - 1


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
