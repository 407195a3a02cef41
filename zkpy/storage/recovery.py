"""From the files of a server to its tree and sessions.

    recovered = recover(fs, data_dir, owners, digest_enabled=True, trust_empty=False)     # at a start
    begin_empty(fs, data_dir, recovered, autocreate=True)                                 # if recovered.is_empty
    recovered = load_database(fs, data_dir, owners, zxid, digest_enabled=True)            # what it was at a zxid
    recovered.tree, .sessions, .last_zxid, .snapshot_zxid, .txn_count, .last_txns, .digest_mismatches, .notices

What is done (on-disk format §6): the newest snapshot whose seal is right, then every log entry above its zxid in order, applied as
they are, committed or not. Nothing is started on that would serve less than was acknowledged: see
log_reader.py for logs; a snapshot that is damaged is passed over, because an older one with all logs since gives the same state, and the
logs are checked to be all there: without a gap, and with the txn the damaged snapshot is named by. That txn is missing where a leader
sent its state instead of txns (SNAP): what came before and what came after may then seem to follow each other.

What is changed on disk, before anything is served, and safe to be interrupted anywhere:

* a torn tail of the newest log is cut off, or completed where only its end mark is missing: a tail that stays would be read by
  us, by Apache, or after the next crash in different ways, and our next file would come behind it;
* log files in which nothing was ever synced, and leftovers under temporary names, are removed;
* the snapshot and every log that was read are synced. After a kill the kernel may hold what the disk does not; clients
  will see it from now on, so it must not vanish with the next power cut.

Each of them, and each snapshot that was passed over, is one line in `notices`; logging them is the caller's business.

An empty database (§5.3 of the quorum protocol) is either meant, by a file ``initialize`` or by zookeeper.db.autocreate, or an accident
after which the server must not vote before it got the data from others. `begin_empty` decides: snapshot.0 at once, and only when it is
durable the file ``initialize`` goes; or last zxid -1. A crash in between leaves the decision as it was. With any other database
the file means nothing and goes with `recover`: it counts once, the next empty database is an accident again.

`load_database` reads only. It is for a server that is told to cut its log: memory first, the disk when all that follows has come
(truncation.py).
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree
from zkpy.core.txn import Txn
from zkpy.core.types import counter_of, epoch_of
from zkpy.storage.errors import SnapshotDamageError, StorageDamageError, UnreachableZxidError
from zkpy.storage.log_reader import LogReader, Repair, paths_from
from zkpy.storage.names import TMP_LOG, TMP_SNAPSHOT, numbered
from zkpy.storage.snapshot import end_zxid, load_snapshot, looks_complete, write_snapshot
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        snapshot_path: its file.
        txn_count: txns replayed from logs.
        last_txns: the last ones of them, as many as were asked for, without a gap up to `last_zxid`; none of those that
            were in the snapshot already.
        digest_mismatches: txns (or the snapshot's end) whose tree digest was not the one recorded; harmless to go on, and a
            sign of a bug somewhere.
        is_empty: there were no files: a new database, which the caller has to decide to trust.
        is_initialized: a file ``initialize`` says that an empty database is meant.
        notices: sentences for the operator about what was passed over or changed on disk.
    """

    __slots__ = (
        "digest_mismatches",
        "is_empty",
        "is_initialized",
        "last_txns",
        "notices",
        "sessions",
        "snapshot_path",
        "snapshot_zxid",
        "tree",
        "txn_count",
    )

    def __init__(self, tree: DataTree, sessions: dict[int, int], notices: list[str]) -> None:
        """Begins without a snapshot."""
        self.tree = tree
        self.sessions = sessions
        self.snapshot_zxid: int | None = None
        self.snapshot_path: str | None = None
        self.txn_count = 0
        self.last_txns: list[Txn] = []
        self.digest_mismatches = 0
        self.is_empty = False
        self.is_initialized = False
        self.notices = notices

    @property
    def last_zxid(self) -> int:
        """The greatest zxid in snapshot and logs."""
        return self.tree.last_zxid


class _Base:
    """Where a replay begins: a state, and what is known of its snapshot and of newer ones that could not be used.

    Attributes:
        digest: zxid and digest the snapshot was finished with, None where they say nothing more.
        passed: zxids of complete snapshots that were passed over, which the logs have to reach, ascending.
        passed_torn: those of cut off ones, which the logs must not skip, ascending.
    """

    __slots__ = ("digest", "passed", "passed_torn", "recovered")

    def __init__(self, recovered: Recovered) -> None:
        self.recovered = recovered
        self.digest: tuple[int, int] | None = None
        self.passed: list[int] = []
        self.passed_torn: list[int] = []


