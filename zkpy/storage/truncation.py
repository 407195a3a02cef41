"""Giving up txns that the leader does not have: TRUNC, and a SNAP in their place.

    kept = truncate(fs, data_dir, zxid, again)                                       # TRUNC(zxid)
    kept = install_snapshot(fs, data_dir, tree, sessions, zxid, compression, again)  # SNAP

What is on disk before is this server's old history, up to some last zxid; afterwards it is that history up to `zxid`, or the
leader's state at `zxid`. In between a crash may leave: the old history up to any zxid from `zxid` on, complete (the server is told again
to cut, or is asked for what it has); or what is wanted. Never a hole, and never old txns behind the new state: they would be
replayed onto it, and what comes out never was the state of anybody. Hence the order:

1. SNAP: the new state is written and synced under a name that no server reads.
2. Log files are gone through from the newest to the oldest: one that begins above `zxid` is removed and the directory
   synced, one that goes beyond it is cut before its first such entry and synced. So what is left always is a beginning. A
   snapshot above `zxid` may still be there: it holds the old history too, and what is missing below it it covers.
3. SNAP: the new snapshot gets its name. If an older one above `zxid` is still there, a start takes that, alone: no log goes with it.
4. Snapshots above `zxid` are removed (ZOOKEEPER-4837: else the next start brings everything back), and those below it that were finished
   later and so hold later effects. Not before the logs: a log may have a hole that only such a snapshot covers.

`zxid` itself need not be in the log. (Apache goes to the entry with the wanted zxid or the next greater one, and cuts behind it:
where the zxid is that of a snapshot, or an epoch's beginning, the first txn that should go stays.)

Txns that come again. A learner that reconnects to its leader is often ahead by proposals it has acked; it is told to cut them, and
gets them again right after. Its acks may have been counted: they must not become untrue by a crash in between. So txns of the log
behind `zxid` stay as long as they are, byte for byte, the first of `again`. One zxid with one content means one history up to it, so what
stays belongs to the leader's history.

What is below a snapshot that was received stays on disk, for the operator and until it is purged. It may end earlier than the snapshot: a
hole, which recovery.py and history.py find by the snapshot's zxid, which is no entry of the log.

Nothing may be writing meanwhile: no log.* file may be open (`TxnLog.finish_file`), what is in the log is synced, and no
snapshot of the old state is under way, which would come to its name after it was looked for.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from zkpy.storage.errors import StorageDamageError, UnreachableZxidError
from zkpy.storage.log_reader import LogReader, paths_from
from zkpy.storage.names import numbered
from zkpy.storage.snapshot import end_zxid, looks_complete, name_snapshot, stage_snapshot
from zkpy.storage.txn_log import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zkpy.core.data_tree import DataTree
    from zkpy.storage.data_dir import DataDir
    from zkpy.storage.vfs import FileSystem

_zxid = Struct(">q")
_ZXID_OFFSET = 12  # in a payload: behind session and cxid


def truncate(fs: FileSystem, data_dir: DataDir, zxid: int, again: Iterable[tuple[int, bytes]] = ()) -> int:
    """Make `zxid` the end of log and snapshots; `load_database` has shown that there is something to go back to.

    Args:
        fs: the disk.
        data_dir: its directories.
        zxid: the last txn that stays whatever comes.
        again: zxid and payload of the txns above it that the leader has sent since, ascending.

    Returns:
        zxid of the last txn in log and snapshots: `zxid`, or the last one of `again` that was there already.

    Raises:
        UnreachableZxidError: there is no snapshot to go back to; nothing was changed.
        OSError: the server has to stop; what a crash leaves is left.
    """
    newer = _newer_snapshots(fs, data_dir.snap_dir, zxid)
    paths = [path for _, path in numbered(fs, data_dir.snap_dir, "snapshot")]
    if not any(path not in newer and looks_complete(fs, path) for path in paths):
        raise UnreachableZxidError(f"zxid 0x{zxid:x}: all snapshots are newer")
    kept = _cut_logs(fs, data_dir.log_dir, zxid, again)
    _remove(fs, data_dir.snap_dir, newer)
    return kept


def install_snapshot(
    fs: FileSystem,
    data_dir: DataDir,
    tree: DataTree,
    sessions: Mapping[int, int],
    zxid: int,
    compression: str = "",
    again: Iterable[tuple[int, bytes]] = (),
) -> int:
    """Make a received state what a start finds.

    Args:
        fs: the disk.
        data_dir: its directories.
        tree: the state, with everything up to `zxid` applied, and unchanging meanwhile.
        sessions: committed sessions and their timeouts.
        zxid: the last applied txn.
        compression: ``gz``, ``snappy`` or empty.
        again: zxid and payload of the txns above `zxid` that the leader has sent since, ascending.

    Returns:
        zxid of the last txn in log and snapshots: `zxid`, or the last one of `again` that was there already.

    Raises:
        OSError: the server has to stop; what a crash leaves is left.
    """
    stage_snapshot(fs, data_dir.snap_dir, tree, sessions, zxid, compression)
    kept = _cut_logs(fs, data_dir.log_dir, zxid, again)
    name = name_snapshot(fs, data_dir.snap_dir, zxid, compression)
    gone = _newer_snapshots(fs, data_dir.snap_dir, zxid)
    others = [path for found, path in numbered(fs, data_dir.snap_dir, "snapshot") if found == zxid]
    gone += [path for path in others if path != f"{data_dir.snap_dir}/{name}"]
    _remove(fs, data_dir.snap_dir, gone)
    return kept


def _cut_logs(fs: FileSystem, directory: str, zxid: int, again: Iterable[tuple[int, bytes]]) -> int:
    """Leave no entry above the returned zxid in any log."""
    logs = numbered(fs, directory, "log")
    reader = LogReader(fs, paths_from(logs, zxid), zxid)
    kept = _last_kept(reader, zxid, again)
    for first_zxid, path in reversed(logs):
        offset = len(HEADER) if first_zxid > kept else _first_above(reader, path, kept)
        if offset == len(HEADER):
            fs.unlink(path)
            fs.sync_dir(directory)
        elif offset is not None:
            file = fs.open(path)
            try:
                file.truncate(offset)
                file.datasync()
            finally:
                file.close()
    return kept


def _last_kept(reader: LogReader, zxid: int, again: Iterable[tuple[int, bytes]]) -> int:
    """How far the log behind `zxid` is what comes again."""
    kept = zxid
    expected = iter(again)
    try:
        for entry in reader.entries():
            if entry != next(expected, None):
                break
            kept = entry[0]
    except StorageDamageError:
        pass  # it goes, with everything behind it
    return kept


def _first_above(reader: LogReader, path: str, zxid: int) -> int | None:
    """Offset of the first entry above `zxid` in a file that begins at or below it, None if there is none."""
    reader.path = path
    try:
        for offset, payload in reader.scan(path, is_newest=False):
            if _zxid.unpack_from(payload, _ZXID_OFFSET)[0] > zxid:
                return offset
    except StorageDamageError:
        pass  # whatever is behind the damage, nobody reads it
    return None


def _newer_snapshots(fs: FileSystem, directory: str, zxid: int) -> list[str]:
    """Paths of the snapshots that are above `zxid` in name or in content."""
    return [
        path
        for found, path in numbered(fs, directory, "snapshot")
        if found > zxid or (end_zxid(fs, path) or 0) > zxid
    ]


def _remove(fs: FileSystem, directory: str, paths: list[str]) -> None:
    for path in paths:
        fs.unlink(path)
    fs.sync_dir(directory)
