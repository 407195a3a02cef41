"""From the files of a server to its tree and sessions.

    recovered = recover(fs, data_dir, owners, digest_enabled=True, trust_empty=False)
    recovered.tree, .sessions, .last_zxid, .snapshot_zxid, .txn_count, .digest_mismatches, .notices

What is done (on-disk format §6): the newest snapshot whose seal is right, then every log entry above its zxid in order, applied as
they are, committed or not. Nothing is started on that would serve less than was acknowledged: see
log_reader.py for logs; a snapshot that is damaged is passed over, because an older one with all logs since gives the same state, and the
logs are checked to be all there.

What is changed on disk, before anything is served, and safe to be interrupted anywhere:

* a torn tail of the newest log is cut off, or completed where only its end mark is missing: a tail that stays would be read by
  us, by Apache, or after the next crash in different ways, and our next file would come behind it;
* log files in which nothing was ever synced, and leftovers under temporary names, are removed;
* every log that was read is synced. After a kill the kernel may hold what the disk does not; clients
  will see it from now on, so it must not vanish with the next power cut.

Each of them, and each snapshot that was passed over, is one line in `notices`; logging them is the caller's business.

To hand out the last txns later (they are what a learner that comes back needs) read them again with a LogReader: it needs no state of ours.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree
from zkpy.core.txn import Txn
from zkpy.storage.errors import SnapshotDamageError, StorageDamageError
from zkpy.storage.log_reader import LogReader, Repair
from zkpy.storage.names import TMP_LOG, TMP_SNAPSHOT, numbered
from zkpy.storage.snapshot import load_snapshot, looks_complete
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from zkpy.core.owners import OwnerRules
    from zkpy.storage.data_dir import DataDir
    from zkpy.storage.vfs import FileSystem

_SNAPSHOTS_TRIED_MAX = 100  # Apache's; more damaged snapshots than that are no accident
_CREATE_SESSION = int(OpCode.CREATE_SESSION)
_CLOSE_SESSION = int(OpCode.CLOSE_SESSION)
_RESTORE = "Restore the data directory from another server or a backup"


class Recovered:
    """State of a server as its files give it.

    Attributes:
        tree: with everything applied.
        sessions: session id -> timeout in ms.
        snapshot_zxid: zxid of the snapshot it began with, None without one.
        txn_count: txns replayed from logs.
        digest_mismatches: txns (or the snapshot's end) whose tree digest was not the one recorded; harmless to go on, and a
            sign of a bug somewhere.
        is_empty: there were no files: a new database, which the caller has to decide to trust.
        is_initialized: a file ``initialize`` said that an empty database is meant; it is gone now.
        notices: sentences for the operator about what was passed over or changed on disk.
    """

    __slots__ = (
        "digest_mismatches",
        "is_empty",
        "is_initialized",
        "notices",
        "sessions",
        "snapshot_zxid",
        "tree",
        "txn_count",
    )

    def __init__(
        self, tree: DataTree, sessions: dict[int, int], snapshot_zxid: int | None, notices: list[str]
    ) -> None:
        self.tree = tree
        self.sessions = sessions
        self.snapshot_zxid = snapshot_zxid
        self.txn_count = 0
        self.digest_mismatches = 0
        self.is_empty = False
        self.is_initialized = False
        self.notices = notices

    @property
    def last_zxid(self) -> int:
        """The greatest zxid in snapshot and logs."""
        return self.tree.last_zxid


def recover(
    fs: FileSystem, data_dir: DataDir, owners: OwnerRules, *, digest_enabled: bool, trust_empty: bool
) -> Recovered:
    """Read the newest snapshot and the logs behind it.

    Args:
        fs: the disk.
        data_dir: prepared directories.
        owners: how stored ephemeral owners are read.
        digest_enabled: whether the tree keeps a digest; without it nothing is compared.
        trust_empty: accept logs without a snapshot (directories written by 3.4).

    Raises:
        StorageDamageError: a log is damaged or missing.
        SnapshotDamageError: there are snapshots and none is usable.
        OSError: a file cannot be read.
    """
    logs = numbered(fs, data_dir.log_dir, "log")
    recovered, digest = _start(fs, data_dir, logs, owners, digest_enabled, trust_empty)
    reader = LogReader(fs, _needed(logs, recovered.tree.last_zxid), recovered.tree.last_zxid)
    _replay(reader, recovered, digest)
    _repair(fs, data_dir, reader, recovered.notices)
    recovered.is_initialized = _take_initialize_file(fs, data_dir)
    return recovered


def _start(
    fs: FileSystem,
    data_dir: DataDir,
    logs: list[tuple[int, str]],
    owners: OwnerRules,
    digest_enabled: bool,
    trust_empty: bool,
) -> tuple[Recovered, tuple[int, int] | None]:
    """State and digest to begin the replay with: the newest usable snapshot, or an empty database."""
    notices: list[str] = []
    snapshots = numbered(fs, data_dir.snap_dir, "snapshot")
    damage: SnapshotDamageError | None = None
    tried = 0
    for zxid, path in reversed(snapshots):
        if tried == _SNAPSHOTS_TRIED_MAX:
            break
        if not looks_complete(fs, path):
            damage = damage or SnapshotDamageError(path, fs.size(path), "the file is cut off")
            notices.append(f"{path} is cut off, taking an older snapshot")
            continue
        tried += 1
        try:
            tree, sessions, digest = load_snapshot(fs, path, owners, digest_enabled)
        except SnapshotDamageError as error:
            damage = damage or error
            notices.append(f"{error}; taking an older snapshot")
        else:
            return Recovered(tree, sessions, zxid, notices), digest
    if damage is not None:
        raise SnapshotDamageError(
            damage.path, damage.offset, f"{damage.problem}, and no older snapshot is usable. {_RESTORE}"
        )
    recovered = Recovered(DataTree(owners, digest_enabled), {}, None, notices)
    has_txns = LogReader(fs, [path for _, path in logs], -1).has_entries()
    if has_txns and not trust_empty:
        raise StorageDamageError(
            logs[0][1],
            0,
            "there are transaction logs and no snapshot",
            f"Put the snapshots back. {_RESTORE}. Only if the directory comes from a ZooKeeper 3.4, which wrote none: start once "
            "with zookeeper.snapshot.trust.empty=true",
        )
    recovered.is_empty = not has_txns
    return recovered, None


def _needed(logs: list[tuple[int, str]], zxid: int) -> list[str]:
    """Paths from the last log that begins at or below `zxid` on; all of them if none does."""
    first = 0
    for number, (first_zxid, _) in enumerate(logs):
        if first_zxid <= zxid:
            first = number
    return [path for _, path in logs[first:]]


def _replay(reader: LogReader, recovered: Recovered, digest: tuple[int, int] | None) -> None:
    """Apply every entry. Digests count from the zxid on at which the snapshot was finished."""
    tree = recovered.tree
    sessions = recovered.sessions
    apply = tree.apply
    from_payload = Txn.from_payload
    count = 0
    if digest is not None and digest[0] == tree.last_zxid:
        recovered.digest_mismatches += tree.digest_enabled and digest[1] != tree.digest
        digest = None
    for zxid, payload in reader.entries():
        try:
            txn = from_payload(payload)
            apply(txn, None)
        except (DecodeError, ValueError, TypeError, AttributeError, AssertionError, struct.error) as error:
            # Its checksum is right: whoever wrote it knew more txns than we do, or made a mistake (a TTL of 0, say, is
            # asserted never to be made here).
            raise StorageDamageError(
                reader.path,
                reader.offset,
                f"txn 0x{zxid:x} cannot be applied: {error}",
                "Start the version of the server that wrote it, or report this",
            ) from error
        count += 1
        if txn.type == _CREATE_SESSION:
            sessions[txn.client_id] = txn.record.time_out
        elif txn.type == _CLOSE_SESSION:
            sessions.pop(txn.client_id, None)
        if digest is not None and zxid >= digest[0]:
            # Up to here the tree was newer than the txns, and their digests meant nothing.
            tree.digest_mismatches = int(
                zxid == digest[0] and tree.digest_enabled and digest[1] != tree.digest
            )
            digest = None
    if digest is not None:
        tree.digest_mismatches = 0
        recovered.notices.append(
            f"the snapshot was finished at zxid 0x{digest[0]:x} and the log ends at 0x{tree.last_zxid:x}: digests were not compared"
        )
    recovered.txn_count = count
    recovered.digest_mismatches += tree.digest_mismatches
    tree.digest_mismatches = 0


def _repair(fs: FileSystem, data_dir: DataDir, reader: LogReader, notices: list[str]) -> None:
    """Change on disk what must not be read again in another way, and make durable what was read."""
    for repair in reader.repairs:
        _apply_repair(fs, repair)
        notices.append(f"{repair.path}: {repair.reason}")
    removed = {repair.path for repair in reader.repairs if repair.size is None}
    for path in reader.paths:
        if path not in removed:
            file = fs.open(path)
            try:
                file.datasync()
            finally:
                file.close()
    for directory in sorted({data_dir.snap_dir, data_dir.log_dir}):
        for name in fs.names(directory):
            if name == TMP_LOG or name.startswith(TMP_SNAPSHOT + "."):
                fs.unlink(f"{directory}/{name}")
        fs.sync_dir(directory)


def _take_initialize_file(fs: FileSystem, data_dir: DataDir) -> bool:
    """Whether there was one. It counts once: the next empty database is an accident again."""
    found = [path for path in data_dir.initialize_paths if fs.exists(path)]
    for path in found:
        fs.unlink(path)
        fs.sync_dir(path.rpartition("/")[0])
    return bool(found)


def _apply_repair(fs: FileSystem, repair: Repair) -> None:
    if repair.size is None:
        fs.unlink(repair.path)
        return
    file = fs.open(repair.path)
    try:
        file.truncate(repair.size)
        if repair.end_mark:
            file.write(b"B", repair.size - 1)
    finally:
        file.close()