def recover(
    fs: FileSystem,
    data_dir: DataDir,
    owners: OwnerRules,
    *,
    digest_enabled: bool,
    trust_empty: bool,
    keep_txns: int = 0,
) -> Recovered:
    """Read the newest snapshot and the logs behind it.

    Args:
        fs: the disk.
        data_dir: prepared directories.
        owners: how stored ephemeral owners are read.
        digest_enabled: whether the tree keeps a digest; without it nothing is compared.
        trust_empty: accept logs without a snapshot (directories written by 3.4). The caller should write one: the
            result has no `snapshot_zxid`.
        keep_txns: how many `last_txns` are wanted (commitLogCount).

    Raises:
        StorageDamageError: a log is damaged or missing.
        SnapshotDamageError: there are snapshots and none is usable.
        OSError: a file cannot be read.
    """
    logs = numbered(fs, data_dir.log_dir, "log")
    base = _start(fs, data_dir, logs, owners, digest_enabled, trust_empty)
    recovered = base.recovered
    reader = LogReader(fs, paths_from(logs, recovered.tree.last_zxid), recovered.tree.last_zxid)
    _replay(reader, reader.entries(), base, keep_txns)
    _repair(fs, data_dir, reader, recovered)
    recovered.is_initialized = any(fs.exists(path) for path in data_dir.initialize_paths)
    if not recovered.is_empty:
        _remove_initialize_files(fs, data_dir)
    return recovered


def begin_empty(fs: FileSystem, data_dir: DataDir, recovered: Recovered, *, autocreate: bool) -> bool:
    """Decide about a database that `recover` found to be empty.

    Args:
        fs: the disk.
        data_dir: its directories.
        recovered: with `is_empty`; gets a snapshot, or the last zxid -1.
        autocreate: zookeeper.db.autocreate.

    Returns:
        whether it is trusted.

    Raises:
        OSError: nothing is decided.
    """
    assert recovered.is_empty
    if not (autocreate or recovered.is_initialized):
        recovered.tree.last_zxid = -1
        return False
    name = write_snapshot(fs, data_dir.snap_dir, recovered.tree, recovered.sessions, 0)
    recovered.snapshot_zxid = 0
    recovered.snapshot_path = f"{data_dir.snap_dir}/{name}"
    _remove_initialize_files(fs, data_dir)
    return True


def load_database(
    fs: FileSystem,
    data_dir: DataDir,
    owners: OwnerRules,
    zxid: int | None,
    *,
    digest_enabled: bool,
    keep_txns: int = 0,
) -> Recovered:
    """The state as it was after txn `zxid`, or after the last one, from the newest snapshot that holds nothing later and
    the logs behind it.

    The txn has to be known: the zxid of a log entry or of a snapshot. Else nobody can tell whether this server had the
    history of whoever names it; a state below it would be taken for something it is not. The one other zxid is that of an
    epoch's beginning (counter 0), before the first txn of that epoch in the log.

    Nothing on disk is changed, or read beyond the first txn above `zxid`. So it may be used while a `TxnLog` is there, as
    long as it writes nothing; `recover` would take its unnamed file for a leftover.

    Raises:
        UnreachableZxidError: the files do not give that state; they may be damaged, or not reach back that far.
        OSError: a file cannot be read.
    """
    logs = numbered(fs, data_dir.log_dir, "log")
    following: list[int] = []
    try:
        base = _start(fs, data_dir, logs, owners, digest_enabled, trust_empty=False, zxid_max=zxid)
        recovered = base.recovered
        reader = LogReader(fs, paths_from(logs, recovered.last_zxid), recovered.last_zxid)
        entries = reader.entries()
        _replay(reader, entries if zxid is None else _up_to(entries, zxid, following), base, keep_txns)
    except (SnapshotDamageError, StorageDamageError) as error:
        raise UnreachableZxidError(f"{_name(zxid)}: {error}") from error
    last = recovered.last_zxid
    if zxid is not None and last != zxid:
        if counter_of(zxid) != 0 or not following or epoch_of(following[0]) != epoch_of(zxid):
            raise UnreachableZxidError(
                f"{_name(zxid)}: there is no such txn; the last one before it is 0x{last:x}"
            )
        recovered.tree.last_zxid = zxid
    return recovered


def _name(zxid: int | None) -> str:
    return "the last zxid" if zxid is None else f"zxid 0x{zxid:x}"


