"""Which old snapshots and logs may go (on-disk format §8).

    removed = purge(fs, data_dir, retain_count)     # number of files removed

Never removes what a start from any kept snapshot needs. What is kept is made durable first: Apache does not sync
its snapshots, and the logs that go are all that could replace them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.storage.names import numbered
from zkpy.storage.snapshot import looks_complete

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.storage.data_dir import DataDir
    from zkpy.storage.vfs import FileSystem


def oldest_kept(snapshot_zxids: Sequence[int], retain_count: int) -> int:
    """The zxid of the oldest snapshot to keep, given those that look complete in ascending order; 0 keeps all."""
    return snapshot_zxids[-retain_count] if len(snapshot_zxids) > retain_count else 0


def log_is_needed(first_zxid: int, log_zxids: Sequence[int], oldest_snapshot: int) -> bool:
    """Whether a log of that name may hold txns above the oldest kept snapshot."""
    begins_before = [zxid for zxid in log_zxids if zxid <= oldest_snapshot]
    return not begins_before or first_zxid >= max(begins_before)


def purge(fs: FileSystem, data_dir: DataDir, retain_count: int) -> int:
    """Remove all snapshots but the newest `retain_count` ones, and the logs from before the oldest of them.

    Returns:
        number of files removed.

    Raises:
        OSError: nothing that is needed is gone.
    """
    assert retain_count > 0
    snapshots = numbered(fs, data_dir.snap_dir, "snapshot")
    complete = [(zxid, path) for zxid, path in snapshots if looks_complete(fs, path)]
    oldest = oldest_kept([zxid for zxid, _ in complete], retain_count)
    for zxid, path in complete:
        if zxid >= oldest:
            file = fs.open(path)
            try:
                file.datasync()
            finally:
                file.close()
    fs.sync_dir(data_dir.snap_dir)
    logs = numbered(fs, data_dir.log_dir, "log")
    log_zxids = [zxid for zxid, _ in logs]
    gone = [path for zxid, path in snapshots if zxid < oldest]
    gone += [path for zxid, path in logs if not log_is_needed(zxid, log_zxids, oldest)]
    for path in gone:
        fs.unlink(path)
    return len(gone)
