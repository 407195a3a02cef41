"""The data tree once more, as plainly as it can be said: a dict of values, everything else computed when asked.

Written from the rules (client protocol §9, §10; on-disk format §5, §6.3), not from `zkpy.core.data_tree`, which it checks. Knows no
quotas and no watches.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import ACL, Id
from zkpy_protocol.txns import decode_record

if TYPE_CHECKING:
    from zkpy.core.data_tree import DataTree
    from zkpy.core.txn import Txn

CONTAINER_OWNER = -(1 << 63)
_TTL_MARK = -(1 << 56)

Entries = tuple[tuple[int, str | None, str | None], ...]


def entries_of(acl: list[ACL] | tuple[ACL, ...] | None) -> Entries:
    return tuple((entry.perms, entry.id.scheme, entry.id.id) for entry in acl or ())


@dataclass(frozen=True)
class Stored:
    """Everything that is stored of a node."""

    data: bytes | None
    acl: Entries
    owner: int
    czxid: int
    mzxid: int
    pzxid: int
    ctime: int
    mtime: int
    version: int = 0
    cversion: int = 0
    aversion: int = 0

    def digest(self, path: str) -> int:
        """Its part of the tree's digest."""
        if path.startswith("/zookeeper/"):
            return 0
        raw = b"" if path == "/" else path.encode()
        numbers = (self.czxid, self.mzxid, self.pzxid, self.ctime, self.mtime)
        versions = (self.version, self.cversion, self.aversion)
        return crc32(raw + (self.data or b"") + struct.pack(">5q3iq", *numbers, *versions, self.owner))


@dataclass
class NaiveTree:
    """Nodes by path, sessions' timeouts, the last zxid."""

    nodes: dict[str, Stored] = field(default_factory=dict)
    sessions: dict[int, int] = field(default_factory=dict)
    last_zxid: int = 0

    @classmethod
    def empty(cls) -> NaiveTree:
        open_acl = entries_of([ACL(31, Id("world", "anyone"))])
        reserved = Stored(b"", open_acl, 0, 0, 0, 0, 0, 0)
        config = replace(reserved, acl=entries_of([ACL(1, Id("world", "anyone"))]), aversion=-1)
        nodes = dict.fromkeys(["/", "/zookeeper", "/zookeeper/quota"], reserved)
        return cls(nodes | {"/zookeeper/config": config})

    @staticmethod
    def parent(path: str) -> str:
        return path[: path.rindex("/")] or "/"

    def children(self, path: str) -> list[str]:
        return sorted(other for other in self.nodes if other != "/" and self.parent(other) == path)

    @property
    def digest(self) -> int:
        total = sum(node.digest(path) for path, node in self.nodes.items()) % (1 << 64)
        return total - (1 << 64) if total >= 1 << 63 else total

    def owned(self, session_id: int) -> list[str]:
        return sorted(path for path, node in self.nodes.items() if node.owner == session_id)

    # -- txns; each gives the error it would be answered with

    def apply(self, txn: Txn) -> int:
        err = self._apply(txn.type, txn.record, txn)
        self.last_zxid = max(self.last_zxid, txn.zxid)
        return err

    def _apply(self, type_: int, record: Any, txn: Txn) -> int:
        if type_ in (OpCode.CREATE, OpCode.CREATE2):
            return self._create(record, txn.client_id if record.ephemeral else 0, txn)
        if type_ == OpCode.CREATE_CONTAINER:
            return self._create(record, CONTAINER_OWNER, txn)
        if type_ == OpCode.CREATE_TTL:
            return self._create(record, _TTL_MARK + record.ttl, txn)
        if type_ in (OpCode.DELETE, OpCode.DELETE_CONTAINER):
            return self._delete(record.path, txn.zxid)
        if type_ == OpCode.SET_DATA:
            return self._change(
                record.path, data=record.data, version=record.version, mzxid=txn.zxid, mtime=txn.time
            )
        if type_ == OpCode.SET_ACL:
            return self._change(record.path, acl=entries_of(record.acl), aversion=record.version)
        if type_ == OpCode.CREATE_SESSION:
            self.sessions[txn.client_id] = record.time_out
        elif type_ == OpCode.CLOSE_SESSION:
            for path in [*(record.paths2_delete if record else ()), *self.owned(txn.client_id)]:
                self._delete(path, txn.zxid)
            self.sessions.pop(txn.client_id, None)
        elif type_ == OpCode.ERROR:
            return int(record.err)
        elif type_ == OpCode.MULTI:
            members = [(member.type, decode_record(member.type, member.data)[0]) for member in record.txns]
            errors: list[int] = [r.err for kind, r in members if kind == OpCode.ERROR]  # type: ignore[union-attr]
            if errors:
                return errors[0]
            for kind, member in members:
                self._apply(kind, member, txn)
        return 0

    def _create(self, record: Any, owner: int, txn: Txn) -> int:
        parent_path = self.parent(record.path)
        parent = self.nodes.get(parent_path)
        if parent is None:
            return -101
        if record.path in self.nodes:
            return -110
        acl = entries_of(record.acl)
        time = txn.time
        self.nodes[record.path] = Stored(record.data, acl, owner, txn.zxid, txn.zxid, txn.zxid, time, time)
        if record.parent_c_version > parent.cversion:
            self._change(parent_path, cversion=record.parent_c_version, pzxid=txn.zxid)
        return 0

    def _delete(self, path: str, zxid: int) -> int:
        parent_path = self.parent(path)
        parent = self.nodes.get(parent_path)
        if parent is None:
            return -101
        self._change(parent_path, pzxid=max(parent.pzxid, zxid))
        return 0 if self.nodes.pop(path, None) is not None else -101

    def _change(self, path: str, **values: Any) -> int:
        node = self.nodes.get(path)
        if node is None:
            return -101
        self.nodes[path] = replace(node, **values)
        return 0


