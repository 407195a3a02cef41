"""Committed txns for a learner that was away longer than the committed log in memory reaches back (quorum protocol §8.1, case 5).

    entries = read_log_diff(fs, data_dir, from_zxid, reach_zxid, snapshot_size_factor)   # None: send a snapshot

The result begins at the learner's last zxid, or at the last txn before it, and goes on without a gap to `reach_zxid`, the oldest txn in
memory. Whether the learner's last txn is one of them, and what to tell it if not, is for the caller to decide.

It is given up, as with Apache, if

* log DIFFs are off (a negative factor);
* no log begins at or before the learner's zxid;
* the files after the one that holds it are larger than `snapshot_size_factor` times the newest snapshot;
* the logs do not reach `reach_zxid`.

And where Apache loses txns (ZOOKEEPER-2846): a hole, left by a SNAP this server was sent, or by any snapshot that replaced txns. Inside an
epoch a missing counter shows it. Between the last txn of an epoch and the first one of a later epoch nothing does, except the
snapshot that filled the hole: it is named by a txn that is in no log. So nothing is handed out

* across a jump of epochs that has a snapshot's zxid strictly in between; that of an epoch's beginning (counter 0) included, which
  may be a harmless one: whether it is cannot be told;
* before the oldest snapshot there is: those of older holes may have been purged. (Snapshots are purged oldest first.)

Txns are held in memory until the learner has them, so there is an upper limit for them, too.

May run while the log is being written and old files are purged: it reads complete entries up to `reach_zxid`, which the caller knows to
be committed, and nothing behind it. What is still on its way to the disk, or damaged, or gone meanwhile, is as if it was not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.storage.errors import StorageDamageError
from zkpy.storage.log_reader import LogReader, paths_from
from zkpy.storage.names import numbered
from zkpy.storage.snapshot import looks_complete

if TYPE_CHECKING:
    from zkpy.storage.data_dir import DataDir
    from zkpy.storage.vfs import FileSystem

# Beyond that a snapshot costs the leader less: it is written by a child, and never in memory as a whole.
BYTES_MAX = 256 << 20


def read_log_diff(
    fs: FileSystem, data_dir: DataDir, from_zxid: int, reach_zxid: int, snapshot_size_factor: float
) -> list[tuple[int, bytes]] | None:
    """Zxid and payload of txns on disk, ascending.

    Args:
        fs: the disk.
        data_dir: its directories.
        from_zxid: the learner's last zxid.
        reach_zxid: the oldest txn in memory, committed, above `from_zxid`.
        snapshot_size_factor: zookeeper.snapshotSizeFactor; 0 sets no limit, a negative one turns this off.

    Returns:
        the last txn up to `from_zxid` and all behind it up to `reach_zxid`; None if the files do not give that.

    Raises:
        OSError: a file cannot be read.
    """
    assert from_zxid < reach_zxid
    if snapshot_size_factor < 0:
        return None
    try:
        snapshots = numbered(fs, data_dir.snap_dir, "snapshot")
        logs = numbered(fs, data_dir.log_dir, "log")
        if not snapshots or from_zxid < snapshots[0][0] or not logs or from_zxid < logs[0][0]:
            return None
        paths = paths_from(logs, from_zxid)
        limit = int(_newest_size(fs, snapshots) * snapshot_size_factor)
        if 0 < limit < sum(fs.size(path) for path in paths[1:]):
            return None
        first_zxid = next(zxid for zxid, path in logs if path == paths[0])
        reader = LogReader(fs, paths, first_zxid - 1)
        return _collect(reader, [zxid for zxid, _ in snapshots], from_zxid, reach_zxid)
    except (StorageDamageError, FileNotFoundError):
        return None


def _newest_size(fs: FileSystem, snapshots: list[tuple[int, str]]) -> int:
    return next((fs.size(path) for _, path in reversed(snapshots) if looks_complete(fs, path)), 0)


def _collect(
    reader: LogReader, snapshot_zxids: list[int], from_zxid: int, reach_zxid: int
) -> list[tuple[int, bytes]] | None:
    found: list[tuple[int, bytes]] = []
    size = 0
    for entry in reader.entries():
        zxid = entry[0]
        if zxid > reach_zxid:
            break
        if zxid <= from_zxid:
            found = [entry]
            continue
        if not found:
            break
        last = found[-1][0]
        if zxid != last + 1 and any(last < snapshot_zxid < zxid for snapshot_zxid in snapshot_zxids):
            break
        found.append(entry)
        size += len(entry[1])
        if size > BYTES_MAX:
            break
        if zxid == reach_zxid:
            return found
    return None