def _start(
    fs: FileSystem,
    data_dir: DataDir,
    logs: list[tuple[int, str]],
    owners: OwnerRules,
    digest_enabled: bool,
    trust_empty: bool,
    zxid_max: int | None = None,
) -> _Base:
    """State and digest to begin the replay with: the newest usable snapshot, or an empty database."""
    snapshots = numbered(fs, data_dir.snap_dir, "snapshot")
    if zxid_max is not None:
        snapshots = [(zxid, path) for zxid, path in snapshots if zxid <= zxid_max]
        if not snapshots:
            raise UnreachableZxidError(f"zxid 0x{zxid_max:x}: all snapshots are newer")
    base = _Base(Recovered(DataTree(owners, digest_enabled), {}, []))
    notices = base.recovered.notices
    damage: SnapshotDamageError | None = None
    tried = 0
    for zxid, path in reversed(snapshots):
        if tried == _SNAPSHOTS_TRIED_MAX:
            break
        if not looks_complete(fs, path):
            damage = damage or SnapshotDamageError(path, fs.size(path), "the file is cut off")
            notices.append(f"{path} is cut off, taking an older snapshot")
            base.passed_torn.insert(0, zxid)
            continue
        if zxid_max is not None and (end_zxid(fs, path) or zxid) > zxid_max:
            damage = damage or SnapshotDamageError(path, 0, f"it holds txns above 0x{zxid_max:x}")
            base.passed.insert(0, zxid)
            continue
        tried += 1
        try:
            tree, sessions, digest = load_snapshot(fs, path, owners, digest_enabled)
        except SnapshotDamageError as error:
            damage = damage or error
            notices.append(f"{error}; taking an older snapshot")
            base.passed.insert(0, zxid)
        else:
            base.recovered = recovered = Recovered(tree, sessions, notices)
            recovered.snapshot_zxid = zxid
            recovered.snapshot_path = path
            base.digest = digest
            return base
    if damage is not None:
        raise SnapshotDamageError(
            damage.path, damage.offset, f"{damage.problem}, and no older snapshot is usable. {_RESTORE}"
        )
    has_txns = LogReader(fs, [path for _, path in logs], -1).has_entries()
    if has_txns and not trust_empty:
        raise StorageDamageError(
            logs[0][1],
            0,
            "there are transaction logs and no snapshot",
            f"Put the snapshots back. {_RESTORE}. Only if the directory comes from a ZooKeeper 3.4, which wrote none: start once "
            "with zookeeper.snapshot.trust.empty=true",
        )
    base.recovered.is_empty = not has_txns
    return base


def _replay(reader: LogReader, entries: Iterator[tuple[int, bytes]], base: _Base, keep_txns: int) -> None:
    """Apply every entry and keep the last ones. Digests count from the zxid on at which the snapshot was finished."""
    recovered = base.recovered
    digest = base.digest
    tree = recovered.tree
    sessions = recovered.sessions
    apply = tree.apply
    from_payload = Txn.from_payload
    last_txns: deque[Txn] = deque(maxlen=keep_txns)
    keep = last_txns.append
    count = 0
    if digest is not None and digest[0] == tree.last_zxid:
        recovered.digest_mismatches += tree.digest_enabled and digest[1] != tree.digest
        digest = None
    if base.passed or base.passed_torn:
        entries = _reaching(reader, entries, base)
    for zxid, payload in entries:
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
        keep(txn)
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
    recovered.last_txns = list(last_txns)
    recovered.digest_mismatches += tree.digest_mismatches
    tree.digest_mismatches = 0


def _up_to(
    entries: Iterator[tuple[int, bytes]], zxid_max: int, following: list[int]
) -> Iterator[tuple[int, bytes]]:
    """The entries up to a zxid; the zxid of the next one, if it was read, is put into `following`."""
    for zxid, payload in entries:
        if zxid > zxid_max:
            following.append(zxid)
            return
        yield zxid, payload
        if zxid == zxid_max:
            return


def _reaching(
    reader: LogReader, entries: Iterator[tuple[int, bytes]], base: _Base
) -> Iterator[tuple[int, bytes]]:
    """The entries, if they lead through every snapshot that was passed over.

    One that was cut off may be of a txn that never became durable in the log; then nothing comes behind it.
    """
    last = base.recovered.tree.last_zxid
    to_reach = base.passed
    not_to_skip = sorted([*base.passed, *base.passed_torn])
    for zxid, payload in entries:
        while not_to_skip and not_to_skip[0] < zxid:
            if not_to_skip.pop(0) > last:
                raise _skipped(reader, f"txn 0x{zxid:x} follows 0x{last:x}")
        last = zxid
        yield zxid, payload
    if to_reach and to_reach[-1] > last:
        raise _skipped(reader, f"the last txn is 0x{last:x}")


def _skipped(reader: LogReader, problem: str) -> StorageDamageError:
    return StorageDamageError(
        reader.path,
        reader.offset,
        f"{problem}, but there is a newer snapshot, which is damaged: what it held is not in the logs",
        f"{_RESTORE}; to go on without, move the damaged snapshot and all later logs away",
    )


def _repair(fs: FileSystem, data_dir: DataDir, reader: LogReader, recovered: Recovered) -> None:
    """Change on disk what must not be read again in another way, and make durable what was read."""
    for repair in reader.repairs:
        _apply_repair(fs, repair)
        recovered.notices.append(f"{repair.path}: {repair.reason}")
    removed = {repair.path for repair in reader.repairs if repair.size is None}
    read = [path for path in reader.paths if path not in removed]
    if recovered.snapshot_path is not None:
        read.insert(0, recovered.snapshot_path)
    for path in read:
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


def _remove_initialize_files(fs: FileSystem, data_dir: DataDir) -> None:
    for path in data_dir.initialize_paths:
        if fs.exists(path):
            fs.unlink(path)
            fs.sync_dir(path.rpartition("/")[0])


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
