"""What was ever logged, what of it was committed, and what the tree of the committed part looks like at every moment.

Logged histories form a tree: a txn, told apart from others by its whole content, stands behind exactly one other txn. So a
history is named by its last entry, and two servers agree up to where their histories have the same entry. The committed
entries are a chain that only grows; a model of the tree follows it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from tests.simulation.ports import OWNERS
from tests.simulation.world import ViolationError
from zkpy.core.data_tree import DataTree
from zkpy.core.membership import Membership
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from zkpy.core.data_tree import Change

_CREATE_SESSION = int(OpCode.CREATE_SESSION)
_CLOSE_SESSION = int(OpCode.CLOSE_SESSION)
_RECONFIG = int(OpCode.RECONFIG)
_MULTI = int(OpCode.MULTI)
_ERROR = int(OpCode.ERROR)
_CHILDREN_CHANGED = 4


class Entry:
    """A txn and all before it.

    Attributes:
        digest: of the tree behind it, once it is committed.
    """

    __slots__ = ("digest", "is_committed", "parent", "payload", "zxid")

    def __init__(self, parent: Entry | None, zxid: int, payload: bytes) -> None:
        self.parent = parent
        self.zxid = zxid
        self.payload = payload
        self.is_committed = False
        self.digest = 0

    def up_to(self, zxid: int) -> Entry:
        """The last entry of this history that is not above `zxid`."""
        entry = self
        while entry.zxid > zxid:
            assert entry.parent is not None
            entry = entry.parent
        return entry

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is part of this history."""
        return self.up_to(entry.zxid) is entry

    def committed_part(self) -> Entry:
        """The last committed entry of this history."""
        entry = self
        while not entry.is_committed:
            assert entry.parent is not None
            entry = entry.parent
        return entry

    def __repr__(self) -> str:
        return f"{self.zxid:#x}"


class Version:
    """What a path was from one txn on; `version` is -1 while there is no such node."""

    __slots__ = ("data", "mzxid", "version", "zxid")

    def __init__(self, zxid: int, version: int, data: bytes | None, mzxid: int) -> None:
        self.zxid = zxid
        self.version = version
        self.data = data
        self.mzxid = mzxid


_ABSENT = Version(0, -1, None, 0)


