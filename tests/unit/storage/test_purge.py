"""What is purged, and that what is kept is enough."""

from __future__ import annotations

import errno

import pytest

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import OWNERS, ScriptedServer, make_txns, state_of
from zkpy.storage.data_dir import DataDir
from zkpy.storage.purge import log_is_needed, oldest_kept, purge
from zkpy.storage.recovery import recover

COMPLETE = bytes(10) + b"\0\0\0\1/"
DATA_DIR = DataDir("/data", "/logs")


def disk(snapshots: dict[int, bytes], logs: list[int]) -> MemoryFs:
    fs = MemoryFs()
    for zxid, content in snapshots.items():
        fs.put(f"/data/version-2/snapshot.{zxid:x}", content)
    for zxid in logs:
        fs.put(f"/logs/version-2/log.{zxid:x}", b"")
    return fs


def test_what_a_real_server_kept_is_kept() -> None:
    """Observed with Apache: three complete snapshots, the damaged newest one, and the log that begins before the oldest."""
    snapshots = {
        0x10: COMPLETE,
        0x20: COMPLETE,
        0x30: COMPLETE,
        0x40: COMPLETE,
        0x50: COMPLETE,
        0x60: b"damaged",
    }
    fs = disk(snapshots, [0x1, 0x11, 0x1C, 0x2F, 0x33, 0x41, 0x52])
    assert purge(fs, DATA_DIR, 3) == 5
    assert fs.names("/data/version-2") == ["snapshot.30", "snapshot.40", "snapshot.50", "snapshot.60"]
    assert fs.names("/logs/version-2") == ["log.2f", "log.33", "log.41", "log.52"]


def test_too_few_snapshots_keep_everything() -> None:
    fs = disk({1: COMPLETE, 2: COMPLETE, 3: COMPLETE, 9: b""}, [1, 2, 3])
    assert purge(fs, DATA_DIR, 3) == 0


def test_other_files_are_not_touched() -> None:
    fs = disk(dict.fromkeys(range(1, 9), COMPLETE), [1])
    fs.put("/data/version-2/currentEpoch", b"1")
    fs.put("/logs/version-2/tmp-log", b"1")
    assert purge(fs, DATA_DIR, 3) == 5
    assert fs.exists("/data/version-2/currentEpoch")
    assert fs.exists("/logs/version-2/tmp-log")


@pytest.mark.parametrize(("count", "oldest"), [(1, 9), (2, 5), (3, 0), (4, 0)])
def test_the_oldest_kept_snapshot_is_counted_from_the_newest(count: int, oldest: int) -> None:
    assert oldest_kept([1, 5, 9], count) == oldest


def test_without_a_log_from_before_the_snapshot_all_logs_are_needed() -> None:
    assert all(log_is_needed(zxid, [7, 9], 5) for zxid in (7, 9))


def test_what_is_kept_is_durable_before_anything_goes() -> None:
    fs = disk(dict.fromkeys(range(1, 6), COMPLETE), [1])
    purge(fs, DATA_DIR, 3)
    assert fs.log == ["datasync"] * 3 + ["sync_dir"] + ["unlink"] * 2


def test_a_failure_before_that_removes_nothing() -> None:
    for operation in range(1, 5):
        fs = disk(dict.fromkeys(range(1, 6), COMPLETE), [1])
        fs.fail_at[operation] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            purge(fs, DATA_DIR, 3)
        assert len(fs.names("/data/version-2")) == 5


def test_every_kept_snapshot_can_still_be_started_from() -> None:
    history = make_txns(80, seed=6)
    fs = MemoryFs()
    server = ScriptedServer(fs, history)
    server.start()
    while server.batch(7):
        server.log.roll()
        server.batch(2)  # the snapshot is younger than the file
        server.snapshot("")
        purge(fs, server.data_dir, 3)
    snapshots = [name for name in fs.names("/data/version-2") if name.startswith("snapshot")]
    assert len(snapshots) == 3
    while snapshots:
        got = recover(fs, server.data_dir, OWNERS, digest_enabled=True, trust_empty=False)
        assert state_of(got.tree, got.sessions) == history.states[80]
        newest = max(snapshots, key=lambda name: int(name.split(".")[1], 16))
        fs.unlink(f"/data/version-2/{newest}")
        snapshots.remove(newest)