def stored_nodes(tree: DataTree) -> dict[str, Stored]:
    """The same of a real tree."""
    return {
        path: Stored(
            node.data,
            entries_of(node.acl.entries),
            node.owner,
            *(node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime),
            *(node.version, node.cversion, node.aversion),
        )
        for path, node in tree.nodes.items()
        if path
    }


def check_consistent(tree: DataTree) -> None:
    """Every index of a real tree says the same as its nodes."""
    nodes = stored_nodes(tree)
    model = NaiveTree(nodes)
    assert tree.nodes[""] is tree.nodes["/"]
    come: set[str] = {""}
    for path, node in tree.nodes.items():
        assert path in {"", "/"} or path[: path.rindex("/")] in come, f"{path} comes before its parent"
        come.add(path)
        assert sorted(node.children or ()) == model.children(path or "/"), path
        assert node.children is None or node.children, "no empty set of children is kept"
    if tree.digest_enabled:
        assert tree.digest == model.digest
    if not any(path.endswith("/zookeeper_stats") for path in nodes):
        # Compat: the server's own counting into a stats node is not counted in, as with Apache.
        assert tree.data_size == sum(len(path) + len(node.data or b"") for path, node in nodes.items())
    kinds: dict[int, dict[str, int]] = {}
    for path, stored in nodes.items():
        if stored.owner:
            kinds.setdefault(tree.owners.kind(stored.owner), {})[path] = stored.owner
    ephemerals, containers, ttls = (kinds.get(kind, {}) for kind in (1, 2, 3))
    assert {path: owner for owner, paths in tree.ephemerals.items() for path in paths} == ephemerals
    assert tree.ephemeral_count == len(ephemerals)
    assert sorted(tree.containers) == sorted(containers)
    assert sorted(tree.ttls) == sorted(ttls)
    uses: dict[int, int] = {}
    for path, node in tree.nodes.items():
        if path:
            uses[node.acl.id] = uses.get(node.acl.id, 0) + 1
            assert tree.acls.by_id(node.acl.id) is node.acl, path
    assert {acl.id: acl.uses for acl in tree.acls.entries() if acl.uses} == {
        id_: count for id_, count in uses.items() if id_ != -1
    }
