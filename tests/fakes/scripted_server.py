"""A server reduced to what it does to its disk: txns known beforehand are logged, acknowledged, applied, saved.

`make_txns` gives a history of real txns of all kinds and the state after each of them. `ScriptedServer` starts on a disk as the
real one does and works through that history; `acked` is what it has told its clients, and `issued` what it has begun to write. So a test can
stop it anywhere, and ask of the disk that is left: acked <= last zxid <= issued, and exactly the state of that zxid.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree
from zkpy.core.owners import OwnerRules
from zkpy.core.txn import Txn
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import DiskFullError
from zkpy.storage.purge import purge
from zkpy.storage.recovery import Recovered, recover
from zkpy.storage.snapshot import write_snapshot
from zkpy.storage.txn_log import TxnLog, encode_entry
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    ACL,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateSessionTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteTxn,
    ErrorTxn,
    Id,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
)
from zkpy_protocol.records import Txn as MultiMember
from zkpy_protocol.txns import encode_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zkpy.storage.vfs import FileSystem

OWNERS = OwnerRules(extended=True, emulate_353=False)
DATA_DIR = "/data"

_OPEN = [ACL(31, Id("world", "anyone"))]
_READ = [ACL(1, Id("world", "anyone")), ACL(31, Id("digest", "bob:xyz"))]
_START_MS = 1_700_000_000_000

State = tuple[int, int, tuple[tuple[int, int], ...], tuple[tuple[object, ...], ...]]
"""Last zxid, digest, sessions, and every node with all that is stored of it."""


def state_of(tree: DataTree, sessions: Mapping[int, int]) -> State:
    """Everything a client could ever see, as one value."""
    nodes = tuple(
        (
            path,
            node.data,
            tuple((entry.perms, entry.id.scheme, entry.id.id) for entry in node.acl.entries),
            *(node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime),
            *(node.version, node.cversion, node.aversion, node.owner),
            tuple(sorted(node.children or ())),
            path in tree.ephemerals.get(node.owner, ()),
        )
        for path, node in sorted(tree.nodes.items())
    )
    return tree.last_zxid, tree.digest, tuple(sorted(sessions.items())), nodes


class History:
    """Txns and the state after each; `states[0]` is the empty database. Zxids are 1 to n unless `next_zxid` is moved."""

    def __init__(self) -> None:
        self.tree = DataTree(OWNERS)
        self.sessions: dict[int, int] = {}
        self.txns: list[Txn] = []
        self.states: list[State] = [state_of(self.tree, self.sessions)]
        self.next_zxid = 1

    def add(self, client_id: int, type_: int, record: object) -> None:
        """Append a txn as the leader would make it."""
        zxid = self.next_zxid
        cxid = len(self.txns) + 1
        time = _START_MS + 7 * cxid
        self.tree.apply(Txn(client_id, cxid, zxid, time, type_, record, None, b""), None)
        if isinstance(record, CreateSessionTxn):
            self.sessions[client_id] = record.time_out
        elif type_ == OpCode.CLOSE_SESSION:
            self.sessions.pop(client_id, None)
        digest = None if type_ == OpCode.ERROR else self.tree.digest
        self.txns.append(Txn.make(client_id, cxid, zxid, time, type_, record, digest))
        self.states.append(state_of(self.tree, self.sessions))
        self.next_zxid = zxid + 1


def make_txns(count: int, seed: int, data_max: int = 300) -> History:
    """A history of `count` txns of all types."""
    rng = random.Random(seed)
    history = History()
    makers = [_session, _create, _create, _set, _set, _acl, _delete, _multi, _error, _other_create, _close]
    _session(history, rng, data_max)
    while len(history.txns) < count:
        rng.choice(makers)(history, rng, data_max)
    return history


def make_epochs(epochs: Iterable[tuple[int, int]], seed: int = 6, base: History | None = None) -> History:
    """A history of txns of several epochs, given as (epoch, count); `base` is continued, and stays as it is."""
    rng = random.Random(seed)
    history = History()
    for txn in base.txns if base is not None else ():
        history.next_zxid = txn.zxid
        history.add(txn.client_id, txn.type, txn.record)
    makers = [_create, _create, _set, _acl, _delete, _multi, _error, _close]
    for epoch, count in epochs:
        history.next_zxid = max(history.next_zxid, epoch << 32 | 1)
        end = len(history.txns) + count
        _session(history, rng, 60)
        while len(history.txns) < end:
            rng.choice(makers)(history, rng, 60)
    return history


def _paths(history: History) -> list[str]:
    return sorted(path for path in history.tree.nodes if path and not path.startswith("/zookeeper"))


def _data(rng: random.Random, data_max: int) -> bytes | None:
    kind = rng.randrange(8)
    if kind == 0:
        return None
    size = rng.randrange(data_max) if kind < 7 else data_max
    return bytes(size) if kind == 6 else rng.randbytes(size)


def _new_path(history: History, rng: random.Random) -> tuple[str, int]:
    """Path of a node to be, and the cversion its parent will have."""
    parents = [
        path for path in _paths(history) if history.tree.nodes[path].owner == 0 and path.count("/") < 4
    ]
    parent = rng.choice(parents)
    cversion = history.tree.nodes[parent].cversion + 1
    return f"{'' if parent == '/' else parent}/n{len(history.txns):04d}", cversion


def _session(history: History, rng: random.Random, data_max: int) -> None:
    session_id = 0x100000000000000 + len(history.txns)
    history.add(session_id, OpCode.CREATE_SESSION, CreateSessionTxn(rng.randrange(4000, 40000)))


def _some_session(history: History, rng: random.Random) -> int:
    return rng.choice(sorted(history.sessions) or [0])


def _create(history: History, rng: random.Random, data_max: int) -> None:
    path, cversion = _new_path(history, rng)
    session = _some_session(history, rng)
    record = CreateTxn(
        path, _data(rng, data_max), rng.choice([_OPEN, _READ]), bool(session) and rng.random() < 0.3, cversion
    )
    history.add(session, rng.choice([OpCode.CREATE, OpCode.CREATE2]), record)


def _other_create(history: History, rng: random.Random, data_max: int) -> None:
    path, cversion = _new_path(history, rng)
    if rng.random() < 0.5:
        history.add(
            0, OpCode.CREATE_CONTAINER, CreateContainerTxn(path, _data(rng, data_max), _OPEN, cversion)
        )
    else:
        history.add(0, OpCode.CREATE_TTL, CreateTTLTxn(path, _data(rng, data_max), _OPEN, cversion, 5000))


def _set(history: History, rng: random.Random, data_max: int) -> None:
    path = rng.choice(_paths(history))
    record = SetDataTxn(path, _data(rng, data_max), history.tree.nodes[path].version + 1)
    history.add(_some_session(history, rng), OpCode.SET_DATA, record)


def _acl(history: History, rng: random.Random, data_max: int) -> None:
    path = rng.choice(_paths(history))
    record = SetACLTxn(path, rng.choice([_OPEN, _READ]), history.tree.nodes[path].aversion + 1)
    history.add(_some_session(history, rng), OpCode.SET_ACL, record)


def _leaves(history: History) -> list[str]:
    return [path for path in _paths(history) if path != "/" and not history.tree.nodes[path].children]


def _delete(history: History, rng: random.Random, data_max: int) -> None:
    leaves = _leaves(history)
    if leaves:
        history.add(_some_session(history, rng), OpCode.DELETE, DeleteTxn(rng.choice(leaves)))


def _multi(history: History, rng: random.Random, data_max: int) -> None:
    path, cversion = _new_path(history, rng)
    members: list[tuple[int, CreateTxn | SetDataTxn | ErrorTxn]] = [
        (OpCode.CREATE, CreateTxn(path, b"m", _OPEN, False, cversion)),
        (OpCode.SET_DATA, SetDataTxn(path, _data(rng, data_max), 1)),
    ]
    if rng.random() < 0.3:
        members[1] = (OpCode.ERROR, ErrorTxn(-101))
    record = MultiTxn([MultiMember(int(type_), encode_record(type_, member)) for type_, member in members])
    history.add(_some_session(history, rng), OpCode.MULTI, record)


def _error(history: History, rng: random.Random, data_max: int) -> None:
    history.add(_some_session(history, rng), OpCode.ERROR, ErrorTxn(-110))


def _close(history: History, rng: random.Random, data_max: int) -> None:
    if len(history.sessions) > 1:
        session = _some_session(history, rng)
        history.add(session, OpCode.CLOSE_SESSION, CloseSessionTxn([*history.tree.ephemerals_of(session)]))


class ScriptedServer:
    """Works through a history on a disk, as the runtime does.

    Attributes:
        acked: zxid of the last acknowledged txn.
        issued: zxid of the last txn whose bytes may have reached the disk.
    """

    def __init__(self, fs: FileSystem, history: History, step: int = 2048) -> None:
        self._fs = fs
        self._history = history
        self._step = step
        self.acked = 0
        self.issued = 0
        self.data_dir = DataDir(DATA_DIR, DATA_DIR)
        self.recovered: Recovered
        self.log: TxnLog

    def start(self) -> Recovered:
        """Recover and open a log; everything found is acknowledged from now on."""
        self.data_dir.prepare(self._fs, autocreate=True)
        self.recovered = recover(self._fs, self.data_dir, OWNERS, digest_enabled=True, trust_empty=False)
        found = self.recovered.last_zxid
        self.issued = max(self.issued, found)
        if self.recovered.snapshot_zxid is None:
            self.snapshot("")
        self.log = TxnLog(self._fs, self.data_dir.log_dir, prealloc_bytes=self._step)
        self.acked = max(self.acked, found)
        return self.recovered

    def batch(self, count: int) -> bool:
        """Log and acknowledge the next txns; False when there are none left."""
        done = self.recovered.last_zxid
        txns = self._history.txns[done : done + count]
        if not txns:
            return False
        self.issued = max(self.issued, txns[-1].zxid)
        self.log.append(txns[0].zxid, [encode_entry(txn.payload) for txn in txns])
        self.log.sync()
        self.acked = max(self.acked, txns[-1].zxid)
        self._apply(txns)
        return True

    def batch_or_refusal(self) -> bool:
        """One batch on a disk that may be full; False when it is, and the batch is rolled back."""
        try:
            return self.batch(4)
        except DiskFullError:
            self.log.rollback()
            return False

    def _apply(self, txns: Iterable[Txn]) -> None:
        tree, sessions = self.recovered.tree, self.recovered.sessions
        for txn in txns:
            tree.apply(txn, None)
            if txn.type == OpCode.CREATE_SESSION:
                sessions[txn.client_id] = txn.record.time_out
            elif txn.type == OpCode.CLOSE_SESSION:
                sessions.pop(txn.client_id, None)

    def snapshot(self, compression: str) -> None:
        tree = self.recovered.tree
        write_snapshot(
            self._fs, self.data_dir.snap_dir, tree, self.recovered.sessions, tree.last_zxid, compression
        )

    def run(self, seed: int) -> None:
        """Everything a server does in its life, until the history ends."""
        rng = random.Random(seed)
        self.start()
        while True:
            what = rng.random()
            if what < 0.8:
                if not self.batch(rng.choice([1, 1, 2, 5, 12])):
                    return
            elif what < 0.9:
                self.log.roll()
                self.snapshot(rng.choice(["", "", "gz", "snappy"]))
            elif what < 0.95:
                purge(self._fs, self.data_dir, 3)
            else:
                self.log.close()
                self.start()