class Ledger:
    """Attributes:
    root: the empty history.
    tip: the last committed entry.
    txns: committed txns by zxid.
    tree: what they make.
    """

    def __init__(self, membership: Membership) -> None:
        self.root = Entry(None, 0, b"")
        self.root.is_committed = True
        self.tip = self.root
        self.txns: dict[int, Txn] = {}
        self.tree = DataTree(OWNERS)
        self.root.digest = self.tree.digest
        self.sessions: dict[int, int] = {}
        self.closed: dict[int, int] = {}
        self._entries: dict[bytes, Entry] = {}
        self._versions: dict[str, list[Version]] = {}
        self._cxids: dict[int, int] = {}
        self._memberships = [membership]

    def entry(self, parent: Entry, zxid: int, payload: bytes) -> Entry:
        """The history that has one more txn than `parent`."""
        entry = self._entries.get(payload)
        if entry is None:
            if zxid <= parent.zxid:
                raise ViolationError(f"txn {zxid:#x} behind {parent}")
            entry = self._entries[payload] = Entry(parent, zxid, payload)
        elif entry.parent is not parent:
            raise ViolationError(f"txn {zxid:#x} stands behind {parent} and behind {entry.parent}")
        return entry

    def known(self, payload: bytes) -> Entry | None:
        """The history that ends with this txn."""
        return self._entries.get(payload)

    # -- committed

    def commit(self, entry: Entry, where: str) -> list[Entry]:
        """Somebody says that `entry` is committed.

        Returns:
            the entries that were not, in order.
        """
        new: list[Entry] = []
        behind = entry
        while not behind.is_committed:
            new.append(behind)
            assert behind.parent is not None
            behind = behind.parent
        if not new:
            return new
        if behind is not self.tip:
            raise ViolationError(f"{where} commits {new[-1]} behind {behind}, but {self.tip} is committed")
        new.reverse()
        for each in new:
            self._apply(each)
        self.tip = entry
        return new

    def _apply(self, entry: Entry) -> None:
        txn = Txn.from_payload(entry.payload)
        changes: list[Change] = []
        self.tree.apply(txn, changes)
        if self.tree.digest_mismatches:
            raise ViolationError(
                f"txn {entry} was proposed with a digest that is not that of the tree behind it"
            )
        self._follow_session(txn)
        for kind, path, _ in changes:
            if kind != _CHILDREN_CHANGED:
                node = self.tree.nodes.get(path)
                if node is None:
                    version = Version(entry.zxid, -1, None, 0)
                else:
                    version = Version(entry.zxid, node.version, node.data, node.mzxid)
                self._versions.setdefault(path, []).append(version)
        self.txns[entry.zxid] = txn
        entry.is_committed = True
        entry.digest = self.tree.digest

    def _follow_session(self, txn: Txn) -> None:
        session_id = txn.client_id
        if txn.type == _RECONFIG:
            self._memberships.append(Membership.from_text(txn.record.data.decode()))
        if txn.type == _CREATE_SESSION:
            self.sessions[session_id] = txn.record.time_out
        elif txn.type == _CLOSE_SESSION:
            self.sessions.pop(session_id, None)
            self.closed.setdefault(session_id, txn.zxid)
            left = self.tree.ephemerals_of(session_id)
            if left:
                raise ViolationError(f"session {session_id:#x} is closed by {txn.zxid:#x} and leaves {left}")
        elif txn.cxid and not _has_failed(txn):
            if session_id in self.closed:
                raise ViolationError(
                    f"txn {txn.zxid:#x} of type {txn.type} is of the closed session {session_id:#x}"
                )
            before = self._cxids.get(session_id, 0)
            if txn.cxid <= before:
                raise ViolationError(
                    f"txn {txn.zxid:#x} is request {txn.cxid} of session {session_id:#x}, behind {before}"
                )
            self._cxids[session_id] = txn.cxid

    def is_quorum(self, entry: Entry, servers: set[int]) -> bool:
        """Whether these are enough to commit: by the membership of that time, and by the one before if it is what changes it."""
        memberships = self._memberships
        index = bisect_right(memberships, entry.zxid, key=_version_of) - 1
        counted = memberships[max(index, 0) :][:1]
        if index > 0 and memberships[index].version == entry.zxid:
            counted.append(memberships[index - 1])
        return all(membership.verifier.is_quorum(servers) for membership in counted)

    def activated(self, membership: Membership, servers: set[int], by: str) -> None:
        """A leader goes by it from now on, which these follow: a proposed one may come into force without its txn.

        Where a crash has left the proposed configuration and not the txn, the next leader of those who know of it activates it, as
        Apache's does. That takes a quorum of the members before and one of the new ones, as its commit would.
        """
        known = self._memberships[-1]
        if membership.version <= known.version:
            return
        for needed in (known, membership):
            if not needed.verifier.is_quorum(servers):
                raise ViolationError(
                    f"{by} activates configuration {membership.version:#x}, which only {sorted(servers)} follow"
                )
        self._memberships.append(membership)

    # -- what a client may see

    def at(self, path: str, zxid: int) -> Version:
        """What `path` is behind txn `zxid`."""
        versions = self._versions.get(path)
        if not versions:
            return _ABSENT
        index = bisect_right(versions, zxid, key=_zxid_of)
        return versions[index - 1] if index else _ABSENT


def _has_failed(txn: Txn) -> bool:
    """Whether a txn says that a request was refused, and changes nothing."""
    if txn.type == _MULTI:
        return any(member.type == _ERROR for member in txn.record.txns)
    return txn.type == _ERROR


def _version_of(membership: Membership) -> int:
    return membership.version


def _zxid_of(version: Version) -> int:
    return version.zxid
